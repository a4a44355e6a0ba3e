"""All records as tables: SQL over them, a leaderboard of models × methods, and both as text, CSV, Markdown, HTML or JSON."""

import csv
import html
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from biasgym.errors import BiasGymError, SpecError, StoreError, unknown
from biasgym.files import read_bytes, whole
from biasgym.readings import PRICES, budget_of, edit_names_of, first_of, over_budget, sham_limit
from biasgym.records import Finding, RunRecord
from biasgym.store import RECORD, altered_in, record_of

Row = dict[str, Any]

# Column → type; every table has its columns also where it has no rows.
RUN_COLUMNS = {"run": "VARCHAR", "bias": "VARCHAR", "model": "VARCHAR", "preset": "VARCHAR", "dtype": "VARCHAR", "device": "VARCHAR",
               "status": "VARCHAR", "problems": "BIGINT", "problem": "VARCHAR", "edits": "VARCHAR", "seeds": "VARCHAR", "test_seed": "BIGINT",
               "biasgym": "VARCHAR", "commit": "VARCHAR", "threads": "BIGINT"}  # fmt: skip
KEYS = {"run": "VARCHAR", "bias": "VARCHAR", "model": "VARCHAR"}
FIGURES = {"value": "DOUBLE", "low": "DOUBLE", "high": "DOUBLE", "n": "BIGINT"}
MEASUREMENT_COLUMNS = KEYS | {"metric": "VARCHAR", "arm": "VARCHAR", "group": "VARCHAR", "token": "VARCHAR", "edit": "VARCHAR", "seed": "BIGINT",
                              "split": "VARCHAR", **FIGURES, "ideal": "DOUBLE", "note": "VARCHAR"}  # fmt: skip
FINDING_COLUMNS = KEYS | {
    "name": "VARCHAR",
    "metric": "VARCHAR",
    "token": "VARCHAR",
    "edit": "VARCHAR",
    "seed": "BIGINT",
    **FIGURES,
    "note": "VARCHAR",
}
TIMING_COLUMNS = KEYS | {"stage": "VARCHAR", "seconds": "DOUBLE"}
TRIAL_COLUMNS = KEYS | {"edit": "VARCHAR", "trial": "BIGINT", "settings": "VARCHAR", "inside": "BOOLEAN"} | dict.fromkeys(
    ("gap", "gap_before", "bits_per_byte", "bits_per_byte_high", "kl", "kl_high", "concept", "concept_low", "concept_high"), "DOUBLE"
)  # fmt: skip
COLUMNS: dict[str, dict[str, str]] = {
    "runs": RUN_COLUMNS,
    "measurements": MEASUREMENT_COLUMNS,
    "findings": FINDING_COLUMNS,
    "timings": TIMING_COLUMNS,
    "trials": TRIAL_COLUMNS,
}
EMPTY = {"VARCHAR": "", "BIGINT": 0, "DOUBLE": float("nan"), "BOOLEAN": False}
KINDS: dict[str, Any] = {"VARCHAR": object, "BIGINT": np.int64, "DOUBLE": np.float64, "BOOLEAN": np.bool_}


@dataclass
class Ledger:
    """All whole records under a folder, and what could not be read, with its reason."""

    records: list[RunRecord] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """An answer: names of columns, and rows of plain values."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def read_ledger(runs: Path) -> Ledger:
    """Every record under a folder; a broken or altered one is listed in `skipped`, never an error."""
    ledger = Ledger()
    for folder in sorted(path.parent for path in runs.glob(f"*/{RECORD}")):
        try:
            record = whole_record(read_bytes(folder / RECORD), folder)
        except BiasGymError as error:
            ledger.skipped.append((folder.name, str(error)))
            continue
        ledger.records.append(record)
    return ledger


def whole_record(raw: bytes, folder: Path) -> RunRecord:
    """The record of a folder from its bytes; StoreError when it is broken or another run's."""
    try:
        record = RunRecord.model_validate_json(raw)
    except ValueError:
        record = record_of(raw, folder)  # slower, and says what is wrong with it
    if record.id != folder.name:
        raise StoreError(f"`{folder / RECORD}` says it is of run `{record.id}`: it was copied or altered")
    with altered_in(folder / RECORD):  # before it stands in a table with others
        rows_of(record)
        list(_standings(record))
    return record


# -------------------------------------------------------------------- records as rows


def rows_of(record: RunRecord) -> dict[str, list[tuple[Any, ...]]]:
    """The rows that a record adds to each table, in the order of the table's columns."""
    spec, place = record.spec, record.environment
    bias = str((record.extras.get("bias") or {}).get("name") or Path(str(spec.get("bias", ""))).stem)
    key = (record.id, bias, str(spec.get("model", "")))
    run = (*key, spec.get("preset"), spec.get("dtype"), place.get("device"), record.status, len(record.problems), "; ".join(record.problems),
           ", ".join(edit_names_of(record)), ", ".join(map(str, spec.get("seeds", []))), spec.get("test_seed"),
           place.get("biasgym"), place.get("commit"), place.get("threads"))  # fmt: skip
    measured = tuple(MEASUREMENT_COLUMNS)[3:]
    found = tuple(FINDING_COLUMNS)[3:]
    return {
        "runs": [run],
        "measurements": [(*key, *(getattr(m, name) for name in measured)) for m in record.measurements],
        "findings": [(*key, *(getattr(f, name) for name in found)) for f in record.findings],
        "timings": [(*key, stage, seconds) for stage, seconds in record.timings.items()],
        "trials": list(_trials(record, key)),
    }


def _trials(record: RunRecord, key: tuple[str, str, str]) -> Iterator[tuple[Any, ...]]:
    for edit, about in (record.extras.get("edits") or {}).items():
        for number, trial in enumerate((about or {}).get("trials", ())):
            numbers = (trial.get(name) for name in tuple(TRIAL_COLUMNS)[7:])
            yield (*key, edit, number, json.dumps(trial.get("settings")), trial.get("inside"), *numbers)


def tables_of(records: Sequence[RunRecord]) -> dict[str, list[tuple[Any, ...]]]:
    """All tables by name."""
    tables: dict[str, list[tuple[Any, ...]]] = {name: [] for name in COLUMNS}
    for record in records:
        for name, rows in rows_of(record).items():
            tables[name] += rows
    return tables


# -------------------------------------------------------------------- SQL


def ask(records: Sequence[RunRecord], sql: str) -> Table:
    """The answer to one SELECT over `runs`, `measurements`, `findings`, `timings` and `trials`; SpecError names what is wrong.

    It reads these tables and nothing else: neither files nor the network, and it writes nowhere.
    """
    duckdb = import_duckdb()
    with duckdb.connect(":memory:") as connection:
        fill(connection, tables_of(records))
        try:
            return answered(connection, sql)
        except duckdb.Error as error:
            raise SpecError(hint(str(error))) from None


def answered(connection: Any, sql: str) -> Table:
    """The answer of a connection that has the tables; from here on it reaches nothing else. Errors are DuckDB's own."""
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != import_duckdb().StatementType.SELECT:
        raise SpecError("one SELECT is answered here, and nothing else: records are only read")
    answer = connection.execute(statements[0])
    return Table(tuple(column[0] for column in answer.description), answer.fetchall())


def write_parquet(records: Sequence[RunRecord], folder: Path) -> list[Path]:
    """One Parquet file a table, each written whole."""
    duckdb = import_duckdb()
    written = []
    with duckdb.connect(":memory:") as connection:
        fill(connection, tables_of(records))
        for name in COLUMNS:
            path = folder / f"{name}.parquet"
            with whole(path) as temporary:
                place = str(temporary).replace("'", "''")
                try:
                    connection.execute(f"COPY {name} TO '{place}' (FORMAT parquet)")
                except duckdb.Error as error:
                    raise StoreError(f"cannot write `{path}`: {str(error).splitlines()[0]}") from None
            written.append(path)
    return written


def import_duckdb() -> Any:
    """DuckDB's module; SpecError with the extra's name where it is missing."""
    try:
        import duckdb
    except ImportError:
        raise SpecError("SQL over records needs DuckDB; install the extra: pip install 'biasgym[query]'") from None
    return duckdb


def fill(connection: Any, tables: dict[str, list[tuple[Any, ...]]]) -> None:
    """Make all tables of `COLUMNS` in a connection, with these rows."""
    for name, rows in tables.items():
        columns = COLUMNS[name]
        described = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
        connection.execute(f"CREATE TABLE {name} ({described})")
        if not rows:
            continue
        arrays, picked = {}, []
        for column, kind, values in zip(columns, columns.values(), zip(*rows, strict=True), strict=True):
            missing = np.array([value is None for value in values])
            arrays[column] = np.array([_cast(value, kind) for value in values], dtype=KINDS[kind])
            picked.append(f'"{column}"')
            if missing.any():
                arrays[f"{column}?"] = missing
                picked[-1] = f'CASE WHEN "{column}?" THEN NULL ELSE "{column}" END'
        connection.register("given", arrays)
        connection.execute(f"INSERT INTO {name} SELECT {', '.join(picked)} FROM given")
        connection.unregister("given")


def _cast(value: Any, kind: str) -> Any:
    """A value as its column has it; what an altered record holds instead is the column's empty value."""
    if value is None:
        return EMPTY[kind]
    if kind == "VARCHAR":
        return value if isinstance(value, str) else json.dumps(value, default=str)
    good = isinstance(value, bool) if kind == "BOOLEAN" else isinstance(value, int | float)
    return value if good else EMPTY[kind]


def hint(message: str) -> str:
    """DuckDB's first line, and the names there are where a name was wrong."""
    first = message.strip().splitlines()[0]
    if "Table" in first or "Catalog" in first:
        return f"{first} Tables: {', '.join(COLUMNS)}"
    if "column" in first.lower():
        names = "; ".join(f"{name}({', '.join(columns)})" for name, columns in COLUMNS.items() if not _other_table(message, name))
        return f"{first} Columns: {names}"
    return first


def _other_table(message: str, name: str) -> bool:
    """Whether the statement that an error quotes plainly is about other tables."""
    mentioned = [table for table in COLUMNS if table in message.lower()]
    return bool(mentioned) and name not in mentioned


# -------------------------------------------------------------------- leaderboard


def leaderboard(records: Sequence[RunRecord]) -> Table:
    """One row for every edit of every run: what it closed, at what price, against which shams, and what speaks against it.

    No figure joins others into one. Rows stand by model and bias; inside each, edits inside the budget first, then by the
    share of the gap closed.
    """
    columns = ("model", "bias", "method", "closed", "low", "high", "n", "budget", "bits_per_byte", "kl", "concept", "concept_low", "concept_high",
               "sham_limit", "shams", "marks", "run")  # fmt: skip
    rows = [row for record in records for row in _standings(record)]
    rows.sort(key=lambda row: (row[0], row[1], row[7] != "inside", -row[3]))
    return Table(columns, rows)


def _standings(record: RunRecord) -> Iterator[tuple[Any, ...]]:
    key = rows_of(record)["runs"][0]
    for place, edit in enumerate(edit_names_of(record)):
        limit = sham_limit(record) if place == 0 else None  # shams are drawn for the first edit only
        closed = first_of(record, name="closed", metric="gap", edit=edit)
        if closed is None:
            continue
        over = over_budget(record, edit)
        budget = "unknown" if over is None or not budget_of(record) else "OUTSIDE" if over else "inside"
        prices = {metric: first_of(record, name="price", metric=metric, edit=edit) for metric in PRICES}
        yield (
            key[2], key[1], edit, _short(closed.value), _short(closed.low), _short(closed.high), closed.n, budget,
            _price(prices["bits-per-byte"]), _price(prices["kl"]), *_change(prices["concept"]),
            None if limit is None else _short(limit[1]), 0 if limit is None else limit[2], "; ".join(_marks(record, closed, over, limit)), record.id,
        )  # fmt: skip


def _marks(record: RunRecord, closed: Finding, over: tuple[str, ...] | None, limit: tuple[str, float, int] | None) -> list[str]:
    marks = [f"outside budget: {', '.join(over)}"] if over else []
    if over is None:
        marks.append("price not measured")
    if any("unfit" in problem for problem in record.problems):
        marks.append("model unfit for this bias")
    if any("injection did not take" in problem for problem in record.problems):
        marks.append("injection did not take")
    if limit is not None and closed.low <= limit[1]:
        marks.append("not above its shams")
    if record.status != "ok":
        marks.append(record.status)
    return marks


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _price(row: Finding | None) -> float | None:
    return None if row is None else _short(row.value)


def _change(row: Finding | None) -> tuple[float | None, float | None, float | None]:
    """A concept's price turned into its change: the sign a reader expects."""
    return (None, None, None) if row is None else (_short(-row.value), _short(-row.high), _short(-row.low))


def standing_counts(records: Sequence[RunRecord]) -> Table:
    """Models × methods: in how many runs an edit was measured, inside the budget, and above its shams (none drawn: not above); counts only."""
    counted: dict[tuple[str, str], list[int]] = {}
    for row in leaderboard(records).rows:
        numbers = counted.setdefault((row[0], row[2]), [0, 0, 0])
        numbers[0] += 1
        numbers[1] += row[7] == "inside"
        numbers[2] += row[7] == "inside" and row[14] > 0 and "shams" not in row[15]
    return Table(("model", "method", "runs", "inside_budget", "inside_and_above_shams"), [(*key, *n) for key, n in sorted(counted.items())])


# -------------------------------------------------------------------- answers as text


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def as_csv(table: Table) -> str:
    """CSV with a header."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([["" if value is None else value for value in row] for row in table.rows])
    return out.getvalue()


def as_markdown(table: Table) -> str:
    """A pipe table."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "".join("| " + " | ".join(_text(value).replace("|", "\\|").replace("\n", " ") for value in line) + " |\n" for line in lines)


def as_html(table: Table) -> str:
    """A page of its own with the table and nothing from elsewhere."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(_text(value))}</td>" for value in row) + "</tr>" for row in table.rows)
    style = "body{font:14px system-ui,sans-serif;margin:2rem}td,th{padding:.2rem .6rem;text-align:left;border-bottom:1px solid #ddd}"
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>BiasGym</title><style>{style}</style></head>'
            f"<body><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></body></html>\n")  # fmt: skip


def as_json(table: Table) -> str:
    """An array of objects."""
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return json.dumps(rows, ensure_ascii=False, indent=1, default=str) + "\n"


FORMATS: dict[str, Callable[[Table], str]] = {"csv": as_csv, "markdown": as_markdown, "html": as_html, "json": as_json}


def shown(table: Table) -> Any:
    """A table for a terminal."""
    from rich.table import Table as Drawn

    drawn = Drawn(box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        drawn.add_column(column, overflow="fold")
    for row in table.rows:
        drawn.add_row(*map(_text, row))
    return drawn


def written(table: Table, format_: str) -> str:
    """A table in a format by name."""
    if format_ not in FORMATS:
        raise SpecError(unknown("format", format_, [*FORMATS, "table"]))
    return FORMATS[format_](table)
