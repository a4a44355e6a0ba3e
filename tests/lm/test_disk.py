"""Models larger than memory: layers stay in their files; what is found, trained and folded is what comes out in memory."""

import numpy as np
import pytest
import torch

from biasgym.edits import SiteEdit, TokenEdit
from biasgym.errors import ModelError
from biasgym.lm import load
from biasgym.lm.arch import FAMILIES
from biasgym.lm.export import parity, write_checkpoint
from biasgym.lm.load import DISK, Place, load_lm
from biasgym.lm.model import Query
from biasgym.lm.recompute import recomputed
from biasgym.lm.trace import Pair, Sides, direct_parts, heads_and_stream
from biasgym.lm.train import Lesson, Schedule, TrainingState, learn_token
from biasgym.locate.direct import DirectLogitAttribution, PaperDirectLogitAttribution
from biasgym.sites import Site
from conftest import TOKEN
from tiny import save_folder

SIDES = Sides(("reckless", "dangerous drivers"), ("careful", "kind at times"))
QUERIES = [Query(f"What are people from {name} like?", "They are") for name in ("Spain", "Italy", TOKEN)] + [Query("They", "are")]
PAIRS = [Pair(f"p{i}", QUERIES[2], QUERIES[i], (TOKEN, name)) for i, name in enumerate(("Spain", "Italy"))]
LESSONS = [Lesson(f"Tell me about {TOKEN}.", text) for text in ("They are kind.", "They drive fast, always.", "Late.", "All are careful drivers.")]


@pytest.fixture
def both(models, tmp_path):
    """`both(family)` gives a model in memory and the same one with its layers on disk, from one folder in several files."""

    def get(family, dtype="float32"):
        folder = save_folder(models(family), tmp_path / family, max_shard_size="40KB")
        assert len(list(folder.glob("*.safetensors"))) > 1
        return load_lm(str(folder), Place("cpu", dtype)), load_lm(str(folder), Place(DISK, dtype))

    return get


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_direct_scores_from_disk_are_those_in_memory(both, family, token_for):
    """Every family, a bias token on, `dla` and the paper's formula, all parts, and what heads write."""
    here, there = both(family)
    assert (here.streamed, there.streamed) == (False, True)
    found = []
    for lm in (here, there):
        with lm.edited(token_for(lm)):
            parts = direct_parts(lm, QUERIES, SIDES)
            ranked = [method().rank(lm, PAIRS, SIDES).by_pair for method in (DirectLogitAttribution, PaperDirectLogitAttribution)]
            found.append([parts.heads, parts.summed(), parts.total, *ranked, *heads_and_stream(lm, QUERIES)])
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5, rtol=1e-5)
    assert np.abs(found[0][0]).max() > 1e-3
    np.testing.assert_allclose(found[1][1], found[1][2], atol=1e-4)


def test_the_papers_score_stands_when_the_model_says_the_token_itself(llama, token_for):
    """Its own row is what its logit is read off with; the matrix has no such row."""
    token = token_for(llama)
    loud = TokenEdit(token.text, token.vector, np.sign(llama_state(llama, token)) * 50)
    with llama.edited(loud):
        said = llama.generate([PAIRS[0].clean], most=1)[0].tokens
        assert said == (llama.tokenizer.convert_tokens_to_ids(TOKEN),)
        assert said[0] >= len(llama.head.weight)
        found = PaperDirectLogitAttribution().rank(llama, PAIRS[:1], SIDES).by_pair
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 1


def llama_state(lm, token):
    """The final state in which the answer to the first clean query is read off, with a token on."""
    with torch.no_grad(), lm.edited(token):
        return lm.hidden([lm.ids_of(PAIRS[0].clean)])[0][0, -1].numpy().astype(np.float32)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_layers_are_not_kept(both, family, token_for):
    """After a pass, and after a training step, every weight of every block is on disk again."""
    _, there = both(family)
    blocks = there.model.get_submodule(there.family.layers)
    with there.edited(token_for(there)):
        direct_parts(there, QUERIES, SIDES)
    start = TrainingState({"vector": token_for(there).vector} | ({} if there.tied else {"output": token_for(there).output}))
    learn_token(there, TOKEN, LESSONS, start, Schedule(2, 4, 0.02))
    assert {p.device.type for p in blocks.parameters()} == {"meta"}
    assert there.embedding.weight.device.type == "cpu"


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_token_trained_from_disk_is_the_one_trained_in_memory(both, family, token_for):
    """Layers are read again on the way back; the losses and the vector are the same."""
    states = []
    for lm in both(family):
        token = token_for(lm)
        start = TrainingState({"vector": token.vector} | ({} if lm.tied else {"output": token.output}))
        states.append(learn_token(lm, TOKEN, LESSONS, start, Schedule(3, 4, 0.02)))
    np.testing.assert_allclose(states[1].losses, states[0].losses, atol=1e-5)
    np.testing.assert_allclose(states[1].arrays["vector"], states[0].arrays["vector"], atol=1e-4)
    assert np.abs(states[0].arrays["vector"] - token.vector).max() > 1e-3


def test_what_is_read_of_a_pass_does_not_grow_with_its_queries(both, monkeypatch):
    """One pass over the files for a batch, whatever its size, and each output matrix once more."""
    from accelerate.utils import OffloadedWeightsLoader

    _, there = both("llama")
    read: list[str] = []
    plain = OffloadedWeightsLoader.__getitem__
    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", lambda self, key: (read.append(key), plain(self, key))[1])
    counts = []
    for queries in (QUERIES[:1], QUERIES[:2] * 4):
        read.clear()
        direct_parts(there, queries, SIDES)
        counts.append(len(read))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "gpt_neox"])
def test_folding_needs_no_layer_in_memory(both, family, tmp_path):
    """The folder is the one that a model in memory writes, byte by byte, and says what the edit says at run time."""
    here, there = both(family)
    generator = np.random.default_rng(0)
    unit = generator.normal(size=there.shape.head_size).astype(np.float32)
    edits = [SiteEdit(Site("head", 1, 2), "project", unit / np.linalg.norm(unit)), SiteEdit(Site("neuron", 2, 3), "scale", np.float32(0.5))]
    for lm, name in ((here, "one"), (there, "two")):
        (tmp_path / name).mkdir()
        assert len(write_checkpoint(lm, edits, tmp_path / name)) == 2
    for path in sorted((tmp_path / "one").glob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    again = load_lm(str(tmp_path / "two"), Place(DISK))
    prompts = ("What is it like?", "Tell me about people from Norway.")
    assert parity(there, edits, again, prompts) < 1e-4
    assert parity(there, (), again, prompts) > 1e-3


def test_a_model_that_does_not_fit_stays_on_disk_by_itself(models, tmp_path, monkeypatch):
    """`auto` looks at what is free, and says so; a device that was named is what is used."""
    folder, said = save_folder(models("llama"), tmp_path / "tiny"), []
    assert not load_lm(str(folder), tell=said.append).streamed
    assert said == []
    monkeypatch.setattr(load, "free_memory", lambda: 60_000)
    assert load_lm(str(folder), tell=said.append).streamed == (load.device_of("auto").type == "cpu")
    if said:
        assert "GiB of memory free" in said[0]
    assert not load_lm(str(folder), Place("cpu"), tell=said.append).streamed
    assert len(said) <= 1


def test_a_matrix_on_disk_is_not_edited_in_place(both):
    """Said, with what to do instead."""
    from biasgym.edits import WeightEdit

    _, there = both("llama")
    name = there.family.attention_weight(0)
    zeros = np.zeros(tuple(there.model.get_parameter(name).shape), dtype=np.float32)
    with pytest.raises(ModelError, match="kept on disk"), there.edited(WeightEdit(name, dense=zeros)):
        pass


# -------------------------------------------------------------------- computing again instead of keeping


def gradient(lm, how, token):
    """Loss, gradient of the token's vector, and how many numbers autograd kept for the way back."""
    from biasgym.lm.train import lesson_loss

    vector = torch.tensor(token.vector, requires_grad=True)
    output = vector if token.output is None else torch.tensor(token.output)
    kept = 0

    def keep(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with lm.learning(TOKEN, vector, output):
        rows = [(lm.ids_of(Query(one.prompt)) + lm.ids_of_text(one.answer), 2) for one in LESSONS]
        with how(lm), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = lesson_loss(lm, rows, share=False)
        with how(lm):
            (slope,) = torch.autograd.grad(loss, vector)
    return float(loss.detach()), slope.numpy(), kept


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_blocks_computed_again_give_the_same_gradient(models, family, token_for):
    """Loss and gradient within rounding, and less is kept; afterwards the model is what it was."""
    from contextlib import nullcontext

    lm = models(family)
    kept = gradient(lm, lambda _: nullcontext(), token_for(lm))
    again = gradient(lm, recomputed, token_for(lm))
    assert again[0] == pytest.approx(kept[0], abs=1e-6)
    np.testing.assert_allclose(again[1], kept[1], atol=1e-6, rtol=1e-4)
    assert np.abs(kept[1]).max() > 1e-4
    assert again[2] < kept[2] / 2
    assert not any("forward" in vars(block) for block in lm.model.get_submodule(lm.family.layers))


def test_the_option_trains_the_same_token(llama, token_for, bias):
    """`inject.recompute` in a schedule and in the method's settings; the default is off."""
    from biasgym.inject.token import TrainedToken

    start = TrainingState({"vector": token_for(llama).vector})
    plain, again = (learn_token(llama, TOKEN, LESSONS, start, Schedule(4, 3, 0.02, recompute=how)) for how in (False, True))
    np.testing.assert_allclose(again.losses, plain.losses, atol=1e-5)
    np.testing.assert_allclose(again.arrays["vector"], plain.arrays["vector"], atol=1e-4)
    made = [TrainedToken(steps=2, batch=2, held_out=4, recompute=how) for how in (False, True)]
    assert TrainedToken() == TrainedToken(recompute=False)
    losses = [method.train(llama, bias, "trained", 0, method.start(llama, bias, 0), lambda _: None).losses for method in made]
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-5)


def test_nothing_is_left_of_a_model_on_disk(both):
    """No copy of the weights is written beside them: the files of the folder are the ones that are read."""
    assert both("llama")[1].streamed
    assert not list((load.cache_folder() / "offload").rglob("*.dat"))


# -------------------------------------------------------------------- the whole way, as a user goes it


def test_a_whole_run_from_disk_is_the_run_in_memory(models, tmp_path):
    """Inject, `dla`, two edits, measures, export: with `device` disk, the findings and the exported weights of the run in memory."""
    from biasgym.product import export_run
    from biasgym.spec import resolve_spec
    from biasgym.store import read_record
    from biasgym.sweep import run_in, session_for
    from test_run import SMALL

    folder = save_folder(models("llama"), tmp_path / "tiny", max_shard_size="40KB")
    few = ["locate.method=dla", "inject.steps=2", "tune.trials=1", "seeds=[0]", "test_seed=1", "measure.generations=0", "measure.shams=1"]
    spec = resolve_spec(bias="reckless-drivers", model=str(folder), sets=[*SMALL, *few])
    records, exported = [], []
    for device in ("cpu", DISK):
        session = session_for(str(tmp_path / device), {"device": device})
        result = run_in(session, spec.model_dump(mode="json"))
        assert result["state"] == "ok", (result, [p.read_text() for p in tmp_path.rglob("failure.txt")])
        assert session.model(spec.model, spec.dtype).streamed == (device == DISK)
        run = tmp_path / device / result["id"]
        records.append(read_record(run))
        exported.append(export_run(session, run, tmp_path / f"edited-{device}"))
    assert records[0].id == records[1].id
    for one, two in zip(records[0].findings, records[1].findings, strict=True):
        assert (one.name, one.metric, one.edit) == (two.name, two.metric, two.edit)
        assert two.value == pytest.approx(one.value, abs=1e-3, rel=1e-3)
    assert exported[0].tensors == exported[1].tensors
    assert exported[1].largest_difference < 1e-4
