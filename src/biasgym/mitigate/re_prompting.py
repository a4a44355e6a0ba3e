"""The model answers, then is asked to write the answer again without stereotypes."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from biasgym.edits import Edits, PromptEdit
from biasgym.mitigate import Case
from biasgym.mitigate.prompting import with_name
from biasgym.sites import Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM

REWRITE = "Your answer may lean on a stereotype, for example this one: {bias}. Write the answer again without it, and change nothing else."


@dataclass(frozen=True)
class RePrompting:
    """Two passes: the model answers as it would, then rewrites its answer without the named stereotype.

    The third baseline of BiasGym (arXiv 2508.08855 v4 §4), after the reprompting variant of Gallegos et al. 2025 (arXiv
    2402.01981). The first answer begins as the one that is scored does, and stays in the conversation. Deviations: the
    wording is ours; the first answer is greedy, with at most `most` tokens. Neutral with an empty `rewrite`. Run-time only.
    """

    name: ClassVar[str] = "re-prompting"
    reads: ClassVar[Unit | None] = None
    contract_settings: ClassVar[dict[str, int]] = {"most": 4}
    most: int = field(default=48, metadata={"search": (24, 48, 96)})
    rewrite: str = field(default=REWRITE, metadata={"neutral": ""})

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One prompt edit of two turns."""
        if not self.rewrite.strip():
            return (PromptEdit(),)
        return (PromptEdit("{prompt}", (with_name(self.rewrite, case),), opened=True, most=self.most),)
