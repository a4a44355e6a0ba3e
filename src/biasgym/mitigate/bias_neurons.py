"""Outputs of linear maps that push the biased answer, and carry no skill, are pruned."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from biasgym.corpus import ENTITY
from biasgym.edits import Edits
from biasgym.mitigate import Case
from biasgym.sites import Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM
    from biasgym.lm.neurons import Confusion


@dataclass(frozen=True)
class BiasNeurons:
    """The linear-map outputs that push the biased answer most are set to zero, those of the right answer spared.

    CRISPR (Yang et al. 2023, arXiv 2311.09627): every linear map in the layers counts, embedding and output matrix do
    not; activation × gradient, maximum over positions, weighted by the confusion, skill taken off, mean over wordings.
    Deviations: the first position, where decoders have their outsized activations, has no part in the maximum;
    questions are the bias's train probes about the fitted tokens (without tokens, about train entities), the wrong
    answers its stereotype words and the right ones its foils, where the paper takes BBQ; the ten instructions are the
    probes' frames; their number is set by the gym's search on dev, not by golden section. Neutral at 0 neurons. Folds.
    """

    name: ClassVar[str] = "bias-neurons"
    reads: ClassVar[Unit | None] = None
    contract_settings: ClassVar[dict[str, int]] = {"texts": 6}
    neurons: int = field(default=30, metadata={"search": (1, 3, 10, 30, 100), "neutral": 0})
    texts: int = 48

    def fit(self, lm: "LM", case: Case) -> Edits:
        """A change of each matrix that loses outputs."""
        from biasgym.lm.neurons import pruned, strongest

        return pruned(lm, strongest(self.scores(lm, case), self.neurons)) if self.neurons else ()

    def scores(self, lm: "LM", case: Case) -> dict[str, np.ndarray]:
        """The score of every output, by the name of its map."""
        from biasgym.lm.neurons import bias_scores

        items = self.questions(case)

        def make() -> dict[str, np.ndarray]:
            with lm.edited(*case.tokens):
                return bias_scores(lm, items)

        found: dict[str, np.ndarray] = lm.remembered(make, "neurons", tuple(items), case.tokens)
        return found

    def questions(self, case: Case) -> "list[Confusion]":
        """Train probes, spread over their frames, about the names in turn."""
        from biasgym.lm.model import Query
        from biasgym.lm.neurons import Confusion

        bias = case.known_bias(self.name)
        probes = bias.probes_of("train")
        names = [token.text for token in case.tokens] or bias.entities_of("train")
        order = np.random.default_rng(3).permutation(len(probes))
        asked = [(probes[int(order[i % len(order)])], names[i % len(names)]) for i in range(self.texts)]
        return [
            Confusion(Query(p.prompt.replace(ENTITY, name), p.prefix.replace(ENTITY, name)), bias.stereotype, bias.foil, p.frame)
            for p, name in dict.fromkeys(asked)
        ]
