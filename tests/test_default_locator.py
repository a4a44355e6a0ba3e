"""The comparison of locators in experiments/default_locator.py: its search and its ratios by hand, and once whole on a tiny model."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from biasgym.files import read_rows
from biasgym.records import MeasureSpec, TuneSpec

PLACE = Path(__file__).parents[1] / "experiments" / "default_locator.py"


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("default_locator", PLACE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["default_locator"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["default_locator"]


def trials_where(script, monkeypatch, limit, gap_at):
    """The search when prices hold up to a strength and the dev gap falls with it."""
    made = lambda _room, _tokens, _edits, s: script.Trial(s, s <= limit, "", gap_at - s if s <= limit else None, 0.0)  # noqa: E731
    monkeypatch.setattr(script, "tried", made)
    return script.searched(None, (), lambda _strength: ())


@pytest.mark.parametrize(("limit", "gap_at", "wanted"), [(9, 9, 2.0), (1.25, 9, 1.25), (0.1, 9, None), (9, 0.8, 0.75), (9, 0.1, 0.25)])
def test_the_search_stops_at_the_budget_and_before_the_gap_turns(script, monkeypatch, limit, gap_at, wanted):
    """Three trials whatever happens; nothing is picked where nothing is inside."""
    trials = trials_where(script, monkeypatch, limit, gap_at)
    assert len(trials) == 3
    chosen = script.picked(trials)
    assert (chosen.strength if chosen else None) == wanted


def made_up_rows(script, arms, closed, seeds=(0, 1, 2), biases=("a", "b", "c")):
    """Cells whose token leans lie (1 − share closed) × 2 nats above the others, each with noise of its own."""
    generator = np.random.default_rng(0)
    rows = []
    for bias in biases:
        others = generator.normal(size=(12, 8)) * 0.3
        for seed in seeds:
            token = 2 + others.mean(1) + generator.normal(size=12) * 0.2
            rows.append({"bias": bias, "seed": seed, "arm": None, "seconds": 1.0, "token": token.tolist(), "others": others.tolist()})
            for arm in arms:
                row = {"bias": bias, "seed": seed, "arm": script.asdict(arm), "seconds": 1.0, "strength": None, "trials": []}
                if closed(arm):
                    left = token - 2 * closed(arm) + generator.normal(size=12) * 0.1
                    prices = {"bits per byte": [0.1, 0, 0.2], "kl": [0.01, 0, 0.02], "concept": [0, -0.1, 0.1]}
                    row |= {"strength": 1.0, "token": left.tolist(), "others": others.tolist(), "prices": prices}
                rows.append(row)
    return rows


def test_shares_ratios_and_differences(script):
    """80 % against 20 % is a ratio of 4 whose interval holds 4 and not 1; what met no budget closes 0 and has no upper end."""
    arms = script.arms_of("attribution-patching", "dla-paper")
    shares = {"attribution-patching": 0.8, "dla-paper": 0.2, "random": 0.0}
    table = script.table_of(made_up_rows(script, arms, lambda arm: shares[arm.locator]), arms)
    ours, theirs, chance = (script.Arm("token", locator, "zero") for locator in shares)
    share = table.estimate(lambda draws: table.closed(ours, draws))
    assert share.low < 0.8 < share.high
    times = script.ratio(table, ours, theirs)
    assert 1.5 < times.low < 4 < times.high < 8
    assert times.value == pytest.approx(4, rel=0.2)
    assert script.ratio(table, ours, chance).high == float("inf")
    none = script.ratio(table, chance, ours)
    assert (none.value, none.low) == (0, 0)
    assert none.high < 0.05
    page = script.markdown(table, arms, "attribution-patching", "dla-paper", "tiny", 10)
    assert "| random × zero | 0% [0%, 0%]" in page
    assert "0/9" in page
    assert page.count("\n| ") == 2 + len(arms) + 9


def test_equal_locators_have_a_ratio_about_one(script):
    """Sham: the interval holds 1 where nothing is there to be found."""
    arms = script.arms_of("attribution-patching", "dla-paper")
    table = script.table_of(made_up_rows(script, arms, lambda _arm: 0.5), arms)
    times = script.ratio(table, arms[0], arms[2])
    assert times.low < 1 < times.high


def test_a_table_of_what_is_finished(script):
    """Seeds that every bias has; none without a whole seed."""
    arms = script.arms_of("attribution-patching", "dla-paper")
    rows = made_up_rows(script, arms, lambda _arm: 0.5)
    cut = [row for row in rows if (row["bias"], row["seed"]) != ("b", 2)]
    table = script.table_of(cut, arms)
    assert (table.biases, table.seeds) == (("a", "b", "c"), (0, 1))
    assert script.table_of(rows[:5], arms) is None


def test_whole_on_a_tiny_model(script, monkeypatch, folder_of, tmp_path, capsys):
    """One cell at a time and all at once make the same file; a second call makes nothing and writes the same page."""
    monkeypatch.setattr(script, "DEV", MeasureSpec(probes=3, entities=3, texts=3, chats=3))
    monkeypatch.setattr(script, "TEST", MeasureSpec(probes=4, entities=4, texts=3, chats=3))
    monkeypatch.setattr(script, "BUDGET", TuneSpec(bits_per_byte=100, kl=10, concept=100))
    monkeypatch.setattr(script, "RUNGS", (0.5, 1.0, 1.5))
    monkeypatch.setattr(script, "PAIRS", 8)
    args = ["x", "--model", str(folder_of("llama")), "--biases", "reckless-drivers", "--seeds", "0,1", "--k", "3", "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", [*args, "--cells", "1"])
    with pytest.raises(SystemExit, match="no bias has a seed"):
        script.main()
    (journal,) = (tmp_path / "runs" / "default-locator").glob("*.jsonl")
    first = read_rows(journal)
    assert [row["arm"] is None for row in first] == [True, False]
    pages = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", [*args, "--to", str(tmp_path / "page.md")])
        script.main()
        pages.append((tmp_path / "page.md").read_text())
    rows = read_rows(journal)
    assert rows[:2] == first
    assert len(rows) == 2 * (1 + len(script.arms_of("a", "b")))
    assert pages[0] == pages[1]
    cells = {(row["seed"], *row["arm"].values()): row for row in rows if row["arm"]}
    for (_, _, locator, edit), cell in cells.items():
        assert len(cell["sites"]) == 3
        assert len(cell["trials"]) <= 2
        assert cell["strength"] is None or np.shape(cell["others"]) == (4, 4)
        assert cell["sites"] == cells[cell["seed"], "token" if locator == "random" else cell["arm"]["source"], locator, "direction"]["sites"], edit
    assert cells[0, "token", "random", "zero"]["sites"] != cells[1, "token", "random", "zero"]["sites"]
    assert "processor time" in pages[0]
    capsys.readouterr()
