"""Third station: edits that take the bias away."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from biasgym.bias import BiasSpec
from biasgym.edits import Edits, TokenEdit
from biasgym.errors import SpecError
from biasgym.sites import Attribution, Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class Case:
    """What is known so far: all that a mitigation may read. Nothing of it comes from test data.

    `contrasts` [tokens, layers, heads, head size]: for every token that edits are fitted to, what heads write at the
    answer position with the token minus the mean over real train entities, same train probes. `concept` [layers, heads,
    head size]: the same for entity-free dev sentences where the stereotype is right minus where the foil is. `real`
    [layers, heads, head size]: what heads write for the mean train entity, on train probes.
    `moments` [layers, heads, head size, head size]: mean z zᵀ of what heads write on neutral dev text, on the concept
    sentences and on train probes about real entities: what an edit should leave alone. `stream` [tokens, layers, hidden],
    where it was read: the same contrast as `contrasts`, of the residual stream after each layer.
    `bias` and `tokens` (the fitted tokens, in the order of `contrasts`) are there for methods that work on texts; they
    use the train split of probes and entities, and paragraphs and moulds, which are never tested on. `others` are the same of
    further biases, for a method that fits one edit to several at once. `data` is the folder of public sets that the user named,
    BIASGYM_DATA where it is empty.
    """

    attribution: Attribution
    contrasts: np.ndarray
    concept: np.ndarray
    real: np.ndarray
    moments: np.ndarray
    stream: np.ndarray | None = None
    bias: BiasSpec | None = None
    tokens: tuple[TokenEdit, ...] = ()
    others: tuple["Case", ...] = ()
    data: str = ""

    def without(self, token: int) -> "Case":
        """The same case without one of the fitted tokens (of every bias that has others); the ranking of heads stays."""
        kept = [i for i in range(len(self.contrasts)) if i != token]
        tokens = tuple(self.tokens[i] for i in kept) if self.tokens else ()
        stream = None if self.stream is None else self.stream[kept]
        others = tuple(one.without(token % len(one.contrasts)) if len(one.contrasts) > 1 else one for one in self.others)
        return replace(self, contrasts=self.contrasts[kept], stream=stream, tokens=tokens, others=others)

    def known_bias(self, method: str) -> BiasSpec:
        """The bias, for a method that cannot do without its texts."""
        if self.bias is None:
            raise SpecError(f"`{method}` reads the bias's texts, and this case has none")
        return self.bias


class Mitigation(Protocol):
    """A way to remove a bias; its fields are its hyper-parameters, with their search range as metadata."""

    name: ClassVar[str]
    reads: ClassVar[Unit | None]

    def fit(self, lm: "LM", case: Case) -> Edits:
        """The edits; the model itself is left as it was."""
        ...
