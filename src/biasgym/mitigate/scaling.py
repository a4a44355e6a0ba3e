"""Heads turned down or off, whole."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from biasgym.edits import Edits, SiteEdit
from biasgym.mitigate import Case
from biasgym.sites import Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class Zero:
    """The paper's edit: the k most bias-carrying heads write nothing (BiasGym v4 §3, k = 30). Neutral at k = 0."""

    name: ClassVar[str] = "zero"
    reads: ClassVar[Unit | None] = "head"
    k: int = field(default=30, metadata={"search": (1, 2, 3, 5, 10, 20, 30)})

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One silenced head each."""
        return tuple(SiteEdit(site, "scale", np.float32(0)) for site in case.attribution.top(self.k))


@dataclass(frozen=True)
class Scale:
    """The k most bias-carrying heads are multiplied by a factor, which may be negative. Neutral at factor 1 or k = 0."""

    name: ClassVar[str] = "scale"
    reads: ClassVar[Unit | None] = "head"
    k: int = field(default=10, metadata={"search": (1, 3, 5, 10, 20, 30)})
    factor: float = field(default=0.5, metadata={"search": (-0.5, 0.0, 0.25, 0.5, 0.75)})

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One scaled head each."""
        return tuple(SiteEdit(site, "scale", np.float32(self.factor)) for site in case.attribution.top(self.k))
