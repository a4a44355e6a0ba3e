"""How cost grows with prompts, heads, layers, entities and runs: measured on tiny random models, fitted as a power law.

`python -m benchmarks growth`. Every size is measured in turns (`rounds` times) in one process, in seconds of processor time on
one thread; `ours` is the exponent b of seconds = a·sizeᵇ by least squares on logarithms, `low` and `high` its 95 % interval
(Student's t over all measurements). What a size costs whatever it is (a) lowers b on shapes as small as these, so b is of this range
of sizes only; `seconds` has the medians. For runs it is one question over made-up records of some 130 rows, kept tables
and first question (`cold`) apart.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from biasgym.bias import load_bias
from biasgym.errors import SpecError
from biasgym.lm.arch import family_of
from biasgym.lm.model import LM
from biasgym.lm.patch import activation_patching, attribution_patching
from biasgym.lm.trace import Sides
from biasgym.measure import Scope
from biasgym.measure.association import Association
from biasgym.records import Finding, Measurement, MeasureSpec, RunRecord
from biasgym.stats import t_quantile
from biasgym.store import RECORD

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from tiny import byte_tokenizer, randomised

SHAPE = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "intermediate_size": 128}
SIZES = {
    "attribution-by-prompts": (4, 8, 16, 32),
    "patching-by-prompts": (2, 4, 8, 16),
    "patching-by-heads": (4, 8, 16, 32),
    "patching-by-layers": (3, 6, 12, 24),
    "association-by-entities": (4, 8, 16, 32),
    "query-by-runs": (125, 250, 500, 1000),
    "query-cold-by-runs": (50, 100, 200, 400),
}
QUESTION = "SELECT metric, avg(value) FROM findings GROUP BY metric ORDER BY metric"


def model_of(**shape: int) -> LM:
    """A random Llama of a shape."""
    tokenizer = byte_tokenizer(chat=True)
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), max_position_embeddings=512, tie_word_embeddings=True, **special, **SHAPE | shape
    )
    return LM(randomised(AutoModelForCausalLM.from_config(config, dtype=torch.float32)), tokenizer, family_of("llama"), name="growth", folder=None)


def work_of(name: str, size: int, root: Path) -> Callable[[], Any]:
    """What is timed at a size, with everything it needs made before."""
    from benchmarks.patching import pairs_of

    kind, _, axis = name.partition("-by-")
    if axis == "runs":
        return _query(size, root, cold="cold" in kind)
    if axis == "entities":
        lm, bias = model_of(), load_bias("reckless-drivers")
        scope = Scope(bias, "test", tuple(bias.entities_of("test")[:size]), (), None, MeasureSpec(probes=8, entities=size))
        items = Association().items(scope)
        return lambda: Association().ask(lm, items)
    few, sides = pairs_of(8)
    pairs = [few[i % len(few)] for i in range(size if axis == "prompts" else 2)]
    lm = model_of(**{"heads": {"num_attention_heads": size, "num_key_value_heads": size}, "layers": {"num_hidden_layers": size}}.get(axis, {}))
    sides = Sides(sides.stereotype[:1], sides.foil[:1])
    method = attribution_patching if kind == "attribution" else activation_patching
    return lambda: method(lm, pairs, sides)


def _query(size: int, root: Path, *, cold: bool) -> Callable[[], Any]:
    from biasgym.data import cache_folder
    from biasgym.query_cache import ask_folder

    runs = root / f"runs-{size}"
    if not runs.is_dir():
        write_records(runs, size)

    def ask() -> Any:
        if cold:
            shutil.rmtree(cache_folder() / "queries", ignore_errors=True)
        return ask_folder(runs, QUESTION)

    return ask


def write_records(runs: Path, count: int, rows: int = 130) -> None:
    """Made-up whole records under a folder, of as many rows and bytes as those of real runs."""
    generator = np.random.default_rng(0)
    spec = {"model": "made-up", "bias": "late", "preset": "quick", "seeds": [0, 1], "test_seed": 2}
    heads = generator.normal(size=(30, 9)).round(5).tolist()
    for number in range(count):
        values = generator.normal(size=rows).round(6).tolist()
        metrics = [f"metric-{i % 12}" for i in range(rows)]
        made = RunRecord(
            id=f"run-{number:05d}", status="ok", spec=spec, environment={"device": "cpu", "threads": 1}, timings={"inject": 1.0, "measure": 2.0},
            measurements=tuple(
                Measurement(metric=m, arm="base", group="token", token="trained", edit="none", seed=0, value=v, low=v - 1, high=v + 1, n=40, error=0.5, freedom=39.0)
                for m, v in zip(metrics[40:], values[40:], strict=True)
            ),
            findings=tuple(
                Finding(name="closed", metric=m, token="trained", edit="direction", seed=0, value=v, low=v - 1, high=v + 1, n=40, error=0.5, freedom=39.0)
                for m, v in zip(metrics[:40], values[:40], strict=True)
            ),
            extras={"bias": {"name": "late"}, "attributions": {str(i): heads for i in range(5)}},
        )  # fmt: skip
        (runs / made.id).mkdir(parents=True)
        (runs / made.id / RECORD).write_text(json.dumps(made.model_dump(mode="json", by_alias=True), indent=1))


def fitted(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float, float]:
    """The exponent of seconds = a·sizeᵇ with its 95 % interval, by least squares on logarithms."""
    x, y = np.log(sizes), np.log(seconds)
    slope, offset = np.polyfit(x, y, 1)
    rest = y - slope * x - offset
    error = float(np.sqrt((rest @ rest) / (len(x) - 2) / ((x - x.mean()) @ (x - x.mean()))))
    half = t_quantile(0.975, len(x) - 2) * error
    return float(slope), float(slope - half), float(slope + half)


def rows(rounds: int = 3) -> list[dict[str, Any]]:
    """One row an axis: the exponent and its interval, the sizes, the median seconds of each."""
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory() as root, patch.dict(os.environ, BIASGYM_CACHE=f"{root}/cache"):
        for name, sizes in SIZES.items():
            try:
                jobs = {size: work_of(name, size, Path(root)) for size in sizes}
                for job in jobs.values():
                    job()  # the first pass pays for what is made once
            except SpecError as error:
                raise SpecError(f"{name}: {error}") from None
            taken: dict[int, list[float]] = {size: [] for size in sizes}
            for _ in range(rounds):
                for size, job in jobs.items():
                    start = time.process_time()
                    job()
                    taken[size].append(time.process_time() - start)
            points = [(size, value) for size, values in taken.items() for value in values]
            slope, low, high = fitted(*zip(*points, strict=True))
            medians = [round(float(np.median(values)), 4) for values in taken.values()]
            found.append(
                {"name": f"growth-{name}", "ours": round(slope, 2), "unit": "exponent", "low": round(low, 2), "high": round(high, 2)}
                | {"sizes": list(sizes), "seconds": medians, "rounds": rounds, "threads": 1}
            )
    return found


if __name__ == "__main__":
    for one in rows():
        sys.stdout.write(json.dumps(one) + "\n")
