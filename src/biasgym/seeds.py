"""Several seeds, several groups: means whose interval holds the seeds' variance, the worst group, and over-correction."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from biasgym.errors import SpecError
from biasgym.stats import TAIL, Draws, Estimate, estimate, t_quantile


def over_items_and_seeds(matrix: np.ndarray, *, draws: int = 2000, seed: int = 0) -> Estimate:
    """Mean of scores [items, seeds] when the same items were asked under every seed: both resampled, items × seed counted once.

    With one seed its interval is about that seed only. Preferred to `seed_mean` where item scores are at hand.
    """
    array = np.asarray(matrix, dtype=float)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise SpecError(f"scores [items, seeds] without gaps are needed; the shape is {array.shape}; leave out items that a seed did not answer")

    def mean(d: Draws) -> np.ndarray:
        result: np.ndarray = ((d.prompts @ array) * d.seeds).sum(1) / (d.prompts.sum(1) * d.seeds.sum(1))
        return result

    return estimate(mean, array.shape[0], 0, array.size, seeds=array.shape[1], draws=draws, seed=seed)


def seed_mean(estimates: Sequence[Estimate]) -> Estimate:
    """Mean over seeds of a figure, from the figure of each seed.

    Variance = s² / S between seeds (S−1 degrees of freedom) + the mean variance within, undivided, because seeds share their
    items. What is particular to item × seed is in both parts, so it covers at least 95 %. One seed comes back as it is:
    its interval says nothing about other seeds. Needs estimates with a standard error.
    """
    if not estimates or not all(math.isfinite(e.error) for e in estimates):
        raise SpecError(f"a mean over seeds needs at least one estimate, each with its standard error; there are {len(estimates)}")
    if len(estimates) == 1:
        return estimates[0]
    values = np.array([e.value for e in estimates])
    between = float(values.var(ddof=1)) / len(values)
    within = float(np.mean([e.error**2 for e in estimates]))
    doubt = between**2 / (len(values) - 1) + float(np.mean([e.error**4 / e.freedom for e in estimates]))
    total = between + within
    freedom = total**2 / doubt if doubt > 0 else math.inf
    reach, value = t_quantile(1 - TAIL, freedom) * math.sqrt(total), float(values.mean())
    return Estimate(value, value - reach, value + reach, sum(e.n for e in estimates), math.sqrt(total), freedom)


def worst_group(groups: Mapping[str, Estimate], ideal: float = 0.0) -> tuple[str, Estimate]:
    """The group whose value is furthest from the ideal, its interval widened for having been picked out of so many (Bonferroni).

    The widened interval holds for all groups at once, so it may be read although the group was chosen for its value.
    """
    if not groups:
        raise SpecError("there is no group to pick the worst of")
    name = max(groups, key=lambda g: abs(groups[g].value - ideal))
    e = groups[name]
    wider = t_quantile(1 - TAIL / len(groups), e.freedom) / t_quantile(1 - TAIL, e.freedom)
    low, high = e.value - wider * (e.value - e.low), e.value + wider * (e.high - e.value)
    return name, Estimate(e.value, low, high, e.n, e.error, e.freedom)


def over_correction(before: Estimate, after: Estimate) -> Literal["yes", "no", "unsure", "no bias before"]:
    """Whether an edit pushed a signed gap (0 is ideal) past zero: `yes` only where the whole interval is on the other side.

    `no`: the whole interval is still on the side of before; `unsure`: it holds 0. Before has to be clear of 0 itself.
    """
    if before.low <= 0 <= before.high:
        return "no bias before"
    if after.low <= 0 <= after.high:
        return "unsure"
    return "yes" if (after.value > 0) != (before.value > 0) else "no"
