"""Files that are whole or not there: what a failure, a kill or a second process leaves behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import biasgym
from biasgym.errors import StoreError
from biasgym.files import append_rows, locked, read_json, read_rows, whole, write_json, write_text


def test_a_written_file_is_whole(tmp_path):
    """Folders are made, an older file is replaced, readable by others, nothing else is left in the folder."""
    path = tmp_path / "a" / "b.txt"
    write_text(path, "old")
    write_text(path, "new ✓")
    assert path.read_text(encoding="utf-8") == "new ✓"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("there", [False, True], ids=["new", "replaced"])
def test_an_exception_leaves_what_was_there(tmp_path, there):
    """Half a file is never seen, neither under its name nor under another."""
    path = tmp_path / "x.json"
    if there:
        path.write_text("old")

    def half():
        with whole(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert [p.name for p in tmp_path.iterdir()] == (["x.json"] if there else [])
    assert not there or path.read_text() == "old"


def test_what_cannot_be_written_is_said(tmp_path):
    """A folder where a file stands, a file where a folder stands."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="choose another folder"):
        write_text(tmp_path / "file" / "x", "y")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="cannot write"):
        write_text(tmp_path / "folder", "y")
    with pytest.raises(StoreError, match="cannot write"):
        append_rows(tmp_path / "folder", [{}])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_json_comes_back(tmp_path):
    """As it was; a missing, cut or altered file is an error that says what to do."""
    path = tmp_path / "x.json"
    write_json(path, {"a": [1, 2.5, None, "é"]})
    assert read_json(path) == {"a": [1, 2.5, None, "é"]}
    with pytest.raises(StoreError, match="cannot read"):
        read_json(tmp_path / "none.json")
    for content in (path.read_bytes()[:-6], b"\xff", b""):
        path.write_bytes(content)
        with pytest.raises(StoreError, match="truncated or altered"):
            read_json(path)


def test_rows_are_appended(tmp_path):
    """Batch by batch, in order; a file that is not there has no rows."""
    path = tmp_path / "deep" / "rows.jsonl"
    assert read_rows(path) == []
    append_rows(path, [{"a": 1}, {"a": "ü\u2028x"}])
    append_rows(path, [])
    append_rows(path, [{"a": 3}])
    assert [row["a"] for row in read_rows(path)] == [1, "ü\u2028x", 3]


@pytest.mark.parametrize("cut", [1, 2, 4, 6, 7])
def test_a_torn_last_line_is_left_out(tmp_path, cut):
    """Cut anywhere, in the middle of a letter too: the rows before it count, and new rows go after them."""
    path = tmp_path / "rows.jsonl"
    append_rows(path, [{"a": 1}, {"a": "é✓"}])
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    whole_row = cut == 1  # only the line break is missing
    kept = [{"a": 1}, {"a": "é✓"}] if whole_row else [{"a": 1}]
    assert read_rows(path) == kept
    append_rows(path, [{"a": 3}])
    assert read_rows(path) == [*kept, {"a": 3}]


def test_a_file_that_is_one_torn_line_starts_anew(tmp_path):
    """Nothing was whole, so nothing is kept."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": ')
    assert read_rows(path) == []
    append_rows(path, [{"a": 1}])
    assert read_rows(path) == [{"a": 1}]


@pytest.mark.parametrize("line", [b'{"a": ', b"\xff\xfe"])
def test_damage_before_the_last_line_is_an_error(tmp_path, line):
    """With the number of the line."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    with pytest.raises(StoreError, match="altered in line 2"):
        read_rows(path)


def test_rows_without_numbers_are_refused(tmp_path):
    """NaN is no JSON; nothing is written then."""
    path = tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match="JSON compliant"):
        append_rows(path, [{"a": 1}, {"a": float("inf")}])
    assert not path.exists()


def test_one_writer_at_a_time(tmp_path):
    """A second one is refused; afterwards the lock is free, also after an exception."""
    path = tmp_path / "folder" / ".lock"
    with locked(path), pytest.raises(StoreError, match="another process is working"), locked(path):
        pass
    with pytest.raises(KeyError), locked(path):
        raise KeyError
    with locked(path):
        pass


def test_a_killed_writer_frees_its_lock(tmp_path):
    """The kernel takes the lock from a dead process; who waits goes on."""
    path = tmp_path / ".lock"
    code = (
        "import time\nfrom pathlib import Path\nfrom biasgym.files import locked\n"
        f"with locked(Path({str(path)!r})):\n print('held', flush=True); time.sleep(60)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(biasgym.__file__).parent.parent)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="another process"), locked(path):
            pass
        holder.kill()
        holder.wait()
        start = time.monotonic()
        with locked(path, wait=True):
            assert time.monotonic() - start < 5


def test_a_killed_writer_leaves_the_file_before(tmp_path):
    """kill -9 in the middle of a write: the name still holds the whole old file."""
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom biasgym.files import whole\n"
        f"with whole(Path({str(path)!r})) as t:\n t.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(biasgym.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=False)
    assert done.returncode == -9
    assert json.loads(path.read_text()) == {"a": 1}
