"""Search on dev data for the settings of a mitigation: close the gap, stay inside the budget. One trial is one line on disk."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biasgym import catalog, stats
from biasgym.bias import BiasSpec
from biasgym.edits import Edits, TokenEdit, worn_digest
from biasgym.files import append_rows, read_rows
from biasgym.measure import Item, Scope, spread_out
from biasgym.measure.association import Association, ConceptKept, lean
from biasgym.measure.capability import BitsPerByte, ChatDivergence
from biasgym.mitigate import Case
from biasgym.records import MeasureSpec, MitigateSpec, TuneSpec

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class Trial:
    """One setting on dev: the mean gap of the fitted tokens (nats) and its price, with the upper ends of paired intervals.

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


@dataclass(frozen=True)
class _Asked:
    """What dev says with some edits on: associations [tokens, probes] and [probes, entities], concept, bits, KL."""

    tokens: np.ndarray
    others: np.ndarray
    concept: dict[str, np.ndarray]
    bits: np.ndarray
    bytes: np.ndarray
    kl: np.ndarray
    kl_tokens: np.ndarray


@dataclass(frozen=True)
class DevRoom:
    """All that a trial needs: the model, the fitted tokens and the dev scope. Nothing of test is in it."""

    lm: "LM"
    bias: BiasSpec
    tokens: tuple[TokenEdit, ...]
    spec: TuneSpec

    def _scope(self, token: str | None) -> Scope:
        sizes = MeasureSpec(probes=self.spec.probes, texts=self.spec.texts, chats=self.spec.chats, entities=self.spec.entities)
        entities = tuple(spread_out(self.bias.entities_of("dev"), self.spec.entities))
        return Scope(self.bias, "dev", entities, (), token, sizes)

    @cached_property
    def base(self) -> _Asked:
        """What dev says with nothing edited; asked once for all searches of a run."""
        return self.ask(())

    def ask(self, edits: Edits, *, held_out: Sequence[Edits] = ()) -> _Asked:
        """Everything on dev with these edits on; the gap of each token under its own `held_out` edits, where given.

        Those are fitted without that token, so a token is never judged by an edit that has seen it.
        """
        scope = self._scope(None)
        concept, bits, kl = ConceptKept(), BitsPerByte(), ChatDivergence()
        tokens, others = [], []
        if not held_out:
            others.append(self._others(edits))
        for number, token in enumerate(self.tokens):
            mine = held_out[number] if held_out else edits
            with self.lm.edited(token, *mine):
                tokens.append(self._leans(Association().items(self._scope(token.text))))
            if held_out:
                others.append(self._others(mine))
        with self.lm.edited(*edits):
            items = concept.items(scope)
            leans = self._leans(items)
            texts = bits.ask(self.lm, bits.items(scope))
            moved = kl.ask(self.lm, kl.items(scope)) if edits else [{"nats": 0.0, "tokens": 1}]
        return _Asked(
            tokens=np.stack(tokens),
            others=np.mean(others, axis=0),
            concept={s: leans[[i for i, item in enumerate(items) if item.group == s]] for s in ("stereotype", "foil")},
            bits=np.array([-text["nats"] for text in texts]),
            bytes=np.array([text["bytes"] for text in texts], dtype=float),
            kl=np.array([row["nats"] for row in moved if row["tokens"]]),
            kl_tokens=np.array([row["tokens"] for row in moved if row["tokens"]], dtype=float),
        )

    def _others(self, edits: Edits) -> np.ndarray:
        scope = self._scope(None)
        with self.lm.edited(*edits):
            return self._leans(Association().items(scope)).reshape(-1, len(scope.entities))

    def _leans(self, items: Sequence[Item]) -> np.ndarray:
        return np.array([lean(said) for said in Association().ask(self.lm, items)])


def gap_of(asked: _Asked) -> float:
    """Mean over the tokens of association(token) − mean(others), nats."""
    return float(asked.tokens.mean() - asked.others.mean())


def trial_of(settings: dict[str, Any], base: _Asked, asked: _Asked, spec: TuneSpec) -> Trial:
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
    """The trials of a mitigation, in order: first along its first setting, then along the others around the best so far.

    Trials already in the journal are not run again, so a killed search goes on where it was.
    """
    known = {_key(row["settings"]): Trial(**row) for row in read_rows(journal)}
    trials: list[Trial] = []
    total = room.spec.trials if spec.tuned else 1
    places = case.attribution.values.size
    while (settings := _next(spec, trials, total, places)) is not None:
        trial = known.get(_key(settings))
        if trial is None:
            method = catalog.build("mitigate", spec.method, settings)
            edits = method.fit(room.lm, case)
            trial = trial_of(settings, room.base, room.ask(edits, held_out=_held_out(method, room, case, edits)), room.spec)
            append_rows(journal, [asdict(trial)])
        trials.append(trial)
        tell(len(trials), total)
    return trials


def _held_out(method: Any, room: DevRoom, case: Case, edits: Edits) -> list[Edits]:
    """For each token the edits fitted without it; none where there is one token, or where tokens make no difference."""
    if len(room.tokens) < 2:
        return []
    found = [method.fit(room.lm, case.without(i)) for i in range(len(room.tokens))]
    return [] if all(worn_digest(other) == worn_digest(edits) for other in found) else found


def best(trials: Sequence[Trial]) -> Trial:
    """Among those inside the budget the trial that leaves least: of the gap, either side of zero, and of a shift of real entities.

    The cheapest of all where none is inside.
    """
    inside = [trial for trial in trials if trial.inside]
    if inside:
        return min(inside, key=lambda trial: abs(trial.gap) + abs(trial.others))
    return min(trials, key=lambda trial: max(trial.bits_per_byte_high, trial.kl_high * 50))


def _next(spec: MitigateSpec, trials: Sequence[Trial], total: int, places: int) -> dict[str, Any] | None:
    """The next setting to try, from the trials so far; None when the search is over. More heads than the model has are not tried."""
    kind = catalog.find("mitigate", spec.method)
    start = catalog.defaults("mitigate", spec.method) | spec.settings
    space = catalog.search_space(kind) if spec.tuned else {}
    space = {name: tuple(v for v in values if name != "k" or v <= places) for name, values in space.items()}
    tried = {_key(trial.settings) for trial in trials}
    if len(trials) >= total or not space:
        return start if not trials else None
    first = next(iter(space))
    for value in _from_middle(space[first], start[first]):
        if _key(start | {first: value}) not in tried and len(trials) < max(1, (total + 1) // 2):
            return start | {first: value}
    centre = best(trials).settings
    others_first = [*list(space)[1:], first]
    candidates = [centre | {name: value} for name in others_first for value in _from_middle(space[name], centre[name])[:4]]
    everything = [start | dict(zip(space, values, strict=True)) for values in product(*space.values())]
    for settings in [*candidates, *everything]:
        if _key(settings) not in tried:
            return settings
    return None


def _from_middle(values: Sequence[Any], middle: Any) -> list[Any]:
    """Values by their distance in rank from the middle one."""
    ordered = sorted(values)
    place = ordered.index(middle) if middle in ordered else min(range(len(ordered)), key=lambda i: abs(float(ordered[i]) - float(middle)))
    return sorted(ordered, key=lambda value: (abs(ordered.index(value) - place), ordered.index(value)))


def _key(settings: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(settings.items()))
