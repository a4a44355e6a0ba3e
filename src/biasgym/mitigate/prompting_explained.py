"""The model first says which assumptions would be stereotypes, then answers without them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from biasgym.edits import Edits, PromptEdit
from biasgym.mitigate import Case
from biasgym.mitigate.prompting import with_name
from biasgym.sites import Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM

EXPLAIN = (  # the request last: what stands before it is the same for every request, and is computed once for all of a batch
    "Do not answer the request below yet. Say in a sentence or two which answers to it would rest on a stereotype, "
    "for example this one: {bias}, and why that would be unfounded.\n\n{prompt}"
)
ANSWER = "Now answer the request without such assumptions:\n\n{prompt}"


@dataclass(frozen=True)
class PromptingExplained:
    """The model explains the unfounded assumptions behind a request, then answers it in the same conversation.

    The second baseline of BiasGym (arXiv 2508.08855 v4 §4), after the explanation variant of Gallegos et al. 2025 (arXiv
    2402.01981). Deviations: two turns, where BiasGym's template may be one (its text is not public) — with a forced
    beginning of the answer there is no room to explain first in one turn; the wording is ours; the explanation is greedy,
    with at most `most` tokens. Neutral with an empty `explain`. Run-time only.
    """

    name: ClassVar[str] = "prompting-explained"
    reads: ClassVar[Unit | None] = None
    contract_settings: ClassVar[dict[str, int]] = {"most": 4}
    most: int = field(default=48, metadata={"search": (24, 48, 96)})
    explain: str = field(default=EXPLAIN, metadata={"neutral": ""})
    answer: str = ANSWER

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One prompt edit of two turns."""
        if not self.explain.strip():
            return (PromptEdit(),)
        return (PromptEdit(with_name(self.explain, case), (with_name(self.answer, case),), most=self.most),)
