"""From each head only what tells the token from real entities is taken out, with as little disturbance as can be."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

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
    and `most` its ceiling. `order` ranks heads by effect, or by `worth`: effect² ÷ cost, what a head can close at a given
    cost where the strength is free. Neutral at strength 0 or k = 0.
    """

    name: ClassVar[str] = "direction"
    reads: ClassVar[Unit | None] = "head"
    k: int = field(default=30, metadata={"search": (5, 10, 20, 30, 45, 60)})
    strength: float = field(default=1.25, metadata={"search": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)})
    most: float = 2.5
    order: Literal["effect", "worth"] = "effect"

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One erasure a head."""
        case.attribution.top(self.k)  # says what k may be
        mean = case.contrasts.mean(axis=0)
        ranked = case.attribution.ranked()
        if self.order == "worth":
            ranked = _by_worth(lm, case, [s for s in ranked if case.attribution.values[s.layer, s.index] > 0 and _has_direction(mean, s)])
        sites = [s for s in ranked[: self.k] if case.attribution.values[s.layer, s.index] > 0 and _has_direction(mean, s)]
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


def _by_worth(lm: "LM", case: Case, sites: Sequence[Site]) -> list[Site]:
    """Sites by effect² ÷ cost, the largest first."""

    def worth(site: Site) -> float:
        return float(case.attribution.values[site.layer, site.index]) ** 2 / max(disturbance(lm, case, site, erasure(case, site)), 1e-12)

    return sorted(sites, key=worth, reverse=True)


def erasure(case: Case, site: Site) -> np.ndarray:
    """The rows a and b of an erasure at a head, shape [2, head size], float32.

    b minimises bᵀMb under b·a = 1, b·concept = 0 and b·real = 0. A constraint that points almost the same way as a cannot be
    met beside the first and is left out.
    """
    at = (site.layer, site.index)
    a = case.contrasts.mean(axis=0)[at].astype(np.float64)
    m = case.moments[at].astype(np.float64)
    kept = kept_apart(a[None], [case.concept[at].astype(np.float64), case.real[at].astype(np.float64)], m)
    return np.stack([a, calmest(0, a[None], kept, m)]).astype(np.float32)


def calmest(which: int, rows: np.ndarray, kept: Sequence[np.ndarray], moments: np.ndarray) -> np.ndarray:
    """b that responds least to what has these moments, with b·rows[which] = 1 and 0 with the other rows and all that is kept.

    The linearly constrained minimum-variance filter of Frost 1972. `rows` [r, size] must be independent; what is kept may
    be one direction twice.
    """
    m = _ridged(moments)
    columns = np.stack([*rows, *kept], axis=1)
    inverse = np.linalg.solve(m, columns)
    wanted = np.zeros(columns.shape[1])
    wanted[which] = 1.0
    b = inverse @ np.linalg.pinv(columns.T @ inverse, hermitian=True) @ wanted
    found: np.ndarray = b / (b @ rows[which])
    return found


def kept_apart(rows: np.ndarray, wishes: Sequence[np.ndarray], moments: np.ndarray) -> list[np.ndarray]:
    """Those of some directions to keep that leave enough of every row to be recognised by; in the order of the wishes."""
    m = _ridged(moments)
    kept: list[np.ndarray] = []
    for wish in wishes:
        if all(_angle(row, np.stack([*kept, wish]), m) > NARROW for row in rows):
            kept.append(wish)
    return kept


def _ridged(moments: np.ndarray) -> np.ndarray:
    found: np.ndarray = moments + RIDGE * max(np.trace(moments) / len(moments), 1e-12) * np.eye(len(moments))
    return found


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
    return disturbance_of(lm, case.moments[site.layer, site.index], site, pair)


def disturbance_of(lm: "LM", moments: np.ndarray, site: Site, pair: np.ndarray) -> float:
    """The same for a head's moments [head size, head size]."""
    a, b = pair
    return float(b @ moments @ b) * float(np.linalg.norm(lm.head_matrix(site.layer, site.index) @ a) ** 2)


def unit_vector(vector: np.ndarray) -> np.ndarray:
    """The vector at length 1, in float32."""
    result: np.ndarray = (vector / np.linalg.norm(vector)).astype(np.float32)
    return result


def _has_direction(contrasts: np.ndarray, site: Site) -> bool:
    return bool(np.linalg.norm(contrasts[site.layer, site.index]) > 1e-8)
