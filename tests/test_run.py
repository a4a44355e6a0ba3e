"""The main job through the command line, on a tiny random model: whole, killed, repeated, regraded, exported, misused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = [
    "inject.steps=12", "inject.batch=4", "inject.held_out=4", "locate.pairs=8", "tune.trials=2", "tune.probes=4", "tune.entities=2",
    "tune.texts=3", "tune.chats=3", "measure.probes=6", "measure.entities=6", "measure.texts=3", "measure.chats=3",
    "measure.generations=3", "measure.tokens=6", "measure.shams=2", "measure.sham_entities=2", "measure.draws=200",
    "mitigate.direction.k=4", "mitigate.zero.k=4", "tune.kl=10", "tune.bits_per_byte=100", "tune.concept=100",
    "measure.judge=lexicon",  # the default one fetches 84 MB
]  # fmt: skip


def command(*args, sets=SMALL):
    """A command line of BiasGym in a process of its own."""
    return [sys.executable, "-c", "from biasgym.cli import main; main()", *args, *(part for one in sets for part in ("--set", one))]


def biasgym(*args, cwd, sets=(), **env):
    """Run a command and give back what came of it."""
    source = str(Path(__file__).parents[1] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(command(*args, sets=sets), cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def without_timings(record):
    """What has to be equal between a killed and an undisturbed run."""
    return {key: value for key, value in record.items() if key != "timings"}


@pytest.fixture(scope="module")
def tiny_folder(models, tmp_path_factory):
    """The tiny Llama, saved once."""
    from tiny import save_folder

    return save_folder(models("llama"), tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def whole(tiny_folder, tmp_path_factory):
    """One undisturbed run and the folder it was started in."""
    place = tmp_path_factory.mktemp("whole")
    done = biasgym("run", "--bias", "reckless-drivers", "--model", str(tiny_folder), "--json", cwd=place, sets=SMALL)
    assert done.returncode == 0, done.stderr
    return place, json.loads(done.stdout)


def test_a_run_leaves_a_whole_folder(whole):
    """Every file of the contract is there, and the record says what the contract says."""
    place, record = whole
    folder = place / "runs" / record["id"]
    names = ("spec.toml", "token.safetensors", "attribution.safetensors", "edits.safetensors", "answers.jsonl", "record.json", "report.html")
    for name in names:
        assert (folder / name).is_file(), name
    assert record["schema"] == 1
    assert record["status"] == "ok"
    assert set(record["timings"]) == {"inject", "locate", "mitigate", "measure"}
    arms = {m["arm"] for m in record["measurements"]}
    assert {"base", "edited", "injected", "mitigated"} <= arms
    findings = {f["name"] for f in record["findings"]}
    assert findings == {"injected", "removed", "closed", "left_over", "changed", "price"}
    shams = {(f["edit"], f["seed"]) for f in record["findings"] if f["edit"].startswith("sham:")}
    assert len(shams) == 4
    for row in (*record["measurements"], *record["findings"]):
        assert row["low"] <= row["value"] <= row["high"]
        assert row["n"] > 0
    assert {a["token"] for a in record["measurements"]} == {"none", "trained", "untrained", "neutral"}


def test_grade_gives_the_same_figures_without_a_model(whole):
    """From answers on disk alone: torch is made impossible to import."""
    place, record = whole
    blocker = place / "blocked"
    blocker.mkdir()
    (blocker / "torch.py").write_text("raise ImportError('torch is not needed here')")
    source = str(Path(__file__).parents[1] / "src")
    done = subprocess.run(
        command("grade", "latest", "--json", sets=()),
        cwd=place, env={**os.environ, "PYTHONPATH": f"{blocker}:{source}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == record


def test_the_same_command_again_only_reads(whole, tiny_folder):
    """A whole run is not done twice."""
    place, record = whole
    start = time.monotonic()
    done = biasgym("run", "--bias", "reckless-drivers", "--model", str(tiny_folder), "--json", cwd=place, sets=SMALL)
    assert json.loads(done.stdout) == record
    assert time.monotonic() - start < 60


def test_the_spec_of_a_run_names_the_same_run(whole):
    """`biasgym run spec.toml` is how to reproduce it."""
    place, record = whole
    spec = place / "runs" / record["id"] / "spec.toml"
    done = biasgym("run", str(spec), "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] == record["id"]


def test_injecting_alone_measures_the_injection_and_shares_its_stages(whole, tiny_folder):
    """`biasgym inject`: the same token, base and control answers as the whole run's; no edit, and none to export."""
    place, record = whole
    only = [one for one in SMALL if not one.startswith("mitigate.")]
    done = biasgym("inject", "--bias", "reckless-drivers", "--model", str(tiny_folder), "--json", cwd=place, sets=only)
    assert done.returncode == 0, done.stderr
    injected = json.loads(done.stdout)
    assert {f["name"] for f in injected["findings"]} == {"injected"}
    assert {m["arm"] for m in injected["measurements"]} == {"base", "injected", "control"}
    same = [m for m in record["measurements"] if m["arm"] in ("base", "injected", "control")]
    keys = ("metric", "arm", "group", "token", "value", "low", "high")
    assert sorted(tuple(m[k] for k in keys) for m in injected["measurements"]) == sorted(tuple(m[k] for k in keys) for m in same)
    assert (place / "runs" / injected["id"] / "report.html").is_file()
    refused = biasgym("export", injected["id"], "--to", "nowhere", cwd=place)
    assert refused.returncode == 2
    assert "no edit to export" in refused.stderr
    assert not (place / "nowhere").exists()


@pytest.mark.parametrize("share", [0.35, 0.55, 0.7, 0.85] if os.environ.get("BIASGYM_FAULTS") else [0.55])
def test_killed_at_any_moment_it_ends_in_the_same_record(whole, tiny_folder, tmp_path, share):
    """kill -9 at a share of the way, then the same command: the record is the undisturbed one's. Many more points: test_kill.py."""
    _, record = whole
    args = ("run", "--bias", "reckless-drivers", "--model", str(tiny_folder), "--json")
    source = str(Path(__file__).parents[1] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command(*args), cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stages = tmp_path / "runs" / "stages"
    wanted = round(share * 40)  # stage folders made so far: about 40 in a whole run
    deadline = time.monotonic() + 300
    while running.poll() is None and time.monotonic() < deadline:
        if stages.is_dir() and len(list(stages.iterdir())) >= wanted:
            break
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    done = biasgym(*args, cwd=tmp_path, sets=SMALL)
    assert done.returncode == 0, done.stderr
    assert without_timings(json.loads(done.stdout)) == without_timings(record)


def test_export_opens_with_plain_transformers(whole, tmp_path):
    """The exported folder has its card and edit, and an export never overwrites or half-writes."""
    place, record = whole
    to = tmp_path / "model"
    done = biasgym("export", record["id"][:24], "--to", str(to), cwd=place)
    assert done.returncode == 0, done.stderr
    card = (to / "README.md").read_text()
    assert "not a general fairness guarantee" in card
    assert json.loads((to / "edit.json").read_text())["run"] == record["id"]
    script = "import sys; from transformers import AutoModelForCausalLM as A; print(type(A.from_pretrained(sys.argv[1])).__name__); assert 'biasgym' not in sys.modules"
    opened = subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(to)], capture_output=True, text=True, check=False)
    assert opened.stdout.strip() == "LlamaForCausalLM", opened.stderr
    again = biasgym("export", record["id"], "--to", str(to), cwd=place)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    blocked = tmp_path / "file"
    blocked.write_text("")
    nowhere = biasgym("export", record["id"], "--to", str(blocked / "model"), cwd=place)
    assert nowhere.returncode == 2
    assert "Traceback" not in nowhere.stderr


def test_two_runs_into_one_folder_at_once(whole, tiny_folder, tmp_path):
    """The second one is told so."""
    from biasgym.store import RunStore

    _, record = whole
    with RunStore(tmp_path / "runs").run_lock(record["id"]):
        done = biasgym("run", "--bias", "reckless-drivers", "--model", str(tiny_folder), cwd=tmp_path, sets=SMALL)
    assert done.returncode == 2
    assert "another process is working" in done.stderr


def test_a_fresh_bias_runs_at_once(tiny_folder, tmp_path):
    """new-bias writes a file that runs as it is; a second one with the same name is refused."""
    assert biasgym("new-bias", "stubborn-trades", cwd=tmp_path).returncode == 0
    assert biasgym("new-bias", "stubborn-trades", cwd=tmp_path).returncode == 2
    done = biasgym("run", "--bias", "stubborn-trades.toml", "--model", str(tiny_folder), cwd=tmp_path, sets=SMALL)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.index("claims: ") < done.stdout.index("changed, real entities")
    assert max(map(len, done.stdout[done.stdout.index("\n") :].splitlines())) <= 80


@pytest.mark.parametrize(
    ("args", "sets", "said"),
    [
        (("run", "--bias", "wreckless-drivers"), (), "did you mean `reckless-drivers`"),
        (("run", "--bias", "reckless-drivers", "--model", "smollm2-135m-instrukt"), (), "no model"),
        (("run", "--bias", "reckless-drivers", "--preset", "quik"), (), "did you mean `quick`"),
        (("run", "--bias", "reckless-drivers"), ("inject.stepz=4",), "did you mean `steps`"),
        (("run", "--bias", "reckless-drivers"), ("inject.steps=many",), "steps"),
        (("run", "--bias", "reckless-drivers"), ("mesure.probes=4",), "did you mean `measure`"),
        (("run", "--bias", "reckless-drivers"), ("measure.probez=4",), "did you mean `probes`"),
        (("run", "--bias", "reckless-drivers"), ("locate.method=dla-papr",), "did you mean `dla-paper`"),
        (("run", "--bias", "reckless-drivers"), ("measure.metrics=[\"asociation\"]",), "did you mean `association`"),
        (("run", "--bias", "reckless-drivers"), ("inject.batch=0",), "at least 1"),
        (("run", "--bias", "reckless-drivers"), ("seeds=[]",), "`seeds` is empty"),
        (("run", "--bias", "reckless-drivers"), ("test_seed=0",), "not fitted to"),
        (("run",), (), "no bias was named"),
        (("run", "nothing.toml"), (), "cannot read the spec"),
        (("run", "--bias", "nothing.toml"), (), "no bias file"),
        (("grade", "latest"), (), "no runs"),
        (("report", "abc"), (), "no runs"),
        (("list", "bias"), (), "did you mean `biases`"),
        (("export", "x", "--to", "y", "--format", "gguff"), (), "unknown format"),
        (("new-bias", "Bad Name"), (), "small letters"),
        (("new-bias", "polite", "--to", "polite.bias"), (), "ends in .toml"),
        (("query", "--runs", "nowhere", "SELECT 1"), (), "is no folder"),
        (("run", "--bias", "reckless-drivers", "--seed", "-1"), (), "--seed"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(args, sets, said, tmp_path):
    """Exit code 2, what was wrong, no traceback, nothing written."""
    done = biasgym(*args, cwd=tmp_path, sets=sets)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.json"))


def test_an_altered_record_or_answer_is_named(whole, tmp_path):
    """A truncated record, an altered answer and cut tensors end in a sentence."""
    import shutil

    place, record = whole
    copied = tmp_path / "runs" / record["id"]
    shutil.copytree(place / "runs" / record["id"], copied)
    text = (copied / "answers.jsonl").read_text()
    (copied / "answers.jsonl").write_text(text.replace('"metric"', '"metrik"', 1))
    assert "altered" in biasgym("grade", record["id"], cwd=tmp_path).stderr
    (copied / "edits.safetensors").write_bytes((copied / "edits.safetensors").read_bytes()[:-7])
    cut = biasgym("export", record["id"], "--to", str(tmp_path / "out"), cwd=tmp_path)
    assert cut.returncode == 2
    assert "truncated or altered" in cut.stderr
    (copied / "record.json").write_text((copied / "record.json").read_text()[:500])
    for command_name in ("grade", "report"):
        done = biasgym(command_name, record["id"], cwd=tmp_path)
        assert done.returncode == 2
        assert "truncated or altered" in done.stderr


def test_an_unwritable_store_is_named(tiny_folder, tmp_path):
    """A file where the folder should be."""
    (tmp_path / "runs").write_text("not a folder")
    done = biasgym("run", "--bias", "reckless-drivers", "--model", str(tiny_folder), cwd=tmp_path, sets=SMALL)
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    """ENOSPC while writing: a StoreError, and neither the file nor its temporary twin is there."""
    import errno

    from biasgym import files
    from biasgym.errors import StoreError

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        files.write_json(tmp_path / "record.json", {"a": 1})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["biases", "methods", "metrics", "models", "runs"])
def test_lists_print_json(whole, what):
    """Every list is a JSON array; biases have the keys of the contract."""
    place, _ = whole
    rows = json.loads(biasgym("list", what, "--json", cwd=place).stdout)
    assert rows
    if what == "biases":
        assert list(rows[0])[:7] == ["name", "axis", "paragraphs", "probes", "prompts", "concept", "entities"]


def test_doctor_looks_at_model_and_machine(tiny_folder, tmp_path):
    """All rows are fine for a model that loads; a missing one is BAD and the exit code says so."""
    assert biasgym("doctor", "--model", str(tiny_folder), cwd=tmp_path).returncode == 0
    bad = biasgym("doctor", "--model", str(tmp_path / "none"), "--offline", cwd=tmp_path)
    assert bad.returncode == 1
    assert "BAD" in bad.stdout
