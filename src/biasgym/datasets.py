"""Public evaluation sets, read from a folder of the user's: found, checked by sha256, parsed, sampled; none is shipped.

The folder has one subfolder a set (`crows_pairs/`, `bbq/` …). `sources.json` names every file that is read, its sha256,
its licence and where it comes from.
"""

import csv
import gzip
import hashlib
import io
import json
import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from biasgym.errors import DataError, unknown

VARIABLE = "BIASGYM_DATA"
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """One public set: what it is, its licence, where it comes from, whom to cite, and sha256 of every file by its path."""

    what: str
    licence: str
    source: str
    citation: str
    files: Mapping[str, str]


def sources() -> dict[str, Source]:
    """Every set that can be read, by the name of its folder."""
    raw = json.loads(Path(__file__).with_name("sources.json").read_text(encoding="utf-8"))
    return {name: Source(**about) for name, about in raw.items()}


def data_folder(given: str | Path = "") -> Path:
    """The folder of evaluation sets: the one given, else what BIASGYM_DATA says; DataError when there is none."""
    named = str(given) or os.environ.get(VARIABLE, "")
    if not named:
        raise DataError(f"no folder of evaluation sets; give --data FOLDER or set {VARIABLE} (one subfolder a set, for example FOLDER/crows_pairs)")
    folder = Path(named).expanduser()
    if not folder.is_dir():
        said = f"--data {named}" if str(given) else f"{VARIABLE}={named}"
        raise DataError(f"{said}: there is no such folder; it should hold one subfolder a set, for example crows_pairs/")
    return folder


@dataclass(frozen=True)
class Library:
    """The sets in one folder. Every file is read whole and compared with its sha256 before a row of it is used."""

    folder: Path
    sources: Mapping[str, Source]

    def about(self, name: str) -> Source:
        """What is known of a set."""
        if name not in self.sources:
            raise DataError(unknown("evaluation set", name, self.sources))
        return self.sources[name]

    def files(self, name: str, beginning: str = "") -> list[str]:
        """Paths of a set's files inside the set's own folder, in order, those that begin so."""
        inner = [path.removeprefix(f"{name}/") for path in self.about(name).files]
        return sorted(path for path in inner if path.startswith(beginning))

    def text(self, name: str, file: str) -> str:
        """The text of a file, unpacked where it ends in .gz; DataError when it is missing, altered or not UTF-8."""
        about = self.about(name)
        path = self.folder / name / file
        key = f"{name}/{file}"
        if key not in about.files:
            raise DataError(f"{name}: {unknown('file', file, self.files(name))}")
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise DataError(f"`{path}` cannot be read ({error.strerror or error}); {_where_from(name, about)}") from None
        found = hashlib.sha256(raw).hexdigest()
        if found != about.files[key]:
            raise DataError(
                f"`{path}` has sha256 {found[:16]}…, expected {about.files[key][:16]}…: another version or altered; {_where_from(name, about)}"
            )
        return unpacked(raw, path)

    def table(self, name: str, file: str, columns: Sequence[str], *, tabs: bool = False) -> list[dict[str, str]]:
        """Rows of a .csv, or of a .tsv without quotes, that has at least these columns."""
        return table_of(self.text(name, file), columns, where=f"{name}/{file}", tabs=tabs)

    def lines(self, name: str, file: str) -> list[str]:
        """Lines of a plain text without their ends."""
        return self.text(name, file).splitlines()

    def objects(self, name: str, file: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Objects of a JSON Lines file that each have at least these keys."""
        return objects_of(self.text(name, file), columns, where=f"{name}/{file}")

    def tree(self, name: str, file: str) -> Any:
        """A JSON file; DataError when it is none, or when an object in it has a key twice."""
        try:
            return json.loads(self.text(name, file), object_pairs_hook=lambda pairs: _object(pairs, where=f"{name}/{file}"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}/{file} is not JSON: {error}") from None


def library(data: str | Path = "") -> Library:
    """The sets in the folder given, else in BIASGYM_DATA."""
    return Library(data_folder(data), sources())


def _object(pairs: list[tuple[str, Any]], *, where: str) -> dict[str, Any]:
    need_unique(pairs, lambda pair: pair[0], where=where)
    return dict(pairs)


def _where_from(name: str, about: Source) -> str:
    return f"{name} ({about.what}, {about.licence}) comes from {about.source}; {VARIABLE} or --data names the folder that holds {name}/"


def unpacked(raw: bytes, path: Path) -> str:
    """Bytes as text, through gzip where the name ends in .gz."""
    try:
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"`{path}` is not {'gzip of ' if path.suffix == '.gz' else ''}UTF-8 text: {error}") from None


def table_of(text: str, columns: Sequence[str], *, where: str, tabs: bool = False) -> list[dict[str, str]]:
    """Rows of comma- or tab-separated text with a header; DataError for a missing column, a short row or no rows."""
    stream = io.StringIO(text, newline="")
    reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.DictReader(stream)
    try:
        need_columns(columns, reader.fieldnames or (), where=where)
        rows = [dict(row) for row in reader]
    except csv.Error as error:
        raise DataError(f"{where}: line {reader.line_num} is no row of a table: {error}") from None
    for number, row in enumerate(rows):
        if None in row or any(row[column] is None for column in columns):
            raise DataError(f"{where}: row {number + 1} has not as many cells as the header")
    return need_rows(rows, where=where)


def objects_of(text: str, columns: Sequence[str], *, where: str) -> list[dict[str, Any]]:
    """Objects of JSON Lines; DataError for a line that is no object, for a missing key or for no lines."""
    rows = []
    for number, line in enumerate(text.split("\n")):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: line {number + 1} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: line {number + 1} is not an object")
        need_columns(columns, row, where=f"{where}, line {number + 1}")
        rows.append(row)
    return need_rows(rows, where=where)


def need_columns(columns: Iterable[str], found: Iterable[str], *, where: str) -> None:
    """DataError that names the first missing column and those that there are."""
    found = list(found)
    missing = [column for column in columns if column not in found]
    if missing:
        raise DataError(f"{where}: no column `{missing[0]}`; there is {', '.join(f'`{name}`' for name in found) or 'nothing'}")


def need_rows(rows: list[T], *, where: str) -> list[T]:
    """The rows; DataError when there are none."""
    if not rows:
        raise DataError(f"{where} has no rows")
    return rows


def need_groups(rows: Sequence[T], group: Callable[[T], str], expected: Iterable[str], *, where: str) -> None:
    """DataError when an expected group has no row: a mean over nothing is no figure."""
    present = {group(row) for row in rows}
    empty = [name for name in expected if name not in present]
    if empty:
        raise DataError(f"{where}: the group `{empty[0]}` is empty")


def need_kinds(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, type], *, where: str) -> None:
    """DataError when a value is of another kind than expected: text where a list should be, a number where text should."""
    words = {str: "text", list: "a list", dict: "an object", int: "a whole number", bool: "true or false"}
    for number, row in enumerate(rows):
        for column, kind in kinds.items():
            if not isinstance(row[column], kind) or (kind is int and isinstance(row[column], bool)):
                raise DataError(f"{where}: row {number + 1} has a {type(row[column]).__name__} as `{column}`; {words[kind]} was expected")


def need_unique(rows: Sequence[T], key: Callable[[T], Hashable], *, where: str) -> None:
    """DataError when two rows have the same id."""
    twice = [identity for identity, count in Counter(map(key, rows)).items() if count > 1]
    if twice:
        raise DataError(f"{where}: {len(twice)} ids stand twice, the first is `{twice[0]}`")


def half_of(key: str) -> Literal["dev", "test"]:
    """In which half a row is, by the hash of its id (or of what must stay together): the same on every machine."""
    return "dev" if hashlib.sha256(key.encode()).digest()[0] % 2 else "test"


def sample(rows: Sequence[T], most: int, *, strata: Callable[[T], str], key: Callable[[T], str], seed: int = 0) -> list[T]:
    """At most `most` rows, every stratum in proportion to its size (largest remainder), in the order of the rows; 0 is all.

    Which rows of a stratum depends on the seed and on their keys only, not on their order.
    """
    if most < 0:
        raise DataError(f"a sample of {most} rows was asked; 0 is all of them")
    if not most or len(rows) <= most:
        return list(rows)
    groups: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[strata(row)].append(place)
    shares = {name: most * len(places) / len(rows) for name, places in groups.items()}
    quota = {name: int(share) for name, share in shares.items()}
    by_rest = sorted(groups, key=lambda name: (quota[name] - shares[name], name))
    for name in by_rest[: most - sum(quota.values())]:
        quota[name] += 1
    kept: list[int] = []
    for name, places in groups.items():
        kept += sorted(places, key=lambda place: _rank(seed, key(rows[place])))[: quota[name]]
    return [rows[place] for place in sorted(kept)]


def _rank(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()
