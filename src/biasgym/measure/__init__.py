"""Fourth station: what changed, for whom, at what price. `ask` needs the model, `grade` only what it said."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

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

    `needs_edit` evaluators compare with the unedited model and are not asked where nothing is edited. One that puts plain texts
    to the model, never a user's turn, may say so by `plain_text` (absent: False): edits of prompts change nothing in it, and it is
    not asked again under them.
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


@dataclass(frozen=True)
class Figure:
    """One published figure of a benchmark, as a function of weighted sums over items, so that any resampling can be put in.

    `columns` [items, channels]: what each item adds to each channel. `of` takes sums [draws, channels] to values [draws];
    a mean is `sums[:, 0] / sums[:, 1]`, with ones as the second channel. `clusters`: items of one cluster are resampled
    together (all versions of one template). `ideal` is where the value should sit; `better` says which way capability
    goes (`up`, `down`), or `ideal` where nearness to it is what counts. Before and after an edit have the same items in
    the same order.
    """

    name: str
    group: str
    columns: np.ndarray
    of: Callable[[np.ndarray], np.ndarray]
    clusters: tuple[str, ...]
    ideal: float | None
    better: Literal["up", "down", "ideal"]
    note: str = ""


class Benchmark(Evaluator, Protocol):
    """A metric with figures of its own: published definitions that are no plain mean of one value an item."""

    def figures(self, scores: Sequence[ItemScore]) -> list[Figure]:
        """The figures of one arm's scores; arithmetic only."""
        ...


def scored(
    answer: Answer, value: float | None, *, group: str | None = None, weight: float = 1.0, parts: Mapping[str, float] | None = None
) -> ItemScore:
    """The score of one answer, under the answer's own names."""
    group = group or answer.group
    return ItemScore(answer.metric, answer.item, group, answer.entity, answer.token, answer.edit, answer.seed, value, weight, parts or {})


def spread_out(things: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the things, evenly spaced over their order."""
    if len(things) <= most:
        return list(things)
    return [things[round(i * (len(things) - 1) / max(1, most - 1))] for i in range(most)] if most > 1 else [things[0]]
