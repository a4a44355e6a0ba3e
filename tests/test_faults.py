"""What goes wrong around a run: kills, full and read-only disks, cut and altered files, two writers, a clock that jumps back."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from biasgym import files
from biasgym.listing import listed
from biasgym.query import read_ledger
from biasgym.store import RunStore, read_record
from biasgym.sweep import plan_sweep, run_in, run_spec, session_for, summary
from biasgym.workers import run_local

FEW = [
    "inject.steps=3", "inject.batch=4", "inject.held_out=4", "measure.probes=4", "measure.entities=4", "measure.texts=3", "measure.chats=3",
    "measure.generations=2", "measure.tokens=4", "measure.draws=100",
]  # fmt: skip
CPU = {"device": "cpu"}
MANY = bool(os.environ.get("BIASGYM_FAULTS"))  # `make faults`


@pytest.fixture(scope="module")
def sweep_file(models, tmp_path_factory):
    """Two runs that only inject, on the tiny Llama, of two seeds."""
    from tiny import save_folder

    place = tmp_path_factory.mktemp("sweep")
    folder = save_folder(models("llama"), place / "tiny")
    file = place / "sweep.toml"
    file.write_text(f'set = {json.dumps(FEW)}\nmitigate = []\n[grid]\nmodels = ["{folder}"]\nbiases = ["reckless-drivers"]\nseeds = [0, 1]\n')
    return file


@pytest.fixture(scope="module")
def undisturbed(sweep_file, tmp_path_factory):
    """Both runs, one after the other in this process: folder, plan and records."""
    root = tmp_path_factory.mktemp("undisturbed") / "runs"
    session = session_for(str(root), CPU)
    planned = plan_sweep(sweep_file, session)
    assert [run_in(session, one.spec)["state"] for one in planned] == ["ok", "ok"]
    return root, planned, [plain(root / one.id) for one in planned]


def plain(folder):
    """A record without its times."""
    return read_record(folder).model_dump(mode="json", exclude={"timings"})


@pytest.mark.parametrize("made", [1, 3, 5, 8, 12, 16] if MANY else [5])
def test_a_sweep_killed_with_its_driver_ends_in_the_same_records(made, sweep_file, undisturbed, tmp_path):
    """kill -9 to the command once so many stages are begun: its worker stops by itself, the same command does the rest."""
    _, planned, records = undisturbed
    command = [sys.executable, "-c", "from biasgym.cli import main; main()", "sweep", str(sweep_file), "--json", "--device", "cpu", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    stages = tmp_path / "runs" / "stages"
    running = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while running.poll() is None and time.monotonic() < deadline and len(list(stages.glob("*"))) < made:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not all((tmp_path / "runs" / one.id / "record.json").exists() for one in planned), "killed too late to show anything"
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [row["state"] for row in json.loads(done.stdout)] == ["ok", "ok"]
    assert [plain(tmp_path / "runs" / one.id) for one in planned] == records


@pytest.mark.parametrize("stage", ["inject", "measure"] if MANY else ["inject"])
def test_a_killed_worker_is_replaced_and_two_sweeps_share_a_folder(stage, sweep_file, undisturbed, tmp_path):
    """One sweep's first worker is killed while another sweep works in the same folder: both end whole, with the same records."""
    _, planned, records = undisturbed
    root = str(tmp_path / "runs")
    first = run_local(planned, root, CPU, workers=1, threads=1)
    second = run_local(planned, root, CPU, workers=1, threads=1)
    seen, other, killed = {}, {}, False
    for event in first:
        seen[event.id] = event
        if not other:
            started = next(second)  # its worker is on the way to the same first run
            other[started.id] = started
        if not killed and event.note.startswith(stage):
            killed = True
            workers = first.gi_frame.f_locals["crew"].workers
            workers[0].process.kill()
    other |= {event.id: event for event in second}
    assert killed
    assert {row["state"] for row in (*summary(planned, seen), *summary(planned, other))} == {"ok"}
    assert [plain(tmp_path / "runs" / one.id) for one in planned] == records


def test_a_worker_that_dies_always_or_hangs_is_given_up(undisturbed, tmp_path, monkeypatch):
    """After its second try the run is listed with the reason, and the sweep ends."""
    _, planned, _ = undisturbed
    (tmp_path / "sitecustomize.py").write_text("import sys, os\nif 'biasgym' in ' '.join(sys.orig_argv): sys.exit('no luck')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    events = list(run_local(planned, str(tmp_path / "runs"), CPU, workers=1, threads=1))
    assert [event.state for event in events if event.id == planned[0].id] == ["running", "waiting", "running", "failed"]
    assert "no luck" in events[-1].note
    (tmp_path / "sitecustomize.py").write_text("import sys, time\nif 'biasgym' in ' '.join(sys.orig_argv): time.sleep(600)\n")
    start = time.monotonic()
    events = list(run_local(planned[:1], str(tmp_path / "runs"), CPU, workers=1, threads=1, retries=0, patience=1.0))
    assert events[-1].state == "failed"
    assert "signal 9" in events[-1].note
    assert time.monotonic() - start < 20


def test_a_full_disk_fails_the_run_and_leaves_nothing_half_written(undisturbed, tmp_path, monkeypatch):
    """ENOSPC in every write after the twentieth: one sentence; with room again the same spec ends in the same record."""
    _, planned, records = undisturbed
    room, sync = [20], os.fsync

    def full(handle):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    session = session_for(str(tmp_path / "runs"), CPU)
    result = run_in(session, planned[0].spec)
    assert result["state"] == "failed"
    assert "No space left" in result["reason"]
    assert not list((tmp_path / "runs").rglob(".*-*"))  # temporary twins
    assert not (tmp_path / "runs" / planned[0].id / "record.json").exists()
    monkeypatch.setattr(files.os, "fsync", sync)
    assert run_in(session, planned[0].spec)["state"] == "ok"
    assert plain(tmp_path / "runs" / planned[0].id) == records[0]


def test_a_runs_folder_that_cannot_be_written_is_one_sentence(undisturbed, tmp_path):
    """A file where the folder should be; and, for whoever is not root, a folder without the right to write."""
    _, planned, _ = undisturbed
    (tmp_path / "runs").write_text("")
    places = [tmp_path / "runs"]
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        places.append(tmp_path / "locked")
    for place in places:
        result = run_spec(planned[0].spec, str(place), CPU)
        assert result["state"] == "failed"
        assert "cannot write" in result["reason"]


def cut(path):
    """Leave two thirds of a file."""
    raw = path.read_bytes()
    path.unlink()  # it may be linked from elsewhere
    path.write_bytes(raw[: len(raw) * 2 // 3])


@pytest.mark.parametrize("what", ["token.safetensors", "said.jsonl", "record.json"])
def test_a_cut_file_is_named_or_done_again(what, undisturbed, tmp_path):
    """Never a traceback, never another record: the run says which file is damaged, or mends it."""
    root, planned, records = undisturbed
    copied = tmp_path / "runs"
    shutil.copytree(root, copied)
    found = sorted(copied.rglob(what), key=lambda path: ("stages" not in path.parts, path))  # a run's own copy is only made anew
    assert found
    cut(found[0])
    if what != "record.json":
        for one in planned:
            (copied / one.id / "record.json").unlink()
    results = [run_spec(one.spec, str(copied), CPU) for one in planned]
    for one, result, record in zip(planned, results, records, strict=True):
        if result["state"] == "failed":
            assert "truncated or altered" in result["reason"], result
            assert not (copied / one.id / "failure.txt").exists()
        else:
            assert plain(copied / one.id) == record
    if what == "said.jsonl":
        assert {result["state"] for result in results} == {"ok"}
    else:
        assert "failed" in {result["state"] for result in results}


def test_an_altered_record_is_listed_and_left_out(undisturbed, tmp_path):
    """The others are still there to be asked."""
    root, planned, _ = undisturbed
    copied = tmp_path / "runs"
    shutil.copytree(root, copied)
    cut(copied / planned[0].id / "record.json")
    ledger = read_ledger(copied)
    assert [record.id for record in ledger.records] == [planned[1].id]
    assert [name for name, _ in ledger.skipped] == [planned[0].id]
    rows = {row["id"]: row["status"] for row in listed("runs", copied)}
    assert rows[planned[1].id] == "ok"
    assert rows[planned[0].id].startswith("unreadable")


def test_a_clock_that_jumps_back_changes_nothing(undisturbed, tmp_path, monkeypatch):
    """Stages from the future are read, timings are never negative, and nothing is done twice."""
    root, planned, records = undisturbed
    copied = tmp_path / "runs"
    shutil.copytree(root, copied)
    future = time.time() + 10 * 365 * 86400
    for path in copied.rglob("*"):
        os.utime(path, (future, future))
    (copied / planned[0].id / "record.json").unlink()
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert run_spec(planned[0].spec, str(copied), CPU)["state"] == "ok"
    record = read_record(copied / planned[0].id)
    assert all(seconds >= 0 for seconds in record.timings.values())
    assert plain(copied / planned[0].id) == records[0]
    assert set(RunStore(copied).runs()) == {one.id for one in planned}
