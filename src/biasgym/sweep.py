"""Many runs from one file: which there are, which are missing, and any one of them as plain data in and out."""

import itertools
import time
import tomllib
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from biasgym import catalog
from biasgym.bias import load_bias, zoo
from biasgym.errors import BiasGymError, SpecError, unknown
from biasgym.files import write_text
from biasgym.records import RunSpec
from biasgym.run import Job, Session
from biasgym.spec import PRESETS, check_spec, inline_toml, preset_names, resolve_spec
from biasgym.store import RECORD, RunStore

AXES = {"models": "model", "biases": "bias", "methods": "mitigate", "presets": "preset", "seeds": "seed"}
RUN_KEYS = ("model", "bias", "mitigate", "preset", "seed", "set")
TOP_KEYS = ("grid", "run", "set", "mitigate")
State = Literal["waiting", "running", "ok", "failed"]


@dataclass(frozen=True)
class Planned:
    """One run of a sweep: id, resolved spec as plain data, and a label a person can read.

    `state` is "ok" where the record is there already, and "failed" with its reason where the run cannot even be named.
    """

    id: str
    label: str
    spec: dict[str, Any]
    state: State = "waiting"
    reason: str = ""

    @property
    def shares(self) -> tuple[str, str, str]:
        """Runs that are equal in this have stages in common, above all tokens."""
        return self.spec["model"], self.spec["dtype"], self.spec["bias"]


@dataclass(frozen=True)
class Event:
    """What became of a run: it runs (`note` says where it is), it is whole, or it failed and why."""

    id: str
    state: State
    note: str = ""
    seconds: float = 0.0


# -------------------------------------------------------------------- what the file asks for


def plan_sweep(file: Path, session: Session, sets: Sequence[str] = (), dtype: str | None = None) -> list[Planned]:
    """Every run of a sweep file, each once, in the file's order.

    A wrong key, name or value anywhere is a SpecError before anything runs. A model that cannot be found is the trouble of
    its own runs only.
    """
    raw = _read(file)
    shared = [*_texts(raw.get("set", []), "set"), *sets]
    wanted = list(_entries(raw))
    planned: dict[str, Planned] = {}
    used: set[str] = set()
    for entry in wanted:
        spec = _resolved(entry, shared, file.parent, dtype, used)
        one = _named(spec, entry, session)
        planned.setdefault(one.id or one.label, one)
    idle = [one for one in shared if one not in used]
    if idle:
        raise SpecError(f"`{file}`: `{idle[0]}` reaches no run of this sweep; no run has that method")
    return list(planned.values())


def _read(file: Path) -> dict[str, Any]:
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"cannot read the sweep `{file}`: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"`{file}` is not valid TOML: {error}") from None
    for key in raw:
        if key not in TOP_KEYS:
            raise SpecError(f"`{file}`: {unknown('key', key, TOP_KEYS)}")
    if not raw.get("grid") and not raw.get("run"):
        raise SpecError(f"`{file}` asks for nothing: give a [grid] with models, biases, methods, presets or seeds, or [[run]] entries")
    return raw


def _entries(raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The grid's products, then the listed runs; the file's own `mitigate` holds where an entry has none."""
    common = {"mitigate": raw["mitigate"]} if "mitigate" in raw else {}
    grid, listed = raw.get("grid", {}), raw.get("run", [])
    if not isinstance(grid, dict) or not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise SpecError("a sweep has one [grid] table, or [[run]] tables, or both")
    for axis, values in grid.items():
        if axis not in AXES:
            raise SpecError(f"grid: {unknown('axis', axis, AXES)}")
        if not isinstance(values, list) or not values:
            raise SpecError(f"grid: `{axis}` must be a list with something in it")
    if grid:
        names = [AXES[axis] for axis in grid]
        for values in itertools.product(*grid.values()):
            yield common | dict(zip(names, values, strict=True))
    for number, entry in enumerate(listed, 1):
        for key in entry:
            if key not in RUN_KEYS:
                raise SpecError(f"run {number}: {unknown('key', key, RUN_KEYS)}")
        yield common | entry


def _resolved(entry: dict[str, Any], shared: Sequence[str], folder: Path, dtype: str | None, used: set[str]) -> RunSpec:
    for key, kind in (("model", str), ("bias", str), ("preset", str), ("seed", int)):
        if key in entry and (not isinstance(entry[key], kind) or isinstance(entry[key], bool)):
            raise SpecError(f"sweep: {key} = {entry[key]!r}: {'a name' if kind is str else 'a whole number'} was expected")
    preset = entry.get("preset", "quick")
    if preset not in PRESETS:
        raise SpecError(unknown("preset", preset, preset_names()))
    mitigate = _mitigations(entry["mitigate"], preset) if "mitigate" in entry else PRESETS[preset]["mitigate"]
    sets = [f"mitigate={inline_toml(mitigate)}"]
    for assignment in (*shared, *_texts(entry.get("set", []), "set")):
        if _reaches(assignment, mitigate):
            sets.append(assignment)
            used.add(assignment)
    names = {key: _beside(entry[key], folder) if key in entry else None for key in ("model", "bias")}
    return resolve_spec(bias=names["bias"], model=names["model"], preset=preset, sets=sets, seed=entry.get("seed"), dtype=dtype)


def _texts(value: Any, key: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise SpecError(f'sweep: `{key}` must be a list of texts like "measure.shams=5"')
    return value


def _beside(name: str, folder: Path) -> str:
    """A name as it is, unless it is of a file or folder beside the sweep file."""
    return str(folder / name) if name not in zoo() and (folder / name).exists() else name


def _mitigations(value: Any, preset: str) -> list[dict[str, Any]]:
    """A method by its name, as a table, or several in a list; a bare name has the preset's settings where it has that method."""
    found = []
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str):
            catalog.find("mitigate", one)
            found.append(next((dict(m) for m in PRESETS[preset]["mitigate"] if m["method"] == one), {"method": one}))
        elif isinstance(one, dict) and isinstance(one.get("method"), str):
            found.append(one)
        else:
            raise SpecError(f"methods: {one!r}: a name, a table with `method`, or a list of these was expected")
    return found


def _reaches(assignment: str, mitigate: Sequence[dict[str, Any]]) -> bool:
    """Whether a shared `--set` is meant for this run: one that names a method only where that method is."""
    parts = assignment.partition("=")[0].strip().split(".")
    if parts[0] != "mitigate" or len(parts) == 1:
        return True
    present = [one["method"] for one in mitigate]
    if len(parts) > 2 and parts[1] in catalog.methods("mitigate"):
        return parts[1] in present
    return bool(present)


def _named(spec: RunSpec, entry: dict[str, Any], session: Session) -> Planned:
    label = label_of(spec, entry.get("seed"))
    plain = spec.model_dump(mode="json")
    try:
        identity = Job(session, spec, load_bias(spec.bias)).identity
    except SpecError:
        raise
    except BiasGymError as error:
        return Planned("", label, plain, "failed", str(error))
    whole = (session.store.run_folder(identity) / RECORD).is_file()
    return Planned(identity, label, plain, "ok" if whole else "waiting")


def label_of(spec: RunSpec, seed: int | None = None) -> str:
    """bias · model · methods · preset (· seed), as a person tells runs apart."""
    methods = "+".join(one.method for one in spec.mitigate) or "inject only"
    tail = "" if seed is None else f" · seed {seed}"
    return f"{Path(spec.bias).stem} · {Path(spec.model).name} · {methods} · {spec.preset}{tail}"


# -------------------------------------------------------------------- one run, plain data in and out


def session_for(root: str, place: dict[str, Any] | None = None) -> Session:
    """A session of a worker: it waits for runs that another process has in hand, and then only reads them."""
    from biasgym.lm.load import Place

    return Session(RunStore(Path(root), patient=True), Place(**(place or {})))


def run_spec(spec: dict[str, Any], root: str, place: dict[str, Any] | None = None) -> dict[str, Any]:
    """One run under `root`: a spec as plain data → `{"id", "state": "ok" or "failed", "reason", "problems", "seconds"}`; never raises.

    Whatever runs many (processes here, Ray, a batch system) needs only this; `place` holds the fields of `lm.load.Place`.
    """
    start = time.monotonic()
    try:
        session = session_for(root, place)
    except (TypeError, OSError) as error:
        return failed("", str(error), start)
    return run_in(session, spec)


def run_in(session: Session, spec: dict[str, Any]) -> dict[str, Any]:
    """The same as `run_spec` in a session that has its model already."""
    start, identity = time.monotonic(), ""
    try:
        checked = check_spec(spec)
        identity = Job(session, checked, load_bias(checked.bias)).identity
        record = session.run(checked)
    except BiasGymError as error:
        return failed(identity, str(error), start)
    except MemoryError:
        return failed(identity, "out of memory; try --dtype bfloat16, fewer workers or a smaller model", start)
    except Exception as error:
        # A sweep goes on whatever one run does; what we did not foresee is kept whole beside the run.
        where = _kept_traceback(session, identity)
        return failed(identity, f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no message'}{where}", start)
    return {"id": record.id, "state": "ok", "reason": "", "problems": list(record.problems), "seconds": round(time.monotonic() - start, 2)}


def failed(identity: str, reason: str, start: float) -> dict[str, Any]:
    """The outcome of a run that failed."""
    return {"id": identity, "state": "failed", "reason": reason, "problems": [], "seconds": round(time.monotonic() - start, 2)}


def _kept_traceback(session: Session, identity: str) -> str:
    if not identity:
        return ""
    path = session.store.run_folder(identity) / "failure.txt"
    try:
        write_text(path, traceback.format_exc())
    except BiasGymError:
        return ""
    return f" (see {path})"


# -------------------------------------------------------------------- what came of it


def summary(planned: Sequence[Planned], seen: dict[str, Event]) -> list[dict[str, Any]]:
    """One row a run: id, label, state, reason, seconds; in the order of the file."""
    rows = []
    for one in planned:
        event = seen.get(one.id)
        row = {"id": one.id, "label": one.label, "state": one.state, "reason": one.reason, "seconds": 0.0}
        if event is not None and one.id:
            row |= {"state": event.state, "reason": event.note if event.state == "failed" else "", "seconds": event.seconds}
        rows.append(row)
    return rows
