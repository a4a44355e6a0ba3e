"""Twenty-four small runs: on a local Ray with two workers, in one process, and one by one from scratch; the same records in all three.

`python -m benchmarks sweeping`. Two tiny random models (Llama, Qwen 2) × six lists of methods × two seeds, over all stages;
seconds by the clock. From scratch means in an empty store each, all in one process with its libraries loaded, so a start of Python
counts for none of them but for Ray's own workers. `share` is wall time of Ray against that; on one core it is what shared
stages save, on two cores the second worker comes on top.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from biasgym.errors import ModelError
from biasgym.ray_workers import run_on_ray
from biasgym.store import read_record
from biasgym.sweep import Planned, plan_sweep, run_in, session_for

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from tiny import save_folder, tiny_lm

PLACE = {"device": "cpu"}
SETS = [
    "inject.steps=30", "inject.batch=4", "inject.held_out=4", "locate.pairs=8", "tune.trials=2", "tune.probes=4", "tune.entities=2",
    "tune.texts=3", "tune.chats=3", "measure.probes=4", "measure.entities=4", "measure.texts=3", "measure.chats=3",
    "measure.generations=2", "measure.tokens=6", "measure.shams=1", "measure.sham_entities=2", "measure.draws=100", "measure.judge=lexicon",
    "mitigate.zero.k=4", "mitigate.direction.k=4", "mitigate.mean.k=4",
]  # fmt: skip
METHODS = '[[], ["direction"], ["zero"], ["mean"], ["direction", "zero"], [{method = "scale", settings = {k = 4}}]]'


def sweep_file(root: Path) -> Path:
    """The sweep and its two models, written under a folder."""
    folders = [str(save_folder(tiny_lm(name), root / name)) for name in ("llama", "qwen2")]
    file = root / "sweep.toml"
    file.write_text(
        f'set = {json.dumps(SETS)}\n[grid]\nmodels = {json.dumps(folders)}\nbiases = ["reckless-drivers"]\nmethods = {METHODS}\nseeds = [0, 1]\n'
    )
    return file


def one_by_one(planned: Sequence[Planned], root: Path) -> float:
    """Every run in an empty store of its own."""
    start = time.monotonic()
    for number, one in enumerate(planned):
        _whole(run_in(session_for(str(root / f"{number}"), PLACE), one.spec))
    return time.monotonic() - start


def together(planned: Sequence[Planned], root: Path) -> float:
    """All in one process and one store, in the file's order."""
    start, session = time.monotonic(), session_for(str(root), PLACE)
    for one in planned:
        _whole(run_in(session, one.spec))
    return time.monotonic() - start


def on_ray(planned: Sequence[Planned], root: Path, workers: int = 2) -> float:
    """On a Ray of our own, its start and end included."""
    start = time.monotonic()
    for event in run_on_ray(planned, str(root), PLACE, "local", workers=workers):
        if event.state == "failed":
            raise ModelError(f"{event.id} failed on Ray: {event.note}")
    return time.monotonic() - start


def _whole(result: dict[str, Any]) -> None:
    if result["state"] != "ok":
        raise ModelError(f"{result['id']} failed: {result['reason']}")


def different(planned: Sequence[Planned], one: Path, other: Path | None = None) -> list[str]:
    """Runs whose records are not equal, times and environment aside; `other` None stands for the stores of runs one by one."""
    apart = []
    for number, run in enumerate(planned):
        folders = (one / run.id, (other if other is not None else one.parent / "scratch" / f"{number}") / run.id)
        first, second = (read_record(folder).model_dump(exclude={"timings", "environment"}) for folder in folders)
        if first != second:
            apart.append(run.id)
    return apart


def rows() -> list[dict[str, Any]]:
    """One row a way of running them, against one by one from scratch."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        planned = plan_sweep(sweep_file(root), session_for(str(root / "none"), PLACE))
        ray = on_ray(planned, root / "ray")
        shared = together(planned, root / "shared")
        scratch = one_by_one(planned, root / "scratch")
        apart = {*different(planned, root / "shared"), *different(planned, root / "ray", root / "shared")}
        if apart:
            raise ModelError(f"records differ: {', '.join(sorted(apart))}")
    common = {"unit": "s", "runs": len(planned), "records_equal": True, "threads": 1}
    return [
        {"name": name, "ours": round(mine, 1), "theirs": round(scratch, 1), "ratio": round(scratch / mine, 2), "share": round(mine / scratch, 3)}
        | common
        for name, mine in (("sweep-on-ray-vs-one-by-one", ray), ("sweep-in-one-process-vs-one-by-one", shared))
    ]


if __name__ == "__main__":
    for one in rows():
        sys.stdout.write(json.dumps(one) + "\n")
