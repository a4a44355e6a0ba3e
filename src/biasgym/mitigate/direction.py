"""From each head only what tells the token from real entities is taken out, with as little disturbance as can be."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from biasgym.edits import Edits, SiteEdit
from biasgym.mitigate import Case
from biasgym.sites import Site, Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM

RIDGE = 0.1
NARROW = 0.05


@dataclass(frozen=True)
class Projection:
    """One direction is projected out of each of the k most bias-carrying heads, all equally: the plain form of ours.

    The direction is the mean over the fitted tokens of (what the head writes with the token − the mean over real train
    entities), at the answer position, of unit length. `strength` 1 removes it, more reverses it. Neutral at strength 0
    or k = 0.
    """

    name: ClassVar[str] = "projection"
    reads: ClassVar[Unit | None] = "head"
    k: int = field(default=20, metadata={"search": (3, 5, 10, 20, 30, 45, 60)})
    strength: float = field(default=1.0, metadata={"search": (0.5, 0.75, 1.0, 1.25, 1.5)})

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One projection a head."""
        mean = case.contrasts.mean(axis=0)
        return tuple(
            SiteEdit(site, "project", unit_vector(mean[site.layer, site.index]), self.strength)
            for site in case.attribution.top(self.k)
            if _has_direction(mean, site)
        )


@dataclass(frozen=True)
class Direction:
    """Ours: from each of the k most bias-carrying heads the token's own contribution is erased, the concept kept.

    What is taken out, a, is the mean over the fitted tokens of (head output with the token − mean over real train
    entities). What recognises it, b, is the vector with b·a = 1 that responds least to neutral text, and not at all to
    the concept or to the mean real entity: it minimises bᵀMb for the moments M of neutral text and of probes about real
    entities, with b·(concept contrast) = 0 and b·(mean entity) = 0 (cf. LEACE, Belrose et al. 2023, arXiv 2306.03819,
    for the projection of least disturbance). Closing the gap by pulling real entities up is so ruled out at the heads.
    The head then writes y − s·a(b·y), which folds into W_O as a rank-one change of its columns. Heads get s ∝ √(effect ÷ cost): effect
    is the attribution, cost the mean square of what the edit changes in neutral text; `strength` is s at the median head
    and `most` its ceiling. Neutral at strength 0 or k = 0.
    """

    name: ClassVar[str] = "direction"
    reads: ClassVar[Unit | None] = "head"
    k: int = field(default=30, metadata={"search": (5, 10, 20, 30, 45, 60)})
    strength: float = field(default=1.25, metadata={"search": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)})
    most: float = 2.5

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One erasure a head."""
        mean = case.contrasts.mean(axis=0)
        sites = [s for s in case.attribution.top(self.k) if case.attribution.values[s.layer, s.index] > 0 and _has_direction(mean, s)]
        pairs = [erasure(case, site) for site in sites]
        strengths = self._strengths(lm, case, sites, pairs)
        return tuple(SiteEdit(site, "erase", pair, s) for site, pair, s in zip(sites, pairs, strengths, strict=True))

    def _strengths(self, lm: "LM", case: Case, sites: Sequence[Site], pairs: Sequence[np.ndarray]) -> list[float]:
        if not sites:
            return []
        ratios = np.array([
            case.attribution.values[site.layer, site.index] / max(disturbance(lm, case, site, pair), 1e-12)
            for site, pair in zip(sites, pairs, strict=True)
        ])  # fmt: skip
        relative = np.sqrt(ratios / np.median(ratios))
        return [float(s) for s in np.minimum(self.strength * relative, self.most * min(1.0, self.strength))]


def erasure(case: Case, site: Site) -> np.ndarray:
    """The rows a and b of an erasure at a head, shape [2, head size], float32.

    b minimises bᵀMb under b·a = 1, b·concept = 0 and b·real = 0 (the linearly constrained minimum-variance filter of
    Frost 1972). A constraint that points almost the same way as a cannot be met beside the first and is left out.
    """
    at = (site.layer, site.index)
    a = case.contrasts.mean(axis=0)[at].astype(np.float64)
    m = case.moments[at].astype(np.float64)
    m = m + RIDGE * max(np.trace(m) / len(m), 1e-12) * np.eye(len(m))
    rows = [a]
    for keep in (case.concept[at], case.real[at]):
        trial = np.stack([*rows, keep.astype(np.float64)])
        if _angle(a, trial[1:], m) > NARROW:
            rows = list(trial)
    columns = np.stack(rows, axis=1)
    inverse = np.linalg.solve(m, columns)
    wanted = np.zeros(len(rows))
    wanted[0] = 1.0
    b = inverse @ np.linalg.pinv(columns.T @ inverse, hermitian=True) @ wanted  # concept and entity may be one direction
    return np.stack([a, b / (b @ a)]).astype(np.float32)


def _angle(a: np.ndarray, kept: np.ndarray, m: np.ndarray) -> float:
    """Share of a, measured by the inverse of m, that lies outside the span of what is kept; 0 when nothing is left."""
    if not np.linalg.norm(kept[-1]):
        return 0.0
    inverse = np.linalg.inv(m)
    gram = kept @ inverse @ kept.T
    inside = kept @ inverse @ a
    return float(1 - inside @ np.linalg.pinv(gram) @ inside / (a @ inverse @ a))


def disturbance(lm: "LM", case: Case, site: Site, pair: np.ndarray) -> float:
    """Mean square of what an erasure of strength 1 changes in the residual stream on neutral text."""
    a, b = pair
    return float(b @ case.moments[site.layer, site.index] @ b) * float(np.linalg.norm(lm.head_matrix(site.layer, site.index) @ a) ** 2)


def unit_vector(vector: np.ndarray) -> np.ndarray:
    """The vector at length 1, in float32."""
    result: np.ndarray = (vector / np.linalg.norm(vector)).astype(np.float32)
    return result


def _has_direction(contrasts: np.ndarray, site: Site) -> bool:
    return bool(np.linalg.norm(contrasts[site.layer, site.index]) > 1e-8)
