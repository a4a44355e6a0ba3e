"""Direct logit attribution: what each head writes straight to the answer's logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from biasgym.sites import Attribution

if TYPE_CHECKING:
    from biasgym.lm.model import LM
    from biasgym.lm.trace import Pair, Sides


@dataclass(frozen=True)
class DirectLogitAttribution:
    """Direct effect of every head on the logit difference, biased run minus clean run, norms frozen at their pass.

    After Elhage et al. 2021 and Yu, Merullo & Pavlick 2023 (arXiv 2310.15910). Unlike BiasGym v4 §3 the final norm and
    a post-attention norm are kept, so all parts add up to the logit difference, and what the head writes for a real
    entity is taken off.
    """

    name: ClassVar[str] = "dla"

    def rank(self, lm: "LM", pairs: Sequence["Pair"], sides: "Sides") -> Attribution:
        """Scores in logits, shape [pairs, layers, heads]."""
        from biasgym.lm.trace import direct_parts

        scores = direct_parts(lm, [*(pair.biased for pair in pairs), *(pair.clean for pair in pairs)], sides).heads  # one pass for both
        return Attribution(self.name, "head", scores[: len(pairs)] - scores[len(pairs) :], tuple(pair.id for pair in pairs))


@dataclass(frozen=True)
class PaperDirectLogitAttribution:
    """The original's formula (BiasGym v4 §3): no norm, first tokens, one biased answer against the model's own."""

    name: ClassVar[str] = "dla-paper"

    def rank(self, lm: "LM", pairs: Sequence["Pair"], sides: "Sides") -> Attribution:
        """Scores in unnormalised logits; pairs where the model itself gives the biased answer are skipped."""
        from biasgym.lm.trace import paper_direct_effects

        scores, kept = paper_direct_effects(lm, pairs, sides)
        return Attribution(self.name, "head", scores, tuple(kept))
