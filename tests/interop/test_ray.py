"""A sweep on a Ray of our own: the same records as in one process, each run once. `make oracle` runs this, `make test` does not."""

import json

import pytest

from biasgym.ray_workers import run_on_ray
from biasgym.store import read_record
from biasgym.sweep import plan_sweep, run_spec, session_for, summary

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
