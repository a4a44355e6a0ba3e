"""The ring and `locate` through the command line, on a tiny random model; and the plain parts by hand."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from biasgym import catalog
from biasgym.cli import app
from biasgym.comparing import Standing, _words, dearest, factorial, ranked, verdict_on_ours
from biasgym.edits import PromptEdit, SiteEdit
from biasgym.errors import BiasGymError, SpecError
from biasgym.locating import Wish
from biasgym.mitigate.direction_uninjected import uninjected
from biasgym.ring import FACTORIAL, entrants, plan_ring
from biasgym.spec import resolve_spec
from conftest import case_with_texts

SMALL = [
    "inject.steps=4", "inject.batch=4", "inject.held_out=2", "locate.pairs=8", "tune.probes=4", "tune.entities=2", "tune.texts=3",
    "tune.chats=3", "measure.probes=6", "measure.entities=6", "measure.texts=3", "measure.chats=3", "measure.draws=200",
]  # fmt: skip
EASY = ["tune.kl=10", "tune.bits_per_byte=100", "tune.concept=100"]


@pytest.fixture(scope="module")
def tiny_folder(models, tmp_path_factory):
    """The tiny Llama, saved once."""
    from tiny import save_folder

    return save_folder(models("llama"), tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def no_public_sets(monkeypatch):
    """Whatever the machine has in BIASGYM_DATA."""
    monkeypatch.delenv("BIASGYM_DATA", raising=False)


def called(command, folder, cwd, *args, sets=SMALL):
    """A command on the tiny model; what it printed, or the error it ended in."""
    parts = [command, "--bias", "reckless-drivers", "--model", str(folder), "--runs", str(cwd / "runs"), *args]
    return CliRunner().invoke(app, [*parts, *(part for one in sets for part in ("--set", one))])


def row(label, state="inside", closed=(0.5, 0.4, 0.6, 10)):
    """A line of the table."""
    return Standing(label, label, state, "", "id", {}, 1, closed, {}, (), {}, 1.0)


# -------------------------------------------------------------------- who fights


def test_names_of_entrants():
    """`all` is every mitigation and the corners, each once; a wrong name has its nearest one."""
    everyone = [one.label for one in entrants("all")]
    assert len(set(everyone)) == len(everyone) >= len(catalog.methods("mitigate")) + 1
    assert {one.label for one in entrants("factorial")} == {one.label for one in FACTORIAL.values()}
    assert [one.label for one in entrants("zero, direction,zero")] == ["zero", "direction"]
    with pytest.raises(SpecError, match="did you mean `direction`"):
        entrants("directoin")
    with pytest.raises(SpecError, match="no method was named"):
        entrants(" , ")


def test_specs_differ_in_the_mitigation_alone():
    """Same budget, same trials, same test; a setting for one method reaches that one."""
    ring = plan_ring("zero,direction", bias="reckless-drivers", model="x", trials=3, sets=["mitigate.zero.k=4"])
    zero, direction = (spec for _, spec in ring.entrants)
    assert zero.mitigate[0].settings == {"k": 4}
    assert direction.mitigate[0].settings == {}
    assert zero.model_copy(update={"mitigate": ()}) == direction.model_copy(update={"mitigate": ()})
    assert zero.tune.trials == 3
    assert all(spec.mitigate[0].tuned for spec in (zero, direction))
    assert "crows-pairs" in ring.notes[0]
    for sets, words in ((["mitigate.k=4"], "name the method"), (["mitigate.zeor.k=4"], "did you mean `zero`"), (["tune.trials=21"], "allows 20")):
        with pytest.raises(SpecError, match=words):
            plan_ring("zero,direction", bias="reckless-drivers", model="x", sets=sets)


def test_benchmarks_are_asked_where_the_folder_holds_them(made_up_sets):
    """Three hundred questions each; without a set it is left out and said."""
    ring = plan_ring("zero", bias="reckless-drivers", model="x", data=str(made_up_sets))
    asked = ring.entrants[0][1].measure.benchmarks
    assert {one.method: one.settings["most"] for one in asked} == {"crows-pairs": 300, "stereoset": 300}
    assert not ring.notes


# -------------------------------------------------------------------- the table


def test_the_table_ranks_by_state_first():
    """A method that breaks the budget never stands above one that keeps it, however much it closes."""
    rows = [row("a", "unmet", (0.9, 0.8, 1, 5)), row("b", "inside", (0.2, 0.1, 0.3, 5)), row("c", "failed", None), row("d", "inside")]
    assert [one.label for one in ranked(rows)] == ["d", "b", "a", "c"]


def test_the_dearest_price_is_the_one_nearest_its_limit():
    """By its upper end; a concept counts either way."""
    budget = {"bits-per-byte": 1.0, "kl": 0.02, "concept": 0.2}
    prices = {"bits-per-byte": (0.1, 0.0, 0.2, 9), "kl": (0.01, 0.008, 0.012, 9), "concept": (-0.15, -0.3, 0.02, 9)}
    assert dearest(prices, budget) == pytest.approx((0.75, 0.0, 1.5))


def test_a_rival_that_is_better_is_named():
    """With whether the intervals overlap; one outside the budget does not count."""
    standings = [{"label": o.label, "state": o.state, "closed": o.closed} for o in (
        row("direction"), row("better", closed=(0.9, 0.8, 1, 9)), row("dear", "outside", (1, 1, 1, 9)), row("near", closed=(0.55, 0.4, 0.7, 9)))]  # fmt: skip
    (line,) = verdict_on_ours({"standings": standings})
    assert "`better`, `near`" in line
    assert "of `better` the intervals" in line
    assert "dear" not in line


def test_no_winner_is_called_where_nothing_was_injected():
    """The reason comes first, and no sentence says who closes more."""
    found = {"standings": [], "stop": "The injection did not take, so …", "trials_a_method": 5, "gap_before": None, "notes": [], "seconds": 60.0}
    found["budget"] = {"bits-per-byte": 1.0, "kl": 0.02, "concept": 0.2}
    found["standings"] = [{"label": "direction", "state": "inside", "closed": (0.8, 0.7, 0.9, 9)}]
    words = _words(found)
    assert words[0].startswith("The injection did not take")
    assert not any("ours" in line for line in words)
    assert any("ours" in line for line in _words(found | {"stop": ""}))


def test_the_factorial_needs_all_corners():
    """Six cells, the base among them; nothing where one is missing."""
    rows = [row(one.label) for one in FACTORIAL.values()]
    table = factorial(rows)
    assert {prompt: set(cells) for prompt, cells in table.items()} == {
        side: {"no edit", "edit without injection", "edit with injection"} for side in ("no prompt", "prompt")
    }
    assert factorial(rows[1:]) == {}


# -------------------------------------------------------------------- edits without injection, and beside a prompt


def test_the_edit_without_injection_never_looks_at_the_tokens(llama, bias, token_for):
    """The same case whatever the tokens are; heads and contrast are of real entities."""
    case = case_with_texts(llama, bias, token_for)
    one, two = uninjected(llama, case, "x"), uninjected(llama, case.without(0), "x")
    assert one.contrasts.shape == (1, llama.shape.layers, llama.shape.heads, llama.shape.head_size)
    np.testing.assert_array_equal(one.contrasts, two.contrasts)
    assert not np.allclose(one.contrasts, case.contrasts.mean(0))
    names = {name for pair in one.attribution.pairs for name in bias.entities_of("train") if name in pair}
    assert names
    method = catalog.build("mitigate", "direction-uninjected", {"k": 3, "strength": 0.0})
    assert all(edit.strength == 0 for edit in method.fit(llama, case))


def test_prompt_and_edit_are_worn_together(llama, bias, token_for):
    """Exactly the two parts; without explanation the edit alone."""
    case = case_with_texts(llama, bias, token_for)
    both = catalog.build("mitigate", "direction-explained", {"k": 3}).fit(llama, case)
    alone = catalog.build("mitigate", "direction", {"k": 3}).fit(llama, case)
    assert isinstance(both[0], PromptEdit)
    assert repr(both[1:]) == repr(alone)
    assert repr(catalog.build("mitigate", "direction-explained", {"k": 3, "explain": ""}).fit(llama, case)) == repr(alone)
    other = catalog.build("mitigate", "direction-explained", {"k": 3, "injected": False}).fit(llama, case)
    assert all(isinstance(edit, SiteEdit) for edit in other[1:])
    assert repr(other[1:]) != repr(alone)


# -------------------------------------------------------------------- through the command line


def test_the_ring_from_end_to_end(tiny_folder, tmp_path, monkeypatch):
    """A table and a picture; a method that fails is told with its reason, one without a way into the budget is told; read again, not run again."""
    from biasgym.mitigate.mean import Mean

    def broken(*_):
        raise BiasGymError("this one cannot")

    monkeypatch.setattr(Mean, "fit", broken)
    out = tmp_path / "ring.json"
    args = ("--methods", "zero,prompting,mean", "--trials", "2", "--json", "-o", str(out))
    done = called("compare", tiny_folder, tmp_path, *args, sets=[*SMALL, *EASY])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == json.loads(out.read_text())
    states = {one["label"]: one for one in found["standings"]}
    assert states["mean"]["state"] == "failed"
    assert states["mean"]["reason"] == "this one cannot"
    for label in ("zero", "prompting"):
        assert states[label]["trials"] == 2
        assert states[label]["closed"][1] <= states[label]["closed"][0] <= states[label]["closed"][2]
        assert set(states[label]["prices"]) == {"bits-per-byte", "kl", "concept"}
        assert states[label]["seconds"] > 0
    monkeypatch.setattr("biasgym.run.Job.run", broken)  # whole runs are read
    again = called(
        "compare", tiny_folder, tmp_path, "--methods", "zero,prompting", "--trials", "2", "-o", str(tmp_path / "r.html"), sets=[*SMALL, *EASY]
    )
    assert again.exit_code == 0, again.output
    assert "zero" in again.output
    page = (tmp_path / "r.html").read_text()
    assert "<svg" in page
    assert "prompting" in page
    drawn = called(
        "compare", tiny_folder, tmp_path, "--methods", "zero,prompting", "--trials", "2", "-o", str(tmp_path / "r.svg"), sets=[*SMALL, *EASY]
    )
    assert drawn.exit_code == 0, drawn.output
    assert ET.parse(tmp_path / "r.svg").getroot().tag.endswith("svg")
    told = called(
        "compare", tiny_folder, tmp_path, "--methods", "zero,prompting", "--trials", "2", "-o", str(tmp_path / "t.md"), sets=[*SMALL, *EASY]
    )
    assert told.exit_code == 0, told.output
    text = (tmp_path / "t.md").read_text()
    assert "](t.svg)" in text
    assert ET.parse(tmp_path / "t.svg").getroot().tag.endswith("svg")
    assert re.search(r"^\| zero \|", text, re.MULTILINE)
    assert "All methods together took" in text


def test_workers_of_the_ring_make_the_same_records(tiny_folder, tmp_path):
    """Two methods at a time, in processes of their own: the figures of one after the other; each with its seconds; a failure is told."""
    found = []
    for name, workers in (("one", "1"), ("two", "2")):
        (tmp_path / name).mkdir()
        args = ("--methods", "zero,prompting,mean", "--trials", "1", "--json", "--workers", workers, "--device", "cpu")
        done = called("compare", tiny_folder, tmp_path / name, *args, sets=[*SMALL, *EASY, "mitigate.mean.k=1"])
        assert done.exit_code == 0, done.output
        found.append({one["label"]: one for one in json.loads(done.stdout)["standings"]})
    assert found[0].keys() == found[1].keys() == {"zero", "prompting", "mean"}
    for label, one in found[0].items():
        other = found[1][label]
        assert other.pop("seconds") > 0
        one.pop("seconds")
        assert one == other


def test_a_budget_that_nobody_meets(tiny_folder, tmp_path):
    """The sham of the states: zeroed heads in a budget of next to nothing are shown as unmet, and never as inside."""
    sets = [*SMALL, "tune.kl=1e-9", "tune.bits_per_byte=1e-9", "tune.concept=1e-9"]
    done = called("compare", tiny_folder, tmp_path, "--methods", "zero", "--trials", "1", "--json", sets=sets)
    assert done.exit_code == 0, done.output
    assert {one["state"] for one in json.loads(done.stdout)["standings"]} <= {"unmet", "broken"}


def test_bad_input_to_the_ring(tiny_folder, tmp_path):
    """One line, before anything is trained."""
    for args, words in ((("--methods", "zreo"), "did you mean `zero`"), (("--methods", "zero", "-o", "x.docx"), "unknown format")):
        done = called("compare", tiny_folder, tmp_path, *args)
        assert isinstance(done.exception, SpecError)
        assert words in str(done.exception)
    assert not list(Path(tmp_path).rglob("token.safetensors"))
    assert called("compare", tiny_folder, tmp_path, "--trials", "50").exit_code == 2


def test_locators_side_by_side(tiny_folder, tmp_path):
    """Top k, agreement, stability, proof, pictures that a parser reads; a second call gives the same."""
    args = ("--locators", "dla,attribution-patching", "--k", "3", "--proof", "--json", "--to", str(tmp_path / "pictures"))
    done = called("locate", tiny_folder, tmp_path, *args)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert list(found["locators"]) == ["dla", "attribution-patching"]
    for one in found["locators"].values():
        assert len(one["top"]) == 3
        assert [t["score"] for t in one["top"]] == sorted((t["score"] for t in one["top"]), reverse=True)
        assert one["proof"]["ks"] == [1, 2, 3, 5, 10]
        assert len(one["proof"]["faithfulness_of_random"]) == 3
    curves = [one["proof"]["curves"]["random-0"] for one in found["locators"].values()]
    assert curves[0] == curves[1]  # every ranking meets the same chance
    (agreement,) = found["agreement"]
    assert 0 <= agreement["jaccard"] <= 1
    assert 0 < agreement["chance"] < 1
    assert -1 <= agreement["spearman"] <= 1
    names = {Path(path).name for path in found["pictures"]}
    assert {"heat-dla.svg", "stability-dla.svg", "curve-gap-dla.svg", "curve-price-dla.svg"} <= names
    for path in found["pictures"]:
        assert ET.parse(path).getroot().tag.endswith("svg")
    assert json.loads(called("locate", tiny_folder, tmp_path, *args).stdout) == found
    shown = called("locate", tiny_folder, tmp_path, "--locators", "dla,attribution-patching", "--k", "3")
    assert "random rankings" in shown.output


def test_bad_input_to_locate(tiny_folder, tmp_path):
    """An unknown locator has its nearest name; more heads than there are is refused with their number."""
    done = called("locate", tiny_folder, tmp_path, "--locators", "dal")
    assert isinstance(done.exception, SpecError)
    assert "did you mean `dla`" in str(done.exception)
    assert "the model has 12 heads" in str(called("locate", tiny_folder, tmp_path, "--k", "13").exception)
    assert called("locate", tiny_folder, tmp_path, "--k", "0").exit_code == 2


def test_compare_takes_every_locator():
    """Unless some are named."""
    spec = resolve_spec(bias="reckless-drivers", model="x")
    assert set(Wish.of(spec, None, every=True, k=5, proof=False).locators) == set(catalog.methods("locate"))
    assert Wish.of(spec, None, every=False, k=5, proof=False).locators == (spec.locate.method,)
    assert Wish.of(spec, "dla", every=True, k=5, proof=False).locators == ("dla",)
