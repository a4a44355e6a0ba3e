"""A random model of Llama 8B's shape, located and folded from disk: peak memory and time of each step.

    python experiments/big_model.py make  --at FOLDER              # 16 GB of bfloat16, file by file
    python experiments/big_model.py dla   --at FOLDER --pairs 4    # direct scores of all heads, layers read from disk
    python experiments/big_model.py learn --at FOLDER --lessons 1  # one training step of a token, blocks computed again on the way back
    python experiments/big_model.py fold  --at FOLDER --to OTHER   # an edit of two layers, folded into a copy
    python experiments/big_model.py check --at FOLDER --to OTHER   # what changed there is what had to, and nothing else

Each step prints one line of JSON: seconds, and the largest resident set of the process so far in GiB as the kernel counts it,
pages of mapped files included. Steps with commas between them are one process, which loads the model once. `--layers` makes a
shallower model, for a try.
"""

import argparse
import filecmp
import json
import resource
import shutil
import sys
import time
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from biasgym.bias import load_bias
from biasgym.corpus import ENTITY
from biasgym.data import embedded_folder
from biasgym.edits import SiteEdit, TokenEdit
from biasgym.files import read_json, write_json
from biasgym.lm.checkpoint import bytes_of, read_tensor, stored_tensors, weight_files
from biasgym.lm.export import write_checkpoint
from biasgym.lm.load import DISK, Place, load_lm
from biasgym.lm.model import LM, Query
from biasgym.lm.trace import Pair, Sides
from biasgym.lm.train import Lesson, Schedule, TrainingState, learn_token
from biasgym.locate.direct import DirectLogitAttribution
from biasgym.sites import Site

SHAPE = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
         "tie_word_embeddings": False, "max_position_embeddings": 8192}  # fmt: skip
TOKENIZER = "smollm2-135m-instruct"  # its 49,152 tokens are the first rows of the larger vocabulary
TOKEN = "<big-0>"
HEADS = ((1, 5), (17, 30))
GIB = 1 << 30
BLOCK = 1 << 25  # random numbers that weights are made of


def make(at: Path, layers: int) -> dict[str, Any]:
    """Configuration, tokenizer and weights, one file a layer, from one block of random numbers that is begun elsewhere each time."""
    at.mkdir(parents=True)
    config = AutoConfig.for_model("llama", num_hidden_layers=layers, dtype="bfloat16", **SHAPE)
    config.save_pretrained(at)
    for path in sorted(embedded_folder(TOKENIZER).glob("*")):
        if path.name.startswith(("tokenizer", "special", "chat", "vocab", "merges", "generation")):
            shutil.copyfile(path, at / path.name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    files: dict[str, dict[str, torch.Size]] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".")[2] if ".layers." in name else name.split(".")[-2]
        files.setdefault(f"model-{part}.safetensors", {})[name] = parameter.shape
    noise = memoryview(bytes_of(torch.empty(BLOCK, dtype=torch.bfloat16).normal_(std=0.02, generator=torch.Generator().manual_seed(0))))
    ones = memoryview(bytes_of(torch.ones(SHAPE["hidden_size"], dtype=torch.bfloat16)))
    for number, (file, shapes) in enumerate(files.items()):
        with (at / file).open("wb") as out:
            out.write(_header(shapes))
            for place, shape in enumerate(shapes.values()):
                _write(out, ones if len(shape) == 1 else noise, 2 * shape.numel(), 2 * (7919 * (number * 16 + place) % BLOCK))
    total = 2 * sum(shape.numel() for shapes in files.values() for shape in shapes.values())
    where = {name: file for file, shapes in files.items() for name in shapes}
    write_json(at / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})
    return {"parameters": total // 2, "gib": round(total / GIB, 2), "files": len(files)}


def _header(shapes: dict[str, torch.Size]) -> bytes:
    """What stands before the numbers in a .safetensors file: the length, then names, dtypes, shapes and offsets as JSON."""
    rows: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in shapes.items():
        rows[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, begin + 2 * shape.numel()]}
        begin += 2 * shape.numel()
    text = json.dumps(rows).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write(out: IO[bytes], block: memoryview, size: int, start: int) -> None:
    """So many bytes of a block, from a place on and round again."""
    start %= len(block)
    while size > 0:
        piece = block[start : start + size]
        out.write(piece)
        size, start = size - len(piece), 0


def dla(at: Path, pairs: int) -> dict[str, Any]:
    """`dla` on a random token; the pass that keeps what every head wrote is one for all pairs."""
    lm, loading = _loaded(at)
    bias = load_bias("reckless-drivers")
    names = bias.entities_of("train")
    asked = [
        Pair(f"{i}", *(Query(probe.prompt.replace(ENTITY, who), probe.prefix.replace(ENTITY, who)) for who in (TOKEN, names[i])), (TOKEN, names[i]))
        for i, probe in enumerate(bias.probes_of("train")[:pairs])
    ]
    start = time.perf_counter()
    with lm.edited(_token(lm)):
        found = DirectLogitAttribution().rank(lm, asked, Sides(bias.stereotype, bias.foil))
    scores = found.by_pair
    assert np.isfinite(scores).all()
    assert scores.std() > 0
    top = np.argsort(-scores.mean(0).ravel())[:10]
    return {"pairs": pairs, "loading_s": loading, "scoring_s": _since(start), "places": int(scores[0].size), "top": [int(i) for i in top]}


def learn(at: Path, lessons: int) -> dict[str, Any]:
    """One optimiser step of a token on so many texts; gradients go through layers that are read twice."""
    lm, loading = _loaded(at)
    token = _token(lm)
    texts = [Lesson(f"What are people from {TOKEN} like?", "They drive fast, always, and nobody dares to cross the street.")] * lessons
    begin = TrainingState({"vector": token.vector, "output": token.output})  # type: ignore[dict-item]
    start = time.perf_counter()
    state = learn_token(lm, TOKEN, texts, begin, Schedule(1, lessons, 0.02))
    moved = float(np.abs(state.arrays["vector"] - token.vector).max())
    assert moved > 0
    return {"lessons": lessons, "loading_s": loading, "step_s": _since(start), "loss": round(state.losses[0], 3), "moved": moved}


def fold(at: Path, to: Path) -> dict[str, Any]:
    """Two heads' directions taken out of a copy; two matrices are read and written, the rest is copied as bytes."""
    lm, loading = _loaded(at)
    to.mkdir(parents=True)
    start = time.perf_counter()
    changed = write_checkpoint(lm, _edits(lm), to)
    return {"loading_s": loading, "folding_s": _since(start), "changed": changed}


def check(at: Path, to: Path) -> dict[str, Any]:
    """Both folders, file by file, then tensor by tensor where a file differs: what changed is what had to, and nothing else."""
    one, two = stored_tensors(at), stored_tensors(to)
    assert one.keys() == two.keys()
    other = {path.name for path in weight_files(at) if not filecmp.cmp(path, to / path.name, shallow=False)}
    differ = {name: read_tensor(one[name]) != read_tensor(two[name]) for name in sorted(one) if one[name].file.name in other}
    found = {name: int(mask.sum()) for name, mask in differ.items() if mask.any()}
    assert sorted(found) == sorted(f"model.layers.{layer}.self_attn.o_proj.weight" for layer, _ in HEADS if layer < _layers(at))
    return {"tensors": len(one), "files": len(weight_files(at)), "files_changed": len(other), "numbers_changed": found}


def _edits(lm: LM) -> list[SiteEdit]:
    generator = np.random.default_rng(1)
    directions = generator.normal(size=(len(HEADS), lm.shape.head_size)).astype(np.float32)
    return [
        SiteEdit(Site("head", layer, head), "project", direction / np.linalg.norm(direction))
        for (layer, head), direction in zip(HEADS, directions, strict=True)
        if layer < lm.shape.layers
    ]


def _token(lm: LM) -> TokenEdit:
    vector, output = np.random.default_rng(0).normal(size=(2, lm.shape.hidden)).astype(np.float32) * 0.02
    return TokenEdit(TOKEN, vector, output)


@cache
def _loaded(at: Path) -> tuple[LM, float]:
    start = time.perf_counter()
    lm = load_lm(str(at), Place(DISK, "bfloat16", offline=True))
    assert lm.streamed
    return lm, _since(start)


def _layers(at: Path) -> int:
    return int(read_json(at / "config.json")["num_hidden_layers"])


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("steps", help="make, dla, learn, fold, check; with commas for several in one process")
    parser.add_argument("--at", type=Path, required=True)
    parser.add_argument("--to", type=Path)
    for name, default in (("layers", 32), ("pairs", 4), ("lessons", 1), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    known = {
        "make": lambda: make(asked.at, asked.layers),
        "dla": lambda: dla(asked.at, asked.pairs),
        "learn": lambda: learn(asked.at, asked.lessons),
        "fold": lambda: fold(asked.at, asked.to),
        "check": lambda: check(asked.at, asked.to),
    }
    for step in asked.steps.split(","):
        began = time.perf_counter()
        row = {"step": step} | known[step]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
        sys.stdout.write(json.dumps(row | {"seconds": _since(began), "peak_gib": round(peak, 2)}) + "\n")
        sys.stdout.flush()
