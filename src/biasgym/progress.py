"""How far a run is: told to whoever shows it, in plain values."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Step:
    """`done` of `total` items are finished; `what` names the one in hand. A stage may do this in several like parts: this is `part` of `parts`."""

    stage: str
    done: int
    total: int
    what: str = ""
    part: int = 1
    parts: int = 1

    @property
    def share(self) -> float:
        """How much of the whole stage is done, from 0 to 1."""
        return (self.part - 1 + (self.done / self.total if self.total else 1.0)) / self.parts


class Tell(Protocol):
    """Whoever listens to steps."""

    def __call__(self, step: Step, /) -> None:
        """Take note of a step."""


def silent(_step: Step, /) -> None:
    """Nobody listens."""
