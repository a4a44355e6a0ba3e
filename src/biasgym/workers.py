"""Worker processes on this machine: each keeps one model, takes one run after the other, and may die without harm to the rest."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import IO, Any

from biasgym.errors import BiasGymError
from biasgym.memory import GIB, free_memory
from biasgym.progress import Step
from biasgym.records import RunSpec
from biasgym.sweep import Event, Planned, run_in, session_for

PATIENCE = 3600.0  # seconds without a word after which a worker is taken to hang
RETRIES = 1  # of a run whose worker died: it goes on from its last whole item


def run_local(
    planned: Sequence[Planned],
    root: str,
    place: dict[str, Any],
    *,
    workers: int = 1,
    threads: int | None = None,
    retries: int = RETRIES,
    patience: float = PATIENCE,
    data: str = "",
) -> Generator[Event, None, None]:
    """Run what is waiting on `workers` processes; every event as it comes. Closing the iterator stops the workers.

    `data` is the folder of public evaluation sets, BIASGYM_DATA where it is not said.

    A worker that dies, or says nothing for `patience` seconds, is replaced, and its run is tried `retries` times more.
    """
    waiting = [one for one in planned if one.state == "waiting"]
    each = threads or max(1, (os.cpu_count() or 1) // max(1, workers))
    crew = _Crew({"root": root, "place": place, "data": data}, each, patience)
    tries: dict[str, int] = {}
    try:
        for _ in range(min(workers, len(waiting))):
            yield crew.give(crew.start(), waiting)
        while crew.busy():
            number, message = crew.next_message()
            worker = crew.workers[number]
            if message and "step" in message:
                if worker.job:
                    yield Event(worker.job.id, "running", _where(Step(**message["step"])))
                continue
            job, worker.job = worker.job, None
            if job is None:
                continue
            if message:
                yield Event(job.id, message["state"], message["reason"], message["seconds"])
            else:
                death = worker.bury(grace=5.0)
                tries[job.id] = tries.get(job.id, 0) + 1
                if tries[job.id] <= retries:
                    waiting.insert(0, job)
                    yield Event(job.id, "waiting", f"{death}; once more")
                else:
                    yield Event(job.id, "failed", f"{death}, {tries[job.id]} times; when out of memory: fewer workers or --dtype bfloat16")
                if waiting:
                    number = crew.start(number)
            if waiting:
                yield crew.give(number, waiting)
    finally:
        for worker in crew.workers.values():
            worker.bury()


def take_next(waiting: list[Planned], last: Planned | None, busy: Sequence[Planned]) -> Planned:
    """Take the run to do next out of the list.

    One that shares stages with a run in hand would only wait for them, so others come first; then one for the model that
    the worker has in memory; then the file's order.
    """
    taken = [one.shares for one in busy]
    model = last.shares[:2] if last else None
    best = min(range(len(waiting)), key=lambda i: (waiting[i].shares in taken, waiting[i].shares[:2] != model, i))
    return waiting.pop(best)


def _where(step: Step) -> str:
    return f"{step.stage} {step.done}/{step.total}{f' {step.what}' if step.what else ''}"


@dataclass
class _Crew:
    """The workers by number, what each is told first, and the one queue that all of them speak into."""

    first: dict[str, Any]
    threads: int
    patience: float
    workers: "dict[int, _Worker]" = field(default_factory=dict)
    lines: "queue.Queue[tuple[_Worker, dict[str, Any] | None]]" = field(default_factory=queue.Queue)

    def start(self, number: int | None = None) -> int:
        """A fresh worker, in the place of a dead one or beside the others; its number."""
        number = len(self.workers) if number is None else number
        self.workers[number] = _Worker(number, self.first, self.threads, self.lines)
        return number

    def busy(self) -> list[Planned]:
        """The runs in hand."""
        return [worker.job for worker in self.workers.values() if worker.job]

    def give(self, number: int, waiting: list[Planned]) -> Event:
        """Give a worker the run that suits it best."""
        worker = self.workers[number]
        return worker.give(take_next(waiting, worker.last, self.busy()))

    def next_message(self) -> tuple[int, dict[str, Any] | None]:
        """What a worker says next; None for the one that is dead, or that has been silent for too long."""
        while True:
            mute = [w for w in self.workers.values() if w.job and time.monotonic() - w.heard > self.patience]
            if mute:
                mute[0].process.kill()
                return mute[0].number, None
            try:
                worker, message = self.lines.get(timeout=min(5.0, self.patience))
            except queue.Empty:
                continue
            worker.heard = time.monotonic()
            if self.workers.get(worker.number) is worker:  # else the last words of one that was replaced
                return worker.number, message


@dataclass
class _Worker:
    """A process and the thread that listens to it; what it says comes into one queue, None when it is dead."""

    number: int
    first: dict[str, Any]
    threads: int
    lines: "queue.Queue[tuple[_Worker, dict[str, Any] | None]]"
    job: Planned | None = None
    last: Planned | None = None
    heard: float = field(default_factory=time.monotonic)
    process: "subprocess.Popen[bytes]" = field(init=False)
    _errors: IO[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        number = str(self.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from biasgym.workers import serve; serve()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment, start_new_session=True,
        )  # fmt: skip
        self._say(self.first)
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def give(self, job: Planned) -> Event:
        """Hand it a run."""
        self.job = self.last = job
        self.heard = time.monotonic()
        self._say({"spec": job.spec})
        return Event(job.id, "running", f"worker {self.number + 1}")

    def _say(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # when it is dead, the listener will say so
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                self.lines.put((self, json.loads(line)))
            except ValueError:  # a line cut off by a kill
                break
        process.stdout.close()
        self.lines.put((self, None))

    def bury(self, grace: float = 0.0) -> str:
        """End it, if it is not dead already, and say how it died. Its place can be taken by another."""
        self.job = None
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
        code = self.process.wait()
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
        if self._errors.closed:
            return ""
        self._errors.seek(0)
        words = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        self._errors.close()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return f"the worker died {how}" + (f" ({words[-1][:160]})" if words and code > 0 else "")


# -------------------------------------------------------------------- inside the worker


def serve() -> None:
    """Take runs from standard input and tell of them on standard output, one JSON object a line, until the input ends.

    When whoever started us dies, the input ends: we stop at once, since what is done is on disk.
    """
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between our lines
    first = json.loads(sys.stdin.buffer.readline())
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message).encode() + b"\n")
        out.flush()

    session = session_for(first["root"], first["place"])
    session.data = first["data"]
    session.tell = lambda step: say({"step": {"stage": step.stage, "done": step.done, "total": step.total, "what": step.what}})
    while True:
        say(run_in(session, jobs.get()["spec"]))


def _read_jobs(jobs: "queue.Queue[dict[str, Any]]") -> None:
    for line in sys.stdin.buffer:
        jobs.put(json.loads(line))
    os._exit(0)


# -------------------------------------------------------------------- how many fit


def fitting(planned: Sequence[Planned], place: dict[str, Any], workers: int, free: int | None = None) -> tuple[list[Planned], int, str]:
    """The plan with runs that cannot fit marked as failed, how many workers fit beside each other, and a sentence about it.

    Memory is counted by model (see `cost.memory_of`); only weights that alone exceed what is free are refused for certain.
    On a GPU nothing is refused: the memory of the machine says nothing about it.
    """
    from biasgym.cost import memory_of
    from biasgym.lm.load import Place
    from biasgym.lm.size import config_of, size_of

    where = Place(**place)
    free = free_memory() if free is None else free
    sizes: dict[str, Any] = {}
    checked, largest = [], 0
    for one in planned:
        if one.state != "waiting" or not on_processor(where.device):
            checked.append(one)
            continue
        spec = RunSpec.model_validate(one.spec)
        try:
            if spec.model not in sizes:
                sizes[spec.model] = size_of(config_of(spec.model, where))
        except BiasGymError as error:  # the trouble of this model's runs only
            checked.append(replace(one, state="failed", reason=str(error)))
            continue
        memory = memory_of(sizes[spec.model], spec)
        if memory.weights > free:
            reason = f"its weights alone take {memory.weights / GIB:.1f} GiB of {free / GIB:.1f} GiB free; try --dtype bfloat16 or a smaller model"
            checked.append(replace(one, state="failed", reason=reason))
        else:
            checked.append(one)
            largest = max(largest, memory.total)
    fit = max(1, free // largest) if largest else workers
    if fit >= workers:
        return checked, workers, ""
    return checked, fit, f"{fit} of {workers} workers: a run takes about {largest / GIB:.1f} GiB and {free / GIB:.1f} GiB are free"


def on_processor(device: str) -> bool:
    """Whether a device as it was asked for means the machine's own memory."""
    if device != "auto":
        return device == "cpu"
    from biasgym.lm.load import device_of

    return device_of("auto").type == "cpu"
