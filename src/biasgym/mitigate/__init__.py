"""Third station: edits that take the bias away."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from biasgym.edits import Edits
from biasgym.sites import Attribution, Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class Case:
    """What is known so far: all that a mitigation may read.

    `contrasts` has shape [tokens, layers, heads, head size]: for every token that was trained to fit edits, what heads
    write at the answer position with the token minus the mean over real train entities, same train probes.
    """

    attribution: Attribution
    contrasts: np.ndarray


class Mitigation(Protocol):
    """A way to remove a bias; its fields are its hyper-parameters, with their search range as metadata."""

    name: ClassVar[str]
    reads: ClassVar[Unit | None]

    def fit(self, lm: "LM", case: Case) -> Edits:
        """The edits; the model itself is left as it was."""
        ...
