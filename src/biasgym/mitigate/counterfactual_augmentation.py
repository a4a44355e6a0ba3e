"""The model is tuned on texts in which every name gets every word."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from biasgym.edits import Edits, WeightEdit
from biasgym.mitigate import Case
from biasgym.mitigate.texts import groups, neutral_texts, twins
from biasgym.sites import Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM

TOKENS = 48  # of each text; paragraphs are cut there


@dataclass(frozen=True)
class CounterfactualAugmentation:
    """Low-rank tuning on sentences and their twins with the names swapped, so that no word goes with one group.

    Counterfactual data augmentation (Zmigrod et al. 2019, arXiv 1906.04571; as a rival in bias-bench, Meade et al. 2022,
    arXiv 2110.08527), two-sided: both halves stay. A sentence names a fitted token (without tokens, a target) or a real
    train entity and has a stereotype or a foil word, all four kinds equally often; half of the texts are paragraphs about
    nothing in particular, swapped alike. Deviations: our sentences instead of Wikipedia; LoRA (rank `rank`, all matrices
    in the layers) instead of full training; `strength` scales what was learnt. Neutral at strength 0. Folds, as a
    low-rank change a matrix.
    """

    name: ClassVar[str] = "counterfactual-augmentation"
    reads: ClassVar[Unit | None] = None
    contract_settings: ClassVar[dict[str, int]] = {"steps": 2, "texts": 12, "batch": 4}
    strength: float = field(default=1.0, metadata={"search": (0.25, 0.5, 0.75, 1.0, 1.5), "neutral": 0.0})
    steps: int = 40
    learning_rate: float = 5e-4
    rank: int = 4
    batch: int = 12
    texts: int = 240

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One low-rank change a matrix."""
        from biasgym.lm.finetune import Course, learn_matrices, scaled, whole_text

        texts = self.corpus(case)
        course = Course(self.steps, self.batch, self.learning_rate, self.rank)

        def make() -> tuple[WeightEdit, ...]:
            with lm.edited(*case.tokens):
                return learn_matrices(lm, [whole_text(lm, text, TOKENS) for text in texts], course)

        return scaled(lm.remembered(make, "augmented", tuple(texts), course, case.tokens), self.strength) if self.strength else ()

    def corpus(self, case: Case) -> list[str]:
        """Sentences with their twins, and neutral paragraphs with theirs."""
        bias = case.known_bias(self.name)
        first, second = groups(case, self.name)
        pairs = twins(bias, first, second, self.texts // 4, 0)
        plain = [neutral_texts(names, self.texts // 4, 0) for names in (first, second)]
        return [text for pair in pairs for text in pair] + [text for texts in plain for text in texts]
