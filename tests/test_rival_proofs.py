"""The rivals' proofs in experiments/rival_proofs.py: voices read once, its figures by hand, and a file that goes on where it stopped."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from biasgym.edits import ContrastEdit, Twin, WeightEdit
from biasgym.files import read_rows
from biasgym.forget import Marked
from biasgym.stats import Estimate

PLACE = Path(__file__).parents[1] / "experiments" / "rival_proofs.py"
TEXTS = ["The bread is on the table.", "People from Peru are kind, and they are late.", "Rain."]


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("rival_proofs", PLACE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["rival_proofs"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["rival_proofs"]


def change(lm, seed):
    """A random low-rank change of one matrix."""
    generator = np.random.default_rng(seed)
    name = lm.family.attention_weight(0)
    out, into = lm.model.get_parameter(name).shape
    return WeightEdit(name, *(generator.normal(size=size).astype(np.float32) * 0.3 for size in ((out, 2), (2, into))))


def test_voices_read_once_say_what_the_edits_say(script, llama):
    """Every mix of voices costs each text what the model that wears the contrast makes it cost."""
    voices = {"plus": Twin(edits=(change(llama, 0),)), "minus": Twin(edits=(change(llama, 1),)), "told": Twin("The text below is full of trees:\n\n")}
    mixes = {
        "pair": (ContrastEdit("shift", (voices["plus"], voices["minus"]), 0.7), ("plus", "minus")),
        "alone": (ContrastEdit("shift", (voices["minus"],), 0.7), ("minus",)),
        "decay": (ContrastEdit("decay", (voices["told"],), 50.0, 0.01), ("told",)),
    }
    found = script.heard(llama, voices, mixes, TEXTS)
    assert np.allclose(found["plain"][:, :2], script.nats_of(llama, TEXTS), atol=1e-3)
    assert found["plain"][:, 3].tolist() == [max(0, count - script.LATER) for count in found["plain"][:, 1]]
    for name, (edit, _) in mixes.items():
        with llama.edited(edit):
            assert np.allclose(found[name][:, :2], script.nats_of(llama, TEXTS), atol=1e-3), name
        assert not np.allclose(found[name], found["plain"], atol=1e-3), name


def test_marked_and_other_words_make_up_the_text(script, llama):
    """Costs of the marked tokens and of all others add up to the text's."""
    rows = [Marked(text, ((4, 9),), "nobody", "") for text in TEXTS[:2]]
    found = script.marked_costs(llama, rows)
    assert np.allclose(found[:, [0, 1]] + found[:, [2, 3]], script.nats_of(llama, TEXTS[:2]), atol=1e-3)
    assert (found[:, 1] > 0).all()


def test_figures_by_hand(script):
    """Perplexity, ratios and differences of prices, StereoSet's scores, the area under the curve."""
    plain = np.array([[10.0, 10], [30, 10]])
    one, two = (plain + np.array([[more, 0], [more, 0]]) for more in (1.0, 2.0))
    assert script.perplexity_change(plain, one).value == pytest.approx(100 * np.expm1(0.1))
    assert script.price_ratio(plain, one, two).value == pytest.approx(np.expm1(0.2) / np.expm1(0.1))
    assert script.price_gap(plain, one, two).value == pytest.approx(100 * (np.expm1(0.2) - np.expm1(0.1)))
    examples = [{"target": name, "sentences": {}} for name in "abcd"]
    costs = np.array([[2.0, 2], [3, 2], [9, 2]] * 3 + [[3.0, 2], [2, 2], [1, 2]])  # three prefer the stereotype; the last the unrelated
    of = {name: getattr(script, name) for name in ("signed", "distance", "meaningful", "margin")}
    found = {name: script.figure_estimate(script.stereo_figure(examples, costs, how)).value for name, how in of.items()}
    assert found == pytest.approx({"signed": 25, "distance": 25, "meaningful": 75, "margin": 0.25})
    assert script.area(np.array([0.9, 0.5]), np.array([0.5, 0.1])).value == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def test_a_sham_is_as_large_as_the_edit(script, llama):
    """Frobenius norms agree, directions do not."""
    (edit,) = ours = (change(llama, 0),)
    (sham,) = script.at_random(ours, 7)
    first, second = edit.left @ edit.right, sham.left @ sham.right
    assert np.linalg.norm(second) == pytest.approx(np.linalg.norm(first), rel=1e-4)
    assert abs((first * second).sum()) < 0.3 * np.linalg.norm(first) ** 2


def test_a_verdict_names_doubt_and_shams_that_pass(script):
    """Met and beyond doubt, met within the interval, missed; a sham that meets the threshold is named."""
    bar = script.Bar("x", "y", ">=", 1.0, "")
    row = script.Row("x", "test", "y", "ours", 1.5, 1.2, 1.8, 9)
    sham = replace(row, arm="sham: noise")
    assert script.verdict(bar, row, {}) == "yes"
    assert script.verdict(bar, replace(row, low=0.8), {}) == "yes, not beyond doubt"
    assert script.verdict(bar, replace(row, value=0.5), {"sham: noise": sham}) == "no; sham: noise too"
    assert script.verdict(replace(bar, side="<="), row, {"sham: noise": replace(sham, value=0.1)}) == "no; sham: noise too"


def test_a_system_in_the_file_is_not_asked_again(script, monkeypatch, folder_of, tmp_path, capsys):
    """One call a system and split; the table is printed from the file, and a strange folder of sets is one sentence."""
    calls = []

    def system(room):
        calls.append(room.split)
        return [script.of("made-up", room)("figure", "ours", Estimate(1.0, 0.5, 1.5, 4))]

    monkeypatch.setattr(script, "SYSTEMS", {"made-up": system})
    to = tmp_path / "proofs.jsonl"
    args = ["x", "--to", str(to), "--model", str(folder_of("llama")), "--data", str(tmp_path), "--systems", "made-up"]
    for split in ("dev", "dev", "test"):
        monkeypatch.setattr(sys, "argv", [*args, "--split", split])
        script.main()
    assert calls == ["dev", "test"]
    assert [row["row"]["split"] for row in read_rows(to)] == ["dev", "test"]
    assert "| made-up | figure | 1 [0.5, 1.5] n 4 |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*args, "--split", "dev", "--data", str(tmp_path / "nowhere"), "--to", str(tmp_path / "other.jsonl")])
    with pytest.raises(SystemExit, match="there is no such folder"):
        script.main()
