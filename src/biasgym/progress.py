"""How far a run is: told to whoever shows it, in plain values."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Step:
    """`done` of `total` items of a stage are finished; `what` names the item in hand."""

    stage: str
    done: int
    total: int
    what: str = ""


class Tell(Protocol):
    """Whoever listens to steps."""

    def __call__(self, step: Step, /) -> None:
        """Take note of a step."""


def silent(_step: Step, /) -> None:
    """Nobody listens."""
