"""Two tuned copies, one on biased and one on anti-biased sentences, shift the model's next-token logits."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from biasgym.edits import ContrastEdit, Edits, Twin, WeightEdit
from biasgym.mitigate import Case
from biasgym.mitigate.texts import Side, groups, sentences
from biasgym.sites import Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class ExpertPair:
    """Next-token logits z + α(z⁺ − z⁻) of the model, a copy tuned on anti-biased and one tuned on biased sentences.

    Small biased and anti-biased experts (arXiv 2412.01711; the formula of DExperts, Liu et al. 2021, arXiv 2105.03023).
    `strength` is α. `anti_only` is the baseline without z⁺: the model itself stands in its place, as in DExperts.
    `expert` names another, smaller model with the same tokenizer to tune; it cannot read a bias token. The biased
    sentences say stereotype words of the group that the bias is about (the fitted tokens; without tokens, the file's
    targets, else all train entities), the anti-biased ones foils of the same names, as RedditBias does with attributes.
    Deviations: made-up sentences instead of RedditBias; low-rank tuning; no nucleus filter of the base before
    the shift (there it is for generation only, and scoring and generation would differ). `lm/contrast.py` gives the
    per-token shift table. Neutral at strength 0. Run-time only.
    """

    name: ClassVar[str] = "expert-pair"
    reads: ClassVar[Unit | None] = None
    contract_settings: ClassVar[dict[str, int]] = {"steps": 3, "texts": 8, "batch": 4}
    strength: float = field(default=1.0, metadata={"search": (0.25, 0.5, 1.0, 1.5, 2.0), "neutral": 0.0})
    anti_only: bool = False
    expert: str = field(default="", metadata={"file": True})
    steps: int = 40
    learning_rate: float = 1e-3
    rank: int = 4
    batch: int = 16
    texts: int = 200

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One contrast of two copies, or of the biased one alone."""
        if not self.strength:
            return ()
        sides: tuple[Side, ...] = ("stereotype",) if self.anti_only else ("foil", "stereotype")
        twins = tuple(Twin(edits=self.copy(lm, case, side), model=self.expert) for side in sides)
        return (ContrastEdit("shift", twins, self.strength),)

    def copy(self, lm: "LM", case: Case, side: Side) -> tuple[WeightEdit, ...]:
        """The low-rank changes that make an expert of one side."""
        from biasgym.lm.contrast import other_model
        from biasgym.lm.finetune import Course, learn_matrices, whole_text

        home = other_model(lm, self.expert) if self.expert else lm
        tokens = () if self.expert else case.tokens
        bias = case.known_bias(self.name)
        named = replace(case, tokens=tokens)
        names = groups(named, self.name)[0] if tokens or bias.targets else bias.entities_of("train")
        texts = [one.text for one in sentences(bias, names, (side,), self.texts, 0)]
        course = Course(self.steps, self.batch, self.learning_rate, self.rank)

        def make() -> tuple[WeightEdit, ...]:
            with home.edited(*tokens):
                return learn_matrices(home, [whole_text(home, text) for text in texts], course)

        found: tuple[WeightEdit, ...] = home.remembered(make, "expert", tuple(texts), course, tokens)
        return found
