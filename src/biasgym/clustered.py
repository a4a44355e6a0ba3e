"""Figures of benchmarks and their changes: functions of weighted sums over items, items of one cluster resampled together.

Design assumed: clusters (templates, or single items) are a random sample; what hangs together inside a cluster is in the
interval because the whole cluster is drawn or not. n counts items; degrees of freedom go by clusters.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from biasgym.errors import SpecError
from biasgym.stats import UNBOUNDED, Bounds, Draws, Estimate, estimate


class WeightedSums(Protocol):
    """What is needed of a benchmark's figure (`measure.Figure`): columns [items, channels], `of` sums [draws, channels] → values [draws]."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def columns(self) -> np.ndarray:
        """What each item adds to each channel; NaN nowhere."""
        ...

    @property
    def of(self) -> Callable[[np.ndarray], np.ndarray]:
        """Sums to values; NaN where a figure is not defined (an empty group)."""
        ...

    @property
    def clusters(self) -> tuple[str, ...]:
        """The cluster of each item."""
        ...


def figure_estimate(figure: WeightedSums, draws: int = 2000, *, seed: int = 0, bounds: Bounds = UNBOUNDED) -> Estimate | None:
    """A figure and its interval over clusters; None where it is not defined or fewer than two clusters bear on it.

    Items that add nothing to any channel, and clusters of only such items, do not count.
    """
    sums, n = _by_cluster(figure, figure.columns)
    return _resampled(lambda d: figure.of(d.prompts @ sums), len(sums), n, draws, seed, bounds)


def figure_change(before: WeightedSums, after: WeightedSums, draws: int = 2000, *, seed: int = 0, bounds: Bounds = UNBOUNDED) -> Estimate | None:
    """after − before in the figure's own unit, paired: the same clusters are drawn on both sides; None as in `figure_estimate`."""
    if before.clusters != after.clusters or len(before.columns) != len(after.columns):
        raise SpecError(f"`{before.name}` cannot be compared with `{after.name}`: both need the same items in the same order")
    width = before.columns.shape[1]
    sums, n = _by_cluster(before, np.concatenate([before.columns, after.columns], axis=1))
    return _resampled(lambda d: after.of(d.prompts @ sums[:, width:]) - before.of(d.prompts @ sums[:, :width]), len(sums), n, draws, seed, bounds)


def _by_cluster(figure: WeightedSums, columns: np.ndarray) -> tuple[np.ndarray, int]:
    """Sums [clusters, channels] of the clusters that count, and the number of items that do."""
    if len(figure.clusters) != len(columns):
        raise SpecError(f"`{figure.name}` has {len(columns)} items and {len(figure.clusters)} clusters; it needs one cluster an item")
    counted = (columns != 0).any(axis=1)
    names = np.array(figure.clusters, dtype=object)[counted]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    sums = np.zeros((len(places), columns.shape[1]))
    np.add.at(sums, [places[name] for name in names], columns[counted])
    return sums, int(counted.sum())


def _resampled(statistic: Callable[[Draws], np.ndarray], clusters: int, n: int, draws: int, seed: int, bounds: Bounds) -> Estimate | None:
    if clusters < 2:
        return None
    undefined: list[float] = []

    def quietly(weights: Draws) -> np.ndarray:
        with np.errstate(all="ignore"):  # a group that was not drawn divides by zero; the draw is left out
            drawn = np.asarray(statistic(weights), dtype=float)
        undefined.append(float(1 - np.isfinite(drawn).mean()))
        return drawn

    found = estimate(quietly, clusters, 0, n, draws=draws, seed=seed, bounds=bounds)
    return found if max(undefined) < 0.5 else None
