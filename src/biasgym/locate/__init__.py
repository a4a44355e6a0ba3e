"""Second station: which parts of the model carry the bias."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from biasgym.sites import Attribution

if TYPE_CHECKING:
    from biasgym.lm.model import LM
    from biasgym.lm.trace import Pair, Sides


class Locator(Protocol):
    """A way to score places; positive = towards the bias. The token that the pairs name is worn when it is called."""

    name: ClassVar[str]

    def rank(self, lm: "LM", pairs: Sequence["Pair"], sides: "Sides") -> Attribution:
        """One score for every pair and place."""
        ...
