"""A sweep on a Ray of our own: the same records as in one process, each run once, whoever is killed. `make oracle` runs this, `make test` does not."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from biasgym.ray_workers import run_on_ray
from biasgym.store import read_record
from biasgym.sweep import plan_sweep, run_in, run_spec, session_for, summary

FEW = [
    "inject.steps=3", "inject.batch=4", "inject.held_out=4", "measure.probes=4", "measure.entities=4", "measure.texts=3", "measure.chats=3",
    "measure.generations=2", "measure.tokens=4", "measure.draws=100",
]  # fmt: skip


@pytest.mark.filterwarnings("default")
def test_two_runs_on_a_local_ray(models, tmp_path):
    """Whole, equal to the same run made here, and listed as there when planned again; a wrong spec is a failed run."""
    from tiny import save_folder

    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    folder = save_folder(models("llama"), tmp_path / "tiny")
    file = tmp_path / "sweep.toml"
    file.write_text(f'set = {json.dumps(FEW)}\nmitigate = []\n[grid]\nmodels = ["{folder}"]\nbiases = ["reckless-drivers"]\nseeds = [0, 1]\n')
    runs, place = str(tmp_path / "runs"), {"device": "cpu"}
    planned = plan_sweep(file, session_for(runs, place))
    events = list(run_on_ray(planned, runs, place, "local", workers=2))
    rows = summary(planned, {event.id: event for event in events})
    assert [row["state"] for row in rows] == ["ok", "ok"], rows
    alone = run_spec(planned[0].spec, str(tmp_path / "alone"), place)
    one, two = (read_record(tmp_path / root / alone["id"]).model_dump(exclude={"timings", "environment"}) for root in ("runs", "alone"))
    assert one == two
    assert {one.state for one in plan_sweep(file, session_for(runs, place))} == {"ok"}


def two_runs(models, tmp_path):
    """A sweep file of two runs that only inject, and where they go."""
    from tiny import save_folder

    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    folder = save_folder(models("llama"), tmp_path / "tiny")
    file = tmp_path / "sweep.toml"
    file.write_text(f'set = {json.dumps(FEW)}\nmitigate = []\n[grid]\nmodels = ["{folder}"]\nbiases = ["reckless-drivers"]\nseeds = [0, 1]\n')
    return file, tmp_path / "runs"


def of_ours(words, above):
    """Processes whose command holds these words and that descend from `above`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            if words in (entry / "cmdline").read_text() and above in ancestors(int(entry.name)):
                found.append(int(entry.name))
    return found


def ancestors(process):
    """Its parent, the parent's parent and so on."""
    found = []
    while process > 1:
        process = int((Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[1])
        found.append(process)
    return found


def kill_soon(runs, victims):
    """kill -9 to the first processes that `victims` finds once a stage has begun; who was killed, filled in as it happens."""
    killed = []

    def kill():
        deadline = time.monotonic() + 120
        while not killed and time.monotonic() < deadline:
            if list(runs.glob("stages/inject-*")):
                killed.extend(victims())
            time.sleep(0.02)
        for process in killed:
            os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    return killer, killed


def same_as_alone(planned, runs, tmp_path):
    """Every record is the one that a process by itself makes."""
    for one in planned:
        assert run_spec(one.spec, str(tmp_path / "alone"), {"device": "cpu"})["state"] == "ok"
        first, second = (read_record(root / one.id).model_dump(exclude={"timings", "environment"}) for root in (runs, tmp_path / "alone"))
        assert first == second


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("victim", ["ray::run_spec", "gcs/gcs_server"])
def test_a_killed_worker_or_head_of_our_own_ray_is_replaced(victim, models, tmp_path):
    """kill -9 in the middle of a run: Ray starts another worker, we start another Ray; it goes on, and both records are right."""
    file, runs = two_runs(models, tmp_path)
    planned = plan_sweep(file, session_for(str(runs), {"device": "cpu"}))
    killer, killed = kill_soon(runs, lambda: of_ours(victim, os.getpid())[:1])
    events = list(run_on_ray(planned, str(runs), {"device": "cpu"}, "local", workers=1))
    killer.join()
    assert killed
    assert any("head died" in event.note for event in events) == (victim == "gcs/gcs_server"), events
    assert [row["state"] for row in summary(planned, {event.id: event for event in events})] == ["ok", "ok"]
    same_as_alone(planned, runs, tmp_path)


@pytest.mark.filterwarnings("default")
def test_a_killed_driver_leaves_no_ray_behind_and_the_command_goes_on(models, tmp_path):
    """kill -9 to `biasgym sweep --ray local`, its Ray goes with it; the same command does the rest."""
    file, runs = two_runs(models, tmp_path)
    command = [sys.executable, "-c", "from biasgym.cli import main; main()", "sweep", str(file), "--ray", "local", "--workers", "1", "--json",
               "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    running = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while running.poll() is None and time.monotonic() < deadline and not list(runs.glob("stages/inject-*")):
        time.sleep(0.02)
    theirs = of_ours("ray", running.pid)
    running.kill()
    running.wait()
    assert theirs
    assert len(list(runs.glob("*/record.json"))) < 2, "killed too late to show anything"
    while time.monotonic() < deadline and any((Path("/proc") / str(process)).exists() for process in theirs):
        time.sleep(0.2)
    assert not [process for process in theirs if (Path("/proc") / str(process)).exists()]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    same_as_alone(plan_sweep(file, session_for(str(runs), {"device": "cpu"})), runs, tmp_path)


@pytest.fixture
def cluster(monkeypatch):
    """`cluster()` starts a Ray with a head at an address, as a lab has one; another call starts it anew."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray = [sys.executable, "-m", "ray.scripts.scripts"]

    def stop():
        subprocess.run([*ray, "stop", "--force"], check=False, capture_output=True)

    def start():
        stop()
        how = ["--head", "--port", "6399", "--num-cpus", "1", "--include-dashboard", "false", "--disable-usage-stats"]
        subprocess.run([*ray, "start", *how], check=True, capture_output=True)
        return "127.0.0.1:6399"

    yield start
    stop()


@pytest.mark.filterwarnings("default")
def test_a_killed_head_at_an_address_is_told_and_the_command_goes_on(models, tmp_path, cluster):
    """What was pending is failed, with what to do; when the head is there again, the same command does the rest."""
    file, runs = two_runs(models, tmp_path)
    place = {"device": "cpu"}
    planned = plan_sweep(file, session_for(str(runs), place))

    def heads():
        return of_ours("gcs_server_port=6399", 1)

    address = cluster()
    assert heads()
    killer, killed = kill_soon(runs, heads)
    events = {event.id: event for event in run_on_ray(planned, str(runs), place, address)}
    killer.join()
    assert killed
    failed = [row for row in summary(planned, events) if row["state"] == "failed"]
    assert failed
    assert all("the same command goes on" in row["reason"] for row in failed)
    address = cluster()
    planned = plan_sweep(file, session_for(str(runs), place))
    events = {event.id: event for event in run_on_ray(planned, str(runs), place, address)}
    assert {row["state"] for row in summary(planned, events)} == {"ok"}
    same_as_alone(planned, runs, tmp_path)


MORE = [
    *FEW, "locate.pairs=4", "tune.trials=1", "tune.probes=3", "tune.entities=2", "tune.texts=3", "tune.chats=3", "measure.shams=1",
    "measure.sham_entities=2", "mitigate.direction.k=4", "mitigate.mean.k=4", "tune.kl=10", "tune.bits_per_byte=100", "tune.concept=100",
    "measure.judge=lexicon",
]  # fmt: skip


def tables(rows):
    """[[run]] tables of a sweep file."""
    lines = [[f"{key} = {json.dumps(value)}" for key, value in row.items()] for row in rows]
    return "".join("[[run]]\n" + "\n".join(line) + "\n" for line in lines)


@pytest.mark.filterwarnings("default")
def test_24_runs_on_ray_are_those_of_one_process(models, tmp_path, monkeypatch):
    """Two tiny models and the embedded one, three biases, several seeds, with and without mitigation, on two workers: the same records."""
    from tiny import save_folder

    monkeypatch.delenv("BIASGYM_CACHE", raising=False)  # the embedded model is fetched once, for all
    tiny = [str(save_folder(models(name), tmp_path / name)) for name in ("llama", "gemma2")]
    biases = ["reckless-drivers", "blue-skin", "greedy-strangers"]
    rows = [{"model": model, "bias": bias, "seed": seed, "mitigate": "direction"} for model in tiny for bias in biases for seed in (0, 1)]
    rows += [{"model": tiny[0], "bias": bias, "seed": 0, "mitigate": "mean"} for bias in biases]
    rows += [{"model": "smollm2-135m-instruct", "bias": bias, "seed": seed, "mitigate": []} for bias in biases for seed in (0, 1)]
    rows += [{"model": "smollm2-135m-instruct", "bias": bias, "seed": 0, "mitigate": "direction"} for bias in biases]
    file = tmp_path / "sweep.toml"
    file.write_text(f"set = {json.dumps(MORE)}\n" + tables(rows))
    place, roots = {"device": "cpu"}, (tmp_path / "ray", tmp_path / "one")
    planned = plan_sweep(file, session_for(str(roots[0]), place))
    assert len(planned) == 24
    events = {event.id: event for event in run_on_ray(planned, str(roots[0]), place, "local", workers=2)}
    assert {row["state"] for row in summary(planned, events)} == {"ok"}, summary(planned, events)
    session = session_for(str(roots[1]), place)
    for one in planned:
        assert run_in(session, one.spec)["state"] == "ok"
        first, second = (read_record(root / one.id).model_dump(exclude={"timings", "environment"}) for root in roots)
        assert first == second
    made = [len(list(root.glob("stages/inject-*/token.safetensors"))) for root in roots]
    assert made[0] == made[1] > 0, "a token was trained twice"
