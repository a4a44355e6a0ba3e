"""Fourth station: what changed, for whom, at what price. `ask` needs the model, `grade` only what it said."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from biasgym.bias import BiasSpec, Split
from biasgym.records import Answer, ItemScore, MeasureSpec

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class Scope:
    """What an arm is asked: the bias, the split, the real entities, and the token's text where the token is on."""

    bias: BiasSpec
    split: Split
    entities: tuple[str, ...]
    targets: tuple[str, ...]
    token: str | None
    sizes: MeasureSpec


@dataclass(frozen=True)
class Item:
    """One thing to ask: its id, the group and entity that it is about, and what the evaluator needs to ask it."""

    id: str
    group: str
    entity: str
    payload: dict[str, Any]


class Evaluator(Protocol):
    """A metric. `role` is `bias` or `capability`; `ideal` is where its value should sit, None when it has no such place.

    `needs_edit` evaluators compare with the unedited model and are not asked where nothing is edited.
    """

    name: ClassVar[str]
    role: ClassVar[str]
    ideal: ClassVar[float | None]
    needs_edit: ClassVar[bool]

    def items(self, scope: Scope) -> list[Item]:
        """What is asked in this scope; empty when the metric has nothing to ask there."""
        ...

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """What the model said, one dictionary an item, with all that is needed to grade it again."""
        ...

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """Arithmetic on answers."""
        ...


def scored(answer: Answer, value: float | None, *, group: str | None = None, weight: float = 1.0) -> ItemScore:
    """The score of one answer, under the answer's own names."""
    return ItemScore(answer.metric, answer.item, group or answer.group, answer.entity, answer.token, answer.edit, answer.seed, value, weight)


def spread_out(things: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the things, evenly spaced over their order."""
    if len(things) <= most:
        return list(things)
    return [things[round(i * (len(things) - 1) / max(1, most - 1))] for i in range(most)] if most > 1 else [things[0]]
