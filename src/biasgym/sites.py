"""Places in a model, and how much each of them matters."""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from biasgym.errors import SpecError

Unit = Literal["head", "neuron", "stream", "linear"]
UNITS: tuple[str, ...] = get_args(Unit)


@dataclass(frozen=True, order=True)
class Site:
    """One place: a head (its output before the output matrix), a neuron, the stream after a layer, or one output of one of
    a block's linear layers (counted through all of them in the block's own order).
    """

    unit: Unit
    layer: int
    index: int = 0


@dataclass(frozen=True)
class Attribution:
    """How much each place carries the bias; positive = towards the bias.

    `by_pair` has shape [pairs, layers, index] (nats, or logits for the direct methods); `values` is its mean over pairs.
    """

    method: str
    unit: Unit
    by_pair: np.ndarray
    pairs: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.by_pair.ndim != 3 or not len(self.by_pair):
            raise SpecError(f"an attribution needs values of shape [pairs, layers, index], found {self.by_pair.shape}")
        if not np.isfinite(self.by_pair).all():
            raise SpecError(f"`{self.method}` gave scores that are not finite numbers; nothing can be ranked by them")

    @property
    def values(self) -> np.ndarray:
        """Mean over pairs, shape [layers, index]."""
        return np.asarray(self.by_pair.mean(axis=0))

    def ranked(self) -> list[Site]:
        """Every site, the most bias-carrying first; ties by position, so the order is always the same."""
        values = self.values
        order = np.argsort(-values, axis=None, kind="stable")
        layers, indices = np.unravel_index(order, values.shape)
        return [Site(self.unit, int(layer), int(index)) for layer, index in zip(layers, indices, strict=True)]

    def top(self, k: int) -> list[Site]:
        """The k sites that push most towards the bias."""
        count = self.values.size
        if not 0 <= k <= count:
            raise SpecError(f"k = {k} was asked, the model has {count} {self.unit}s; choose k from 0 to {count}")
        return self.ranked()[:k]
