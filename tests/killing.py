"""Kills at a chosen event of a run: a forked child does the run and dies by SIGKILL at its n-th write, told step, or moment.

A write is counted twice, when its bytes are on the way to the disk (fsync) and when the file gets its name (replace), so a kill
falls before, between and after. `torn` cuts bytes off the end of what was just appended, as a machine that loses power may.
"""

import errno
import os
import random
import signal
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

from biasgym import files
from biasgym.store import RunStore
from biasgym.sweep import run_in

STAGES = {
    "inject": "inject", "locate": "locate", "contrasts": "locate", "kept": "locate", "dev": "mitigate", "tune": "mitigate", "targets": "mitigate",
    "answers": "measure", "verdicts": "measure", "judge-quality": "measure",
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """Where a run is killed: at which event (0 is the first), of which stage, and what happens to the bytes; or after `seconds`.

    With `full` it is not killed: from there on the disk has no room.
    """

    event: int
    stage: str
    torn: int = 0
    seconds: float = 0.0
    full: bool = False

    def __str__(self):
        return f"{self.stage}-{self.seconds:.2f}s" if self.seconds else f"{self.stage}-{self.event}{f'-torn{self.torn}' if self.torn else ''}"


def stage_of(path):
    """Which stage a file belongs to, by its folder; `record` for what lies in a run's own folder."""
    parts = Path(path).parts
    if "stages" in parts:
        kind = parts[parts.index("stages") + 1].rpartition("-")[0]
        return STAGES.get(kind, kind)
    return "record"


def in_child(session, spec, root, *, log=None, point=None):
    """Do a run under `root` in a forked child; gives back its exit code, negative by signal. `log` gets a line an event."""
    child = os.fork()
    if child:
        if point is not None and point.seconds:
            time.sleep(point.seconds)
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 99
    try:
        tell = _watch(log, point)
        result = run_in(replace(session, store=RunStore(root, patient=True), tell=tell), spec)
        code = 0 if result["state"] == "ok" else 1
        if code:
            os.write(2, f"{result['reason']}\n".encode())
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _watch(log, point):
    """In the child: count events; at the point's own, die. Gives back who is to be told of steps."""
    count, sync, name = [0], os.fsync, os.replace

    def event(stage, path, handle=None):
        if log is not None:
            with Path(log).open("a") as out:
                out.write(f"{stage}\t{'append' if handle is not None and path.endswith('.jsonl') else ''}\n")
        if point is not None and not point.seconds and not point.full and count[0] == point.event:
            if point.torn and handle is not None:
                os.ftruncate(handle, max(0, os.fstat(handle).st_size - point.torn))
            os.kill(os.getpid(), signal.SIGKILL)
        count[0] += 1
        if point is not None and point.full and count[0] > point.event and path:
            raise OSError(errno.ENOSPC, "No space left on device")

    def fsync(handle):
        path = str(Path(f"/proc/self/fd/{handle}").readlink())
        event(stage_of(path), path, handle)
        sync(handle)

    def rename(source, to):
        event(stage_of(to), str(to))
        name(source, to)

    files.os.fsync, files.os.replace = fsync, rename
    return lambda step: event(step.stage, "")


def spread_points(events, count, seconds, seed=0):
    """`count` points over all stages: each stage its share of a third drawn evenly, the others by how many events it has.

    `events` is the log of an undisturbed run; every sixth point is a moment instead (uniform over `seconds`), and half of the
    appends are torn.
    """
    generator = random.Random(seed)
    by_stage = {}
    for number, (stage, _) in enumerate(events):
        by_stage.setdefault(stage, []).append(number)
    moments = count // 6
    points = [Point(-1, "moment", seconds=round(generator.uniform(0.02, seconds), 3)) for _ in range(moments)]
    wanted = count - moments
    each = max(1, wanted // 3 // len(by_stage))
    chosen = [number for stage in sorted(by_stage) for number in generator.sample(by_stage[stage], min(each, len(by_stage[stage])))]
    chosen += generator.sample(sorted(set(range(len(events))) - set(chosen)), max(0, wanted - len(chosen)))
    for number in chosen[:wanted]:
        stage, kind = events[number]
        points.append(Point(number, stage, torn=generator.randrange(1, 200) if kind and generator.random() < 0.5 else 0))
    return points
