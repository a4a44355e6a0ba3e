"""Patching: what happens to the answer when a place is given its output from the clean run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from biasgym.errors import SpecError
from biasgym.sites import Attribution, Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM
    from biasgym.lm.trace import Pair, Sides


@dataclass(frozen=True)
class ActivationPatching:
    """What the lean loses when one head is given its clean output, exactly: one resumed pass for every head.

    After Vig et al. 2020 (arXiv 2004.12265) and Wang et al. 2022 (arXiv 2211.00593). `positions`: every position from
    the name on (`entity`), or only where the answer is read off (`answer`). Whole answers are scored.
    """

    name: ClassVar[str] = "activation-patching"
    positions: Literal["entity", "answer"] = "entity"

    def rank(self, lm: "LM", pairs: Sequence["Pair"], sides: "Sides") -> Attribution:
        """Scores in nats, shape [pairs, layers, heads]."""
        from biasgym.lm.patch import activation_patching

        scores = activation_patching(lm, pairs, sides, positions=self.positions)
        return Attribution(self.name, "head", scores, tuple(pair.id for pair in pairs))


@dataclass(frozen=True)
class AttributionPatching:
    """First-order estimate of patching every place at every position: two forward passes and one backward for all.

    After Nanda 2023 and Syed, Rager & Conmy 2023 (arXiv 2310.10348). The gradient is taken at the biased run, the one
    that would be patched; whole answers are scored. `unit` head, neuron, stream or linear.
    """

    name: ClassVar[str] = "attribution-patching"
    unit: Unit = "head"
    positions: Literal["entity", "answer"] = "entity"

    def rank(self, lm: "LM", pairs: Sequence["Pair"], sides: "Sides") -> Attribution:
        """Scores in nats, shape [pairs, layers, index of the unit]."""
        from biasgym.lm.patch import attribution_patching

        scores = attribution_patching(lm, pairs, sides, unit=self.unit, positions=self.positions)
        return Attribution(self.name, self.unit, scores, tuple(pair.id for pair in pairs))


@dataclass(frozen=True)
class IntegratedGradients:
    """Attribution patching of heads with the gradient integrated on the way from biased to clean outputs.

    The path of a layer moves all its heads together, what stands before that layer staying as it is (Sundararajan, Taly &
    Yan 2017, arXiv 1703.01365): a layer's scores add up to the effect of patching the layer.
    """

    name: ClassVar[str] = "integrated-gradients"
    steps: int = 4
    positions: Literal["entity", "answer"] = "entity"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SpecError(f"integrated-gradients.steps = {self.steps}: at least 1 is needed")

    def rank(self, lm: "LM", pairs: Sequence["Pair"], sides: "Sides") -> Attribution:
        """Scores in nats, shape [pairs, layers, heads]."""
        from biasgym.lm.patch import integrated_gradients

        scores = integrated_gradients(lm, pairs, sides, steps=self.steps, positions=self.positions)
        return Attribution(self.name, "head", scores, tuple(pair.id for pair in pairs))
