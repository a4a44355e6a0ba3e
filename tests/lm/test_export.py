"""Every form in which an edit leaves the house says what the run-time edit says, comes back, and refuses what is not its own."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from biasgym.edits import PromptEdit, SiteEdit, TokenEdit, WeightEdit
from biasgym.errors import ModelError, StoreError
from biasgym.files import write_json
from biasgym.lm.adapter import as_weight_edits, lora_factors, read_token_adapter, write_lora, write_token_adapter
from biasgym.lm.arch import FAMILIES
from biasgym.lm.checkpoint import stored_tensors, weights_digest
from biasgym.lm.delta import cross, read_delta, write_delta
from biasgym.lm.export import Fold, next_logits, parity, write_checkpoint
from biasgym.lm.fold import bias_of, check_foldable
from biasgym.lm.llamacpp import pre_tokenizer, read_control_vector, reread, write_control_vector, write_gguf
from biasgym.lm.load import load_lm
from biasgym.lm.model import LM
from biasgym.lm.tokened import write_token_into
from biasgym.sites import Site
from conftest import TOKEN
from tiny import byte_tokenizer, config_of, metaspace_tokenizer, randomised, save_folder

PROMPTS = ("What are people from Spain like?", "Tell me about drivers from Norway.", "They")
ONE, TWO = Site("head", 1, 2), Site("head", 2, 0)


@pytest.fixture(params=sorted(FAMILIES))
def based(request, models, tmp_path):
    """The tiny model of each family in turn, with a folder of its own."""
    return with_folder(models(request.param), tmp_path)


def with_folder(lm, tmp_path, **how):
    """The same model, as if loaded from a folder that transformers wrote."""
    return LM(lm.model, lm.tokenizer, lm.family, name=lm.name, folder=save_folder(lm, tmp_path / "base", **how))


def some_edits(lm, seed=0):
    """Two directions and a scaling in sequence at one head, an erasure at another, and a neuron."""
    generator = np.random.default_rng(seed)
    size = lm.shape.head_size
    rows = np.linalg.qr(generator.normal(size=(size, 2)))[0].T.astype(np.float32)
    a, b = generator.normal(size=(2, size))
    return (
        SiteEdit(ONE, "project", rows[0], 1.2),
        SiteEdit(ONE, "scale", np.float32(0.5)),
        SiteEdit(TWO, "erase", np.stack([a, b / (a @ b)]).astype(np.float32), 0.7),
        SiteEdit(Site("neuron", 0, 7), "scale", np.float32(-1)),
    )


def low_rank(lm, layer=1, seed=0):
    """A rank-two change of an MLP output matrix."""
    name = lm.family.mlp_weight(layer)
    out, into = lm.model.get_parameter(name).shape
    generator = np.random.default_rng(seed)
    return WeightEdit(name, *(generator.normal(size=shape).astype(np.float32) * 0.2 for shape in ((out, 2), (2, into))))


def made(folder, write, *args):
    """A new folder with what a writer puts there, and what it gave back."""
    folder.mkdir()
    return folder, write(*args, folder)


def files(folder):
    """The bytes of all weights."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def delta_of(lm, edits, folder):
    """A whole delta folder."""
    folder.mkdir()
    about = write_delta(lm, edits, folder)
    write_json(folder / "delta.json", {"delta": about.described()})
    return folder


# -------------------------------------------------------------------- checkpoint and delta


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_delta_makes_the_checkpoint_and_the_base_bit_for_bit(models, tmp_path, name, dtype):
    """In every dtype and over shards: apply = export = the run-time edit, revert = base, and both refuse a second time."""
    import copy

    source = models(name)
    model = copy.deepcopy(source.model).to(getattr(torch, dtype))
    folder = save_folder(LM(model, source.tokenizer, source.family, name=name, folder=None), tmp_path / "base", max_shard_size="60KB")
    assert len(files(folder)) > 2, "not sharded, so sharding was not tested"
    lm = load_lm(str(folder))
    edits = (*some_edits(lm), low_rank(lm))
    hf, changed = made(tmp_path / "hf", lambda to: write_checkpoint(lm, edits, to))
    delta = delta_of(lm, edits, tmp_path / "delta")
    applied, _ = made(tmp_path / "applied", lambda to: cross(delta, folder, to, "apply"))
    assert files(applied) == files(hf) != files(folder)
    reverted, _ = made(tmp_path / "reverted", lambda to: cross(delta, applied, to, "revert"))
    assert files(reverted) == files(folder)
    assert read_delta(delta).before == weights_digest(folder) != read_delta(delta).after == weights_digest(hf)
    before, after = stored_tensors(folder), stored_tensors(hf)
    assert {k: (v.dtype, v.shape) for k, v in before.items()} == {k: (v.dtype, v.shape) for k, v in after.items()}
    same = {k for k in before if _bytes(before[k]) == _bytes(after[k])}
    assert set(before) - same == set(changed)
    for wrong, way in ((applied, "apply"), (folder, "revert")):
        with pytest.raises(ModelError, match="already"):
            cross(delta, wrong, tmp_path, way)
    limit = {"float32": 1e-4, "bfloat16": 0.5, "float16": 0.05}[dtype]
    assert parity(lm, edits, load_lm(str(hf)), PROMPTS) < limit


def _bytes(stored):
    return stored.file.read_bytes()[stored.start : stored.start + stored.size]


def test_delta_in_every_family(based, tmp_path):
    """Apply is export, revert is the base, to the byte; the delta holds the touched columns and no more."""
    edits = some_edits(based)
    hf, changed = made(tmp_path / "hf", lambda to: write_checkpoint(based, edits, to))
    delta = delta_of(based, edits, tmp_path / "delta")
    applied, _ = made(tmp_path / "applied", lambda to: cross(delta, based.folder, to, "apply"))
    reverted, _ = made(tmp_path / "reverted", lambda to: cross(delta, hf, to, "revert"))
    assert files(applied) == files(hf)
    assert files(reverted) == files(based.folder)
    kept = {name: row["kept"] for name, row in read_delta(delta).tensors.items()}
    size = based.shape.head_size
    assert sorted(kept.values()) == sorted([size, size, 1])
    assert len(changed) == len(kept)


def test_a_delta_for_another_base_is_refused(llama, fresh, tmp_path):
    """One bit of one tensor that the edit does not touch is enough; so is a delta that was tampered with."""
    lm = with_folder(llama, tmp_path)
    delta = delta_of(lm, some_edits(lm), tmp_path / "delta")
    other = fresh("llama")
    with torch.no_grad():
        other.model.get_parameter("model.norm.weight")[3] += 1e-6
    folder = save_folder(other, tmp_path / "other")
    to = tmp_path / "to"
    to.mkdir()
    with pytest.raises(ModelError, match=r"another base: weights [0-9a-f]{12}"):
        cross(delta, folder, to, "apply")
    assert not list(to.iterdir())
    altered = bytearray((delta / "delta.safetensors").read_bytes())
    altered[-5] ^= 1
    (delta / "delta.safetensors").write_bytes(altered)
    with pytest.raises(StoreError, match=r"altered|does not fit"):
        cross(delta, lm.folder, to, "apply")
    (delta / "delta.safetensors").write_bytes(altered[:-9])
    with pytest.raises(StoreError, match="truncated or altered"):
        cross(delta, lm.folder, to, "apply")
    write_json(delta / "delta.json", {"run": "x"})
    with pytest.raises(StoreError, match="not the description of a delta"):
        cross(delta, lm.folder, to, "apply")


def test_tied_embeddings_stay_tied(llama, tmp_path):
    """A change of the embedding is one change of both; where a second copy is stored it changes along."""
    lm = with_folder(llama, tmp_path)
    rows, hidden = lm.embedding.weight.shape
    generator = np.random.default_rng(0)
    edit = WeightEdit("model.embed_tokens.weight", *(generator.normal(size=s).astype(np.float32) * 0.1 for s in ((rows, 1), (1, hidden))))
    hf, changed = made(tmp_path / "hf", lambda to: write_checkpoint(lm, [edit], to))
    assert changed == ["model.embed_tokens.weight"]
    loaded = load_lm(str(hf))
    assert loaded.tied
    assert parity(lm, [edit], loaded, PROMPTS) < 1e-4
    from safetensors.torch import load_file, save_file

    tensors = load_file(lm.folder / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, lm.folder / "model.safetensors", metadata={"format": "pt"})
    twice, changed = made(
        tmp_path / "twice", lambda to: write_checkpoint(LM(lm.model, lm.tokenizer, lm.family, name="x", folder=lm.folder), [edit], to)
    )
    assert changed == ["lm_head.weight", "model.embed_tokens.weight"]
    found = load_file(twice / "model.safetensors")
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])


def test_a_checkpoint_without_the_tensor_is_refused(llama, tmp_path):
    """Nothing is written then; nor of a file that is cut off."""
    lm = with_folder(llama, tmp_path)
    to = tmp_path / "to"
    to.mkdir()
    with pytest.raises(ModelError, match="no tensor named"):
        write_checkpoint(lm, [WeightEdit("no.such.weight", dense=np.zeros((1, 1)))], to)
    with pytest.raises(ModelError, match=r"would change its shape|has shape"):
        write_checkpoint(lm, [WeightEdit(lm.family.mlp_weight(0), dense=np.zeros((1, 1)))], to)
    path = lm.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StoreError, match="truncated or altered"):
        write_checkpoint(LM(lm.model, lm.tokenizer, lm.family, name="x", folder=lm.folder), some_edits(lm), to)
    with pytest.raises(ModelError, match="not loaded from a folder"):
        write_checkpoint(llama, some_edits(lm), to)


def test_only_the_model_is_copied(llama, tmp_path):
    """Other weights that lie beside it (an unedited copy, our own files) are neither hashed nor carried along."""
    lm = with_folder(llama, tmp_path)
    digest = weights_digest(lm.folder)
    for name in ("consolidated.safetensors", "edits.safetensors", "edit.json"):
        (lm.folder / name).write_bytes((lm.folder / "model.safetensors").read_bytes())
    assert weights_digest(lm.folder) == digest
    hf, _ = made(tmp_path / "hf", lambda to: write_checkpoint(lm, some_edits(lm), to))
    assert list(files(hf)) == ["model.safetensors"]
    assert not (hf / "edit.json").exists()
    (lm.folder / "model.safetensors").rename(lm.folder / "model-1.safetensors")
    with pytest.raises(ModelError, match="never pickles"):
        weights_digest(lm.folder)
    write_json(lm.folder / "model.safetensors.index.json", {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    with pytest.raises(StoreError, match=r"no `model-2\.safetensors`"):
        weights_digest(lm.folder)
    write_json(lm.folder / "model.safetensors.index.json", {"weight_map": {"a": "model-1.safetensors"}})
    assert weights_digest(lm.folder) == digest


# -------------------------------------------------------------------- constants in biases


def constants(lm, seed=3):
    """Edits that add something: heads set and shifted, in sequence with others, a neuron held, and the stream shifted."""
    generator = np.random.default_rng(seed)
    size = lm.shape.head_size
    row = np.linalg.qr(generator.normal(size=(size, 1)))[0].T.astype(np.float32)[0]
    a, b = generator.normal(size=(2, size))
    heads = [
        SiteEdit(ONE, "set", generator.normal(size=size).astype(np.float32), 0.6),
        SiteEdit(ONE, "project", row, 0.8),
        SiteEdit(ONE, "add", generator.normal(size=size).astype(np.float32), -0.5),
        SiteEdit(ONE, "erase", np.stack([a, b / (a @ b)]).astype(np.float32)),
        SiteEdit(ONE, "scale", np.float32(1.5)),
        SiteEdit(TWO, "set", generator.normal(size=size).astype(np.float32)),
    ]
    mlp = [
        SiteEdit(Site("neuron", 0, 3), "set", np.float32(0.4)),
        SiteEdit(Site("stream", 1), "add", generator.normal(size=lm.shape.hidden).astype(np.float32), -0.3),
    ]
    return heads, mlp


def test_a_constant_folds_into_the_bias_where_there_is_one(based, tmp_path):
    """Written, loaded, and said the same; families without an output bias refuse and say that it is run-time only."""
    tensors = stored_tensors(based.folder)

    def has(matrix):
        return any(name.endswith(bias_of(matrix)) or bias_of(matrix).endswith(name) for name in tensors)

    folds = 0
    for edits, matrix in zip(constants(based), (based.family.attention_weight(1), based.family.mlp_weight(0)), strict=True):
        if not has(matrix):
            with pytest.raises(ModelError, match="run-time only"):
                Fold(based, tuple(edits))
            continue
        folds += 1
        hf, changed = made(tmp_path / f"hf{folds}", lambda to, edits=edits: write_checkpoint(based, edits, to))
        assert any(name.endswith("bias") for name in changed)
        assert parity(based, edits, load_lm(str(hf)), PROMPTS) < 1e-4
        with pytest.raises(ModelError, match="bias or a norm"):
            lora_factors(based, edits)
    assert folds or based.name.removeprefix("tiny-") not in ("llama", "gpt2", "gpt_neox")


def test_a_shift_of_the_stream_behind_a_norm_is_refused(models):
    """Gemma's MLP goes through a norm before the stream, Granite's through a factor."""
    for name in ("gemma2", "granite"):
        lm = models(name)
        shift = SiteEdit(Site("stream", 1), "add", np.ones(lm.shape.hidden, np.float32))
        with pytest.raises(ModelError, match="a norm or a factor"):
            check_foldable([shift], lm.shape, lm.family, lambda _name: True)


# -------------------------------------------------------------------- adapters


def test_lora_is_the_edit(based, tmp_path):
    """Exact factors of the least rank a module; the adapter's own product says what the run-time edit says."""
    edits = (*some_edits(based), low_rank(based))
    folder, ranks = made(tmp_path / "lora", lambda to: write_lora(based, edits, to))
    size = based.shape.head_size
    assert sorted(ranks.values()) == [1, 1, 2, size]
    pairs = lora_factors(based, edits)
    difference = next_logits(based, PROMPTS, edits) - next_logits(based, PROMPTS, as_weight_edits(based, pairs))
    assert float(difference.abs().max()) < 1e-4
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"] == size
    assert config["rank_pattern"] == config["alpha_pattern"] == {module: rank for module, rank in ranks.items() if rank != size}
    with safe_open(folder / "adapter_model.safetensors", "pt") as opened:
        shapes = {name: tuple(opened.get_tensor(name).shape) for name in opened.keys()}  # noqa: SIM118
    assert len(shapes) == 2 * len(ranks)
    for module, rank in ranks.items():
        out, into = (p.shape for p in (pairs[module][0], pairs[module][1]))
        assert shapes[f"base_model.model.{module}.lora_A.weight"] == (rank, into[1])
        assert shapes[f"base_model.model.{module}.lora_B.weight"] == (out[0], rank)


def test_what_has_no_low_rank_is_refused(llama):
    """Each by its reason."""
    matrix = llama.family.mlp_weight(0)
    dense = WeightEdit(matrix, dense=np.zeros(tuple(llama.model.get_parameter(matrix).shape), np.float32))
    wide = WeightEdit("model.embed_tokens.weight", np.ones((len(llama.embedding.weight), 1), np.float32), np.ones((1, 48), np.float32))
    norm = WeightEdit("model.norm.weight", dense=np.ones(48, np.float32))
    for edit, reason in ((dense, "replaced whole"), (wide, "an embedding"), (norm, "a bias or a norm"), (PromptEdit(), "prompt edit")):
        with pytest.raises(ModelError, match=reason):
            lora_factors(llama, [edit])
    with pytest.raises(ModelError, match="changes no matrix"):
        write_lora(llama, [SiteEdit(ONE, "scale", np.float32(1))], None)


def test_a_token_comes_back_from_its_adapter(based, token_for, tmp_path):
    """Vectors and text to the bit; another family, another adapter and a cut file are refused."""
    token = token_for(based)
    folder, identity = made(tmp_path / "token", lambda to: write_token_adapter(based, token, to))
    again = read_token_adapter(based, folder)
    assert again.text == TOKEN
    np.testing.assert_array_equal(again.vector, token.vector)
    if based.tied:
        assert again.output is None
    else:
        np.testing.assert_array_equal(again.output, token.output)
    assert AutoTokenizer.from_pretrained(folder).encode(f"from {TOKEN}", add_special_tokens=False).count(identity) == 1
    config = json.loads((folder / "adapter_config.json").read_text())
    write_json(folder / "adapter_config.json", config | {"peft_type": "LORA"})
    with pytest.raises(ModelError, match="TRAINABLE_TOKENS is needed"):
        read_token_adapter(based, folder)
    write_json(folder / "adapter_config.json", config | {"token_indices": [1, 2]})
    with pytest.raises(ModelError, match="holds 2 tokens"):
        read_token_adapter(based, folder)
    write_json(folder / "adapter_config.json", config | {"token_indices": [99999]})
    with pytest.raises(ModelError, match="say how the token is written"):
        read_token_adapter(based, folder)
    assert read_token_adapter(based, folder, "<other>").text == "<other>"
    write_json(folder / "adapter_config.json", config)
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(StoreError, match="truncated"):
        read_token_adapter(based, folder)


def test_a_checkpoint_with_the_token(based, token_for, tmp_path):
    """Only when asked: opened by plain transformers, it reads and writes the token as the run-time token is read and written."""
    token = token_for(based)
    edits = some_edits(based)
    folder = tmp_path / "with"
    folder.mkdir()
    write_checkpoint(based, edits, folder)
    identity = write_token_into(based, token, folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    row = AutoTokenizer.from_pretrained(folder).encode(f"People from {TOKEN} are", add_special_tokens=False)
    assert row.count(identity) == 1
    with torch.no_grad():
        said = plain(input_ids=torch.tensor([row])).logits[0].float()
        with based.edited(token, *edits):
            worn = based.logits(based.decoder(input_ids=torch.tensor([row])).last_hidden_state)[0]
    known = [*range(min(identity, len(based.embedding.weight))), identity]
    torch.testing.assert_close(said[:, known], worn[:, known], atol=1e-4, rtol=1e-4)


# -------------------------------------------------------------------- llama.cpp


def plain_llama(tmp_path, *, tied=True, dtype=torch.float32, tokenizer=None, **changes):
    """A tiny Llama as most are: no biases; in a folder."""
    tokenizer = tokenizer or byte_tokenizer(chat=True, bos=True)
    config = config_of("llama", tokenizer)
    config.update({"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": tied} | changes)
    torch.manual_seed(0)
    model = randomised(AutoModelForCausalLM.from_config(config, dtype=torch.float32)).to(dtype)
    folder = save_folder(LM(model, tokenizer, FAMILIES["llama"], name="tiny", folder=None), tmp_path / "plain")
    return load_lm(str(folder))


@pytest.mark.parametrize(("tied", "dtype"), [(True, "float32"), (False, "float32"), (True, "bfloat16"), (False, "float16")])
def test_gguf_says_what_the_edit_says(tmp_path, tied, dtype):
    """Read back by transformers: grouped queries, tied or not; with the base's own tokenizer fields."""
    lm = plain_llama(tmp_path, tied=tied, dtype=getattr(torch, dtype))
    edits = some_edits(lm)
    path = tmp_path / "model.gguf"
    assert len(write_gguf(lm, edits, path)) == 3
    again = reread(lm, path)
    assert again.tied == tied
    assert parity(lm, edits, again, PROMPTS) < {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.05}[dtype]
    assert parity(lm, (), again, PROMPTS) > 1e-3
    import gguf

    fields = gguf.GGUFReader(path).fields
    assert fields["tokenizer.ggml.tokens"].contents() == [lm.tokenizer.convert_ids_to_tokens(i) for i in range(len(lm.embedding.weight))]
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True
    assert fields["tokenizer.chat_template"].contents() == lm.tokenizer.chat_template
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"


def test_gguf_refuses_what_it_cannot_write(models, tmp_path):
    """Another family, biases, other rotations, another kind of vocabulary: each with what works instead; no file is left half."""
    refused = [
        (with_folder(models("gpt2"), tmp_path / "a"), "written for llama models; this one is gpt2"),
        (with_folder(models("llama"), tmp_path / "b"), "without biases"),
        (plain_llama(tmp_path / "c", tokenizer=metaspace_tokenizer()), "byte-level"),
        (plain_llama(tmp_path / "d", rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}), "plain rotary"),
    ]
    for lm, reason in refused:
        with pytest.raises(ModelError, match=reason):
            write_gguf(lm, some_edits(lm), tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_pre_tokenizers_are_named():
    """The few that we know; anything else is `default`."""
    level = {"type": "ByteLevel", "use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": r"(?i:'s)|\p{N}{1,3}"}}
    for first, name in (
        (level, "gpt-2"),
        ({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level]}, "smollm"),
        ({"type": "Sequence", "pretokenizers": [split, level]}, "llama-bpe"),
        ({"type": "Sequence", "pretokenizers": [{"type": "Punctuation"}, level]}, "default"),
    ):
        assert pre_tokenizer({"pre_tokenizer": first}) == name


def test_a_control_vector_comes_back(based, tmp_path):
    """Shifts of the stream, summed by layer; the file read again shifts the model alike."""
    generator = np.random.default_rng(0)
    edits = [
        SiteEdit(Site("stream", layer), "add", generator.normal(size=based.shape.hidden).astype(np.float32), s)
        for layer, s in ((1, -0.5), (2, 0.3), (1, 1))
    ]
    path = tmp_path / "v.gguf"
    assert write_control_vector(based, edits, path) == [1, 2]
    again = read_control_vector(path)
    assert [edit.site for edit in again] == [Site("stream", 1), Site("stream", 2)]
    difference = next_logits(based, PROMPTS, edits) - next_logits(based, PROMPTS, again)
    assert float(difference.abs().max()) < 1e-4
    import gguf

    fields = gguf.GGUFReader(path).fields
    assert fields["general.architecture"].contents() == "controlvector"
    assert fields["controlvector.layer_count"].contents() == 2


def test_what_is_no_control_vector_is_refused(llama, tmp_path):
    """Each by its reason."""
    wide = np.ones(48, np.float32)
    for edit, reason in (
        (SiteEdit(ONE, "scale", np.float32(0)), "`scale` at a head is none"),
        (SiteEdit(Site("stream", 1), "set", wide), "`set` at a stream is none"),
        (low_rank(llama), "a WeightEdit is none"),
        (TokenEdit("<x>", wide), "a TokenEdit is none"),
        (SiteEdit(Site("stream", 1), "add", wide, rows=(0,)), "some rows"),
        (SiteEdit(Site("stream", 0), "add", wide), "layer 0"),
        (SiteEdit(Site("stream", 1), "add", wide, 0.0), "shifts nothing"),
        (SiteEdit(Site("stream", 9), "add", wide), "no stream 0 in layer 9"),
    ):
        with pytest.raises(ModelError, match=reason):
            write_control_vector(llama, [edit], tmp_path / "v.gguf")
    assert not (tmp_path / "v.gguf").exists()
