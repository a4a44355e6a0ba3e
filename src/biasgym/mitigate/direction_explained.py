"""An instruction and our edit at once: the corner that says whether the two add up."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from biasgym.edits import Edits
from biasgym.mitigate import Case
from biasgym.mitigate.direction import Direction
from biasgym.mitigate.direction_uninjected import UninjectedDirection
from biasgym.mitigate.prompting_explained import PromptingExplained
from biasgym.sites import Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class ExplainedDirection:
    """Prompt and edit at once, `prompting-explained` with `direction`: the model explains the assumptions first, and its heads are edited.

    BiasGym (arXiv 2508.08855 v4 §4) reports prompt and edit, but never the one without the other in one table; beside both
    alone this is the fourth corner. `injected` false takes `direction-uninjected` for the edit. `most` is the length of
    the explanation in tokens, `ceiling` the edit's `most`. Heads alone are edited at an empty `explain`, and the prompt
    alone is left at strength 0 or k = 0. Run-time only.
    """

    name: ClassVar[str] = "direction-explained"
    reads: ClassVar[Unit | None] = "head"
    contract_settings: ClassVar[dict[str, int]] = {"most": 4}
    neutral_settings: ClassVar[dict[str, object]] = {"k": 0, "explain": ""}  # two edits in one: neither alone is off
    k: int = field(default=30, metadata={"search": (5, 10, 20, 30, 45, 60)})
    strength: float = field(default=1.25, metadata={"search": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)})
    injected: bool = True
    most: int = 48
    explain: str = PromptingExplained.explain
    ceiling: float = 2.5

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One prompt edit of two turns, then one erasure a head."""
        edit = Direction if self.injected else UninjectedDirection
        prompt = PromptingExplained(most=self.most, explain=self.explain).fit(lm, case) if self.explain.strip() else ()
        return (*prompt, *edit(self.k, self.strength, self.ceiling).fit(lm, case))
