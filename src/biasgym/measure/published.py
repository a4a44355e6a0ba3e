"""What all published benchmarks share: which rows are asked, and figures built from scores.

A public set is cut in two by the hash of each row's id (or of what must stay together, a template): `dev` may be used for
choosing, `test` for reporting. With `split = "all"` every row is asked on test and none on dev, for figures that can be set
beside published ones. A benchmark names nobody of the bias at hand, so it is asked with the token off.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from biasgym.datasets import half_of, sample
from biasgym.measure import Figure, Item, Scope
from biasgym.records import ItemScore

if TYPE_CHECKING:
    from biasgym.lm.model import LM

Rows = Literal["scope", "all"]
Pair = tuple[str, str]
T = TypeVar("T")


def asked_in(scope: Scope, split: Rows) -> bool:
    """Whether a public benchmark has anything to ask in this scope."""
    return scope.token is None and scope.split != "train" and not (split == "all" and scope.split == "dev")


def pick(
    rows: Sequence[T],
    scope: Scope,
    split: Rows,
    most: int,
    *,
    key: Callable[[T], str],
    strata: Callable[[T], str],
    seed: int = 0,
    together: Callable[[T], str] | None = None,
) -> list[T]:
    """The rows of the scope's half (or all), then at most `most` of them, stratified and seeded; empty where none are asked."""
    if not asked_in(scope, split):
        return []
    kept = list(rows) if split == "all" else [row for row in rows if half_of((together or key)(row)) == scope.split]
    return sample(kept, most, strata=strata, key=key, seed=seed)


def continued(lm: "LM", items: Sequence[Item], pairs_of: Callable[[Item], Sequence[Pair]]) -> list[dict[str, Any]]:
    """For every item the log-probability (nats), tokens and greediness of each of its continuations, asked in one batch.

    `chat` in an item's payload puts its contexts as the user's turn.
    """
    pairs = [list(pairs_of(item)) for item in items]
    flat = [pair for some in pairs for pair in some]
    chat = bool(items) and bool(items[0].payload.get("chat"))
    found = iter(lm.continuation_logprobs(flat, chat=chat) if flat else [])
    said = []
    for some in pairs:
        mine = [next(found) for _ in some]
        said.append({"nats": [round(one.nats, 5) for one in mine], "tokens": [one.tokens for one in mine], "greedy": [one.greedy for one in mine]})
    return said


# -------------------------------------------------------------------- figures


def first_over_second(sums: np.ndarray) -> np.ndarray:
    """Channel 0 ÷ channel 1; 0 where nothing was counted."""
    return over(sums[:, 0], sums[:, 1])


def over(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """A ratio that is 0 where its denominator is."""
    result: np.ndarray = np.divide(top, bottom, out=np.zeros_like(top, dtype=float), where=bottom != 0)
    return result


def percent(sums: np.ndarray) -> np.ndarray:
    """Channel 0 ÷ channel 1 in percent."""
    return 100 * first_over_second(sums)


def figure(
    name: str,
    group: str,
    scores: Sequence[ItemScore],
    columns: Callable[[ItemScore], Sequence[float]],
    of: Callable[[np.ndarray], np.ndarray],
    *,
    ideal: float | None,
    better: Literal["up", "down", "ideal"],
    note: str = "",
    cluster: Callable[[ItemScore], str] = lambda score: score.item,
) -> Figure:
    """A figure over these scores; `columns` gives what one score adds to each channel."""
    matrix = np.array([columns(score) for score in scores], dtype=float)
    return Figure(name, group, matrix, of, tuple(cluster(score) for score in scores), ideal, better, note)


def mean_of(
    name: str,
    group: str,
    scores: Sequence[ItemScore],
    part: str,
    *,
    ideal: float | None,
    better: Literal["up", "down", "ideal"],
    note: str = "",
    of: Callable[[np.ndarray], np.ndarray] = first_over_second,
    cluster: Callable[[ItemScore], str] = lambda score: score.item,
) -> Figure:
    """The mean of one part of the scores."""
    return figure(name, group, scores, lambda s: (s.parts[part], 1.0), of, ideal=ideal, better=better, note=note, cluster=cluster)


def groups_of(scores: Sequence[ItemScore], group: Callable[[ItemScore], str] = lambda score: score.group) -> list[tuple[str, list[ItemScore]]]:
    """All scores, then those of every group by name; one group alone is not told twice."""
    if not scores:
        return []
    names = sorted({group(score) for score in scores})
    parts = [(name, [s for s in scores if group(s) == name]) for name in names]
    return [("all", list(scores)), *(parts if len(parts) > 1 else [])]
