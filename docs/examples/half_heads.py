"""A mitigation of one's own: the heads that push most toward the bias write less."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from biasgym.edits import SiteEdit


@dataclass(frozen=True)
class HalfHeads:
    """The k most bias-carrying heads are turned down to a share of what they write. Neutral at share 1."""

    name: ClassVar[str] = "half-heads"
    reads: ClassVar[str] = "head"
    k: int = field(default=10, metadata={"search": (3, 10, 30)})
    share: float = field(default=0.5, metadata={"search": (0.25, 0.5, 0.75), "neutral": 1.0})

    def fit(self, lm, case):
        """One turned-down head each."""
        heads = case.attribution.top(min(self.k, case.attribution.values.size))
        return tuple(SiteEdit(head, "scale", np.float32(self.share)) for head in heads)
