"""Items a second on public benchmarks: ours against lm-eval's HFLM, the same items, strings, model and threads, in turns.

Made-up rows are no measure of sharing, so it needs the real sets (BIASGYM_DATA, or shared/data beside the repository).
lm-eval is given the best batch size of those tried on the first round (4, 16).
"""

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biasgym import catalog
from biasgym.errors import DataError, SpecError
from biasgym.lm.load import load_lm
from biasgym.measure import Scope
from biasgym.records import MeasureSpec

ITEMS = {"crows-pairs": 36, "mmlu": 18, "hellaswag": 12, "piqa": 18, "lambada": 18, "bbq": 18}  # few items share little
BATCHES = (4, 16)


def real_folder() -> Path:
    """Where the real sets are."""
    named = os.environ.get("BIASGYM_DATA")
    places = [Path(named)] if named else [parent / "shared" / "data" for parent in Path(__file__).resolve().parents]
    for place in places:
        if place.is_dir():
            return place
    raise DataError("no folder of evaluation sets: set BIASGYM_DATA")


def pairs_of() -> tuple[list[tuple[str, str]], int]:
    """All (context, continuation) pairs of the items, and how many items that is."""
    pairs: list[tuple[str, str]] = []
    count = 0
    for name, most in ITEMS.items():
        metric = catalog.build("measure", name, {"data": str(real_folder()), "most": most, "split": "all"})
        items = metric.items(Scope(None, "test", (), (), None, MeasureSpec()))  # type: ignore[arg-type]  # benchmarks name no bias
        pairs += [tuple(pair) for item in items for pair in item.payload["pairs"]]
        count += len(items)
    return pairs, count


def timed(run: Callable[[], Any]) -> tuple[float, np.ndarray]:
    """Seconds of processor time with one thread (other work does not count), else by the clock; and the values."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    values = run()
    return clock() - start, np.array(values)


def rows(rounds: int = 3) -> list[dict[str, Any]]:
    """One row: items a second of both, and the ratio with its least and largest of any round."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from lm_eval.api.instance import Instance
            from lm_eval.models.huggingface import HFLM
    except ImportError:
        raise SpecError("lm-eval is not installed (the extra `evaluate`)") from None
    pairs, items = pairs_of()
    lm = load_lm()
    asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]

    def theirs(batch: int) -> list[float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=batch)
            return [one[0] for one in model.loglikelihood(asked, disable_tqdm=True)]

    best = min(BATCHES, key=lambda batch: timed(lambda: theirs(batch))[0])
    mine, other, apart = [], [], 0.0
    for _ in range(rounds):
        seconds, ours = timed(lambda: [one.nats for one in lm.continuation_logprobs(pairs)])
        mine.append(seconds)
        seconds, values = timed(lambda: theirs(best))
        other.append(seconds)
        apart = max(apart, float(np.abs(ours - values).max()))
    ratios = [b / a for a, b in zip(mine, other, strict=True)]
    return [
        {
            "name": "measure-vs-lm-eval", "ours": round(items / float(np.median(mine)), 2), "theirs": round(items / float(np.median(other)), 2),
            "unit": "items/s", "ratio": round(float(np.median(ratios)), 2), "low": round(min(ratios), 2), "high": round(max(ratios), 2),
            "items": items, "pairs": len(pairs), "batch": best, "largest_difference": round(apart, 6), "threads": torch.get_num_threads(),
        }
    ]  # fmt: skip
