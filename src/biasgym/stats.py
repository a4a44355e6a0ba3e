"""Means, differences and their intervals: a bootstrap that resamples prompts, entities and seeds together.

Every function takes arrays with named axes in a fixed order, [prompts], [prompts, entities] or [prompts, entities, seeds];
a before/after is always paired: one set of draws serves both.

Design assumed: prompts, entities and seeds are each a random sample of those that could have been asked, and every prompt is
asked of every entity (crossed; Owen 2007, "The pigeonhole bootstrap"). An axis of length one is taken as given and its
variance is not in the interval. Plain percentiles of such draws are wrong in three ways that `experiments/calibration.py`
measures: with few prompts or entities they are too narrow by √((n−1)/n) and by taking normal for t quantiles; with two axes
what is particular to one cell is counted three times; and where draws are skewed by chance, their short side looks at zero.
So the draws give a standard error, put together from variance components (the jackknife's along an axis where that is
larger), and the interval is value ± t × error, with Satterthwaite's degrees of freedom, fewer where a few items weigh most.

Beside 93–97 %: six prompts by six entities (97.5 %, too wide), and means of yes/no items beside 0 and 1, far too narrow: use
`share`. An interval may pass the ends of its scale unless `bounds` are given.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
Values = Sequence[float] | np.ndarray
Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-math.inf, math.inf)


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval, and how many items it rests on.

    `error` is the standard error behind the interval and `freedom` its degrees of freedom (infinite: normal); NaN where the
    estimate was made without them.
    """

    value: float
    low: float
    high: float
    n: int
    error: float = field(default=math.nan, compare=False)
    freedom: float = field(default=math.inf, compare=False)


@dataclass(frozen=True)
class Draws:
    """Resampling weights `prompts` [draws, prompts], `entities` [draws, entities], `seeds` [draws, seeds]: counts that sum to their sizes."""

    prompts: np.ndarray
    entities: np.ndarray
    seeds: np.ndarray = field(default_factory=lambda: np.zeros((1, 0)))


Statistic = Callable[[Draws], np.ndarray]


def draw(prompts: int, entities: int, seeds: int = 0, *, draws: int, seed: int = 0) -> Draws:
    """Bootstrap weights for a crossed design of prompts, entities and seeds."""
    generator = np.random.default_rng([seed, prompts, entities])
    return Draws(*(_counts(generator, size, draws) for size in (prompts, entities, seeds)))


def _counts(generator: np.random.Generator, size: int, draws: int) -> np.ndarray:
    if size < 1:
        return np.zeros((draws, 0))
    return generator.multinomial(size, np.full(size, 1 / size), size=draws).astype(float)


# -------------------------------------------------------------------- from draws to an interval


def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t; of the normal where `freedom` is infinite."""
    from scipy.special import ndtri, stdtrit  # a fifth of a second, and reading results needs none of it

    return float(ndtri(probability) if math.isinf(freedom) else stdtrit(freedom, probability))


def interval(value: float, error: float, freedom: float, n: int, bounds: Bounds = UNBOUNDED) -> Estimate:
    """value ± t × standard error, cut off at the range that the value can have at all."""
    reach = t_quantile(1 - TAIL, freedom) * error
    return Estimate(float(value), float(max(value - reach, bounds[0])), float(min(value + reach, bounds[1])), n, error, freedom)


def estimate(
    statistic: Statistic,
    prompts: int,
    entities: int,
    n: int,
    *,
    seeds: int = 0,
    draws: int = 2000,
    seed: int = 0,
    bounds: Bounds = UNBOUNDED,
    positive: bool = False,
) -> Estimate:
    """Any statistic of resampling weights: its value at equal weights and its calibrated interval.

    Axes of the statistic are prompts, entities, seeds; an axis that it does not have is 0. Two independent samples may be
    given as two axes. `positive` is for standard deviations, whose draws are skewed the wrong way: value × exp(± t × error of
    the logarithm).
    """
    sizes = (prompts, entities, seeds)
    value = float(statistic(Draws(*(np.ones((1, size)) for size in sizes)))[0])
    every = draw(*sizes, draws=draws, seed=seed)
    if positive and value > 0:
        return _on_log_scale(statistic, value, every, sizes, n)
    error, freedom = _error_of(statistic, every, sizes)
    return interval(value, error, freedom, n, bounds)


def _on_log_scale(statistic: Statistic, value: float, every: Draws, sizes: tuple[int, int, int], n: int) -> Estimate:
    def logarithm(draws: Draws) -> np.ndarray:
        drawn = statistic(draws)
        return np.log(drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)

    error, freedom = _error_of(logarithm, every, sizes)
    reach = t_quantile(1 - TAIL, freedom) * error
    return Estimate(value, value * math.exp(-reach), value * math.exp(reach), n, value * error, freedom)


def _error_of(statistic: Statistic, every: Draws, sizes: tuple[int, int, int]) -> tuple[float, float]:
    """Standard error and degrees of freedom from the variance of the draws of every set of axes.

    Resampling the axes of a set T varies the statistic by Σ over components S of σ²(S)·(2^|S∩T| − 1). So the part that all
    axes of T share is Σ over U ⊆ T of (−1)^(|T|−|U|)·var(U), and the variance wanted, Σ σ²(S), is the sum of these parts,
    those of two axes taken off. Each is unbiased once multiplied by n/(n−1) an axis.
    """
    live = [axis for axis, size in enumerate(sizes) if size > 1]
    left_out = {axis: _left_out(statistic, sizes, axis) for axis in live}
    subsets = [subset for count in range(1, len(live) + 1) for subset in combinations(live, count)]
    variance = {subset: _variance(statistic(_only(every, subset))) for subset in subsets}
    parts, doubts = [], []
    for subset in subsets:
        inner = [(u, v) for u, v in variance.items() if set(u) <= set(subset)]
        shared = sum((-1) ** (len(subset) - len(u)) * v for u, v in inner) * math.prod(sizes[a] / (sizes[a] - 1) for a in subset)
        if len(subset) == 1:  # draws that turn round at the best value vary less than the statistic does; leaving out one item does not turn
            shared = max(shared, left_out[subset[0]][0])
        parts.append((-1) ** (len(subset) + 1) * max(shared, 0.0))
        doubts.append(shared**2 / math.prod(left_out[a][1] for a in subset))
    alone = [part for part, subset in zip(parts, subsets, strict=True) if len(subset) == 1]
    total = max([sum(parts), *alone, 0.0])
    return math.sqrt(total), (total**2 / sum(doubts) if sum(doubts) > 0 else math.inf)


def _left_out(statistic: Statistic, sizes: tuple[int, int, int], axis: int) -> tuple[float, float]:
    """The jackknife's variance along one axis, and the degrees of freedom of a variance: n − 1, or 3·(Σu²)² / Σu⁴ − 1 where that is less.

    u is what the statistic moves by when one item is left out. For even weights and normal values both are the same; with
    long texts among short ones, or few items that change at all, the variance rests on fewer items than there are.
    """
    count = sizes[axis]
    weights = [np.ones((count, size)) for size in sizes]
    weights[axis] = (1 - np.eye(count)) * count / (count - 1)
    moved = statistic(Draws(*weights))
    moved = moved[np.isfinite(moved)]
    squares = (moved - moved.mean()) ** 2 if len(moved) else np.zeros(1)
    total, heavy = float(squares.sum()), float((squares**2).sum())
    freedom = min(count - 1.0, max(1.0, 3 * total**2 / heavy - 1)) if heavy > 0 else count - 1.0
    return total * (count - 1) / count, freedom


def _variance(drawn: np.ndarray) -> float:
    finite = drawn[np.isfinite(drawn)]
    return float(finite.var()) if len(finite) else 0.0


def _only(draws: Draws, axes: tuple[int, ...]) -> Draws:
    """The draws of some axes, everything on the others counted once."""
    weights = (draws.prompts, draws.entities, draws.seeds)
    return Draws(*(w if axis in axes else np.ones_like(w) for axis, w in enumerate(weights)))


def magnitude(signed: Estimate) -> Estimate:
    """|x| from the interval of x, which covers at zero too: from 0 where the interval of x holds 0."""
    ends = (abs(signed.low), abs(signed.high))
    low = 0.0 if signed.low <= 0 <= signed.high else min(ends)
    return Estimate(abs(signed.value), low, max(ends), signed.n, signed.error, signed.freedom)


def closed_share(left: Estimate) -> Estimate:
    """1 − |x| from x = gap(after) ÷ gap(before), signed: the share of a gap that is closed, at most 1, past zero counted by its size."""
    over = magnitude(left)
    return Estimate(1 - over.value, 1 - over.high, 1 - over.low, left.n, left.error, left.freedom)


# -------------------------------------------------------------------- statistics of items


def weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means [draws] of values [items] under weights [draws, items]."""
    result: np.ndarray = weights @ values / weights.sum(1)
    return result


def mean(values: Values, *, draws: int = 2000, seed: int = 0, bounds: Bounds = UNBOUNDED) -> Estimate:
    """The mean of independent items and its interval. A constant has no width: of what never varied, draws say nothing."""
    array = np.asarray(values, dtype=float)
    return estimate(lambda d: weighted(array, d.prompts), len(array), 0, len(array), draws=draws, seed=seed, bounds=bounds)


def ratio(numerator: Values, denominator: Values, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """Sum ÷ sum over the same independent items (bits per byte: bits and bytes of each text)."""
    top, bottom = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
    return estimate(lambda d: (d.prompts @ top) / (d.prompts @ bottom), len(top), 0, len(top), draws=draws, seed=seed)


def ratio_change(before: Values, after: Values, denominator: Values, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """Relative change in percent of a ratio of sums, paired item by item."""
    a, b = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    n = len(np.asarray(denominator))
    return estimate(lambda d: 100 * ((d.prompts @ b) / (d.prompts @ a) - 1), len(a), 0, n, draws=draws, seed=seed)


def share(hits: int, n: int, *, exact: bool = False) -> Estimate:
    """A proportion of n independent yes/no items, by Wilson's score interval; `exact` for Clopper and Pearson's.

    Draws say nothing about 0 of n. Wilson's covers 95 % on average and less just beside 0 and 1; Clopper–Pearson's never
    covers less than 95 %, and mostly more.
    """
    p = hits / n
    error = math.sqrt(p * (1 - p) / n)
    if exact:
        from scipy.special import betaincinv

        low = float(betaincinv(hits, n - hits + 1, TAIL)) if hits else 0.0
        high = float(betaincinv(hits + 1, n - hits, 1 - TAIL)) if hits < n else 1.0
        return Estimate(p, low, high, n, error)
    z = t_quantile(1 - TAIL, math.inf)
    centre, half = (p + z * z / (2 * n)) / (1 + z * z / n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Estimate(p, 0.0 if not hits else centre - half, 1.0 if hits == n else centre + half, n, error)


def crossed(matrix: np.ndarray, draws: Draws) -> np.ndarray:
    """Means [draws] of a matrix [prompts, entities] when both are resampled."""
    weighted_prompts = draws.prompts @ matrix  # [draws, entities]
    result: np.ndarray = (weighted_prompts * draws.entities).sum(1) / (draws.prompts.sum(1) * draws.entities.sum(1))
    return result


def crossed_seeds(cube: np.ndarray, draws: Draws) -> np.ndarray:
    """Means [draws] of a cube [prompts, entities, seeds] when all three are resampled."""
    prompts, entities, seeds = cube.shape
    by_entity = (draws.prompts @ cube.reshape(prompts, -1)).reshape(-1, entities, seeds)
    by_seed = (by_entity * draws.entities[:, :, None]).sum(1)
    result: np.ndarray = (by_seed * draws.seeds).sum(1) / (draws.prompts.sum(1) * draws.entities.sum(1) * draws.seeds.sum(1))
    return result


def spread_of(matrix: np.ndarray, draws: Draws) -> np.ndarray:
    """Standard deviation over entities [draws] of the entities' means over prompts, both resampled."""
    means = (draws.prompts @ matrix) / draws.prompts.sum(1, keepdims=True)
    weights = draws.entities / draws.entities.sum(1, keepdims=True)
    centre = (means * weights).sum(1, keepdims=True)
    result: np.ndarray = np.sqrt((weights * (means - centre) ** 2).sum(1))
    return result
