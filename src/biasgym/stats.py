"""Means, differences and their intervals: a bootstrap that resamples prompts, entities and seeds together.

Every function takes arrays with named axes in a fixed order, [prompts] or [prompts, entities]; a before/after is always
paired: one set of draws serves both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
Values = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval, and how many items it rests on."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Draws:
    """Resampling weights: `prompts` [draws, prompts] and `entities` [draws, entities], counts that sum to their sizes."""

    prompts: np.ndarray
    entities: np.ndarray


def draw(prompts: int, entities: int, *, draws: int, seed: int = 0) -> Draws:
    """Bootstrap weights for a crossed design of prompts and entities."""
    generator = np.random.default_rng([seed, prompts, entities])
    return Draws(_counts(generator, prompts, draws), _counts(generator, entities, draws))


def _counts(generator: np.random.Generator, size: int, draws: int) -> np.ndarray:
    if size < 1:
        return np.zeros((draws, 0))
    return generator.multinomial(size, np.full(size, 1 / size), size=draws).astype(float)


def interval(value: float, drawn: np.ndarray, n: int) -> Estimate:
    """Percentile interval from bootstrap values; never narrower than the value itself."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(min(low, value)), float(max(high, value)), n)


def weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means [draws] of values [items] under weights [draws, items]."""
    result: np.ndarray = weights @ values / weights.sum(1)
    return result


def mean(values: Values, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """The mean of items and its bootstrap interval."""
    array = np.asarray(values, dtype=float)
    return interval(array.mean(), weighted(array, draw(len(array), 0, draws=draws, seed=seed).prompts), len(array))


def ratio(numerator: Values, denominator: Values, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """Sum ÷ sum over the same items (bits per byte: bits and bytes of each text)."""
    top, bottom = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    weights = draw(len(top), 0, draws=draws, seed=seed).prompts
    return interval(top.sum() / bottom.sum(), (weights @ top) / (weights @ bottom), len(top))


def ratio_change(before: Values, after: Values, denominator: Values, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """Relative change in percent of a ratio of sums, paired item by item."""
    a, b = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    weights = draw(len(a), 0, draws=draws, seed=seed).prompts
    drawn = 100 * ((weights @ b) / (weights @ a) - 1)
    return interval(100 * (b.sum() / a.sum() - 1), drawn, len(np.asarray(denominator)))


def crossed(matrix: np.ndarray, draws: Draws) -> np.ndarray:
    """Means [draws] of a matrix [prompts, entities] when both are resampled."""
    weighted_prompts = draws.prompts @ matrix  # [draws, entities]
    result: np.ndarray = (weighted_prompts * draws.entities).sum(1) / (draws.prompts.sum(1) * draws.entities.sum(1))
    return result


def spread_of(matrix: np.ndarray, draws: Draws) -> np.ndarray:
    """Standard deviation over entities [draws] of the entities' means over prompts, both resampled."""
    means = (draws.prompts @ matrix) / draws.prompts.sum(1, keepdims=True)
    weights = draws.entities / draws.entities.sum(1, keepdims=True)
    centre = (means * weights).sum(1, keepdims=True)
    result: np.ndarray = np.sqrt((weights * (means - centre) ** 2).sum(1))
    return result


def estimate(statistic: Callable[[Draws], np.ndarray], prompts: int, entities: int, n: int, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """Any statistic of resampling weights: its value at equal weights and its interval over draws."""
    equal = Draws(np.ones((1, prompts)), np.ones((1, entities)))
    drawn = statistic(draw(prompts, entities, draws=draws, seed=seed))
    return interval(float(statistic(equal)[0]), drawn, n)
