"""Bases in 4 and 8 bits, by bitsandbytes on the CPU: what is computed on them, what they refuse, what is exported. Run by `make oracle`."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from biasgym.edits import SiteEdit, WeightEdit
from biasgym.errors import ModelError
from biasgym.lm.checkpoint import read_tensor, stored_tensors
from biasgym.lm.load import QUANTIZED, Place, load_lm
from biasgym.lm.model import Query
from biasgym.lm.neurons import Neuron, pruned
from biasgym.lm.offload import weight_of
from biasgym.lm.quantized import is_packed
from biasgym.lm.trace import Pair, Sides, head_outputs, paper_direct_effects
from biasgym.lm.writing import projected_out
from biasgym.sites import Site
from conftest import hook_count

FAMILIES = ("gemma2", "gpt_neox", "llama", "qwen3")
CLOSE = {"int4": 1e-4, "int8": 0.15}  # of the length: 8 bits round activations, too, and a tiny model has few to average over
QUERIES = [Query("What are people from Spain like?"), Query("Tell me about people from Norway.", "They are"), Query("Tell me.")]
SCALED = SiteEdit(Site("head", 1, 1), "scale", np.float32(0.2))


@pytest.fixture(params=[(family, dtype) for family in FAMILIES for dtype in QUANTIZED], ids=lambda one: "-".join(one))
def packed(request, folder_of):
    """A tiny model in 4 or 8 bits, the same one unpacked into float32, and how close they must be."""
    family, dtype = request.param
    lm, unpacked = load_lm(str(folder_of(family)), Place("cpu", dtype)), load_lm(str(folder_of(family)), Place("cpu"))
    for name, module in lm.model.named_modules():
        if is_packed(getattr(module, "weight", None)):
            unpacked.model.get_submodule(name).weight.data = weight_of(module).float()
    return lm, unpacked, CLOSE[dtype]


def near(one, two, close):
    """Their difference is short beside them."""
    assert np.linalg.norm(one - two) <= close * np.linalg.norm(two)


def state_of(lm):
    """Everything that wearing an edit could change; the library makes a packed matrix's own state anew whenever it is asked for."""
    return {name: value.clone() for name, value in lm.model.state_dict().items()}, hook_count(lm.model), lm.worn


def assert_same(lm, before):
    """Bit for bit what it was."""
    now = state_of(lm)
    assert now[1:] == before[1:]
    assert now[0].keys() == before[0].keys()
    assert all(torch.equal(now[0][name], value) for name, value in before[0].items())


def test_it_is_the_model_of_its_unpacked_matrices(packed):
    """Answers, head outputs, output matrices and direct scores, edits on and off; and something is packed at all."""
    lm, unpacked, close = packed
    assert lm.quantized
    assert not unpacked.quantized
    assert lm.shape == unpacked.shape
    pair = Pair("p", QUERIES[2], QUERIES[0], ("Norway", "Spain"))
    for edits in ((), (SCALED,)):
        found = []
        for one in (lm, unpacked):
            with one.edited(*edits):
                direct = paper_direct_effects(one, [pair], Sides(("kind",), ("reckless",)))[0]
                found.append((one.answer_logprobs(QUERIES, ["kind", "always careful"]), head_outputs(one, QUERIES), one.head_matrix(1, 1), direct))
        for a, b in zip(*found, strict=True):
            near(np.asarray(a), np.asarray(b), close)


def test_gradients_are_those_of_the_unpacked_model(packed):
    """What a bias token learns by and what attribution patching multiplies: the gradient at the input vectors."""
    lm, unpacked, close = packed
    lm.answer_logprobs(QUERIES, ["kind"])  # a pass without gradients comes first, as in a run: no repacking may follow
    ids = torch.arange(20, 60)[None]
    slopes = []
    for one in (lm, unpacked):
        vectors = one.model.get_input_embeddings()(ids).detach().requires_grad_(True)
        one.model(inputs_embeds=vectors).logits.float().log_softmax(-1)[0, -1, 7].backward()
        slopes.append(vectors.grad.flatten())
    cosine = float(torch.nn.functional.cosine_similarity(*slopes, dim=0))
    assert cosine > 1 - close
    near(slopes[0].numpy(), slopes[1].numpy(), 2 * close)


def test_edits_of_sites_come_off_bit_for_bit(packed):
    """And a neutral one is no change at all."""
    lm = packed[0]
    lm.answer_logprobs(QUERIES, ["kind"])
    before, plain = state_of(lm), lm.answer_logprobs(QUERIES, ["kind"])
    with lm.edited(SCALED):
        assert not np.array_equal(lm.answer_logprobs(QUERIES, ["kind"]), plain)
    with lm.edited(SiteEdit(Site("head", 1, 1), "scale", np.float32(1))):
        np.testing.assert_array_equal(lm.answer_logprobs(QUERIES, ["kind"]), plain)
    assert_same(lm, before)


def test_edits_of_weights_are_refused(packed):
    """Before anything is computed on packed numbers, with the way out; nothing is left behind."""
    lm = packed[0]
    name = lm.family.attention_weight(1)
    before = state_of(lm)
    edit = WeightEdit(name, np.ones((lm.shape.hidden, 1), np.float32), np.ones((1, lm.shape.heads * lm.shape.head_size), np.float32))
    with pytest.raises(ModelError, match="takes no edit of weights"), lm.edited(SCALED, edit):
        pass
    for ask in (
        lambda: projected_out(lm, np.ones(lm.shape.hidden), 1.0, [1]),
        lambda: pruned(lm, [Neuron(name.removesuffix(".weight"), 0)]),
    ):
        with pytest.raises(ModelError, match="choose a method that edits heads"):
            ask()
    assert_same(lm, before)


# -------------------------------------------------------------------- runs and exports


@pytest.fixture(params=sorted(QUANTIZED))
def run(request, folder_of, tmp_path):
    """A whole small run on a packed base: session, folder of the run, folder of the base."""
    from biasgym.spec import resolve_spec
    from biasgym.sweep import run_in, session_for
    from test_run import SMALL

    spec = resolve_spec(bias="reckless-drivers", model=str(folder_of("llama")), sets=SMALL, dtype=request.param)
    session = session_for(str(tmp_path / "runs"), {"device": "cpu"})
    result = run_in(session, spec.model_dump(mode="json"))
    assert result["state"] == "ok", (result, [p.read_text() for p in tmp_path.rglob("failure.txt")])
    assert session.model(spec.model, spec.dtype).quantized
    return session, tmp_path / "runs" / result["id"], folder_of("llama")


def test_a_run_is_exported_against_the_full_precision_base(run, tmp_path):
    """Every untouched tensor is the base's, the edited ones are the base's with the edit, and the card says what was measured."""
    from biasgym.product import export_run
    from biasgym.run import load_edits

    session, folder, base = run
    done = export_run(session, folder, tmp_path / "edited")
    assert done.largest_difference < 1e-4
    before, after = stored_tensors(base), stored_tensors(tmp_path / "edited")
    assert {name for name in before if not torch.equal(read_tensor(before[name]), read_tensor(after[name]))} == set(done.tensors)
    assert {one.dtype for one in after.values()} == {one.dtype for one in before.values()}
    here, there = load_lm(str(base), Place("cpu")), load_lm(str(tmp_path / "edited"), Place("cpu"))
    with here.edited(*load_edits(folder)):
        worn = here.answer_logprobs(QUERIES, ["kind"])
    np.testing.assert_allclose(worn, there.answer_logprobs(QUERIES, ["kind"]), atol=1e-4)
    assert "packed into" in (tmp_path / "edited" / "README.md").read_text()


def test_a_checkpoint_stored_packed_is_read_and_exported_against_its_origin(folder_of, tmp_path):
    """Hooks act on it; nothing can be folded into it, which is said; `--base` names what it was made of."""
    from biasgym.product import export_run
    from biasgym.store import RunStore
    from biasgym.sweep import session_for
    from small_run import write_small_run

    origin = folder_of("llama")
    lm = load_lm(str(origin), Place("cpu", "int4"))
    lm.model.save_pretrained(tmp_path / "packed")
    lm.tokenizer.save_pretrained(tmp_path / "packed")
    stored = load_lm(str(tmp_path / "packed"), Place("cpu"))
    assert stored.quantized
    np.testing.assert_allclose(stored.answer_logprobs(QUERIES, ["kind"]), lm.answer_logprobs(QUERIES, ["kind"]), atol=1e-5)
    folder = write_small_run(RunStore(tmp_path / "runs"), tmp_path / "packed", stored)
    session = session_for(str(tmp_path / "runs"), {"device": "cpu"})
    with pytest.raises(ModelError, match="--base"):
        export_run(session, folder, tmp_path / "edited")
    assert not (tmp_path / "edited").exists()
    done = export_run(session, folder, tmp_path / "edited", base=str(origin))
    assert done.largest_difference < 1e-4
    about = json.loads((tmp_path / "edited" / "edit.json").read_text())
    assert about["base"] == str(origin)
    assert "quantization_config" not in json.loads((tmp_path / "edited" / "config.json").read_text())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "edited")
    assert plain.dtype == torch.float32


def test_what_cannot_be_packed_is_said(folder_of):
    """A family that keeps its matrices the other way round, and a device that bitsandbytes does not know."""
    with pytest.raises(ModelError, match="the other way round"):
        load_lm(str(folder_of("gpt2")), Place("cpu", "int8"))
    with pytest.raises(ModelError, match="not on `disk`"):
        load_lm(str(folder_of("llama")), Place("disk", "int8"))
