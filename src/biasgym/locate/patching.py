"""Patching: what happens to the answer when a head is given its output from the clean run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from biasgym.sites import Attribution

if TYPE_CHECKING:
    from biasgym.lm.model import LM
    from biasgym.lm.trace import Pair, Sides


@dataclass(frozen=True)
class AttributionPatching:
    """First-order estimate of patching every head at every position: two forward passes and one backward for all heads.

    After Nanda 2023 and Syed, Rager & Conmy 2023 (arXiv 2310.10348). The gradient is taken at the biased run, the one
    that would be patched; whole answers are scored.
    """

    name: ClassVar[str] = "attribution-patching"

    def rank(self, lm: "LM", pairs: Sequence["Pair"], sides: "Sides") -> Attribution:
        """Scores in nats, shape [pairs, layers, heads]."""
        from biasgym.lm.trace import attribution_patching

        scores = attribution_patching(lm, pairs, sides)
        return Attribution(self.name, "head", scores, tuple(pair.id for pair in pairs))
