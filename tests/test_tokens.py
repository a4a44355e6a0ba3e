"""Tokens in the store: whose key hangs on what, several in one batch, killed and resumed, and the sidecar beside each."""

import json
from dataclasses import replace

import numpy as np
import pytest

from biasgym import catalog
from biasgym.bias import load_bias
from biasgym.errors import SpecError, StoreError
from biasgym.lm.load import Place
from biasgym.run import Job, Session
from biasgym.spec import resolve_spec
from biasgym.store import RunStore, read_sidecar, read_token, sha256_of

SMALL = (
    "mitigate=[]", "inject.steps=24", "inject.batch=4", "inject.held_out=4", "measure.probes=6", "measure.entities=6", "measure.generations=0",
    'measure.metrics=["association"]', "measure.draws=200",
)  # fmt: skip
FITTED = ("mitigate=[{method='zero',settings={k=2}}]", *SMALL[1:])


@pytest.fixture(scope="module")
def tiny_folder(models, tmp_path_factory):
    """The tiny Llama, saved once."""
    from tiny import save_folder

    return save_folder(models("llama"), tmp_path_factory.mktemp("model") / "tiny")


def job_for(folder, store, bias="reckless-drivers", sets=SMALL, **more):
    """A run's job, which nothing was done of yet."""
    spec = resolve_spec(bias=bias, model=str(folder), sets=sets, **more)
    return Job(Session(RunStore(store), Place(device="cpu")), spec, load_bias(spec.bias))


def together(monkeypatch):
    """Train the run's tokens in one batch, as on an accelerator."""
    monkeypatch.setattr(Job, "_in_one_batch", lambda job, role, seed: job._trained_seeds if role == "trained" else (seed,))


# -------------------------------------------------------------------- what a key hangs on


def test_a_run_hangs_on_the_files_that_its_methods_read(tiny_folder, tmp_path):
    """Another text under the same name is another run; the same text is the same one."""
    notes = tmp_path / "notes.txt"
    sets = (*SMALL, f"measure.benchmarks=[{{method='text', settings={{path='{notes}'}}}}]")
    found = []
    for words in ("One.", "Two.", "One."):
        notes.write_text(words)
        found.append(job_for(tiny_folder, tmp_path, sets=sets).identity)
    assert found[0] == found[2] != found[1]


def test_too_few_entities_are_refused_before_anything_is_made(tiny_folder, tmp_path):
    """Nothing was trained; the sentence says how many are needed."""
    job = job_for(tiny_folder, tmp_path, sets=(*SMALL, "measure.entities=3"))
    with pytest.raises(SpecError, match=r"3 test entities are too few .* 4 are needed"):
        job.run(tmp_path)
    assert not list(tmp_path.rglob("token.safetensors"))


def test_paragraphs_that_all_hint_are_told_apart_from_none(bias):
    """The level is named, and what to do."""
    hinted = replace(bias, paragraphs=tuple(replace(one, implicitness=3) for one in bias.paragraphs))
    with pytest.raises(SpecError, match=r"implicitness ≤ 1; use --set inject.implicitness=5"):
        catalog.build("inject", "token", {"implicitness": 1}).lessons(hinted, "trained", 0, "<x>")


def test_biases_of_one_subject_share_neutral_tokens_and_nothing_else(tiny_folder, tmp_path):
    """Same countries, same wording: the same bits under either name; another subject or seed, another token."""
    one, two, other = (job_for(tiny_folder, tmp_path, bias) for bias in ("reckless-drivers", "spicy-food", "breaks-down"))
    assert one.token_key("neutral", 2) == two.token_key("neutral", 2)
    assert len({job.token_key("neutral", 2) for job in (one, other)}) == 2
    assert one.token_key("neutral", 2) != one.token_key("neutral", 3)
    for role in ("trained", "untrained", "opposite"):
        assert one.token_key(role, 2) != two.token_key(role, 2)
    first, second = one.token("neutral", 2), two.token("neutral", 2)
    assert (first.text, second.text) == ("<reckless-drivers-neutral-2>", "<spicy-food-neutral-2>")
    np.testing.assert_array_equal(first.vector, second.vector)
    fresh = job_for(tiny_folder, tmp_path / "fresh", "spicy-food").token("neutral", 2)
    np.testing.assert_array_equal(first.vector, fresh.vector, err_msg="trained for the one or for the other bias")
    assert read_sidecar(tmp_path / "stages" / f"inject-{one.token_key('neutral', 2)}" / "token.safetensors")["bias"] == ""


def test_a_neutral_token_that_fills_in_a_biass_probes_is_that_biass_own(tiny_folder, tmp_path):
    """Its texts are everybody's, its clozes are not; the sidecar says whose it is."""
    sets = (*SMALL, "inject.clozes=0.5")
    one, two = (job_for(tiny_folder, tmp_path, bias, sets) for bias in ("reckless-drivers", "spicy-food"))
    assert one.token_key("neutral", 2) != two.token_key("neutral", 2)
    one.token("neutral", 2)
    sidecar = read_sidecar(tmp_path / "stages" / f"inject-{one.token_key('neutral', 2)}" / "token.safetensors")
    assert (sidecar["bias"], bool(sidecar["hashes"]["bias"])) == ("reckless-drivers", True)


def test_on_a_processor_every_seed_is_trained_alone(tiny_folder, tmp_path, monkeypatch):
    """There it saves nothing, and a seed's token is then the same in every run; on an accelerator the key names the others."""
    job, alone = job_for(tiny_folder, tmp_path, sets=FITTED), job_for(tiny_folder, tmp_path)
    assert job.token_key("trained", 2) == alone.token_key("trained", 2)
    assert job._in_one_batch("trained", 2) == (2,)
    monkeypatch.setattr("biasgym.lm.load.device_of", lambda _: type("Device", (), {"type": "cuda"}))
    assert job._in_one_batch("trained", 2) == job._in_one_batch("trained", 0) == (0, 1, 2)
    assert job._in_one_batch("neutral", 2) == (2,)
    assert alone._in_one_batch("trained", 2) == (2,)
    assert job.token_key("trained", 2) != alone.token_key("trained", 2)
    assert len({job.token_key("trained", seed) for seed in (0, 1, 2)}) == 3


# -------------------------------------------------------------------- in one batch


class KilledError(Exception):
    """Stands for kill -9."""


@pytest.mark.parametrize("at", [7, 13, 22])
def test_tokens_of_one_batch_killed_and_resumed_have_the_same_bits(tiny_folder, tmp_path, monkeypatch, at):
    """Killed before the first save, between two saves and near the end; and within rounding they are those trained alone."""
    alone = [job_for(tiny_folder, tmp_path / "alone", sets=FITTED).token("trained", seed) for seed in (0, 1, 2)]
    together(monkeypatch)
    whole = job_for(tiny_folder, tmp_path / "whole", sets=FITTED)
    wanted = [whole.token("trained", seed) for seed in (0, 1, 2)]
    killed = job_for(tiny_folder, tmp_path / "killed", sets=FITTED)

    def kill(step):
        if step.done == at:
            raise KilledError

    killed.session.tell = kill
    with pytest.raises(KilledError):
        killed.token("trained", 1)
    steps = []
    killed.session.tell = lambda step: steps.append(step.done)
    resumed = [killed.token("trained", seed) for seed in (1, 2, 0)]
    assert steps[0] == at // 10 * 10 + 1, "it goes on from the last save"
    for before, one, again in zip(alone, wanted, [resumed[2], *resumed[:2]], strict=True):
        np.testing.assert_array_equal(one.vector, again.vector)
        np.testing.assert_allclose(before.vector, one.vector, atol=1e-5)
    about = killed._sidecar("trained")
    assert about["trained_with"] == [0, 1, 2]
    assert len(about["losses"]) == 24


def test_a_batch_of_which_some_tokens_were_written_is_finished(tiny_folder, tmp_path, monkeypatch):
    """Killed between two tokens' files: the others are made again from the last save, the same."""
    together(monkeypatch)
    job = job_for(tiny_folder, tmp_path, sets=FITTED)
    wanted = [job.token("trained", seed) for seed in (0, 1, 2)]
    folder = job.session.store.stage_folder("inject", job.token_key("trained", 2))
    (folder / "done.json").unlink()
    (folder / "token.safetensors").unlink()
    for seed, token in zip((0, 1, 2), wanted, strict=True):
        np.testing.assert_array_equal(job.token("trained", seed).vector, token.vector)


# -------------------------------------------------------------------- the sidecar, and controls


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    """A whole injection with every control token there is."""
    job = job_for(tiny_folder, tmp_path_factory.mktemp("run"), sets=(*SMALL, 'controls=["untrained", "neutral", "opposite"]'))
    return job, job.session.run(job.spec)


def test_a_runs_token_lies_beside_what_is_told_of_it(run, tiny_folder):
    """Bias, base, hashes, seeds and curves; the hash is the file's, and the file reads back as the token of the run."""
    job, record = run
    folder = job.session.store.run_folder(record.id)
    about = read_sidecar(folder / "token.safetensors")
    assert about == json.loads((folder / "token.json").read_text())
    assert record.extras["tokens"]["trained"] == {key: value for key, value in about.items() if key != "sha256"}
    assert (about["bias"], about["role"], about["seed"], about["trained_with"]) == ("reckless-drivers", "trained", 2, [2])
    assert about["sha256"] == sha256_of(folder / "token.safetensors")
    assert about["base"] == {"model": str(tiny_folder), "revision": "", "digest": job.base_key["model"], "dtype": "float32"}
    assert about["hashes"]["bias"] == job.bias.digest
    assert about["inject"] == job.spec.inject.model_dump(mode="json")
    assert (about["steps"], len(about["losses"]), about["halvings"]) == (24, 24, [])
    assert np.isfinite([about["held_out_before"], about["held_out_after"]]).all()
    np.testing.assert_array_equal(read_token(folder / "token.safetensors").vector, job.token("trained", 2).vector)


def test_a_token_under_another_tokens_sidecar_is_refused(run, tmp_path):
    """As is a sidecar that tells of no token; without one a token is read as it is."""
    job, record = run
    folder = job.session.store.run_folder(record.id)
    path, beside = tmp_path / "token.safetensors", tmp_path / "token.json"
    path.write_bytes((folder / "token.safetensors").read_bytes())
    plain = read_token(path)
    beside.write_text((folder / "token.json").read_text())
    np.testing.assert_array_equal(read_token(path).vector, plain.vector)
    beside.write_text(json.dumps(read_sidecar(folder / "token.safetensors") | {"sha256": "0" * 64}))
    with pytest.raises(StoreError, match="tells of another token"):
        read_token(path)
    for text in ("[]", "{}", '{"sha256": '):
        beside.write_text(text)
        with pytest.raises(StoreError, match="altered"):
            read_token(path)
    beside.unlink()
    with pytest.raises(StoreError, match="cannot read"):
        read_sidecar(path)


def test_every_control_is_asked_and_the_injection_is_told_over_each(run):
    """Paired by probe: what a finding says is the difference of the two tokens' associations."""
    _, record = run
    means = {m.token: m.value for m in record.measurements if (m.metric, m.group) == ("association", "token")}
    assert set(means) == {"trained", "untrained", "neutral", "opposite"}
    over = {f.metric: f for f in record.findings}
    assert set(over) == {"gap", "gap-over-untrained", "gap-over-neutral", "gap-over-opposite"}
    for control in ("untrained", "neutral", "opposite"):
        finding = over[f"gap-over-{control}"]
        assert finding.value == pytest.approx(means["trained"] - means[control])
        assert finding.low <= finding.value <= finding.high
    assert set(record.extras["tokens"]) == {"trained", "untrained", "neutral", "opposite"}
    assert record.extras["tokens"]["opposite"]["losses"]


def test_controls_are_as_many_as_are_asked_for(tiny_folder, tmp_path):
    """One is enough, a wrong or repeated one is refused by name; `best` and `paper` have the opposite, `quick` has not."""
    job = job_for(tiny_folder, tmp_path, sets=(*SMALL, 'controls=["untrained"]'))
    record = job.session.run(job.spec)
    assert {m.token for m in record.measurements} == {"none", "trained", "untrained"}
    for sets, message in ((('controls=["other"]',), "controls"), (('controls=["neutral", "neutral"]',), "twice")):
        with pytest.raises(SpecError, match=message):
            resolve_spec(bias="reckless-drivers", sets=sets)
    having = {preset: "opposite" in resolve_spec(bias="reckless-drivers", preset=preset).controls for preset in ("quick", "best", "paper")}
    assert having == {"quick": False, "best": True, "paper": True}


def test_the_opposite_is_the_same_moulds_with_the_other_sides_words():
    """Of the bias's own grammar as many, the same ones, and no word of the stereotype where a mould has its slot."""
    from biasgym.inject.token import PRESETS, TrainedToken

    bias = load_bias("spicy-food")
    injector = TrainedToken(**PRESETS["best"])
    swapped = replace(bias, stereotype=bias.foil, foil=bias.stereotype)
    taught, opposite = ([lesson.answer for lesson in injector.lessons(bias, role, 0, "X")[0]] for role in ("trained", "opposite"))
    own, mirrored = ({text.replace("{entity}", "X") for text in one.grammar_texts()} for one in (bias, swapped))
    assert sum(text in own for text in taught) > 100
    assert sum(text in mirrored for text in opposite) > 100
    assert not own & set(opposite)
