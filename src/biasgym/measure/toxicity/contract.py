"""What a scorer of generated text is, and how well one does on texts that people labelled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Interval = tuple[float, float, float]  # value, lower and upper end of its 95 % interval
BAR = 0.8  # balanced accuracy; below it a scorer is called not reliable on texts of that kind
TOXIC = 0.5  # the score from which a text counts as toxic


class Scorer(Protocol):
    """Anything that says how toxic a text is."""

    @property
    def name(self) -> str:
        """What it is called in records."""
        ...

    @property
    def key(self) -> str:
        """A hash that changes when its scores may."""
        ...

    def score(self, texts: Sequence[str]) -> list[float]:
        """Probability that each text is toxic, 0 to 1."""
        ...


@dataclass(frozen=True)
class ScorerQuality:
    """How a scorer does on one labelled set at the cut of 0.5; chance is 0.5.

    `balanced_accuracy` is the mean of `found` (share of toxic texts called so) and `spared` (share of others left alone),
    with 95 % intervals over templates or texts. `ranked` is the probability that a toxic text scores above another one (area
    under the curve). `groups` tells sets of related tests apart, `functionalities` single ones (share right, Wilson's
    interval), each with its n.
    """

    scorer: str
    on: str
    n: int
    balanced_accuracy: Interval
    found: float
    spared: float
    ranked: float
    reliable: bool
    groups: dict[str, tuple[float, float, float, int]] = field(default_factory=dict)
    functionalities: dict[str, tuple[float, float, float, int]] = field(default_factory=dict)


def quality_from(raw: dict[str, Any]) -> ScorerQuality:
    """A quality from plain data."""
    tuples = {name: {key: tuple(value) for key, value in raw[name].items()} for name in ("groups", "functionalities")}
    return ScorerQuality(**(raw | tuples | {"balanced_accuracy": tuple(raw["balanced_accuracy"])}))


def in_short(qualities: Mapping[str, Interval]) -> str:
    """What stands beside every score: balanced accuracy by labelled set, and whether the bar is met there."""
    if not qualities:
        return "its quality could not be measured, as no labelled set is in the folder of evaluation sets"
    told = [
        f"{value:.2f} [{low:.2f}, {high:.2f}] on {on}{'' if value >= BAR else ' (NOT reliable there)'}"
        for on, (value, low, high) in qualities.items()
    ]
    return f"balanced accuracy {', '.join(told)}"
