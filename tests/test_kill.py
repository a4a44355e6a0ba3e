"""kill -9 anywhere in a run, then the same run again: the record is the undisturbed one's, and nothing whole was done twice.

A handful of seeded points here; `make faults` sets BIASGYM_FAULTS and tries sixty.
"""

import os
import random
import shutil
import signal
import time

import pytest

from biasgym.spec import resolve_spec
from biasgym.store import RunStore, read_record
from biasgym.sweep import session_for
from killing import Point, in_child, spread_points

MANY = bool(os.environ.get("BIASGYM_FAULTS"))
POINTS = 60 if MANY else 5
SMALL = [
    "inject.steps=12", "inject.batch=2", "inject.held_out=2", "locate.pairs=4", "tune.trials=3", "tune.probes=3", "tune.entities=2",
    "tune.texts=3", "tune.chats=3", "measure.probes=4", "measure.entities=4", "measure.texts=2", "measure.chats=2",
    "measure.generations=2", "measure.tokens=4", "measure.shams=1", "measure.sham_entities=2", "measure.draws=100",
    "mitigate.direction.k=4", "mitigate.zero.k=4", "tune.kl=10", "tune.bits_per_byte=100", "tune.concept=100", "measure.judge=lexicon",
]  # fmt: skip


def plain(root, identity):
    """A record without its times."""
    return read_record(root / identity).model_dump(mode="json", exclude={"timings"})


@pytest.fixture(scope="module")
def undisturbed(models, tmp_path_factory):
    """A session with the tiny Llama in memory, a spec over all stages, the record of one whole run of it, its events and its seconds."""
    from tiny import save_folder

    place = tmp_path_factory.mktemp("undisturbed")
    folder = save_folder(models("llama"), place / "tiny")
    spec = resolve_spec(bias="reckless-drivers", model=str(folder), sets=SMALL)
    session = session_for(str(place / "runs"), {"device": "cpu"})
    session.model(spec.model, spec.dtype)
    start = time.monotonic()
    assert in_child(session, spec.model_dump(mode="json"), place / "runs", log=place / "events") == 0
    seconds = time.monotonic() - start
    events = [tuple(line.split("\t")) for line in (place / "events").read_text().splitlines()]
    (identity,) = RunStore(place / "runs").runs()
    return session, spec.model_dump(mode="json"), plain(place / "runs", identity), events, seconds


def test_points_fall_into_every_stage(undisturbed):
    """Inject, locate, mitigate, measure and the writing of the record: the points are of use only then."""
    *_, events, seconds = undisturbed
    assert {stage for stage, _ in events} == {"inject", "locate", "mitigate", "measure", "record"}
    points = spread_points(events, 60, seconds)
    assert len({str(point) for point in points}) == len(points) == 60
    assert {point.stage for point in points} == {"inject", "locate", "mitigate", "measure", "record", "moment"}
    assert sum(bool(point.torn) for point in points) >= 3


@pytest.mark.parametrize("number", range(POINTS))
def test_killed_at_any_point_it_ends_in_the_same_record(number, undisturbed, tmp_path):
    """Killed for sure, and by us; then whole, with the same figures, and with no stage or temporary file left over."""
    session, spec, record, events, seconds = undisturbed
    point = spread_points(events, POINTS, seconds)[number]
    code = in_child(session, spec, tmp_path / "runs", point=point)
    assert code == -signal.SIGKILL or (point.seconds and code == 0), f"{point}: exit {code}"
    log = tmp_path / "events"
    assert in_child(session, spec, tmp_path / "runs", log=log) == 0
    assert plain(tmp_path / "runs", record["id"]) == record
    if point.event > len(events) // 2:  # what was whole is not done again: fewer events than from scratch
        assert len(log.read_text().splitlines()) < len(events) * 3 // 4


@pytest.mark.parametrize("number", range(12 if MANY else 2))
def test_a_disk_that_fills_up_anywhere_is_one_sentence_and_mended(number, undisturbed, tmp_path, capfd):
    """From a random write on there is no room: the run says so, leaves no half file, and ends in the same record later."""
    session, spec, record, events, _ = undisturbed
    point = Point(random.Random(number).randrange(len(events)), "disk", full=True)
    assert in_child(session, spec, tmp_path / "runs", point=point) == 1
    said = capfd.readouterr().err
    assert "No space left" in said
    assert "Traceback" not in said
    assert not [path for path in (tmp_path / "runs").rglob(".*") if path.name != ".lock"]
    assert not (tmp_path / "runs" / record["id"] / "record.json").exists()
    assert in_child(session, spec, tmp_path / "runs") == 0
    assert plain(tmp_path / "runs", record["id"]) == record


@pytest.mark.parametrize("number", range(40 if MANY else 3))
def test_a_flipped_bit_is_noticed_or_does_no_harm(number, undisturbed, tmp_path, capfd):
    """One bit of one file of a whole store: the same record comes out, or one sentence names the file; never another record."""
    session, spec, record, _, _ = undisturbed
    shutil.copytree(session.store.root, tmp_path / "runs")
    (tmp_path / "runs" / record["id"] / "record.json").unlink()
    chance = random.Random(number)
    kinds = {}
    for path in sorted(tmp_path.rglob("stages/*/[!.]*")):
        kinds.setdefault(path.name, []).append(path)
    name = sorted(kinds)[number % len(kinds)]
    path = chance.choice(kinds[name])
    raw = bytearray(path.read_bytes())
    raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    path.write_bytes(raw)
    if in_child(session, spec, tmp_path / "runs") == 0:
        assert plain(tmp_path / "runs", record["id"]) == record, path
    else:
        said = capfd.readouterr().err
        assert "altered" in said, said
        assert str(path.parent.name) in said
        assert not list((tmp_path / "runs").rglob("failure.txt"))
        shutil.rmtree(path.parent)  # what the sentence asks for
        assert in_child(session, spec, tmp_path / "runs") == 0
        assert plain(tmp_path / "runs", record["id"]) == record
