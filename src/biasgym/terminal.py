"""What a person sees in a terminal: progress with time left, and findings that fit 80 columns."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from biasgym.progress import Step
from biasgym.readings import CHANGES, change_word, claim_name, claims, concept_kept, findings, first_of, over_budget, p_text, sham_limit
from biasgym.records import Finding, Measurement, RunRecord
from biasgym.store import altered_in
from biasgym.verdict import broken, standing

if TYPE_CHECKING:
    from biasgym.generate_corpus import CorpusReport

STAGES = ("inject", "locate", "mitigate", "measure")
QUIET_SECONDS = 20.0  # without a terminal: at most one line in so many seconds


# Shares of a run's time by stage, rough: a later stage is guessed from the one under way until it has begun itself.
SHARES = {"inject": 0.3, "locate": 0.1, "mitigate": 0.3, "measure": 0.3}


class Clock:
    """Time left, in the stage under way and overall; what was on disk already, and so took no time, is not counted as speed."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._stage, self._begun, self._share = "", 0.0, 0.0

    def left(self, step: Step) -> tuple[float | None, float | None]:
        """Seconds left in the stage, and in all stages; None while nothing can be said, and overall where the stage is no run's."""
        if step.stage != self._stage:
            self._stage, self._begun, self._share = step.stage, self._now(), step.share
        gone, done = self._now() - self._begun, step.share - self._share
        if done <= 0:
            return (0.0, None) if step.share >= 1 else (None, None)
        whole = gone / done
        here = max(0.0, whole * (1 - step.share))
        if step.stage not in STAGES:
            return here, None
        later = sum(SHARES[name] for name in STAGES[STAGES.index(step.stage) + 1 :])
        return here, here + whole * later / SHARES[step.stage]


def duration(seconds: float | None) -> str:
    """A time as short words: `40 s`, `3 min`, `1 h 20`; `?` where it is not known."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d}"


def peak_memory() -> str:
    """The most memory that this process has held so far; empty where the system does not tell."""
    try:
        import resource
    except ImportError:  # not on Windows
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{peak * (1 if sys.platform == 'darwin' else 1024) / 1e9:.1f} GB"


class StepLine:
    """Shows steps: a live bar with time left in a terminal, an occasional plain line elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._task: Any = None
        self._last = 0.0
        self._clock = Clock()

    def __enter__(self) -> "StepLine":
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=8), TextColumn("{task.fields[state]}", style="dim"))
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, step: Step) -> None:
        """Take note of a step."""
        label = f"{STAGES.index(step.stage) + 1}/{len(STAGES)} {step.stage}" if step.stage in STAGES else step.stage
        state = _state(*self._clock.left(step))
        if self._bar is not None:
            self._advance(f"{label:<12} {step.what[:20]:<20}", step, state)
        elif step.done == step.total or time.monotonic() - self._last > QUIET_SECONDS:
            self._last = time.monotonic()
            self.console.print(f"{label}: {step.what} {step.done}/{step.total}; {state}", highlight=False, soft_wrap=True)

    def _advance(self, label: str, step: Step, state: str) -> None:
        assert self._bar is not None
        if self._task is None:
            self._task = self._bar.add_task(label, total=1.0, state=state)
        self._bar.update(self._task, completed=step.share, description=label, state=state)


def _state(here: float | None, overall: float | None) -> str:
    """Time left and memory, as short as they fit beside a bar."""
    left = f"{duration(here)} left" + (f", {duration(overall)} in all" if overall is not None else "")
    return ", ".join(part for part in (left, peak_memory()) if part)


def print_findings(console: Console, record: RunRecord) -> None:
    """The findings of a run: what was injected, removed, at what price, and last what changed for real entities.

    StoreError for a record whose parts are not as we write them.
    """
    with altered_in(f"the record of {record.id}"):
        _print_findings(console, record)


def _print_findings(console: Console, record: RunRecord) -> None:
    seed = record.spec["test_seed"]
    console.print()
    console.print(Text(f"{record.extras['bias']['name']} in {record.spec['model']}", style="bold"), Text(f"run {record.id}", style="dim"))
    console.print(f"test probes and entities; the token of seed {seed}, which no edit was fitted to", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("gap to real entities (nats)", "value", "95 % interval", "n"):
        table.add_column(column, justify="left" if column.startswith("gap") else "right")
    for m in record.measurements:
        if m.metric == "gap" and m.group == "token" and m.edit == "none":
            label = {"trained": "injected token"}.get(m.token, f"{m.token} token")
            table.add_row(label, f"{m.value:+.2f}", f"[{m.low:+.2f}, {m.high:+.2f}]", str(m.n))
    console.print(table)
    for edit, about in record.extras["edits"].items():
        _print_edit(console, record, edit, about)
    limit = sham_limit(record)
    if limit:
        console.print(
            f"shams of `{next(iter(record.extras['edits']))}` close at most {limit[1]:+.0%} ({limit[0]} of {limit[2]} draws)", highlight=False
        )
    _print_benchmarks(console, record)
    for problem in record.problems:
        console.print(Text(f"! {problem}", style="yellow"))
    print_claims(console, record)
    _print_changed(console, record)


def _print_edit(console: Console, record: RunRecord, edit: str, about: dict[str, Any]) -> None:
    picked = ", ".join(f"{key}={value}" for key, value in about["picked"].items())
    over = over_budget(record, edit)
    damage = broken(record, edit)
    state = "price not measured" if over is None else f"OUTSIDE the budget: {', '.join(over)}" if over else "inside the budget"
    state = "BREAKS the model: no removal can be claimed" if damage else state
    console.print()
    console.print(Text(f"{edit}", style="bold"), Text(f"({about['locator']}; {picked}): {state}"))
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(4):
        table.add_column(justify="left" if _ == 0 else "right")
    for label, name, metric in (
        ("gap closed", "closed", "gap"),
        ("gap left over (nats)", "left_over", "gap"),
        ("strength removed (0–3)", "removed", "strength"),
        ("price: bits per byte (%)", "price", "bits-per-byte"),
        ("price: KL (nats a token)", "price", "kl"),
    ):
        for row in findings(record, name=name, metric=metric, edit=edit)[:1]:
            table.add_row("  " + label, *_cells(row, metric, name))
    console.print(table)
    concept = first_of(record, name="price", metric="concept", edit=edit)
    if concept is not None:
        kept = "kept" if concept_kept(record, edit) else "NOT kept"
        change = f"{-concept.value:+.0%} [{-concept.high:+.0%}, {-concept.low:+.0%}]"
        console.print(f"  concept {kept}: change {change} of base, n={concept.n}", highlight=False)


def _print_benchmarks(console: Console, record: RunRecord) -> None:
    """The public benchmarks' overall figures: the base, and what the first edit does to them."""
    edit = next(iter(record.extras["edits"]), "none")
    base = [m for m in record.measurements if "." in m.metric and m.arm == "base" and m.group == "all"]
    if not base:
        return
    changes = {f.metric: f for f in record.findings if f.edit == edit and f.note.split(";")[0] == "all"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("benchmark", "base", "95 % interval", "change", "95 % interval", "n"):
        left = column == "benchmark"
        table.add_column(column, justify="left" if left else "right", max_width=23 if left else None, overflow="fold", no_wrap=not left)
    heading = ""
    for m in base:
        set_name, _, figure = m.metric.partition(".")
        if set_name != heading:
            heading = set_name
            table.add_row(heading)
        row = changes.get(m.metric)
        after = next((a for a in record.measurements if (a.metric, a.group, a.edit, a.token) == (m.metric, "all", edit, "none")), None)
        change = ("", "") if row is None or after is None else _moved(m, after, row)
        table.add_row(f"  {figure}", f"{m.value:.2f}", f"[{m.low:.2f}, {m.high:.2f}]", *change, str(m.n))
    console.print()
    console.print("public benchmarks" + (f", and what `{edit}` does to them" if changes else ""), highlight=False)
    console.print(table)


def _moved(before: Measurement, after: Measurement, row: Finding) -> tuple[str, str]:
    """The change and its interval; a price is told as the change that it is."""
    sign = 1 if np.sign(after.value - before.value) * np.sign(row.value) >= 0 else -1
    low, high = sorted((sign * row.low, sign * row.high))
    return f"{sign * row.value:+.2f}", f"[{low:+.2f}, {high:+.2f}]"


def _cells(row: Finding, metric: str, name: str) -> Sequence[str]:
    if name == "closed":
        return (f"{row.value:.0%}", f"[{row.low:.0%}, {row.high:.0%}]", str(row.n))
    digits = 4 if metric == "kl" else 2
    return (f"{row.value:+.{digits}f}", f"[{row.low:+.{digits}f}, {row.high:+.{digits}f}]", str(row.n))


def _print_changed(console: Console, record: RunRecord) -> None:
    edit = next(iter(record.extras["edits"]), None)
    rows = [f for f in record.findings if f.name == "changed" and f.edit == edit and f.metric in CHANGES]
    console.print()
    if edit and broken(record, edit):
        console.print(Text(f"`{edit}` breaks the model, so what changed for real entities is no gain:", style="yellow"))
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("changed, real entities (nats)", "value", "95 % interval", "n", ""):
        table.add_column(column, justify="right" if column in ("value", "95 % interval", "n") else "left")
    for row in rows:
        table.add_row("  " + CHANGES[row.metric], *_cells(row, row.metric, row.name), change_word(row))
    console.print(table)


def print_claims(console: Console, record: RunRecord) -> None:
    """The family of claims: what holds when all are tested together, and the smallest change that would have been seen."""
    family = claims(record)
    if not family["rows"]:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("claim", "edit", "change", "p (Holm)", "holds", "seen from"):
        table.add_column(column, justify="left" if column in ("claim", "edit") else "right", overflow="fold", no_wrap=column not in ("claim", "edit"))
    for row in family["rows"]:
        seen = "-" if row["detectable"] is None else f"{row['detectable']:.2f}"
        edit = "" if row["edit"] == "none" else row["edit"]
        table.add_row(claim_name(row), edit, f"{row['value']:+.2f}", p_text(row["holm"]), standing(record, row), seen)
    console.print()
    held = sum(standing(record, row) == "yes" for row in family["rows"])
    console.print(f"claims: {held} of {len(family['rows'])} hold when tested together (Holm, 5 %);", highlight=False)
    console.print(f"`seen from`: the smallest true change found with {family['power']:.0%} probability", highlight=False)
    console.print(table)


def print_corpus(console: Console, report: "CorpusReport") -> None:
    """What was asked, kept and refused, why, and how varied the paragraphs are."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("texts", "wanted", "asked", "kept", "refused"):
        table.add_column(column, justify="left" if column == "texts" else "right")
    for t in report.tallies:
        table.add_row(t.kind, str(t.wanted), str(t.asked), str(t.kept), str(sum(t.refused.values())))
    console.print(table)
    for t in report.tallies:
        for reason, count in t.refused.items():
            console.print(f"  {t.kind} refused, {reason}: {count}", highlight=False, markup=False)
    d = report.diversity
    console.print(
        f"diversity of the paragraphs (0–1): lexical {d.lexical:.3f}, semantic {d.semantic:.3f}, syntactic {d.syntactic:.3f}", highlight=False
    )
    console.print(f"requests: {report.sent} sent, {report.retried} of them tried again, {report.reused} answers reused", highlight=False)
    for line in report.shortfalls:
        console.print(Text(f"! {line}", style="yellow"))
    console.print(f"biasgym run --bias {report.folder}", soft_wrap=True, highlight=False, markup=False)


def console_for(stream: Any = None, piped: int = 80) -> Console:
    """A console that wraps at 80 columns when nobody says how wide it is."""
    stream = stream or sys.stdout
    return Console(file=stream, width=None if stream.isatty() else piped, soft_wrap=False)
