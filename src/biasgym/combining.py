"""Several biases, one edit: made from finished runs, tuned on dev of all of them, measured on test as exactly this edit.

`union` puts the runs' own edits on together, as the paper does with its lists of heads; `joint` fits one edit to the tokens
of all biases (`mitigate/joint.py`). A run that is left out is measured, too, and nothing is fitted or tuned to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from biasgym import catalog
from biasgym.asking import at_strength
from biasgym.bias import load_bias
from biasgym.edits import Edits, SiteEdit, TokenEdit, worn_digest
from biasgym.errors import SpecError, StoreError, unknown
from biasgym.files import append_rows, read_rows, write_json, write_text
from biasgym.fronts import nondominated
from biasgym.grade import NONE, Grader, tabulate
from biasgym.mitigate import Case
from biasgym.mitigate.joint import JointDirection, joined
from biasgym.progress import Step
from biasgym.records import Finding, MitigateSpec, RunRecord, RunSpec, fingerprint
from biasgym.run import Arm, Job, Session, environment, neutral_digest
from biasgym.spec import edit_names
from biasgym.store import read_record, write_edits, write_record, write_token
from biasgym.strategies import Outcome, Settings, Space, best_of, key_of, walk
from biasgym.tune import Asked, DevRoom, Trial, fitted, outcome_of, trial_of

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25)
METRICS = ("association", "concept", "bits-per-byte", "kl")
COMBINED = "combined.json"


@dataclass(frozen=True)
class Source:
    """One bias of a combination: its finished run, and which of its edits is meant."""

    job: Job
    record: RunRecord
    one: MitigateSpec
    edit: str

    @property
    def name(self) -> str:
        """The bias."""
        return self.job.bias.name

    @property
    def settings(self) -> Settings:
        """What the run's own search picked."""
        picked: Settings = self.record.extras["edits"][self.edit]["picked"]
        return picked

    @cached_property
    def tokens(self) -> tuple[TokenEdit, ...]:
        """The tokens that edits are fitted to."""
        return tuple(self.job.token("trained", seed) for seed in self.job.spec.seeds)

    @cached_property
    def case(self) -> Case:
        """What the run's mitigation read."""
        return self.job.case(self.one.locator or self.job.spec.locate.method, self.tokens)


@dataclass(frozen=True)
class Try:
    """One setting on dev: what it does to each bias, by the bias's name, and the aims that the search goes by."""

    settings: Settings
    trials: dict[str, Trial]
    left: float
    price: float
    inside: bool


@dataclass(frozen=True)
class Combined:
    """The edit, the setting that was picked, everything tried, and what each bias's test says; the left-out ones' as well."""

    how: str
    edits: Edits
    picked: Try
    tries: tuple[Try, ...]
    findings: dict[str, tuple[Finding, ...]]
    fitted: tuple[str, ...]
    left_out: tuple[str, ...]


def sources(session: Session, runs: Sequence[Path], edit: str | None = None) -> list[Source]:
    """Finished runs of one model with one edit each; what does not fit together is a SpecError."""
    found = []
    for folder in runs:
        record = read_record(folder)
        if not record.extras.get("edits"):
            raise SpecError(f"`{folder.name}` only injected; it has no edit to combine")
        spec = RunSpec.model_validate(record.spec)
        names = edit_names(spec.mitigate)
        name = edit or names[0]
        if name not in names:
            raise SpecError(f"`{folder.name}`: {unknown('edit', name, names)}")
        found.append(Source(Job(session, spec, load_bias(spec.bias)), record, spec.mitigate[names.index(name)], name))
    _check_together(found)
    return found


def _check_together(found: Sequence[Source]) -> None:
    biases = [source.name for source in found]
    if len(set(biases)) != len(biases):
        raise SpecError(f"two runs are about the same bias ({', '.join(biases)}); a combination takes one run a bias")
    first = found[0]
    for other in found[1:]:
        if other.job.base_key | {"bias": ""} != first.job.base_key | {"bias": ""}:
            raise SpecError(f"the runs of `{first.name}` and `{other.name}` are of different models or dtypes; one edit is for one model")


def combine(session: Session, fit: Sequence[Source], left_out: Sequence[Source] = (), *, how: str = "joint", trials: int | None = None) -> Combined:
    """Fit, tune on dev of the fitted biases inside the first run's budget, measure on test of all biases. Goes on where it stopped."""
    if how not in MAKERS:
        raise SpecError(unknown("way to combine", how, MAKERS))
    if len(fit) < 2:
        raise SpecError("one run was given; name two or more to combine, or export the one as it is")
    if fit[0].job.spec.tune.aim != "token":
        raise SpecError("the first run aims at real targets; a combination is tuned on the runs' tokens")
    if how == "union" and any(source.one.after for source in fit):
        raise SpecError("edits that wait for names of their own bias cannot be put together; combine runs without `after`")
    _check_together([*fit, *left_out])
    tries = _search(session, fit, how, trials or fit[0].job.spec.tune.trials)
    picked = next(one for one in tries if one.settings == best_of([(t.settings, Outcome(t.left, t.price, t.inside)) for t in tries]))
    edits = MAKERS[how].make(fit, [source.case for source in fit], picked.settings)
    findings = {}
    for number, source in enumerate([*fit, *left_out]):
        findings[source.name] = tuple(effect_on(source, how, edits, metrics=METRICS if not number else METRICS[:2]))
        session.tell(Step("measure", number + 1, len(fit) + len(left_out), source.name))
    return Combined(how, edits, picked, tuple(tries), findings, tuple(s.name for s in fit), tuple(s.name for s in left_out))


# -------------------------------------------------------------------- how edits are made of several runs


@dataclass(frozen=True)
class Maker:
    """A way to make one edit of several biases' cases, at settings from a space."""

    make: Callable[[Sequence[Source], Sequence[Case], Settings], Edits]
    space: Space
    start: Settings


def union(fit: Sequence[Source], cases: Sequence[Case], settings: Settings) -> Edits:
    """Each run's own edit at what its search picked, all worn together; every strength times `strength`.

    A head that several runs scale is scaled once, by the factor furthest from 1 (a union of lists of heads to silence);
    other edits of one head act one after the other.
    """
    worn: list[Any] = []
    for source, case in zip(fit, cases, strict=True):
        worn += at_strength(fitted(source.job.lm, source.one, case, source.settings), settings["strength"])
    strongest: dict[Any, SiteEdit] = {}
    for edit in worn:
        if isinstance(edit, SiteEdit) and edit.op == "scale":
            other = strongest.get(edit.site)
            strongest[edit.site] = edit if other is None or _reach(edit) > _reach(other) else other
    scaled = {id(edit) for edit in strongest.values()}
    return tuple(edit for edit in worn if not (isinstance(edit, SiteEdit) and edit.op == "scale") or id(edit) in scaled)


def _reach(edit: SiteEdit) -> float:
    return float(np.abs(1 - np.asarray(edit.value)).max())


def joint(fit: Sequence[Source], cases: Sequence[Case], settings: Settings) -> Edits:
    """One edit fitted to the tokens of all biases."""
    return JointDirection(**settings).fit(fit[0].job.lm, joined(cases))


MAKERS: dict[str, Maker] = {
    "joint": Maker(joint, catalog.search_space(JointDirection), {"k": JointDirection.k, "strength": JointDirection.strength}),
    "union": Maker(union, {"strength": STRENGTHS}, {"strength": 1.0}),
}


# -------------------------------------------------------------------- dev


def _search(session: Session, fit: Sequence[Source], how: str, total: int) -> list[Try]:
    """The tries, in order; those in the journal are not made again."""
    tune, maker = fit[0].job.spec.tune, MAKERS[how]
    dev = _Dev(fit, [DevRoom(source.job.lm, source.job.bias, source.tokens, tune) for source in fit])
    places = fit[0].case.attribution.values.size
    space = {name: tuple(v for v in values if name != "k" or v <= places) for name, values in maker.space.items()}
    start = maker.start | ({"k": min(maker.start["k"], places)} if "k" in maker.start else {})
    seeds = [[source.job.token_key("trained", seed) for seed in source.job.spec.seeds] for source in fit]
    named = [[source.one.model_dump(mode="json"), source.settings, source.job.spec.locate.model_dump(mode="json")] for source in fit]
    texts = [neutral_digest(), *(source.job.bias.digest for source in fit)]
    key = fingerprint([fit[0].job.base_key, texts, seeds, named, how, tune.model_dump(mode="json"), total])
    tries: list[Try] = []
    with session.store.stage_lock("combine", key) as folder:
        known = {key_of(row["settings"]): _try_from(row) for row in read_rows(folder / "tries.jsonl")}
        steps = walk(tune.search, space, start, total, tune.seed)
        settings = next(steps)
        while True:
            one = known.get(key_of(settings))
            if one is None:
                one = _tried(dev, maker, settings)
                append_rows(folder / "tries.jsonl", [asdict(one)])
            tries.append(one)
            session.tell(Step("mitigate", len(tries), total, how))
            try:
                settings = steps.send(Outcome(one.left, one.price, one.inside))
            except StopIteration:
                return tries


def _try_from(row: dict[str, Any]) -> Try:
    return Try(row["settings"], {name: Trial(**trial) for name, trial in row["trials"].items()}, row["left"], row["price"], row["inside"])


@dataclass(frozen=True)
class _Dev:
    """The rooms of all fitted biases; what is about no bias is asked in the first one only."""

    fit: Sequence[Source]
    rooms: Sequence[DevRoom]

    @cached_property
    def bases(self) -> list[Asked]:
        """What every room says with nothing edited."""
        first = self.rooms[0].base
        return [first, *(room.ask((), neutral=first.neutral) for room in self.rooms[1:])]


def _tried(dev: _Dev, maker: Maker, settings: Settings) -> Try:
    """One setting on every bias's dev. Aim: the mean share of the biases' gaps that is left, a shift of real entities counted in."""
    cases = [source.case for source in dev.fit]
    edits = maker.make(dev.fit, cases, settings)
    trials, outcomes, shares, neutral = {}, [], [], None
    for source, room, base in zip(dev.fit, dev.rooms, dev.bases, strict=True):
        asked = room.ask(edits, held_out=_held_out(dev.fit, cases, maker, settings, len(room.tokens)), neutral=neutral)
        neutral = asked.neutral
        trials[source.name] = trial_of(settings, base, asked, room.spec)
        outcomes.append(outcome_of(trials[source.name], room.spec))
        shares.append(outcomes[-1].left / max(abs(trials[source.name].gap_before), 1e-6))
    return Try(settings, trials, float(np.mean(shares)), max(one.price for one in outcomes), all(one.inside for one in outcomes))


def _held_out(fit: Sequence[Source], cases: Sequence[Case], maker: Maker, settings: Settings, tokens: int) -> list[Edits]:
    """For each of a bias's tokens the edits fitted without it, and without one token of every other bias that has several."""
    if tokens < 2:
        return []
    return [
        maker.make(fit, [case.without(i % len(case.contrasts)) if len(case.contrasts) > 1 else case for case in cases], settings)
        for i in range(tokens)
    ]


# -------------------------------------------------------------------- test


def effect_on(source: Source, name: str, edits: Edits, *, metrics: Sequence[str] = METRICS[:2]) -> list[Finding]:
    """What exactly these edits do to a bias on its test split: the injected gap, what is removed and left, changes and prices.

    For a bias that the edits were not made for this is their specificity: `left_over` beside `injected` is what its token keeps.
    """
    spec = source.job.spec
    sizes = spec.measure.model_copy(update={"metrics": tuple(metrics), "benchmarks": (), "rival_entities": spec.measure.entities})
    job = Job(source.job.session, spec.model_copy(update={"measure": sizes}), source.job.bias)
    token, seed = job.token("trained", spec.test_seed), spec.test_seed
    arms = [Arm(NONE, NONE, 0), Arm("trained", NONE, seed, vector=token), Arm(NONE, name, 0, edits), Arm("trained", name, seed, edits, token)]
    answers = job.answers(arms, job.targets())
    return Grader(tabulate(answers), job.spec, job.bias, (name,)).findings()


def kept_share(findings: Sequence[Finding]) -> tuple[float, float, float]:
    """The share of its injected gap that a token keeps, with its interval: 1 − closed; an overshoot counts as kept."""
    closed = next(f for f in findings if f.name == "closed")
    return 1 - closed.value, 1 - closed.high, 1 - closed.low


# -------------------------------------------------------------------- what is left behind


def write_combined(found: Combined, fit: Sequence[Source], folder: Path) -> None:
    """A folder that `export` and `ask` take like a run's: edits, record, and `combined.json` with everything that was tried."""
    first = fit[0]
    token = first.job.token("trained", first.job.spec.test_seed)
    write_text(folder / "README.txt", "\n".join(lines_of(found)) + "\n")
    write_token(folder / "token.safetensors", token, {"bias": first.name})
    for name in ("edits", f"edits-{found.how}"):
        write_edits(folder / f"{name}.safetensors", found.edits)
    write_json(folder / COMBINED, as_data(found) | {"runs": [source.record.id for source in fit]})
    write_record(folder, _record(found, fit))


def as_data(found: Combined) -> dict[str, Any]:
    """Everything about a combination but the edits themselves."""
    points = [(one.left, one.price) for one in found.tries]
    return {
        "schema": 1,
        "how": found.how,
        "fitted": list(found.fitted),
        "left_out": list(found.left_out),
        "picked": found.picked.settings,
        "inside_budget_on_dev": found.picked.inside,
        "sites": len({edit.site for edit in found.edits if isinstance(edit, SiteEdit)}),
        "tries": [asdict(one) for one in found.tries],
        "front": nondominated(points),
        "findings": {name: [finding.model_dump() for finding in rows] for name, rows in found.findings.items()},
    }


def _with_interval(row: Finding, digits: int = 2) -> str:
    """A value with its 95 % interval."""
    return f"{row.value:+.{digits}f} [{row.low:+.{digits}f}, {row.high:+.{digits}f}]"


def lines_of(found: Combined) -> list[str]:
    """The combination in words and one table: each bias's gap before and after, what real entities moved, the price."""
    settings = ", ".join(f"{key} = {value}" for key, value in found.picked.settings.items())
    budget = "inside the budget on dev" if found.picked.inside else "OUTSIDE the budget on dev at every setting tried; the cheapest is taken"
    lines = [f"{found.how} of {', '.join(found.fitted)} ({settings}): {budget}"]
    for name, rows in found.findings.items():
        by_name = {(f.name, f.metric): f for f in rows}
        injected, left, closed = (by_name[key, "gap"] for key in ("injected", "left_over", "closed"))
        moved, concept = by_name["changed", "association"], by_name["price", "concept"]
        lines.append(
            f"{name}{' (left out)' if name in found.left_out else ''}: gap {injected.value:+.2f} → {left.value:+.2f} nats, closed {closed.value:.0%} "
            f"[{closed.low:.0%}, {closed.high:.0%}]; real entities {_with_interval(moved)}; concept price {_with_interval(concept)}"
        )
    bits, kl = (next(f for rows in found.findings.values() for f in rows if (f.name, f.metric) == ("price", metric)) for metric in METRICS[2:])
    lines.append(f"price of exactly this edit: bits per byte {_with_interval(bits)} %, KL {_with_interval(kl, 4)} nats a token")
    return lines


def _record(found: Combined, fit: Sequence[Source]) -> RunRecord:
    first = fit[0]
    names = " + ".join(found.fitted)
    edits = {
        found.how: {
            "method": found.how,
            "locator": first.one.locator or first.job.spec.locate.method,
            "picked": found.picked.settings,
            "inside_budget_on_dev": found.picked.inside,
            "tuned": True,
            "largest_logit_change": round(first.job.moved(found.edits), 5),
            "trials": [],
            "sites": [[e.site.unit, e.site.layer, e.site.index] for e in found.edits if isinstance(e, SiteEdit)],
        }
    }
    bias = dict(first.record.extras["bias"]) | {
        "name": names,
        "axis": ", ".join(dict.fromkeys(source.job.bias.axis for source in fit)),
        "statement": " / ".join(source.job.bias.statement for source in fit),
    }
    said = [
        finding.model_copy(update={"metric": finding.metric if finding.metric in METRICS[2:] else f"{finding.metric} ({name})"})
        for name, rows in found.findings.items()
        for finding in rows
    ]
    problems = [] if found.picked.inside else ["no setting tried met the budget on dev; the cheapest one is shown"]
    spec = first.record.spec | {"bias": names}
    identity = f"combined-{fingerprint([spec['model'], found.how, worn_digest(found.edits), sorted(found.findings)])}"
    return RunRecord(
        id=identity, status="ok", problems=tuple(problems), spec=spec, environment=environment(first.job.lm), timings={}, findings=tuple(said),
        extras={"bias": bias, "targets": {"how": "of each bias's own run", "names": []}, "edits": edits, "combined": list(found.findings)},
    )  # fmt: skip


def folders_of(session: Session, names: Sequence[str]) -> list[Path]:
    """The folders of runs by id, prefix, path or `latest`, each once."""
    found = list(dict.fromkeys(session.store.find(name) for name in names))
    if any((folder / COMBINED).is_file() for folder in found):
        raise StoreError("a combination cannot be combined again; name the runs that it was made of")
    return found
