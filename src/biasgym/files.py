"""Files that are whole or not there: atomic writes, one writer at a time, JSON Lines that survive a kill."""

import fcntl
import json
import os
import re
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from biasgym.errors import StoreError

SUM = re.compile(rb'(?:, )?"#": "([0-9a-f]{8})"\}$')  # the end of a row: the CRC-32 of what stands before it


def need_room(path: Path) -> None:
    """Refuse a path that cannot be written, before anything is made for it. Raises StoreError."""
    if path.is_dir():
        raise StoreError(f"`{path}` is a folder; give the name of a file")
    _beside(path).unlink()


def _beside(path: Path) -> Path:
    """An empty temporary file in the folder of `path`, which is made where it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise StoreError(f"cannot write in `{path.parent}`: {error.strerror or error}; choose another folder") from None
    return Path(name)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; when the block ends well it becomes `path`, else nothing is left behind."""
    temporary = _beside(path)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise StoreError(f"cannot write `{path}`: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole; NaN and infinity are refused."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """A value as the text of a JSON file; NaN and infinity are refused."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file; StoreError when it is missing, cut off or altered into something else."""
    return json_of(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """A file's bytes; StoreError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read `{path}`: {error.strerror or error}") from None


def json_of(raw: bytes, path: Path) -> Any:
    """What the bytes of a JSON file mean; StoreError when they are cut off, altered, or nested without end."""
    try:
        return json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        raise StoreError(f"`{path}` is truncated or altered; remove it and run again") from None


def append_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Append one batch of rows to a JSON Lines file, in one write, on disk before it returns; a torn last line is cut off.

    Every row ends in its checksum under the key `#`, which `read_rows` checks and takes away.
    """
    text = "".join(_summed(row) for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as out:
            _mend_last_line(out)
            out.write(text.encode())
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise StoreError(f"cannot write `{path}`: {error.strerror or error}") from None


def _summed(row: dict[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    return f'{text[:-1]}{", " if row else ""}"#": "{zlib.crc32(text.encode()):08x}"}}\n'


def _row_of(line: bytes) -> Any:
    """What a line says, without its checksum; ValueError when it is not what was written. Older lines have no checksum."""
    found = SUM.search(line)
    if found:
        line = line[: found.start()] + b"}"
        if zlib.crc32(line) != int(found[1], 16):
            raise ValueError
    return json.loads(line, parse_constant=_refused)  # NaN and infinity are never written


def _refused(name: str) -> None:
    raise ValueError(name)


def _mend_last_line(file: IO[bytes]) -> None:
    """Where a kill left a last line without its end: a whole row gets its line break, half a row goes."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if file.read() in (b"", b"\n"):
        return
    file.seek(0)
    last = file.read().rpartition(b"\n")[2]
    try:
        _row_of(last)
    except (ValueError, RecursionError):
        file.truncate(size - len(last))
    else:
        file.write(b"\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file that we wrote; a last line cut off by a kill is left out, any other damage is an error."""
    if not path.is_file():
        return []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise StoreError(f"cannot read `{path}`: {error.strerror or error}") from None
    rows = []
    for number, line in enumerate(lines):
        if not line:
            continue
        try:
            rows.append(_row_of(line))
        except (ValueError, RecursionError):  # not JSON, or not UTF-8: a kill may cut a letter in two
            if number >= len(lines) - 1:
                break
            raise StoreError(f"`{path}` is altered in line {number + 1}; remove it and run again") from None
    return rows


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock file for the length of a block; the kernel frees it when the process dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise StoreError(f"cannot write in `{path.parent}`: {error.strerror or error}; choose another folder") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"another process is working in `{path.parent}`; wait for it or choose another folder") from None
        yield
    finally:
        os.close(handle)
