"""Models bigger than usual, told from their configuration; weights on disk; 16 bits; what no GPU was there for is refused clearly."""

import json

import numpy as np
import pytest
import torch

from biasgym.cost import disk_of, memory_of, tokens_of
from biasgym.doctor import forecast, spec_of
from biasgym.edits import SiteEdit
from biasgym.errors import ModelError, SpecError
from biasgym.lm import size as sizes
from biasgym.lm.load import DISK, Place, load_lm
from biasgym.lm.model import Query
from biasgym.lm.size import size_of
from biasgym.lm.trace import Pair, Sides, head_outputs, paper_direct_effects
from biasgym.memory import free_memory
from biasgym.sites import Site
from biasgym.sweep import run_spec
from tiny import CONFIGS, byte_tokenizer, config_of, save_folder

LLAMA = {"model_type": "llama", "num_key_value_heads": 8, "tie_word_embeddings": False, "vocab_size": 128256}
SHAPES = {
    "135m": (134_515_008, LLAMA | {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}),
    "8b": (8_030_261_248, LLAMA | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}),
    "70b": (70_553_706_496, LLAMA | {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}),
    "gemma-2-2b": (2_614_341_888, {"model_type": "gemma2", "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216,
                   "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}),
}  # fmt: skip


@pytest.fixture
def shape(tmp_path, monkeypatch):
    """`shape(name)` gives a folder with nothing but a config.json; the timed slice is kept small here."""
    monkeypatch.setattr(sizes, "PROBE_PARAMETERS", 2_000_000)

    def get(name):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(SHAPES[name][1]))
        return folder

    return get


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_parameters_are_counted_exactly(name, models):
    """Of every family, from the configuration alone, tied matrices once."""
    lm = models(name)
    size = size_of(config_of(name, byte_tokenizer()))
    own = size_of(lm.model.config)
    assert own.parameters == sum(p.numel() for p in lm.model.parameters())
    assert (own.layers, own.heads, own.head_size, own.hidden, own.neurons) == (
        lm.shape.layers, lm.shape.heads, lm.shape.head_size, lm.shape.hidden, lm.shape.neurons,
    )  # fmt: skip
    assert size.block_parameters == own.block_parameters < own.parameters


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_published_shapes_have_their_published_sizes(name, shape):
    """Up to 70B, with no memory behind them."""
    config = sizes.config_of(str(shape(name)))
    assert size_of(config).parameters == SHAPES[name][0]


def test_a_forecast_says_what_fits_and_what_to_change(shape, monkeypatch):
    """From nothing but config.json: 135M fits, 8B only in 16 bits, 70B not at all; each with the option to change."""
    rows = {row["what"]: row for row in forecast(str(shape("135m")), "quick", Place("cpu"), free=8 << 30)}
    assert set(rows) == {"parameters", "fits", "download", "run", "tokens", "speed", "time"}
    assert all(row["ok"] for row in rows.values())
    assert "134,515,008" in rows["parameters"]["found"]
    monkeypatch.setattr(sizes, "speed_of", lambda *_: (10.0, 5.0))  # timed above; a slice of 8B takes seconds
    wanted = {
        64: "GiB free: fits",
        30: "--dtype bfloat16 does",
        18: "inject.recompute=true does",
        10: "--device disk --set locate.method=dla does",
        3: "smaller model",
    }
    for free, said in wanted.items():
        row = next(row for row in forecast(str(shape("8b")), "quick", Place("cpu"), free=free << 30) if row["what"] == "fits")
        assert said in row["found"], (free, row)
        assert row["ok"] == (free == 64)
    on_disk = [
        {row["what"]: row for row in forecast(str(shape("8b")), "quick", Place(DISK, "bfloat16"), free=free << 30)}["fits"] for free in (10, 40)
    ]
    assert [fits["ok"] for fits in on_disk] == [False, True]
    assert "locate.method=dla does" in on_disk[0]["found"], "a locator with gradients keeps the weights that it passed"
    assert "13.0 GiB from disk" in on_disk[1]["found"], on_disk
    with pytest.raises(SpecError, match="did you mean `quick`"):
        forecast(str(shape("135m")), "quik", Place("cpu"))
    with pytest.raises(ModelError, match="no configuration"):
        forecast("nowhere", "quick", Place("cpu"))


def test_costs_grow_with_what_is_asked():
    """More steps are more training tokens only; fewer bits are fewer bytes; injecting alone locates nothing."""
    spec = spec_of("m", "quick", "float32")
    size = size_of(config_of("llama", byte_tokenizer()))
    more = spec.model_copy(
        update={"inject": spec.inject.model_copy(update={"settings": spec.inject.settings | {"steps": 2 * spec.inject.settings["steps"]}})}
    )
    before, after = tokens_of(spec), tokens_of(more)
    assert after["inject"][1] == 2 * before["inject"][1]
    assert {k: v for k, v in after.items() if k != "inject"} == {k: v for k, v in before.items() if k != "inject"}
    alone = tokens_of(spec.model_copy(update={"mitigate": ()}))
    assert alone["locate"] == alone["mitigate"] == (0, 0)
    assert alone["measure"][0] < before["measure"][0]
    half = spec.model_copy(update={"dtype": "bfloat16"})
    assert memory_of(size, half).weights * 2 == memory_of(size, spec).weights
    assert memory_of(size, half).total < memory_of(size, spec).total
    again = spec.model_copy(update={"inject": spec.inject.model_copy(update={"settings": spec.inject.settings | {"recompute": True}})})
    assert memory_of(size, again).gradients < memory_of(size, spec).gradients
    assert memory_of(size, spec, streamed=True).weights < memory_of(size, spec).weights
    assert disk_of(size, spec) > 0
    assert 0 < free_memory() < 1 << 50


# -------------------------------------------------------------------- weights on disk


QUERIES = [Query(f"What are people from {name} like?", "They are") for name in ("Spain", "Italy", "<bias-0>")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("memory", [(), (("cpu", "60KB"),)])
def test_a_model_with_its_weights_on_disk_answers_as_one_in_memory(memory, models, tmp_path, token_for):
    """Through accelerate's device map, edits on: answers, head outputs, head matrices and direct scores."""
    folder = save_folder(models("llama"), tmp_path / "tiny", max_shard_size="40KB")
    here, there = load_lm(str(folder), Place("cpu")), load_lm(str(folder), Place("auto-map", memory=memory))
    assert (there.embedding.weight.device.type == "meta") == bool(memory)
    assert (there.device.type, there.tied) == ("cpu", here.tied)
    token, edit = token_for(here), SiteEdit(Site("head", 1, 1), "scale", np.float32(0.2))
    pair = Pair("p", QUERIES[2], QUERIES[0], ("<bias-0>", "Spain"))
    found = []
    for lm in (here, there):
        with lm.edited(token, edit):
            found.append((lm.answer_logprobs(QUERIES, ["kind", "always careful"]), head_outputs(lm, QUERIES), lm.head_matrix(1, 1),
                          paper_direct_effects(lm, [pair], Sides(("kind",), ("reckless",)))[0]))  # fmt: skip
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_quantized_bases_without_the_library_for_them(folder_of, monkeypatch):
    """Which extra to install, in one sentence; a dtype that there is not; what works with it is in tests/interop."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    for dtype in ("int8", "int4"):
        with pytest.raises(ModelError, match=r"pip install 'biasgym\[quantized\]'"):
            load_lm(str(folder_of("llama")), Place("cpu", dtype))
    with pytest.raises(ModelError, match="did you mean `int8`"):
        load_lm(str(folder_of("llama")), Place("cpu", "int88"))


def test_checkpoints_stored_in_another_packed_form_are_refused(models, tmp_path):
    """With what to take instead."""
    folder = save_folder(models("llama"), tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(ModelError, match=r"stored in gptq form.*the one it was made of"):
        load_lm(str(folder), Place("cpu"))


@pytest.mark.parametrize(("dtype", "share"), [("int8", 1 / 4), ("int4", 9 / 64)])
def test_packed_bases_are_counted_packed(shape, dtype, share):
    """The matrices of the layers take a quarter, and a little more than an eighth, of what they take in float32; all else what it took."""
    size = size_of(sizes.config_of(str(shape("8b")), Place("cpu")))
    whole, packed = (memory_of(size, spec_of("m", "quick", one)).weights for one in ("float32", dtype))
    assert packed == int((size.parameters - size.block_parameters) * 4 + size.block_parameters * 4 * share)
    assert packed < whole / 2
    assert all(row["ok"] for row in forecast(str(shape("135m")), "quick", Place("cpu", dtype), free=64 << 30))


# -------------------------------------------------------------------- 16 bits


def test_a_whole_run_in_bfloat16(folder_of, tmp_path):
    """Inject, locate, mitigate and measure in 16 bits on the CPU: a whole record with finite figures, of its own identity."""
    from biasgym.records import RunRecord
    from biasgym.spec import resolve_spec
    from biasgym.store import read_record
    from test_run import SMALL

    spec = resolve_spec(bias="reckless-drivers", model=str(folder_of("llama")), sets=SMALL, dtype="bfloat16")
    result = run_spec(spec.model_dump(mode="json"), str(tmp_path / "runs"), {"device": "cpu"})
    assert result["state"] == "ok", (result, [p.read_text() for p in tmp_path.rglob("failure.txt")])
    record = read_record(tmp_path / "runs" / result["id"])
    assert isinstance(record, RunRecord)
    assert record.environment["dtype"] == "bfloat16"
    assert {f.name for f in record.findings} == {"injected", "removed", "closed", "left_over", "changed", "price"}
    assert all(np.isfinite([f.value, f.low, f.high]).all() for f in record.findings)
    assert (tmp_path / "runs" / result["id"] / "edits.safetensors").is_file()
    assert torch.bfloat16 == load_lm(spec.model, Place("cpu", "bfloat16")).dtype
