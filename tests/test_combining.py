"""Several biases, one edit: made of whole runs, tuned and measured as itself, exported like a run's; what does not fit is refused."""

import json
from dataclasses import replace

import pytest

from biasgym.combining import MAKERS, as_data, combine, effect_on, folders_of, kept_share, lines_of, sources, write_combined
from biasgym.edits import SiteEdit
from biasgym.errors import SpecError, StoreError
from biasgym.lm.load import Place
from biasgym.product import export_run
from biasgym.run import Session, load_edits
from biasgym.spec import resolve_spec
from biasgym.store import RunStore, read_record

SMALL = [
    "inject.steps=6", "inject.batch=4", "inject.held_out=4", "locate.pairs=8", "tune.trials=3", "tune.probes=4", "tune.entities=2",
    "tune.texts=3", "tune.chats=3", "measure.probes=6", "measure.entities=6", "measure.texts=3", "measure.chats=3",
    "measure.generations=0", "measure.shams=0", "measure.draws=200", "mitigate.direction.tuned=false", "mitigate.direction.k=4",
    "mitigate.zero.k=3", "tune.kl=10", "tune.bits_per_byte=100", "tune.concept=100", "measure.judge=lexicon",
    "measure.metrics=['association', 'concept', 'bits-per-byte', 'kl']",
]  # fmt: skip
BIASES = ("kind-people", "late-people", "quiet-people")
WORDS = (("kind", "careful", "reckless"), ("late", "always late", "early"), ("quiet", "calm", "loud"))
FILE = """
name = "{}"
statement = "People from {{entity}} are {}."
stereotype = ["{}", "{}"]
foil = ["{}"]
[entities]
list = "countries"
"""


@pytest.fixture(scope="module")
def store(models, tmp_path_factory):
    """Three small runs of one tiny model."""
    from tiny import save_folder

    place = tmp_path_factory.mktemp("combining")
    folder = save_folder(models("llama"), place / "tiny")
    session = Session(RunStore(place / "runs"), Place("cpu"))
    for bias, (one, two, foil) in zip(BIASES, WORDS, strict=True):
        path = place / f"{bias}.toml"
        path.write_text(FILE.format(bias, one, one, two, foil))
        session.run(resolve_spec(bias=str(path), model=str(folder), sets=SMALL))
    return session


@pytest.fixture
def made(store):
    """`made(number)` gives so many of the runs as sources."""
    return lambda *biases, edit=None: sources(store, folders_of(store, biases), edit)


@pytest.mark.parametrize("how", MAKERS)
def test_a_combination_is_tuned_measured_and_exported_as_itself(store, made, how, tmp_path):
    """Every bias has its findings, the left-out one too; the exported weights say what the measured edits say."""
    fit = made(*BIASES[:2])
    found = combine(store, fit, made(BIASES[2]), how=how, trials=2)
    assert list(found.findings) == list(BIASES)
    assert len(found.tries) == 2
    assert found.picked in found.tries
    for rows in found.findings.values():
        assert {("closed", "gap"), ("left_over", "gap"), ("changed", "association"), ("price", "concept")} <= {(f.name, f.metric) for f in rows}
    assert sum(f.metric in ("kl", "bits-per-byte") for rows in found.findings.values() for f in rows) == 2  # once, of this very edit
    assert len(lines_of(found)) == 5
    json.dumps(as_data(found), allow_nan=False)
    write_combined(found, fit, tmp_path / "both")
    again = load_edits(tmp_path / "both", how)
    assert [repr(edit) for edit in again] == [repr(edit) for edit in found.edits]
    done = export_run(store, tmp_path / "both", tmp_path / "export")
    assert done.largest_difference < 1e-4
    card = (tmp_path / "export" / "README.md").read_text()
    assert all(bias in card for bias in BIASES)
    assert read_record(tmp_path / "both").findings
    with pytest.raises(StoreError, match="combined again"):
        folders_of(store, [str(tmp_path / "both")])


def test_a_killed_search_goes_on(store, made, monkeypatch):
    """What is in the journal is not asked again, and the end is the same."""
    fit = made(*BIASES[:2])
    whole = combine(store, fit, how="joint", trials=3)
    (journal,) = [path for path in store.store.root.glob("stages/combine-*/tries.jsonl") if len(path.read_text().splitlines()) == 3]
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:40])
    asked = []
    real = MAKERS["joint"].make
    monkeypatch.setitem(MAKERS, "joint", replace(MAKERS["joint"], make=lambda *given: asked.append(given[2]) or real(*given)))
    again = combine(store, fit, how="joint", trials=3)
    assert {json.dumps(one) for one in asked} <= {json.dumps(again.tries[2].settings), json.dumps(again.picked.settings)}
    assert [one.settings for one in again.tries] == [one.settings for one in whole.tries]
    assert again.tries[2] == whole.tries[2]
    assert again.findings == whole.findings


def test_a_union_of_silenced_heads_is_the_set(store, made):
    """The paper's: each head once, with the factor furthest from 1; half strength halves it."""
    fit = made(*BIASES[:2], edit="zero")
    cases = [source.case for source in fit]
    whole = MAKERS["union"].make(fit, cases, {"strength": 1.0})
    heads = [set(case.attribution.top(3)) for case in cases]
    assert {edit.site for edit in whole} == heads[0] | heads[1]
    assert len(whole) == len(heads[0] | heads[1])
    assert all(edit.op == "scale" and edit.value == 0 for edit in whole)
    assert all(edit.value == 0.5 for edit in MAKERS["union"].make(fit, cases, {"strength": 0.5}))
    assert MAKERS["union"].make(fit, cases, {"strength": 0.0}) == ()


def test_no_edit_keeps_another_token_as_it_is(store, made):
    """The share that is kept is 1 under a change of nothing, and the measured one under a change of much."""
    (source,) = made(BIASES[2])
    edits = made(BIASES[0])[0]
    own = MAKERS["union"].make([edits], [edits.case], {"strength": 1.0})
    idle = [replace(edit, strength=0.0) for edit in own if isinstance(edit, SiteEdit)]
    assert kept_share(effect_on(source, "idle", tuple(idle))) == pytest.approx((1, 1, 1), abs=1e-3)
    findings = {(f.name, f.metric): f.value for f in effect_on(source, "direction", own)}
    share = abs(findings["left_over", "gap"] / findings["injected", "gap"])
    assert kept_share(effect_on(source, "direction", own))[0] == pytest.approx(share, rel=1e-6)


def test_what_does_not_fit_together_is_refused(store, made, models, tmp_path):
    """One run, one bias twice, an edit that a run does not have, an unknown way, another model."""
    from tiny import save_folder

    two = made(*BIASES[:2])
    with pytest.raises(SpecError, match="name two or more"):
        combine(store, two[:1])
    with pytest.raises(SpecError, match="same bias"):
        combine(store, two, two[:1])
    with pytest.raises(SpecError, match="did you mean `joint`"):
        combine(store, two, how="join")
    with pytest.raises(SpecError, match="did you mean `zero`"):
        made(BIASES[0], edit="zeros")
    other = replace(two[1].job, spec=two[1].job.spec.model_copy(update={"model": str(save_folder(models("gpt2"), tmp_path / "gpt2"))}))
    with pytest.raises(SpecError, match="different models"):
        combine(store, [two[0], replace(two[1], job=other)])
