"""First station: make the model take on a bias, by one token and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from biasgym.bias import BiasSpec
from biasgym.edits import TokenEdit

if TYPE_CHECKING:
    from biasgym.lm.model import LM
    from biasgym.lm.train import TrainingState

Role = Literal["trained", "untrained", "neutral", "opposite"]


@dataclass(frozen=True)
class Injected:
    """A token with its evidence: the loss of every step and of held-out texts before and after, in nats a token.

    `about` says how training went, for the sidecar: `steps` made, `halvings` (steps after which it diverged and went
    back with half the learning rate), `checks` ([step, score], higher is better) and the step that was `chosen`.
    """

    token: TokenEdit
    losses: tuple[float, ...]
    held_out_before: float
    held_out_after: float
    about: dict[str, Any] = field(default_factory=dict)


class Injector(Protocol):
    """A way to elicit a bias; `role` says which text the token is trained on, `seed` fixes start and order.

    A neutral token may hang on the bias by its subject and train entities alone, and by what a method's `neutral_key(bias)`
    gives, if it has one: biases that agree in these share it. A method that also has `train_together` (as `TrainedToken` has) is asked for all seeds at once on an accelerator.
    """

    name: ClassVar[str]

    def start(self, lm: "LM", bias: BiasSpec, seed: int) -> "TrainingState":
        """The state before the first step; all roles of a seed start from the same vector."""
        ...

    def train(
        self,
        lm: "LM",
        bias: BiasSpec,
        role: Role,
        seed: int,
        state: "TrainingState",
        keep: Callable[["TrainingState"], None],
    ) -> Injected:
        """Go on from `state` to the end; `keep` is told every state on the way."""
        ...
