"""Many runs from one file: what is planned, what is done once, what a failing run leaves alone, what memory allows."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from biasgym.errors import BiasGymError, SpecError
from biasgym.records import RunSpec
from biasgym.spec import resolve_spec
from biasgym.store import RunStore, finish, finished, read_record
from biasgym.sweep import Event, Planned, plan_sweep, run_spec, session_for, summary
from biasgym.workers import fitting, run_local, take_next

FEW = [
    "inject.steps=3", "inject.batch=4", "inject.held_out=4", "locate.pairs=4", "tune.trials=1", "tune.probes=4", "tune.entities=2",
    "tune.texts=3", "tune.chats=3", "measure.probes=4", "measure.entities=4", "measure.texts=3", "measure.chats=3",
    "measure.generations=2", "measure.tokens=4", "measure.shams=1", "measure.sham_entities=2", "measure.draws=100",
    "mitigate.zero.k=2",
]  # fmt: skip
CPU = {"device": "cpu"}


@pytest.fixture(scope="module")
def model(models, tmp_path_factory):
    """The tiny Llama, saved once."""
    from tiny import save_folder

    return save_folder(models("llama"), tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def sweep_file(model, tmp_path):
    """`sweep_file(text)` writes a sweep file that has `FEW` for all its runs; MODEL stands for the tiny model's folder."""

    def write(text, sets=("measure.probes=4",)):
        path = tmp_path / "sweep.toml"
        path.write_text(f"set = {json.dumps(list(sets))}\n" + text.replace("MODEL", str(model)))
        return path

    return write


def planned_by(path, tmp_path, **more):
    """The plan of a file, with runs under `runs`."""
    return plan_sweep(path, session_for(str(tmp_path / "runs"), CPU), **more)


def without_timings(record):
    """What has to be equal however a run was made."""
    return record.model_dump(mode="json", exclude={"timings"})


def test_a_grid_is_every_combination_once(sweep_file, tmp_path):
    """Methods by name, as tables and as lists; seeds shift the tokens; a listed run that the grid has already is not added."""
    text = """
    [grid]
    models = ["MODEL"]
    biases = ["reckless-drivers", "always-late"]
    methods = ["zero", {method = "direction"}, ["direction", "zero"], []]
    seeds = [0, 1]
    [[run]]
    model = "MODEL"
    bias = "always-late"
    mitigate = []
    seed = 1
    """
    planned = planned_by(sweep_file(text), tmp_path)
    assert len(planned) == len({one.id for one in planned}) == 2 * 4 * 2
    specs = [RunSpec.model_validate(one.spec) for one in planned]
    assert {spec.test_seed for spec in specs} == {2, 1002}
    assert {tuple(m.method for m in spec.mitigate) for spec in specs} == {("zero",), ("direction",), ("direction", "zero"), ()}
    paper = next(m for spec in specs for m in spec.mitigate if m.method == "zero")
    assert (paper.settings["k"], paper.locator, paper.tuned) == (30, "dla-paper", False)  # as the preset has it
    assert {spec.measure.probes for spec in specs} == {4}
    assert all(one.state == "waiting" for one in planned)


def test_a_shared_value_of_a_method_goes_where_that_method_is(sweep_file, tmp_path):
    """And one that reaches no run is an error, not a wish."""
    text = '[grid]\nmodels = ["MODEL"]\nbiases = ["always-late"]\nmethods = ["zero", "direction", []]\n'
    specs = [one.spec["mitigate"] for one in planned_by(sweep_file(text, ["mitigate.zero.k=5"]), tmp_path)]
    assert [spec[0]["settings"].get("k") if spec else None for spec in specs] == [5, None, None]
    with pytest.raises(SpecError, match="reaches no run"):
        planned_by(sweep_file(text.replace('"direction", ', ""), ["mitigate.direction.k=5"]), tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "asks for nothing"),
        ("[grid]\nmodel = ['x']\n", "did you mean `models`"),
        ("[grid]\nmodels = []\n", "something in it"),
        ("[grid]\nbiases = 'always-late'\n", "must be a list"),
        ("[grid]\nbiases = ['always-lat']\n", "always-late"),
        ("[grid]\nbiases = ['always-late']\nmethods = ['zerro']\n", "did you mean `zero`"),
        ("[grid]\nbiases = ['always-late']\nmethods = [4]\n", "a name, a table"),
        ("[grid]\nbiases = ['always-late']\nseeds = ['a']\n", "a whole number"),
        ("[grid]\nbiases = ['always-late']\npresets = ['quik']\n", "did you mean `quick`"),
        ("[[run]]\nbais = 'always-late'\n", "did you mean `bias`"),
        ("[grid]\nbiases = ['always-late']\n[extra]\na = 1\n", "unknown key `extra`"),
        ("[grid\n", "not valid TOML"),
    ],
)
def test_a_wrong_sweep_file_is_one_sentence(text, said, sweep_file, tmp_path):
    """Before anything runs, with the nearest right name."""
    with pytest.raises(BiasGymError, match=said):
        planned_by(sweep_file(text), tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_sweep_does_each_thing_once_and_goes_on_past_failures(sweep_file, tmp_path, model):
    """Two workers, four runs, one model that is not there: records as from one process; shared tokens trained once; a second start does nothing."""
    text = """
    [[run]]
    model = "MODEL"
    bias = "reckless-drivers"
    mitigate = []
    [[run]]
    model = "nowhere"
    bias = "reckless-drivers"
    [[run]]
    model = "MODEL"
    bias = "reckless-drivers"
    mitigate = ["zero"]
    [[run]]
    model = "MODEL"
    bias = "broken.toml"
    mitigate = []
    """
    (tmp_path / "broken.toml").write_text(
        'name = "broken"\nstereotype = ["a"]\nfoil = ["a"]\nentities = ["Spain", "Italy", "Norway", "Peru", "Chad"]\n'
    )
    path = sweep_file(text, FEW)
    with pytest.raises(BiasGymError):  # a bias that contradicts itself is the file's mistake
        planned_by(path, tmp_path)
    entities = '"Spain", "Italy", "Norway", "Peru", "Chad", "Mali", "Cuba"'
    (tmp_path / "broken.toml").write_text(f'name = "broken"\nstereotype = ["late"]\nfoil = ["late night"]\nentities = [{entities}]\n')
    planned = planned_by(path, tmp_path)
    assert [one.state for one in planned] == ["waiting", "failed", "waiting", "waiting"]
    events = list(run_local(planned, str(tmp_path / "runs"), CPU, workers=2, threads=1))
    rows = summary(planned, {event.id: event for event in events})
    assert [row["state"] for row in rows] == ["ok", "failed", "ok", "failed"], rows
    assert "no model `nowhere`" in rows[1]["reason"]
    assert "share their tokens" in rows[3]["reason"]
    store = RunStore(tmp_path / "runs")
    trained = [path.name for path in store.root.glob("stages/inject-*")]
    assert len(trained) == 5  # two fitted, one for the test, two controls: for both runs together
    other = run_spec(planned[2].spec, str(tmp_path / "alone"), CPU)
    assert other["state"] == "ok"
    one, two = (read_record(root / other["id"]) for root in (store.root, tmp_path / "alone"))
    assert without_timings(one) == without_timings(two)
    again = planned_by(path, tmp_path)
    assert [one.state for one in again] == ["ok", "failed", "ok", "waiting"]
    for name in ("0", "2"):
        assert again[int(name)].id == planned[int(name)].id


def test_run_spec_never_raises(tmp_path, model):
    """Plain data in, plain data out, whatever goes in."""
    for spec in ({}, {"model": 3}, {"model": str(model), "bias": "nobody"}):
        result = run_spec(spec, str(tmp_path / "runs"), CPU)
        assert (result["state"], bool(result["reason"])) == ("failed", True)
        json.dumps(result)
    assert run_spec({}, str(tmp_path / "runs"), {"devise": "cpu"})["state"] == "failed"


def job(number, bias="a", model="m"):
    """A planned run that is never run."""
    return Planned(f"run-{number}", str(number), {"model": model, "dtype": "float32", "bias": bias})


def test_workers_keep_out_of_each_others_way():
    """First a run that shares nothing with those in hand, then one for the model in memory, then the file's order."""
    jobs = [job(0), job(1), job(2, bias="b", model="n"), job(3, bias="b")]
    waiting = list(jobs)
    assert take_next(waiting, None, []) is jobs[0]
    assert take_next(waiting, jobs[0], [jobs[0]]) is jobs[3]
    assert take_next(waiting, jobs[0], [jobs[0], jobs[3]]) is jobs[2]
    assert take_next(waiting, None, [jobs[0], jobs[3]]) is jobs[1]
    assert not waiting


def test_memory_limits_workers_and_refuses_what_cannot_fit(sweep_file, tmp_path):
    """The plan is checked against free memory before anything starts."""
    planned = planned_by(sweep_file('[grid]\nmodels = ["MODEL"]\nbiases = ["reckless-drivers"]\nseeds = [0, 1]\n'), tmp_path)
    assert fitting(planned, CPU, 4, free=1 << 60) == (planned, 4, "")
    checked, workers, sentence = fitting(planned, CPU, 4, free=1 << 30)
    assert workers < 4
    assert "GiB" in sentence
    assert [one.state for one in checked] == ["waiting"] * 2
    checked, _, _ = fitting(planned, CPU, 4, free=1000)
    assert {one.state for one in checked} == {"failed"}
    assert "weights alone" in checked[0].reason


def test_a_model_that_cannot_be_sized_is_the_trouble_of_its_own_runs(model, tmp_path):
    """An encoder's folder: its runs have failed with the reason, the others are as they were."""
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
    planned = [Planned("a", "a", spec_of(str(model))), Planned("b", "b", spec_of(str(tmp_path / "bert")))]
    checked, _, _ = fitting(planned, CPU, 1, free=1 << 60)
    assert [one.state for one in checked] == ["waiting", "failed"]
    assert "bert" in checked[1].reason


def spec_of(model):
    """A spec as a sweep hands it on."""
    return resolve_spec(bias="reckless-drivers", model=model).model_dump(mode="json")


def test_a_second_process_waits_for_a_stage_and_then_reads_it(tmp_path):
    """Four processes want the same stage: one makes it, all have it."""
    code = (
        "import sys, time, pathlib\nfrom biasgym.store import RunStore, finish, finished\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "with RunStore(root).stage_lock('inject', 'k') as folder:\n"
        "    if not finished(folder):\n"
        "        time.sleep(0.5)\n"
        "        with (root / 'made').open('a') as out: out.write('x')\n"
        "        finish(folder, {})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    crew = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment) for _ in range(4)]
    assert [one.wait() for one in crew] == [0, 0, 0, 0]
    assert (tmp_path / "made").read_text() == "x"
    assert finished(RunStore(tmp_path).stage_folder("inject", "k"))
    finish(tmp_path, {})


def test_the_table_shows_states_and_plain_lines(capsys):
    """A change of state is a line where there is no terminal; in one, a row each."""
    from io import StringIO

    from rich.console import Console

    from biasgym.sweep_table import SweepTable

    planned = [job(0), Planned("", "gone", {}, "failed", "no such model"), Planned("run-2", "there", {}, "ok")]
    out = StringIO()
    with SweepTable(Console(file=out, width=100), planned) as table:
        for event in (Event("run-0", "running", "worker 1"), Event("run-0", "running", "inject 1/3"), Event("run-0", "ok", "", 3.2)):
            table(event)
    assert out.getvalue().splitlines() == ["3 runs: 1 FAILED, 1 whole, 1 waiting", "running  0", "whole    0 in 3 s"]
    screen = StringIO()
    with SweepTable(Console(file=screen, width=100, force_terminal=True), planned) as table:
        table(Event("run-0", "running", "inject 1/3"))
        time.sleep(0.01)
        shown = Console(width=100, file=StringIO())
        shown.print(table)
    assert "inject 1/3" in shown.file.getvalue()
    assert "no such model" in shown.file.getvalue()
