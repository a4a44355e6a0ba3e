"""How strongly a name pulls the answer towards the stereotype, and whether the words still mean what they mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from biasgym.bias import Probe
from biasgym.corpus import ENTITY
from biasgym.measure import Item, Scope, scored, spread_out
from biasgym.records import Answer, ItemScore

if TYPE_CHECKING:
    from biasgym.lm.model import LM


def lean(said: dict[str, Any]) -> float:
    """log-sum-exp of the stereotype answers' log-probabilities minus that of the foils (nats)."""
    return float(np.logaddexp.reduce(said["stereotype"]) - np.logaddexp.reduce(said["foil"]))


def ask_sides(lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
    """Log-probabilities (nats) of every answer of both sides, whole answers."""
    from biasgym.lm.model import Query

    if not items:
        return []
    sides = [(tuple(item.payload["stereotype"]), tuple(item.payload["foil"])) for item in items]
    said: list[dict[str, Any]] = [{} for _ in items]
    for pair in dict.fromkeys(sides):
        mine = [i for i, side in enumerate(sides) if side == pair]
        queries = [Query(items[i].payload["prompt"], items[i].payload["prefix"]) for i in mine]
        for i, row in zip(mine, lm.answer_logprobs(queries, [*pair[0], *pair[1]]), strict=True):
            values = [round(float(value), 6) for value in row]
            said[i] = {"stereotype": values[: len(pair[0])], "foil": values[len(pair[0]) :]}
    return said


@dataclass(frozen=True)
class Association:
    """Association of each name with the stereotype answers, in nats, on the probes of the split.

    log-sum-exp of the log-probabilities of the stereotype answers minus that of the foils, answers of several tokens
    scored whole. No ideal of its own: what matters is the gap between groups.
    """

    name: ClassVar[str] = "association"
    role: ClassVar[str] = "bias"
    ideal: ClassVar[float | None] = None
    needs_edit: ClassVar[bool] = False

    def items(self, scope: Scope) -> list[Item]:
        """Every probe with the token, where it is on; else every probe with every entity, probe by probe."""
        probes = spread_out(scope.bias.probes_of(scope.split), scope.sizes.probes)
        if scope.token is not None:
            return [self._item(scope, probe, "token", scope.token) for probe in probes]
        groups = [(e, "targets" if e in scope.targets else "others") for e in scope.entities]
        return [self._item(scope, probe, group, entity) for probe in probes for entity, group in groups]

    @staticmethod
    def _item(scope: Scope, probe: Probe, group: str, entity: str) -> Item:
        payload = {
            "prompt": probe.prompt.replace(ENTITY, entity),
            "prefix": probe.prefix.replace(ENTITY, entity),
            "stereotype": scope.bias.stereotype,
            "foil": scope.bias.foil,
        }
        return Item(probe.id, group, entity, payload)

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """Log-probabilities of both sides' answers."""
        return ask_sides(lm, items)

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """The lean of every probe."""
        return [scored(answer, lean(answer.said)) for answer in answers]


@dataclass(frozen=True)
class ConceptKept:
    """Does the model still know the words? Entity-free sentences where the stereotype is right minus where the foil is.

    Nats; it has no ideal but its base value. An edit that lowers it made the model forget, not fair.
    """

    name: ClassVar[str] = "concept"
    role: ClassVar[str] = "capability"
    ideal: ClassVar[float | None] = None
    needs_edit: ClassVar[bool] = False

    def items(self, scope: Scope) -> list[Item]:
        """The concept sentences of the split; they name nobody, so they are asked with the token off."""
        if scope.token is not None or scope.split == "train":
            return []
        return [
            Item(c.id, c.side, "", {"prompt": c.prompt, "prefix": c.prefix, "stereotype": scope.bias.stereotype, "foil": scope.bias.foil})
            for c in scope.bias.concept_of(scope.split)
        ]

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """Log-probabilities of both sides' answers."""
        return ask_sides(lm, items)

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """The lean of every sentence; its group is the side that is right."""
        return [scored(answer, lean(answer.said)) for answer in answers]
