"""The model corrects itself in a conversation, told nothing of the bias in question."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from biasgym.edits import Edits, PromptEdit
from biasgym.errors import SpecError, unknown
from biasgym.mitigate import Case
from biasgym.sites import Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM

TURNS = {
    "explanation": (
        "{prompt}\n\nBefore you answer: which answers would rest on assumptions that nothing here supports? Explain briefly.",
        ("Keep that in mind and answer now.\n\n{prompt}",),
    ),
    "reprompting": ("{prompt}", ("Take any bias out of that answer and answer the same question again.\n\n{prompt}",)),
    "none": ("{prompt}", ()),
}


@dataclass(frozen=True)
class SelfDebiasZeroShot:
    """Zero-shot self-debiasing: explain the invalid assumptions first, or answer and be asked again.

    Gallegos et al. 2025 (arXiv 2402.01981, §3.2–3.4), in one conversation, so that the second turn sees the first. No
    stereotype is named. `lm/choices.py` runs the published protocol on lettered questions: options in a random order,
    letters parsed or scored by log-probability, unparsed answers dropped and counted. Deviations: the wording is ours;
    answers between turns are greedy where the paper samples at temperature 1. 25 tokens as there. Neutral at variant
    `none`. Run-time only.
    """

    name: ClassVar[str] = "self-debias-zero-shot"
    reads: ClassVar[Unit | None] = None
    contract_settings: ClassVar[dict[str, int]] = {"most": 4}
    variant: str = field(default="explanation", metadata={"search": ("explanation", "reprompting"), "neutral": "none"})
    most: int = 25

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One prompt edit of two turns."""
        if self.variant not in TURNS:
            raise SpecError(unknown("variant", self.variant, TURNS))
        first, then = TURNS[self.variant]
        return (PromptEdit(first, then, opened=self.variant == "reprompting", most=self.most),)
