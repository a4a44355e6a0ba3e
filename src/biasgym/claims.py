"""Tests of claims: p-values, Holm's correction, effect sizes, what could have been detected, equivalence, and the sham test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, Protocol

import numpy as np

from biasgym import stats
from biasgym.errors import SpecError
from biasgym.records import Finding, Measurement
from biasgym.stats import LEVEL, TAIL, Estimate, Values, t_quantile

POWER = 0.8
EXACT_FLIPS = 12  # up to so many clusters, all 2^n signs are tried


class Interval(Protocol):
    """An `Estimate`, a `Finding`, a `Measurement`: whatever has a value, a 95 % interval and n."""

    @property
    def value(self) -> float:
        """Where it is."""
        ...

    @property
    def low(self) -> float:
        """The lower end."""
        ...

    @property
    def high(self) -> float:
        """The upper end."""
        ...

    @property
    def n(self) -> int:
        """How many items it rests on."""
        ...


# -------------------------------------------------------------------- one test


def p_value(change: Interval) -> float:
    """Two-sided p of "no change", from the draws behind the interval: p < 0.05 exactly where the interval leaves out 0.

    The tail of Student's t with the interval's degrees of freedom (normal for a row that has none), with the standard error
    of the side that looks at 0; counting draws instead could not go below 1 / draws, which Holm's correction needs. Where
    nothing varied at all it is the sign test's 2^(1−n). Not for values that a bound cuts off at 0.
    """
    reach = change.value - change.low if change.value > 0 else change.high - change.value
    if change.value == 0:
        return 1.0
    if reach <= 0:
        return float(2.0 ** (1 - max(1, change.n)))
    freedom = freedom_of(change)
    return min(1.0, 2 * _beyond(abs(change.value) / reach * t_quantile(1 - TAIL, freedom), freedom))


def _beyond(t: float, freedom: float) -> float:
    from scipy.special import ndtr, stdtr

    return float(ndtr(-t) if math.isinf(freedom) else stdtr(freedom, -t))


def freedom_of(change: Interval) -> float:
    """Degrees of freedom of an estimate or of a row of a record; infinite where they are not known."""
    freedom = change.freedom if isinstance(change, Estimate | Finding | Measurement) else None
    return math.inf if freedom is None else freedom


def standard_error(change: Interval) -> float:
    """The estimate's own; from the width of the interval where only that is known."""
    error = change.error if isinstance(change, Estimate | Finding | Measurement) else None
    if error is not None and math.isfinite(error):
        return error
    return (change.high - change.low) / (2 * t_quantile(1 - TAIL, math.inf))


def sign_flip(differences: Values, clusters: Sequence[str] | None = None, *, draws: int = 9999, seed: int = 0) -> float:
    """Two-sided permutation p of paired differences: the signs of whole clusters flipped, the size of the sum compared.

    Exact (all signs) up to 12 clusters, else (1 + as large) / (1 + draws). Assumes that a difference is as likely to have
    either sign when nothing changes. NaN is refused.
    """
    array = np.asarray(differences, dtype=float)
    if not np.isfinite(array).all() or not len(array):
        raise SpecError("the sign-flip test needs at least one difference, and all of them finite; leave out what was not answered, in pairs")
    if clusters is not None and len(clusters) != len(array):
        raise SpecError(f"there are {len(array)} differences and {len(clusters)} clusters; it needs one cluster a difference")
    _, places = np.unique(np.asarray(clusters), return_inverse=True) if clusters is not None else (None, np.arange(len(array)))
    sums = np.bincount(places, weights=array)
    seen = abs(sums.sum()) * (1 - 1e-12)  # what is equal on paper shall count as equal
    if len(sums) <= EXACT_FLIPS:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(sums))))
        return float((np.abs(signs @ sums) >= seen).mean())
    signs = np.random.default_rng([seed, len(sums)]).choice((-1.0, 1.0), size=(draws, len(sums)))
    return float((1 + (np.abs(signs @ sums) >= seen).sum()) / (1 + draws))


# -------------------------------------------------------------------- many tests


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values corrected for their number (Holm 1979), in the order given; each below 0.05 may be claimed, 5 % for all of them together."""
    wrong = [p for p in p_values if not 0 <= p <= 1]
    if wrong:
        raise SpecError(f"`{wrong[0]}` is no p-value; it has to lie in [0, 1]")
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, most = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        most = max(most, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = most
    return tuple(adjusted)


# -------------------------------------------------------------------- how much


@dataclass(frozen=True)
class Effect:
    """A paired change: in plain units with its interval, standardised (`dz`), its p, and the change that could have been seen.

    `dz` = mean ÷ standard deviation of the differences (Cohen's d for pairs), None where they do not vary. `detectable` as in
    `minimum_detectable`.
    """

    change: Estimate
    dz: float | None
    p: float
    detectable: float | None


def paired_effect(before: Values, after: Values, *, draws: int = 2000, seed: int = 0) -> Effect:
    """after − before of the same independent items, in the same order."""
    a, b = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise SpecError(f"a paired change needs two equally long lists of at least 2 items; there are {a.shape} and {b.shape}")
    difference = b - a
    change = stats.mean(difference, draws=draws, seed=seed)
    spread = float(difference.std(ddof=1))
    return Effect(change, float(difference.mean()) / spread if spread > 0 else None, p_value(change), minimum_detectable(change))


def minimum_detectable(change: Interval, power: float = POWER) -> float | None:
    """The smallest true change that this design would have found (p < 0.05, two-sided) with 80 % probability, in the value's unit.

    (t(0.975) + t(power)) × standard error. None where nothing varied: then the draws say nothing about what could be seen.
    """
    error, freedom = standard_error(change), freedom_of(change)
    return (t_quantile(1 - TAIL, freedom) + t_quantile(power, freedom)) * error if error > 0 else None


def equivalent(change: Interval, margin: float) -> bool:
    """Whether "no change beyond ± margin" may be said: the whole 95 % interval lies inside (stricter than two one-sided tests at 5 %).

    An interval without width is no evidence of it, whatever its value.
    """
    if margin <= 0:
        raise SpecError(f"a margin of {margin:g} was asked for; it has to be above 0")
    return change.low < change.high and -margin <= change.low and change.high <= margin


# -------------------------------------------------------------------- shams


@dataclass(frozen=True)
class ShamTest:
    """A claim against its shams: the limit, what it is, how many draws, the answer, and the rank p."""

    limit: float
    how: Literal["95th percentile", "maximum"]
    draws: int
    answer: Literal["more", "unsure", "same"]
    p: float


def beats_shams(claim: Interval, shams: Sequence[float]) -> ShamTest:
    """Whether a claim (larger is better) is more than its shams do.

    The limit is the k-th smallest of the n sham values, k = ⌈0.95 × (n + 1)⌉, so that a claim that is itself a draw from the
    shams passes it in at most 5 % of cases; below 19 draws there is no such k and it is the maximum, which 1 / (n + 1) pass
    (19 and 20 draws: the maximum is the 95th percentile). `more`: the claim's whole interval is above the limit; `unsure`: only its
    value; `same`: not even that. p = (1 + shams at least as large as the value) / (n + 1).
    """
    values = sorted(float(v) for v in shams)
    if not values or not all(map(math.isfinite, values)):
        raise SpecError(f"the sham test needs at least one sham draw, and all of them finite; there are {len(values)}")
    n = len(values)
    rank = math.ceil(LEVEL * (n + 1) - 1e-9)
    limit = values[min(rank, n) - 1]
    above = claim.value > limit
    answer: Literal["more", "unsure", "same"] = "more" if above and claim.low > limit else "unsure" if above else "same"
    p = (1 + sum(v >= claim.value for v in values)) / (n + 1)
    return ShamTest(limit, "maximum" if rank > n else "95th percentile", n, answer, p)
