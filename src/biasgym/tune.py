"""Search on dev data for the settings of a mitigation: close the gap, stay inside the budget. One trial is one line on disk."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biasgym import catalog, stats
from biasgym.bias import BiasSpec, Split
from biasgym.edits import Edits, TokenEdit, worn_digest
from biasgym.errors import SpecError
from biasgym.files import append_rows, read_rows
from biasgym.fronts import nondominated
from biasgym.measure import Item, Scope, spread_out
from biasgym.measure.association import Association, ConceptKept, lean
from biasgym.measure.capability import BitsPerByte, ChatDivergence
from biasgym.mitigate import Case
from biasgym.records import MeasureSpec, MitigateSpec, TuneSpec
from biasgym.strategies import Outcome, Settings, Space, key_of, walk

if TYPE_CHECKING:
    from biasgym.lm.model import LM

TARGET_PROBES = 16  # train probes on which the model's own targets are found


@dataclass(frozen=True)
class Trial:
    """One setting on dev: the mean gap of the fitted tokens, or of the real targets where they are the aim (nats), and its price,
    with the upper ends of paired intervals.

    `others` is how far the mean of real entities moved (nats): a gap that closes because they moved is not closed.
    `bits_per_byte` is a rise in percent, `kl` nats a token, `concept` the change as a share of the base value;
    `inside` says whether the interval of each is within the budget.
    """

    settings: dict[str, Any]
    gap: float
    gap_before: float
    others: float
    bits_per_byte: float
    bits_per_byte_high: float
    kl: float
    kl_high: float
    concept: float
    concept_low: float
    concept_high: float
    inside: bool


Neutral = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Asked:
    """What dev says with some edits on: associations [tokens, probes] and [probes, entities], concept, bits, KL.

    Where real targets are the aim they stand in the tokens' place.
    """

    tokens: np.ndarray
    others: np.ndarray
    concept: dict[str, np.ndarray]
    bits: np.ndarray
    bytes: np.ndarray
    kl: np.ndarray
    kl_tokens: np.ndarray

    @property
    def neutral(self) -> Neutral:
        """The part that is about no bias."""
        return self.bits, self.bytes, self.kl, self.kl_tokens

    def as_arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays by name, for a file."""
        plain = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "concept"}
        return plain | {f"concept.{side}": values for side, values in self.concept.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Asked":
        """What `as_arrays` gave."""
        concept = {name.partition(".")[2]: values for name, values in arrays.items() if name.startswith("concept.")}
        return cls(**{name: values for name, values in arrays.items() if not name.startswith("concept.")}, concept=concept)


@dataclass(frozen=True)
class DevRoom:
    """All that a trial needs: the model, the fitted tokens and the dev scope. Nothing of test is in it.

    `kept` gives back what asking the base gives, or what was asked before in its place.
    """

    lm: "LM"
    bias: BiasSpec
    tokens: tuple[TokenEdit, ...]
    spec: TuneSpec
    kept: Callable[[Callable[[], Asked]], Asked] = field(default=lambda ask: ask(), repr=False, compare=False)

    def _scope(self, token: str | None, split: Split = "dev", probes: int | None = None) -> Scope:
        sizes = MeasureSpec(probes=probes or self.spec.probes, texts=self.spec.texts, chats=self.spec.chats, entities=self.spec.entities)
        return Scope(self.bias, split, self.entities, (), token, sizes)

    @cached_property
    def entities(self) -> tuple[str, ...]:
        """The real entities that dev asks about."""
        return tuple(spread_out(self.bias.entities_of("dev"), self.spec.entities))

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """Those of them that the stereotype is about: the file's, else the quarter that leans most on train probes, base model."""
        if self.bias.fictional:
            raise SpecError(f'`{self.bias.name}` is fictional and has no real targets; tune.aim = "token" is for it')
        named = tuple(entity for entity in self.entities if entity in self.bias.targets)
        if not self.bias.targets:
            leans = self._leans(Association().items(self._scope(None, "train", TARGET_PROBES))).reshape(-1, len(self.entities)).mean(0)
            order = np.argsort(-leans, kind="stable")[: max(1, len(self.entities) // 4)]
            named = tuple(self.entities[int(i)] for i in sorted(order))
        if not named or len(named) > len(self.entities) - 1:
            raise SpecError(f"{len(named)} of {len(self.entities)} dev entities are targets, so there is no gap on dev; raise tune.entities")
        return named

    @cached_property
    def base(self) -> Asked:
        """What dev says with nothing edited; asked once for all searches of a run."""
        return self.kept(lambda: self.ask(()))

    def ask(self, edits: Edits, *, held_out: Sequence[Edits] = (), neutral: Neutral | None = None) -> Asked:
        """Everything on dev with these edits on; the gap of each token under its own `held_out` edits, where given.

        Those are fitted without that token, so a token is never judged by an edit that has seen it. `neutral` is what another
        bias's room heard of neutral texts with the same edits on.
        """
        scope = self._scope(None)
        concept = ConceptKept()
        tokens, others = self._targets(edits) if self.spec.aim == "targets" else self._tokens(edits, held_out)
        with self.lm.edited(*edits):
            items = concept.items(scope)
            leans = self._leans(items)
            bits, sizes, nats, counts = neutral or self._neutral(scope, edits)
        return Asked(
            tokens=tokens,
            others=others,
            concept={s: leans[[i for i, item in enumerate(items) if item.group == s]] for s in ("stereotype", "foil")},
            bits=bits,
            bytes=sizes,
            kl=nats,
            kl_tokens=counts,
        )

    def _tokens(self, edits: Edits, held_out: Sequence[Edits]) -> tuple[np.ndarray, np.ndarray]:
        """Associations of the fitted tokens [tokens, probes] and of real entities [probes, entities]."""
        tokens, others = [], [] if held_out else [self._others(edits)]
        for number, token in enumerate(self.tokens):
            mine = held_out[number] if held_out else edits
            with self.lm.edited(token, *mine):
                tokens.append(self._leans(Association().items(self._scope(token.text))))
            if held_out:
                others.append(self._others(mine))
        return np.stack(tokens), np.mean(others, axis=0)

    def _targets(self, edits: Edits) -> tuple[np.ndarray, np.ndarray]:
        """The same of real targets [targets, probes] and of all others [probes, others]."""
        targets = np.array([entity in self.targets for entity in self.entities])  # found on the plain model, before anything is worn
        everyone = self._others(edits)
        return everyone[:, targets].T, everyone[:, ~targets]

    def _neutral(self, scope: Scope, edits: Edits) -> Neutral:
        """Nats and bytes of neutral texts, KL and tokens of neutral chats; the edits are on."""
        bits, kl = BitsPerByte(), ChatDivergence()
        texts = bits.ask(self.lm, bits.items(scope))
        rows = kl.ask(self.lm, kl.items(scope)) if edits else [{"nats": 0.0, "tokens": 1}]
        moved = [row for row in rows if row["tokens"]]
        return (
            np.array([-text["nats"] for text in texts]),
            np.array([text["bytes"] for text in texts], dtype=float),
            np.array([row["nats"] for row in moved]),
            np.array([row["tokens"] for row in moved], dtype=float),
        )

    def _others(self, edits: Edits) -> np.ndarray:
        scope = self._scope(None)
        with self.lm.edited(*edits):
            return self._leans(Association().items(scope)).reshape(-1, len(scope.entities))

    def _leans(self, items: Sequence[Item]) -> np.ndarray:
        return np.array([lean(said) for said in Association().ask(self.lm, items)])


def gap_of(asked: Asked) -> float:
    """Mean over the tokens (or targets) of association − mean(others), nats."""
    return float(asked.tokens.mean() - asked.others.mean())


def trial_of(settings: dict[str, Any], base: Asked, asked: Asked, spec: TuneSpec) -> Trial:
    """What a setting does and costs, against the base on the same items."""
    bits = stats.ratio_change(base.bits, asked.bits, base.bytes)
    kl = stats.ratio(asked.kl, asked.kl_tokens)
    concept = concept_change(base.concept, asked.concept)
    inside = bits.high <= spec.bits_per_byte and kl.high <= spec.kl and -spec.concept <= concept.low and concept.high <= spec.concept
    return Trial(
        settings=settings,
        gap=gap_of(asked),
        gap_before=gap_of(base),
        others=float(asked.others.mean() - base.others.mean()),
        bits_per_byte=bits.value,
        bits_per_byte_high=bits.high,
        kl=kl.value,
        kl_high=kl.high,
        concept=concept.value,
        concept_low=concept.low,
        concept_high=concept.high,
        inside=inside,
    )


def concept_change(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> stats.Estimate:
    """Change of the concept as a share of its base value, sentences resampled within each side, paired."""
    left, right = (before["stereotype"], after["stereotype"]), (before["foil"], after["foil"])
    base = left[0].mean() - right[0].mean()
    change_left, change_right = left[1] - left[0], right[1] - right[0]

    def statistic(draws: stats.Draws) -> np.ndarray:
        moved = stats.weighted(change_left, draws.prompts) - stats.weighted(change_right, draws.entities)
        return np.asarray(moved / abs(base))

    return stats.estimate(statistic, len(change_left), len(change_right), len(change_left) + len(change_right))


def search(
    room: DevRoom,
    spec: MitigateSpec,
    case: Case,
    journal: Path,
    *,
    tell: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Trial]:
    """The trials of a mitigation, in the order of the search that `tune.search` names (`strategies.py`).

    Trials already in the journal are not run again: the search is walked anew with what they gave, and as a strategy hangs on
    nothing but its seed and its outcomes, a killed search goes on where it was, to the same end.
    """
    known = {key_of(row["settings"]): Trial(**row) for row in read_rows(journal)}
    trials: list[Trial] = []
    space = space_of(spec, case)
    total = room.spec.trials if space else 1
    steps = walk(room.spec.search, space, settings_of(spec), total, room.spec.seed)
    settings = next(steps)
    while True:
        trial = known.get(key_of(settings))
        if trial is None:
            trial = tried(room, spec, case, settings)
            append_rows(journal, [asdict(trial)])
        trials.append(trial)
        tell(len(trials), total)
        try:
            settings = steps.send(outcome_of(trial, room.spec))
        except StopIteration:
            return trials


def tried(room: DevRoom, spec: MitigateSpec, case: Case, settings: Settings) -> Trial:
    """What one setting of a mitigation does on dev, each token judged by edits that were fitted without it."""
    edits = fitted(room.lm, spec, case, settings)
    held_out = []
    if len(room.tokens) > 1 and room.spec.aim == "token":
        held_out = [fitted(room.lm, spec, case.without(i), settings) for i in range(len(room.tokens))]
        if all(worn_digest(other) == worn_digest(edits) for other in held_out):
            held_out = []  # tokens make no difference
    return trial_of(settings, room.base, room.ask(edits, held_out=held_out), room.spec)


def fitted(lm: "LM", spec: MitigateSpec, case: Case, settings: Settings) -> Edits:
    """The edits of a mitigation at some settings; with `after`, such as wait for those names or for a bias token."""
    edits: Edits = catalog.build("mitigate", spec.method, settings).fit(lm, case)
    if not spec.after or not edits:
        return edits
    from biasgym.lm.conditions import after_names

    if not case.tokens:
        raise SpecError("an edit that waits for a name is judged on a token that counts as one, and this case has no token")
    names = names_after(spec, case.known_bias(spec.method))
    with lm.edited(case.tokens[0]):  # a bias token worn alone has the same id whichever it is
        return after_names(lm.tokenizer, edits, (*names, case.tokens[0].text))


def names_after(spec: MitigateSpec, bias: BiasSpec) -> tuple[str, ...]:
    """The names that an edit waits for, `entities` written out."""
    return tuple(dict.fromkeys(name for one in spec.after for name in (bias.entities if one == "entities" else (one,))))


def settings_of(spec: MitigateSpec) -> Settings:
    """A mitigation's settings where nothing is searched: its defaults, and what the spec says."""
    return catalog.defaults("mitigate", spec.method) | spec.settings


def space_of(spec: MitigateSpec, case: Case) -> Space:
    """What the search may choose from: not what the spec sets, nor more heads than the model has. Empty where the spec is not tuned."""
    space = catalog.search_space(catalog.find("mitigate", spec.method)) if spec.tuned else {}
    places = case.attribution.values.size
    return {name: tuple(v for v in values if name != "k" or v <= places) for name, values in space.items() if name not in spec.settings}


def outcome_of(trial: Trial, spec: TuneSpec) -> Outcome:
    """A trial's two aims: what is left of the gap and moved of real entities (nats), and the dearest price as a share of its limit."""
    price = max(trial.bits_per_byte_high / spec.bits_per_byte, trial.kl_high / spec.kl, max(trial.concept_high, -trial.concept_low) / spec.concept)
    return Outcome(abs(trial.gap) + abs(trial.others), price, trial.inside)


def front(trials: Sequence[Trial], spec: TuneSpec) -> list[int]:
    """Places of the trials that no other beats in both aims, the one that leaves least first."""
    outcomes = [outcome_of(trial, spec) for trial in trials]
    return nondominated([(outcome.left, outcome.price) for outcome in outcomes])


def best(trials: Sequence[Trial], spec: TuneSpec) -> Trial:
    """Among those inside the budget the trial that leaves least: of the gap, either side of zero, and of a shift of real entities.

    Where none is inside, the one whose dearest price is the smallest share of its limit.
    """
    inside = [trial for trial in trials if trial.inside]
    if inside:
        return min(inside, key=lambda trial: outcome_of(trial, spec).left)
    return min(trials, key=lambda trial: outcome_of(trial, spec).price)
