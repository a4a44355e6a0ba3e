"""A small proportional-odds model: one weighted sum of features, cut at three places into strengths 0 to 3."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

STEPS = 600


@dataclass(frozen=True)
class Ordinal:
    """P(strength ≤ k) = σ(cut_k − w·z) with z the standardised features (McCullagh 1980). Weights say what counts how much."""

    features: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    cuts: tuple[float, float, float]

    def probabilities(self, rows: Sequence[Mapping[str, float]]) -> np.ndarray:
        """Probability of each strength, shape [rows, 4]."""
        x = np.array([[row[name] for name in self.features] for row in rows]).reshape(len(rows), len(self.features))
        leaning = (x - np.array(self.means)) / np.array(self.scales) @ np.array(self.weights)
        below = _sigmoid(np.array(self.cuts) - leaning[:, None])
        made: np.ndarray = np.diff(below, axis=1, prepend=0.0, append=1.0)
        return made

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, rounded to six digits."""
        return {key: [round(v, 6) if isinstance(v, float) else v for v in value] for key, value in asdict(self).items()}


def median(shares: np.ndarray) -> np.ndarray:
    """The median strength of each row of probabilities: the middle, which serves none/any and kappa alike."""
    made: np.ndarray = (np.cumsum(shares, axis=1)[:, :3] < 0.5).sum(1)
    return made


def ordinal_of(raw: Mapping[str, Any]) -> Ordinal:
    """The model from plain numbers; KeyError or TypeError when they are not one."""
    return Ordinal(*(tuple(raw[key]) for key in ("features", "means", "scales", "weights", "cuts")))  # type: ignore[arg-type]


def fit_ordinal(rows: Sequence[Mapping[str, float]], strengths: Sequence[int], features: Sequence[str], *, ridge: float) -> Ordinal:
    """Mean negative log-likelihood plus ridge/2 times the squared weights, by a fixed number of Adam steps from zero."""
    x = np.array([[row[name] for name in features] for row in rows])
    y = np.asarray(strengths, dtype=int)
    means, scales = x.mean(0), x.std(0)
    scales[scales < 1e-9] = 1.0
    z = (x - means) / scales
    p = np.concatenate([np.zeros(len(features)), [-1.0, 0.0, 0.0]])
    first, second = np.zeros_like(p), np.zeros_like(p)
    for step in range(1, STEPS + 1):
        gradient = _gradient(p, z, y, ridge)
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        p = p - 0.05 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-9)
    weights, cuts = p[:-3], _cuts(p)
    return Ordinal(tuple(features), *(tuple(float(v) for v in part) for part in (means, scales, weights, cuts)))  # type: ignore[arg-type]


def _cuts(p: np.ndarray) -> np.ndarray:
    """The cuts are kept in order: the first, then gaps that are exponentials."""
    made: np.ndarray = np.cumsum([p[-3], np.exp(p[-2]), np.exp(p[-1])])
    return made


def _gradient(p: np.ndarray, z: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    n, weights = len(z), p[:-3]
    below = np.concatenate([np.zeros((n, 1)), _sigmoid(_cuts(p) - (z @ weights)[:, None]), np.ones((n, 1))], axis=1)
    slope = below * (1 - below)
    each = np.arange(n)
    likelihood = np.clip(below[each, y + 1] - below[each, y], 1e-9, 1)
    upper, lower = slope[each, y + 1] / likelihood / n, slope[each, y] / likelihood / n
    by_cut = np.array([lower[y == k + 1].sum() - upper[y == k].sum() for k in range(3)])
    gaps = np.exp(p[-2:])
    by_parameter = [by_cut.sum(), gaps[0] * by_cut[1:].sum(), gaps[1] * by_cut[2]]
    return np.concatenate([z.T @ (upper - lower) + ridge * weights, by_parameter])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    made: np.ndarray = 1 / (1 + np.exp(-np.clip(x, -30, 30)))
    return made
