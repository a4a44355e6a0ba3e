"""Projection: from each head, only the direction that tells the token from real entities is taken out."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from biasgym.edits import Edits, SiteEdit
from biasgym.mitigate import Case
from biasgym.sites import Site, Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class Direction:
    """Ours: in each of the k most bias-carrying heads, one direction is projected out of the head's output.

    The direction is the mean over the fitted tokens of (what the head writes with the token − the mean over real train
    entities), at the answer position, of unit length. `strength` 1 removes it, more reverses it. It folds into W_O as a
    rank-one change of the head's columns. Neutral at strength 0 or k = 0.
    """

    name: ClassVar[str] = "direction"
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


def unit_vector(vector: np.ndarray) -> np.ndarray:
    """The vector at length 1, in float32."""
    result: np.ndarray = (vector / np.linalg.norm(vector)).astype(np.float32)
    return result


def _has_direction(contrasts: np.ndarray, site: Site) -> bool:
    return bool(np.linalg.norm(contrasts[site.layer, site.index]) > 1e-8)
