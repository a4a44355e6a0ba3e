"""The ring: every mitigation against one bias in one model, with the same search, the same budget and the same test."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from biasgym import catalog
from biasgym.bias import load_bias
from biasgym.datasets import library
from biasgym.edits import TokenEdit
from biasgym.errors import DataError, SpecError, unknown
from biasgym.files import append_rows, read_rows
from biasgym.records import RunRecord, RunSpec, fingerprint
from biasgym.run import Job, Session
from biasgym.spec import inline_toml, resolve_spec
from biasgym.store import RECORD, read_record
from biasgym.sweep import Planned, run_in
from biasgym.tune import DevRoom
from biasgym.workers import fitting, run_local

MOST_TRIALS = 20
METRICS = ("association", "concept", "bits-per-byte", "kl")
BENCHMARKS = {"crows-pairs": "crows_pairs", "stereoset": "stereoset"}  # metric → folder of its set
QUESTIONS = 300
# What `quick` asks in the ring, where some of the entrants let the model talk before every answer: less than in a run, except for the
# chats of test: with 16 of them the KL's interval was as wide as its budget.
SMALL = (
    "tune.probes=8", "tune.entities=3", "tune.texts=12", "tune.chats=12", "measure.probes=24", "measure.entities=12", "measure.rival_entities=6",
)  # fmt: skip


@dataclass(frozen=True)
class Entrant:
    """A mitigation in the ring; `settings` are held fixed, the rest the search may choose."""

    label: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)


# {no prompt, prompt + explanation} × {no edit, edit found without injection, edit found with injection}; the base is the sixth.
FACTORIAL = {
    ("prompt", "no edit"): Entrant("prompting-explained", "prompting-explained"),
    ("no prompt", "edit without injection"): Entrant("direction-uninjected", "direction-uninjected"),
    ("prompt", "edit without injection"): Entrant("direction-uninjected-explained", "direction-explained", {"injected": False}),
    ("no prompt", "edit with injection"): Entrant("direction", "direction"),
    ("prompt", "edit with injection"): Entrant("direction-explained", "direction-explained"),
}


@dataclass(frozen=True)
class Bout:
    """What became of an entrant: its record, or None and the reason; `seconds` of every attempt that came to an end.

    `shared` seconds are not in it: what all entrants have in common (tokens, attribution, the base on dev) is nobody's time.
    """

    entrant: Entrant
    record: RunRecord | None
    reason: str
    seconds: float


@dataclass(frozen=True)
class Ring:
    """The entrants with their specs, and why a benchmark is left out where one is."""

    entrants: tuple[tuple[Entrant, RunSpec], ...]
    notes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """A hash of everything that is asked, with the bias's name in front."""
        _, first = self.entrants[0]
        asked = [spec.model_dump(mode="json") for _, spec in self.entrants]
        return f"ring-{Path(first.bias).stem}-{fingerprint(asked)}"


def entrants(methods: str) -> list[Entrant]:
    """`all`, or names with commas; `factorial` stands for the five corners of prompt × edit. Each once, in the order given.

    Of `all` the corners come first: two of them let the model talk before every answer and take longest, and a worker that
    begins them last works alone.
    """
    known = catalog.methods("mitigate")
    corners = {one.label: one for one in FACTORIAL.values()}
    found: dict[str, Entrant] = {}
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if not names:
        raise SpecError(f"no method was named; give --methods all, factorial, or names with commas: {', '.join(known)}")
    for name in names:
        if name in ("all", "factorial"):
            every = [Entrant(method, method) for method in known] if name == "all" else []
            found |= {one.label: one for one in (*corners.values(), *every) if one.label not in found}
        elif name in corners:
            found.setdefault(name, corners[name])
        elif name in known or ":" in name:
            catalog.find("mitigate", name)
            found.setdefault(name, Entrant(name, name))
        else:
            raise SpecError(unknown("mitigation", name, [*known, *corners, "all", "factorial"]))
    return list(found.values())


def plan_ring(
    methods: str,
    *,
    bias: str | None,
    model: str | None,
    preset: str | None = None,
    trials: int | None = None,
    sets: Sequence[str] = (),
    seed: int | None = None,
    dtype: str | None = None,
    data: str = "",
) -> Ring:
    """One spec an entrant, equal in all but the mitigation; wrong names, keys and values are a SpecError before anything runs.

    `sets` as in a run; `mitigate.METHOD.KEY=VALUE` reaches that method alone. Benchmarks that `data` does not hold are left
    out, with a note.
    """
    chosen = entrants(methods)
    benchmarks, notes = benchmarks_at_hand(data)
    common = ["measure.shams=0", f"measure.metrics={json.dumps(METRICS)}", f"measure.benchmarks={inline_toml(benchmarks)}"]
    planned = []
    for one in chosen:
        sizes = SMALL if preset in (None, "quick") else ()
        mine = [f"mitigate={inline_toml([{'method': one.method, 'settings': one.settings}])}", *common, *sizes, *_sets_for(one, chosen, sets)]
        if trials is not None:
            mine.append(f"tune.trials={trials}")
        spec = resolve_spec(bias=bias, model=model, preset=preset, sets=mine, seed=seed, dtype=dtype)
        if spec.tune.trials > MOST_TRIALS:
            raise SpecError(f"{spec.tune.trials} trials a method were asked, the ring allows {MOST_TRIALS}; give --trials {MOST_TRIALS} or fewer")
        planned.append((one, spec))
    return Ring(tuple(planned), tuple(notes))


def benchmarks_at_hand(data: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The ring's benchmarks that the folder of public sets holds, as plain data, and a sentence for each that it does not."""
    found: list[dict[str, Any]] = []
    notes: list[str] = []
    for metric, name in BENCHMARKS.items():
        try:
            shelf = library(data)
            missing = [file for file in shelf.files(name) if not (shelf.folder / name / file).is_file()]
        except DataError as error:
            return found, [f"without {', '.join(BENCHMARKS)}: {error}"]
        if missing:
            notes.append(f"without {metric}: `{shelf.folder / name / missing[0]}` is not there")
        else:
            found.append({"method": metric, "settings": {"most": QUESTIONS}})
    return found, notes


def _sets_for(one: Entrant, chosen: Sequence[Entrant], sets: Sequence[str]) -> list[str]:
    """The assignments that reach an entrant: those of no method, and those of its own."""
    found = []
    for assignment in sets:
        parts = assignment.partition("=")[0].strip().split(".")
        if parts[0] != "mitigate":
            found.append(assignment)
        elif len(parts) != 3:
            raise SpecError(f"--set {assignment}: name the method, as in mitigate.direction.k=20; --methods says which there are")
        elif parts[1] not in {other.method for other in chosen}:
            raise SpecError(f"--set: {unknown('method in the ring', parts[1], {other.method for other in chosen})}")
        elif parts[1] == one.method:
            found.append(assignment)
    return found


# -------------------------------------------------------------------- the bouts


def bouts(session: Session, ring: Ring, workers: int = 1) -> Iterator[Bout]:
    """Every entrant in turn, or `workers` at a time in processes of their own, as they end. What is whole is read; a killed ring
    goes on at the trial or batch where it was.

    What no entrant can do without (model, tokens, attribution) is made first, and an error there is everybody's: it is
    raised. An entrant's own failure is its own bout's reason. The base is asked once on test and once on dev, through the store.
    No more workers are started than fit into memory beside each other.
    """
    missing: list[tuple[Entrant, Job]] = []
    for entrant, spec in ring.entrants:
        job = Job(session, spec, load_bias(spec.bias))
        folder = session.store.run_folder(job.identity)
        if (folder / RECORD).is_file():
            yield Bout(entrant, read_record(folder), "", _spent(_clock(session, job)))
        else:
            missing.append((entrant, job))
    if not missing:
        return
    first = missing[0][1]
    tokens = _shared(Job(session, first.spec, first.bias))  # a job of its own, which takes its hold on the model with it
    if workers == 1:
        room = _room(first, tokens)
        for entrant, job in missing:
            start = time.monotonic()
            outcome = _fought(session, job, room)
            yield _ended(session, entrant, job, outcome["state"], outcome["reason"], time.monotonic() - start)
        return
    by_id = {job.identity: (entrant, job) for entrant, job in missing}
    planned = [Planned(identity, entrant.label, job.spec.model_dump(mode="json")) for identity, (entrant, job) in by_id.items()]
    session.release()
    planned, workers, sentence = fitting(planned, asdict(session.place), workers)
    if sentence:
        session.say(sentence)
    for one in planned:
        if one.state == "failed":
            yield _ended(session, *by_id[one.id], one.state, one.reason, 0.0)
    for event in run_local(planned, str(session.store.root.absolute()), asdict(session.place), workers=workers, data=session.data):
        if event.state in ("ok", "failed"):
            yield _ended(session, *by_id[event.id], event.state, event.note, event.seconds)


def _ended(session: Session, entrant: Entrant, job: Job, state: str, reason: str, seconds: float) -> Bout:
    clock = _clock(session, job)
    append_rows(clock, [{"seconds": round(seconds, 2)}])
    record = read_record(session.store.run_folder(job.identity)) if state == "ok" else None
    return Bout(entrant, record, reason, _spent(clock))


def _clock(session: Session, job: Job) -> Path:
    """Where the seconds of an entrant's attempts are kept."""
    with session.store.stage_lock("ring", fingerprint([job.identity])) as kept:
        return kept / "seconds.jsonl"


def _shared(job: Job) -> tuple[TokenEdit, ...]:
    """Make what all entrants have in common and give back the fitted tokens: nobody's time."""
    job.lm.check_answers(job.bias.stereotype, job.bias.foil)
    tokens = tuple(job.token("trained", seed) for seed in job.spec.seeds)
    for role in job.spec.controls:
        job.token(role, job.spec.test_seed)
    job.token("trained", job.spec.test_seed)
    job.case(job.spec.locate.method, tokens)
    return tokens


def _room(job: Job, tokens: tuple[TokenEdit, ...]) -> DevRoom:
    """The one dev room of the ring, the base asked in it: nobody's time either."""
    room = job.dev_room(tokens)
    room.base  # noqa: B018 (asked here)
    return room


def _fought(session: Session, job: Job, room: DevRoom) -> dict[str, Any]:
    """Search in the shared room, then the run, which finds its trials in the journal."""
    (one,) = job.spec.mitigate
    # Whatever goes wrong here goes wrong in the run again, from the journal's last trial on, and is told and kept there.
    with suppress(Exception):
        locator = one.locator or job.spec.locate.method
        job.tuned(one.method, one, locator, job.case(locator, room.tokens), room)
    return run_in(session, job.spec.model_dump(mode="json"))


def _spent(clock: Path) -> float:
    return round(sum(row["seconds"] for row in read_rows(clock)), 2)
