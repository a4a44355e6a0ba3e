"""The runs of a sweep on Ray: local or on a cluster that shares the runs folder; one task a run, plain data in and out."""

import os
import socket
import time
from collections.abc import Generator, Sequence
from typing import Any

from biasgym.errors import SpecError
from biasgym.sweep import Event, Planned, run_spec

SILENCE = 20.0  # seconds after which a head that answers nobody is lost; Ray itself ends the whole process after sixty
HEADLESS = "the Ray head died; nothing whole is lost, and the same command goes on where it was"


def run_on_ray(
    planned: Sequence[Planned], root: str, place: dict[str, Any], address: str, *, workers: int = 1, gpus: float = 0.0, retries: int = 1
) -> Generator[Event, None, None]:
    """Run what is waiting on Ray; `address` is `local` for a Ray of our own with `workers` processors, else where one runs.

    Every task asks for one processor, `gpus` GPUs and the memory that its model needs, so that Ray places it where it
    fits; a task whose worker dies is tried `retries` times more and goes on from its last whole item. A Ray of our own whose
    head dies is started once more; elsewhere what was pending then is told as failed. `root` must be a folder that all nodes see.
    """
    ray = _ray()
    waiting = [one for one in planned if one.state == "waiting"]
    for heads_left in (1, 0) if address == "local" else (0,):
        if not waiting:
            return
        _start(ray, address, workers)
        try:
            waiting = yield from _worked(ray, waiting, root, place, gpus, retries)
        finally:
            ray.shutdown()
        for one in waiting:
            yield Event(one.id, "waiting", "the Ray head died; once more") if heads_left else Event(one.id, "failed", HEADLESS)


def _worked(
    ray: Any, waiting: Sequence[Planned], root: str, place: dict[str, Any], gpus: float, retries: int
) -> Generator[Event, None, list[Planned]]:
    """Hand everything to Ray and say what becomes of it; gives back what was still pending when the head was lost."""
    task = ray.remote(run_spec)
    head = ray.get_runtime_context().gcs_address
    started = heard = time.monotonic()
    pending = {}
    for one in waiting:
        wanted = {"num_cpus": 1, "num_gpus": gpus, "max_retries": retries, "memory": _memory(one, place) if not gpus else None}
        pending[task.options(**wanted).remote(one.spec, root, place)] = one
        yield Event(one.id, "waiting", "handed to Ray")
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1, timeout=5.0)
        for reference in done:
            yield _outcome(ray, reference, pending.pop(reference), started)
        if done or _answers(head):
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE:
            break
    return list(pending.values())


def _answers(head: str) -> bool:
    """Whether something listens where the head was."""
    host, _, port = head.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
    except OSError:
        return False
    return True


def _ray() -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise SpecError("Ray is not installed here; install the extra: pip install 'biasgym[ray]', or leave --ray out") from None
    return ray


def _start(ray: Any, address: str, workers: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "error", "include_dashboard": False}
    try:
        if address == "local":
            ray.init(address="local", num_cpus=workers, **quiet)
        else:
            ray.init(address=address, log_to_driver=False, logging_level="error")
    except Exception as error:  # a node that does not come up in time is a bare Exception of Ray's
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise SpecError(f"no Ray at `{address}`: {said[0][:160]}; `local` starts one here, and without --ray processes do the work") from None


def _memory(one: Planned, place: dict[str, Any]) -> int:
    from biasgym.cost import memory_of
    from biasgym.lm.load import Place
    from biasgym.lm.size import config_of, size_of
    from biasgym.records import RunSpec

    spec = RunSpec.model_validate(one.spec)
    return memory_of(size_of(config_of(spec.model, Place(**place))), spec).total


def _outcome(ray: Any, reference: Any, one: Planned, started: float) -> Event:
    try:
        result = ray.get(reference)
    except ray.exceptions.RayError as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        return Event(one.id, "failed", f"its Ray worker died: {words[0][:160]}", time.monotonic() - started)
    return Event(one.id, result["state"], result["reason"], result["seconds"])
