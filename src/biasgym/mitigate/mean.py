"""Heads held at what they write for the mean real entity."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from biasgym.edits import Edits, SiteEdit
from biasgym.mitigate import Case
from biasgym.sites import Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class Mean:
    """The k most bias-carrying heads write their mean over real entities, whatever the text (mean ablation).

    After Wang et al. 2022 (arXiv 2211.00593); there the mean is taken position by position, here it is the one at the
    answer position on train probes, put at every position. Folds into a checkpoint only where the attention output has
    a bias (GPT-2, GPT-NeoX, some Llama-likes); elsewhere it is run-time only and an export says so. Strength mixes
    between the head's own output and the mean. Neutral at strength 0 or k = 0.
    """

    name: ClassVar[str] = "mean"
    reads: ClassVar[Unit | None] = "head"
    k: int = field(default=10, metadata={"search": (1, 3, 5, 10, 20, 30)})
    strength: float = field(default=1.0, metadata={"search": (0.25, 0.5, 0.75, 1.0), "neutral": 0.0})

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One held head each."""
        return tuple(SiteEdit(site, "set", case.real[site.layer, site.index], self.strength) for site in case.attribution.top(self.k))
