"""The tables of a folder's records, kept as one DuckDB file in the user's cache: a question parses only what is new or changed.

Every record is still read and hashed whenever something is asked, so a changed, copied, deleted or bit-flipped one is noticed
whatever its size and times say. The kept file only saves parsing: without it, with a damaged one, or where the cache cannot
be written, the same question has the same answer, later.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biasgym import query, readings, records
from biasgym.data import cache_folder
from biasgym.errors import BiasGymError, SpecError, StoreError
from biasgym.files import read_bytes, whole
from biasgym.query import COLUMNS, Table, answered, ask, fill, hint, import_duckdb, read_ledger, tables_of, whole_record
from biasgym.records import RunRecord, fingerprint
from biasgym.store import RECORD

Digests = dict[str, str]  # run → hash of its record's bytes


@dataclass
class _Present:
    """What lies under a folder now: hashes of all whole records, those parsed because their hash was not known, what was left out."""

    digests: Digests = field(default_factory=dict)
    parsed: list[RunRecord] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def ask_folder(runs: Path, sql: str) -> tuple[Table, list[tuple[str, str]]]:
    """The answer to one SELECT over all records under a folder, and which records were left out, with their reasons.

    Equal to `query.ask(query.read_ledger(runs).records, sql)`.
    """
    duckdb, path = import_duckdb(), _place(runs)
    damage = (duckdb.IOException, duckdb.InternalException, duckdb.FatalException, duckdb.SerializationException)
    try:
        with _Kept(path) as kept:
            present = _present(runs, kept.digests)
            if present.digests == kept.digests:
                return kept.answer(sql), present.skipped
            known = kept.digests
        _write(path, present, known)
        with _Kept(path) as kept:
            if present.digests == kept.digests:  # else another process wrote what it found a moment later
                return kept.answer(sql), present.skipped
    except damage:
        path.unlink(missing_ok=True)
    except StoreError:
        pass  # nowhere to keep anything
    except duckdb.Error as error:
        raise SpecError(hint(str(error))) from None
    ledger = read_ledger(runs)
    return ask(ledger.records, sql), ledger.skipped


def _place(runs: Path) -> Path:
    return cache_folder() / "queries" / f"{fingerprint(str(runs.resolve()))}.duckdb"


def _maker() -> str:
    """What decides how a record becomes rows and how they are kept: our own code and DuckDB's version."""
    sources = [Path(str(module.__file__)).read_bytes() for module in (query, readings, records)]
    return hashlib.sha256(b"\0".join([import_duckdb().__version__.encode(), *sources])).hexdigest()


class _Kept:
    """An open kept file, read only: the hashes it was made from (none where it is missing, damaged or of another version)."""

    def __init__(self, path: Path):
        self.digests: Digests = {}
        self._connection: Any = None
        duckdb = import_duckdb()
        if not path.is_file():
            return
        try:
            self._connection = duckdb.connect(str(path), read_only=True)
            if self._connection.execute("SELECT maker FROM kept.made").fetchall() == [(_maker(),)]:
                self.digests = dict(self._connection.execute("SELECT run, digest FROM kept.records").fetchall())
        except (duckdb.Error, UnicodeDecodeError, ValueError):
            self.digests = {}

    def __enter__(self) -> "_Kept":
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def answer(self, sql: str) -> Table:
        """The answer to one SELECT; errors are DuckDB's own."""
        if self._connection is None:
            raise StoreError("nothing is kept")
        return answered(self._connection, sql)


def _present(runs: Path, known: Digests) -> _Present:
    """Read and hash every record; parse those whose hash is not known."""
    present = _Present()
    for path in sorted(runs.glob(f"*/{RECORD}")):
        folder = path.parent
        try:
            raw = read_bytes(path)
            digest = hashlib.sha256(raw).hexdigest()
            if known.get(folder.name) != digest:
                present.parsed.append(whole_record(raw, folder))
        except BiasGymError as error:
            present.skipped.append((folder.name, str(error)))
            continue
        present.digests[folder.name] = digest
    return present


def _write(path: Path, present: _Present, known: Digests) -> None:
    """Write the kept file anew, whole: rows of unchanged records from the old file, the others from what was parsed; in order of runs."""
    duckdb = import_duckdb()
    same = [run for run, digest in present.digests.items() if known.get(run) == digest]
    with whole(path) as temporary, duckdb.connect(":memory:") as connection:
        temporary.unlink()
        fill(connection, tables_of(present.parsed))
        connection.execute(f"ATTACH {_quoted(temporary)} AS made")
        connection.execute(
            "CREATE SCHEMA made.kept; CREATE TABLE made.kept.made (maker VARCHAR); CREATE TABLE made.kept.records (run VARCHAR, digest VARCHAR)"
        )
        connection.execute("INSERT INTO made.kept.made VALUES (?)", [_maker()])
        if present.digests:
            connection.execute("INSERT INTO made.kept.records SELECT unnest(?), unnest(?)", [list(present.digests), list(present.digests.values())])
        if same:
            connection.execute(f"ATTACH {_quoted(path)} AS old (READ_ONLY); CREATE TABLE same (run VARCHAR)")
            connection.execute("INSERT INTO same SELECT unnest(?)", [same])
        for name in COLUMNS:
            old = f" UNION ALL SELECT *, rowid FROM old.main.{name} WHERE run IN (SELECT run FROM same)" if same else ""
            connection.execute(
                f"CREATE TABLE made.main.{name} AS SELECT * EXCLUDE (place) FROM (SELECT *, rowid AS place FROM {name}{old}) ORDER BY run, place"
            )
        connection.execute("DETACH made")


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
