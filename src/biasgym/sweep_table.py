"""A sweep as a person follows it: a live table with a row a run in a terminal, plain lines elsewhere."""

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from biasgym.sweep import Event, Planned

STYLES = {"ok": "green", "failed": "red", "running": "bold", "waiting": "dim"}
WORDS = {"ok": "whole", "failed": "FAILED", "running": "running", "waiting": "waiting"}


class SweepTable:
    """Shows what becomes of every run of a sweep."""

    def __init__(self, console: Console, planned: Sequence[Planned]) -> None:
        self.console = console
        self.planned = planned
        self.latest: dict[str, Event] = {}
        self._started: dict[str, float] = {}
        self._live: Live | None = None

    def __enter__(self) -> "SweepTable":
        if self.console.is_terminal:
            self._live = Live(self, console=self.console, refresh_per_second=2, transient=True)
            self._live.start()
        else:
            self.console.print(self._count(), highlight=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take note of an event; without a terminal only a change of state is a line."""
        before = self.latest.get(event.id)
        self.latest[event.id] = event
        if event.state == "running":
            self._started.setdefault(event.id, time.monotonic())
        changed = before is None or before.state != event.state
        if self._live is None and changed:
            label = next((one.label for one in self.planned if one.id == event.id), event.id)
            tail = f" in {event.seconds:.0f} s" if event.state in ("ok", "failed") else ""
            note = f": {event.note}" if event.note and event.state != "running" else ""
            self.console.print(f"{WORDS[event.state]:<8} {label}{tail}{note}", highlight=False, soft_wrap=True)

    def state_of(self, one: Planned) -> tuple[str, str, float]:
        """State, note and seconds of a run now."""
        event = self.latest.get(one.id) if one.id else None
        if event is None:
            return one.state, one.reason or ("was there already" if one.state == "ok" else ""), 0.0
        running = event.state == "running"
        return event.state, event.note, time.monotonic() - self._started[one.id] if running else event.seconds

    def _count(self) -> str:
        states = Counter(self.state_of(one)[0] for one in self.planned)
        return f"{len(self.planned)} runs: " + ", ".join(f"{count} {WORDS[state]}" for state, count in sorted(states.items()))

    def __rich__(self) -> Table:
        """The table as it stands; on a small screen whole runs give way to those that still matter."""
        table = Table(box=None, pad_edge=False, header_style="bold", caption=self._count(), caption_justify="left")
        for column in ("run", "state", "seconds", "where"):
            table.add_column(column, justify="right" if column == "seconds" else "left", overflow="ellipsis", no_wrap=True)
        order = {"running": 0, "failed": 1, "waiting": 2, "ok": 3}
        rows = sorted(self.planned, key=lambda one: order[self.state_of(one)[0]])
        room = max(5, self.console.height - 4)
        for one in [one for one in self.planned if one in rows[:room]]:
            state, note, seconds = self.state_of(one)
            table.add_row(one.label, Text(WORDS[state], style=STYLES[state]), f"{seconds:.0f}" if seconds else "", note)
        return table
