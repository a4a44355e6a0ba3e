"""The door to sweeps: plan, say what memory allows, follow the runs, leave a report beside each."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from biasgym.errors import BiasGymError
from biasgym.run import Session
from biasgym.store import RunStore
from biasgym.sweep import Event, Planned, plan_sweep, summary
from biasgym.sweep_table import SweepTable
from biasgym.workers import fitting, run_local


@dataclass(frozen=True)
class Options:
    """Where and how wide a sweep runs; `ray` is an address, `local`, or None for processes here."""

    runs: Path
    device: str = "auto"
    offline: bool = False
    accept_terms: bool = False
    workers: int = 1
    threads: int | None = None
    ray: str | None = None
    gpus: float = 0.0
    retries: int = 1

    @property
    def place(self) -> dict[str, Any]:
        """What a worker needs to know of the place, as plain data."""
        return {"device": self.device, "offline": self.offline, "accept_terms": self.accept_terms}


def run_sweep(file: Path, sets: Sequence[str], dtype: str | None, options: Options, console: Console, *, quiet: bool = False) -> list[dict[str, Any]]:
    """Run what is missing of a sweep; one row a run: id, label, state, reason, seconds."""
    from biasgym.lm.load import Place

    def say(text: str) -> None:
        if not quiet:
            console.print(text, style="dim", highlight=False)

    session = Session(RunStore(options.runs), Place(**options.place), say=say)
    planned = plan_sweep(file, session, sets, dtype)
    workers = options.workers
    if options.ray is None:
        planned, workers, sentence = fitting(planned, options.place, options.workers)
        if sentence:
            say(sentence)
    seen: dict[str, Event] = {}
    table: Any = nullcontext() if quiet else SweepTable(console, planned)
    with table, closing(_events(planned, options, workers)) as events:
        for event in events:
            seen[event.id] = event
            if not quiet:
                table(event)
            if event.state == "ok":
                _leave_report(options.runs / event.id, say)
    return summary(planned, seen)


def _events(planned: Sequence[Planned], options: Options, workers: int) -> Generator[Event, None, None]:
    root = str(options.runs.absolute())
    if options.ray is None:
        return run_local(planned, root, options.place, workers=workers, threads=options.threads, retries=options.retries)
    from biasgym.ray_workers import run_on_ray

    return run_on_ray(planned, root, options.place, options.ray, workers=workers, gpus=options.gpus, retries=options.retries)


def _leave_report(folder: Path, say: Callable[[str], None]) -> None:
    from biasgym.report import write_report

    try:
        write_report([folder], folder / "report.html")
    except BiasGymError as error:  # a page is not worth stopping the other runs for
        say(f"no report for {folder.name}: {error}")
