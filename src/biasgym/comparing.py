"""The door to the ring: one table, one picture, and where a rival beats ours."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from biasgym.errors import SpecError, unknown
from biasgym.figures import Contender, ring_figure
from biasgym.files import write_json, write_text
from biasgym.pictures import page, write_svg
from biasgym.readings import PRICES, budget_of, first_of, over_budget
from biasgym.records import Finding, RunRecord
from biasgym.ring import FACTORIAL, Bout, Ring, bouts
from biasgym.run import Session
from biasgym.verdict import broken, nothing_to_remove

State = Literal["inside", "outside", "unmet", "broken", "failed"]
STATES: dict[State, str] = {
    "inside": "inside the budget",
    "outside": "met it on dev, OUTSIDE on test",
    "unmet": "no setting met the budget on dev; the cheapest is shown",
    "broken": "BREAKS the model: no removal can be claimed",
    "failed": "failed",
}
KINDS: dict[State, Literal["inside", "outside", "not met"]] = {"inside": "inside", "outside": "outside"}  # whatever else: not met
LEVEL = 0.005  # of the gap: what rounds to the same percent is no better
FORMATS = (".html", ".svg", ".json", ".md")
Cells = tuple[float, float, float, int]


@dataclass(frozen=True)
class Standing:
    """A method's line in the table; figures are (value, low, high, n) on test, and empty where it failed.

    `closed` is a share of the injected gap, `prices` bits per byte (percent), KL (nats a token) and concept (share of base
    lost), `benchmarks` the figure with the edit and its change. `over` names prices beyond the budget on test.
    """

    label: str
    method: str
    state: State
    reason: str
    run: str
    picked: dict[str, Any]
    trials: int
    closed: Cells | None
    prices: dict[str, Cells]
    over: tuple[str, ...]
    benchmarks: dict[str, tuple[float, float, float, float]]
    seconds: float


def standing(bout: Bout) -> Standing:
    """What a bout comes to."""
    record, label, method = bout.record, bout.entrant.label, bout.entrant.method
    if record is None:
        return Standing(label, method, "failed", bout.reason, "", {}, 0, None, {}, (), {}, bout.seconds)
    edit, about = next(iter(record.extras["edits"].items()))
    prices = {m: _cells(row) for m in PRICES if (row := first_of(record, name="price", metric=m, edit=edit))}
    closed = first_of(record, name="closed", metric="gap", edit=edit)
    over, damage = over_budget(record, edit), broken(record, edit)
    state: State = "broken" if damage else "unmet" if not about["inside_budget_on_dev"] else "inside" if over == () else "outside"
    searched = {key: value for key, value in about["picked"].items() if not isinstance(value, str) or len(value) < 24}
    return Standing(
        label, method, state, "; ".join(damage), record.id, searched, len(about["trials"]), _cells(closed) if closed else None,
        prices, over or (), _benchmarks(record, edit), bout.seconds,
    )  # fmt: skip


def _cells(row: Finding) -> Cells:
    return row.value, row.low, row.high, row.n


def _benchmarks(record: RunRecord, edit: str) -> dict[str, tuple[float, float, float, float]]:
    """Each benchmark's overall figures: base, with the edit, and that arm's interval."""
    whole = {
        (m.metric, m.arm): m for m in record.measurements if "." in m.metric and m.group == "all" and m.token == "none" and m.edit in ("none", edit)
    }
    names = dict.fromkeys(metric for metric, _ in whole)
    pairs = {name: (whole.get((name, "base")), whole.get((name, "edited"))) for name in names}
    return {name: (base.value, after.value, after.low, after.high) for name, (base, after) in pairs.items() if base and after}


def ranked(rows: Sequence[Standing]) -> list[Standing]:
    """Those inside the budget first, by the share closed; then those outside, those that never met it, broken, failed."""
    order = list(STATES)
    return sorted(rows, key=lambda one: (order.index(one.state), -(one.closed[0] if one.closed else 0.0), one.label))


# -------------------------------------------------------------------- the command


def compare(session: Session, ring: Ring, output: Path | None, console: Console | None, workers: int = 1) -> dict[str, Any]:
    """Fight what is missing, show the table as it stands, write the picture; the whole as plain data."""
    if output is not None and output.suffix not in FORMATS:
        raise SpecError(unknown("format of the file", output.suffix or str(output), FORMATS))
    rows: list[Standing] = []
    records: list[RunRecord] = []
    for bout in bouts(session, ring, workers):
        rows.append(standing(bout))
        records += [bout.record] if bout.record else []
        session.say(f"{len(rows)} of {len(ring.entrants)}  {rows[-1].label}: {rows[-1].seconds:.0f} s, {STATES[rows[-1].state]}")
    if not records:
        raise SpecError(f"every method failed; the first: {rows[0].label}: {rows[0].reason}")
    rows = ranked(rows)
    found = _as_data(ring, rows, records[0])
    path = output or session.store.root / f"{ring.id}.html"
    _write(path, found, rows)
    if console is not None:
        _print(console, found, rows)
        console.print(f"table and picture: {path}", soft_wrap=True, highlight=False)
    return found


def _as_data(ring: Ring, rows: Sequence[Standing], record: RunRecord) -> dict[str, Any]:
    spec = record.spec
    injected = first_of(record, name="injected", metric="gap", edit="none")
    return {
        "id": ring.id,
        "bias": record.extras["bias"]["name"],
        "model": spec["model"],
        "trials_a_method": spec["tune"]["trials"],
        "budget": budget_of(record),
        "gap_before": _cells(injected) if injected else None,
        "stop": nothing_to_remove(record),
        "notes": list(ring.notes),
        "standings": [asdict(row) for row in rows],
        "factorial": factorial(rows),
        "seconds": round(sum(row.seconds for row in rows), 1),
    }


def factorial(rows: Sequence[Standing]) -> dict[str, dict[str, Any]]:
    """{no prompt, prompt} × {no edit, found without injection, found with injection}: share closed and state; empty unless all fought."""
    by_label = {row.label: row for row in rows}
    if any(one.label not in by_label for one in FACTORIAL.values()):
        return {}
    table: dict[str, dict[str, Any]] = {"no prompt": {"no edit": {"closed": [0.0, 0.0, 0.0, 0], "state": "base"}}, "prompt": {}}
    for (prompt, edit), one in FACTORIAL.items():
        row = by_label[one.label]
        table[prompt][edit] = {"closed": list(row.closed) if row.closed else None, "state": row.state}
    return table


def _write(path: Path, found: dict[str, Any], rows: Sequence[Standing]) -> None:
    title = f"{found['bias']} in {Path(found['model']).name}: {len(rows)} methods"
    if path.suffix == ".json":
        write_json(path, found)
    elif path.suffix == ".svg":
        write_svg(path, picture(title, found, rows))
    elif path.suffix == ".md":
        beside = write_svg(path.with_suffix(".svg"), picture(title, found, rows))
        corners = ["", "## Prompt × edit", "", *_markdown(_corners(found["factorial"]))] if found["factorial"] else []
        parts = [f"# {title}", *_words(found), f"![{title}]({beside.name})", "\n".join(_markdown(_grid(found, rows))), *_failures(rows)]
        write_text(path, "\n\n".join(parts) + "\n" + "".join(f"{line}\n" for line in corners))
    else:
        body = [f"<p>{escape(line)}</p>" for line in _words(found)]
        body += [f"<figure>{picture(title, found, rows)}</figure>", _html(_grid(found, rows)), *(f"<p>{escape(x)}</p>" for x in _failures(rows))]
        if found["factorial"]:
            body += ["<h2>Prompt × edit</h2>", _html(_corners(found["factorial"]))]
        write_text(path, page(title, "\n".join(body)))


def picture(title: str, found: dict[str, Any], rows: Sequence[Standing]) -> str:
    """Share closed against the dearest price as a share of the budget, for all that did not fail."""
    shown = [
        Contender(row.label, row.closed[:3], dearest(row.prices, found["budget"]), KINDS.get(row.state, "not met"), row.closed[3])
        for row in rows
        if row.closed and row.prices
    ]
    return ring_figure("ring", title, shown)


def dearest(prices: dict[str, Cells], budget: dict[str, float]) -> tuple[float, float, float]:
    """The price that is largest as a share of its limit, with its interval in that unit; a concept may move neither way."""
    shares = []
    for metric, (value, low, high, _) in prices.items():
        ends = sorted((abs(low), abs(high))) if metric == "concept" else [low, high]
        if metric == "concept" and low <= 0 <= high:
            ends[0] = 0.0
        middle = abs(value) if metric == "concept" else value
        shares.append((middle / budget[metric], ends[0] / budget[metric], ends[1] / budget[metric]))
    return max(shares, key=lambda share: share[2])


# -------------------------------------------------------------------- text


def _words(found: dict[str, Any]) -> list[str]:
    limits, gap = found["budget"], found["gap_before"]
    lines = [
        f"Every method was tuned on dev by the same search with at most {found['trials_a_method']} trials, to the same budget: bits per byte "
        f"+{limits['bits-per-byte']:g} %, KL {limits['kl']:g} nats a token, concept ±{limits['concept']:.0%}. Figures are on test, with 95 % intervals."
    ]
    if gap:
        lines.append(f"The injected gap is {gap[0]:+.2f} nats [{gap[1]:+.2f}, {gap[2]:+.2f}], n={gap[3]}.")
    took = f"All methods together took {found['seconds'] / 60:.0f} minutes (column s: seconds of each, what they share not counted)."
    if found["stop"]:
        return [f"{found['stop']}: the shares below are not to be read as removal.", *lines, *found["notes"], took]
    return [*lines, *found["notes"], *verdict_on_ours(found), took]


def verdict_on_ours(found: dict[str, Any]) -> list[str]:
    """One sentence on where `direction` stands among those inside the budget; nothing where it was not in the ring."""
    inside = [row for row in found["standings"] if row["state"] == "inside" and row["closed"]]
    ours = next((row for row in found["standings"] if row["label"] == "direction"), None)
    if ours is None:
        return []
    if ours["state"] != "inside":
        return [f"Ours (`direction`) is not inside the budget here ({STATES[ours['state']]}); {len(inside)} methods are."]
    better = [row["label"] for row in inside if row["closed"][0] > ours["closed"][0] + LEVEL]
    clearly = [row["label"] for row in inside if row["closed"][1] > ours["closed"][2]]
    if not better:
        return ["No method closes more inside the budget than ours (`direction`)."]
    end = f"; of {', '.join(f'`{one}`' for one in clearly)} the intervals do not even overlap" if clearly else ""
    return [f"Ours (`direction`) is beaten inside the budget by {', '.join(f'`{one}`' for one in better)}{end}."]


def _grid(found: dict[str, Any], rows: Sequence[Standing]) -> list[list[str]]:
    """The table as text, its head first; failed methods are told below it."""
    named = list(dict.fromkeys(name for row in rows for name in row.benchmarks))
    first = {name.partition(".")[0]: name for name in reversed(named)}  # each benchmark's first figure; JSON has them all
    shown = [name for name in named if name in first.values()]
    head = ["method", "state", "gap closed", "bits per byte (%)", "KL", "concept lost", *(f"{n} (base)" for n in shown), "picked", "trials", "s"]
    lines = [head]
    for row in rows:
        if row.closed is None:
            continue
        marks = ["{1:.1f} [{2:.1f}, {3:.1f}] ({0:.1f})".format(*row.benchmarks[n]) if n in row.benchmarks else "" for n in shown]
        picked = ", ".join(f"{key}={value}" for key, value in row.picked.items())
        prices = [_ranged(row.prices.get("bits-per-byte"), ".2f"), _ranged(row.prices.get("kl"), ".4f"), _ranged(row.prices.get("concept"), ".0%")]
        lines.append([row.label, row.state, _ranged(row.closed, ".0%"), *prices, *marks, picked, str(row.trials), f"{row.seconds:.0f}"])
    return lines


def _ranged(cells: Cells | None, digits: str) -> str:
    return "" if cells is None else f"{cells[0]:{digits}} [{cells[1]:{digits}}, {cells[2]:{digits}}]"


def _corners(table: dict[str, dict[str, Any]]) -> list[list[str]]:
    edits = ["no edit", "edit without injection", "edit with injection"]
    lines = [["gap closed", *edits]]
    for prompt, cells in table.items():
        said = [f"{_ranged(c['closed'], '.0%')} ({c['state']})" if (c := cells[edit])["closed"] else c["state"] for edit in edits]
        lines.append([prompt, *("0% (base)" if one.endswith("(base)") else one for one in said)])
    return lines


def _failures(rows: Sequence[Standing]) -> list[str]:
    return [f"{row.label} failed after {row.seconds:.0f} s: {row.reason}" for row in rows if row.state == "failed"]


def _markdown(grid: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in grid]
    return [lines[0], "|" + " --- |" * len(grid[0]), *lines[1:]]


def _html(grid: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in grid[0])
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>" for row in grid[1:]
    )
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _print(console: Console, found: dict[str, Any], rows: Sequence[Standing]) -> None:
    for line in _words(found):
        console.print(line, highlight=False, markup=False)
    for grid in [_grid(found, rows), *([_corners(found["factorial"])] if found["factorial"] else [])]:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in grid[0]:
            table.add_column(column, overflow="fold")
        for row in grid[1:]:
            table.add_row(*(Text(cell) for cell in row))
        console.print()
        console.print(table)
    for line in _failures(rows):
        console.print(Text(f"! {line}", style="yellow"))
