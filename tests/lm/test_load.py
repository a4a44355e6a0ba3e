"""Loading: what is found, what is refused and how, and the check that a family's row fits the model at hand."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from biasgym.edits import SiteEdit
from biasgym.errors import ModelError, StoreError
from biasgym.lm.arch import FAMILIES, family_of
from biasgym.lm.export import write_checkpoint
from biasgym.lm.fold import touched
from biasgym.lm.load import Place, load_lm, resolve, self_check
from biasgym.lm.model import LM, Query
from biasgym.sites import Site
from conftest import TOKEN

EDITS = [SiteEdit(Site("head", 1, 2), "scale", 0.5), SiteEdit(Site("neuron", 2, 3), "scale", 0.0)]


def test_a_loaded_model_is_at_rest(folder_of):
    """Eval mode, no gradients, its folder and name remembered."""
    folder = folder_of("llama")
    lm = load_lm(str(folder))
    assert not lm.model.training
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert (lm.folder, lm.name, lm.dtype) == (folder, str(folder), torch.float32)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_dtypes_load_and_answer(folder_of, dtype, token_for):
    """The check passes, answers are finite, a float32 token fits."""
    lm = load_lm(str(folder_of("qwen3")), Place("cpu", dtype))
    with lm.edited(token_for(lm), *EDITS):
        found = lm.answer_logprobs([Query(f"What is {TOKEN} like?", "It is"), Query("So?", "It is")], ["kind", "always late"])
    assert (found < 0).all()
    assert lm.dtype == getattr(torch, dtype)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-model", "neither a folder, nor a hub id"),
        ("/no/such/folder", "neither a folder"),
        ("model.gguf", "GGUF"),
        ("owner/name", "--offline was given"),
        ("smollm2-135m-instruct", "not in the cache yet and --offline"),
    ],
)
def test_a_model_that_is_not_there_is_refused(name, message):
    """With what was looked for; nothing is fetched when offline."""
    with pytest.raises(ModelError, match=message):
        resolve(name, Place(offline=True))


def test_broken_folders_are_refused(folder_of, tmp_path):
    """No config, an unknown family, an encoder-decoder, weights cut off, a config that is no JSON."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"without config\.json"):
        load_lm(str(tmp_path / "empty"))
    folder = folder_of("llama")
    config = json.loads((folder / "config.json").read_text())
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="truncated or altered"):
        load_lm(str(folder))
    for content, message in (
        (json.dumps(config | {"model_type": "bloom", "architectures": ["BloomForCausalLM"]}), "unknown model family `bloom`"),
        (json.dumps({"model_type": "t5"}), "encoder-decoder"),
        ("{", "cannot read the configuration"),
    ):
        (folder / "config.json").write_text(content)
        with pytest.raises(ModelError, match=message):
            load_lm(str(folder))
    with pytest.raises(ModelError, match="unknown dtype `float8`"):
        load_lm(str(folder), Place(dtype="float8"))


def test_a_device_that_is_not_there_is_refused(folder_of):
    """With the advice to take the processor."""
    with pytest.raises(ModelError, match="cannot be used here"):
        load_lm(str(folder_of("llama")), Place(device="cuda:99" if torch.cuda.is_available() else "cuda"))
    with pytest.raises(ModelError, match="cannot be used here"):
        load_lm(str(folder_of("llama")), Place(device="gpu"))


def test_an_unknown_family_is_refused_with_the_nearest():
    """Families are named as configs name them."""
    with pytest.raises(ModelError, match="did you mean `gemma2`"):
        family_of("gemma22")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("mistral", {"attention_out": "self_attn.q_proj"}),
        ("granite", {"logit_scale": None}),
        ("gemma2", {"logit_cap": None}),
        ("gpt2", {"input_major": False}),
    ],
)
def test_a_wrong_row_is_found_out(fresh, name, wrong):
    """Before anything is computed with it."""
    lm = fresh(name)
    family = replace(FAMILIES[name], **wrong)
    with pytest.raises((ModelError, RuntimeError)):
        self_check(LM(lm.model, lm.tokenizer, family, name="wrong", folder=None))


def test_broken_weights_are_found_out(fresh):
    """Logits that are not numbers."""
    lm = fresh("llama")
    with torch.no_grad():
        lm.model.model.norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        self_check(lm)


# -------------------------------------------------------------------- export


def test_shards_and_names_are_the_bases_own(folder_of, tmp_path):
    """A checkpoint in several files comes out in the same files, with its index and tokenizer."""
    folder = folder_of("mistral", max_shard_size="100KB")
    lm = load_lm(str(folder))
    to = tmp_path / "out"
    to.mkdir()
    told = []
    write_checkpoint(lm, EDITS, to, tell=lambda done, total: told.append((done, total)))
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 1
    assert sorted(p.name for p in to.glob("*.safetensors")) == shards
    assert told == [(i + 1, len(shards)) for i in range(len(shards))]
    assert {p.name for p in folder.iterdir()} == {p.name for p in to.iterdir()}
    for shard in shards:
        before, after = load_file(folder / shard), load_file(to / shard)
        for name, tensor in before.items():
            assert torch.equal(tensor, after[name]) == (name not in touched(EDITS, lm.family))
    load_lm(str(to))


def test_older_names_are_understood(folder_of, tmp_path):
    """GPT-2's own checkpoint leaves the decoder's name out."""
    folder = folder_of("gpt2")
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    lm = load_lm(str(folder))
    to = tmp_path / "out"
    to.mkdir()
    assert set(write_checkpoint(lm, EDITS, to)) == touched(EDITS, lm.family)
    row = torch.tensor([[5, 9, 17, 30]])
    plain = AutoModelForCausalLM.from_pretrained(to).eval()
    with lm.edited(*EDITS), torch.no_grad():
        torch.testing.assert_close(plain(input_ids=row).logits, lm.model(input_ids=row).logits, atol=1e-4, rtol=1e-5)


def test_what_cannot_be_exported_says_why(folder_of, llama, tmp_path):
    """No folder, a token, weights that are cut off, no safetensors."""
    with pytest.raises(ModelError, match="not loaded from a folder"):
        write_checkpoint(llama, EDITS, tmp_path)
    folder = folder_of("llama")
    lm = load_lm(str(folder))
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:99])
    (tmp_path / "out").mkdir()
    with pytest.raises(StoreError, match="truncated or altered"):
        write_checkpoint(lm, EDITS, tmp_path / "out")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="never pickles"):
        write_checkpoint(lm, EDITS, tmp_path / "out")
