"""One edit for several biases: in each head the directions that tell any of their tokens from real entities are erased together."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from biasgym.edits import Edits, SiteEdit
from biasgym.errors import SpecError
from biasgym.mitigate import Case
from biasgym.mitigate.direction import calmest, disturbance_of, kept_apart
from biasgym.sites import Attribution, Site, Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class JointDirection:
    """Ours for several biases at once: what their tokens share in a head is erased once, what sets them apart each for itself.

    Heads are ranked by the biases' mean share of effect (each bias's positive attributions sum to 1), so none is drowned by
    a stronger one. In a head the biases' mean contrasts, each of unit length times √(share), are decomposed; directions of
    at least `spread` times the largest singular value are taken out, each recognised by the vector that responds least to
    neutral text, not to the other directions, and not to any bias's concept or mean real entity. Strengths are set as in
    `direction`, which this is for one bias. A union of each bias's own edit takes out what biases share as often as there
    are biases. Neutral at strength 0 or k = 0.
    """

    name: ClassVar[str] = "joint-direction"
    reads: ClassVar[Unit | None] = "head"
    k: int = field(default=30, metadata={"search": (10, 20, 30, 45, 60, 90)})
    strength: float = field(default=1.25, metadata={"search": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)})
    spread: float = 0.35
    most: float = 2.5

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One erasure a direction; several may stand at one head."""
        cases = (case, *case.others)
        shares = [_shares(one.attribution) for one in cases]
        mean = Attribution(case.attribution.method, "head", np.mean(shares, axis=0)[None])
        found = [
            (site, pair, effect / max(disturbance_of(lm, _moments(cases, site), site, pair), 1e-12))
            for site in mean.top(self.k)
            if mean.values[site.layer, site.index] > 0
            for pair, effect in self._erasures(cases, [float(share[site.layer, site.index]) for share in shares], site)
        ]
        if not found:
            return ()
        relative = np.sqrt(np.array([ratio for *_, ratio in found]))
        strengths = np.minimum(self.strength * relative / np.median(relative), self.most * min(1.0, self.strength))
        return tuple(SiteEdit(site, "erase", pair, float(s)) for (site, pair, _), s in zip(found, strengths, strict=True))

    def _erasures(self, cases: Sequence[Case], shares: Sequence[float], site: Site) -> list[tuple[np.ndarray, float]]:
        """Rows a and b of each direction of a head, and its part of the biases' effect there."""
        contrasts = np.stack([one.contrasts.mean(axis=0)[site.layer, site.index] for one in cases]).astype(np.float64)
        lengths = np.linalg.norm(contrasts, axis=1)
        weights = np.where(lengths > 1e-8, np.array(shares), 0.0)
        if not weights.any():
            return []
        units = contrasts / np.maximum(lengths, 1e-8)[:, None]
        _, sizes, rows = np.linalg.svd(np.sqrt(weights)[:, None] * units, full_matrices=False)
        rows = rows[sizes >= self.spread * sizes[0]]
        m = _moments(cases, site)
        kept = [v for one in cases for v in (one.concept[site.layer, site.index], one.real[site.layer, site.index])]
        apart = kept_apart(rows, [np.asarray(v, dtype=np.float64) for v in kept], m)
        pairs = [np.stack([row, calmest(number, rows, apart, m)]).astype(np.float32) for number, row in enumerate(rows)]
        return [(pair, float(weights @ (units @ row) ** 2) / len(cases)) for pair, row in zip(pairs, rows, strict=True)]


def joined(cases: Sequence[Case]) -> Case:
    """Cases of several biases as one: the first, with the others in it."""
    if not cases:
        raise SpecError("no bias was given to be fitted together")
    return replace(cases[0], others=tuple(cases[1:]))


def _shares(attribution: Attribution) -> np.ndarray:
    """Positive attributions as shares of their sum, [layers, heads]; what pushes away from a bias counts 0."""
    positive = np.maximum(attribution.values, 0)
    found: np.ndarray = positive / max(float(positive.sum()), 1e-12)
    return found


def _moments(cases: Sequence[Case], site: Site) -> np.ndarray:
    found: np.ndarray = np.mean([one.moments[site.layer, site.index] for one in cases], axis=0).astype(np.float64)
    return found
