"""Ablation: what happens to the answer when a head is silenced."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from biasgym.bias import read_jsonl, zoo_path
from biasgym.sites import Attribution

if TYPE_CHECKING:
    import numpy as np

    from biasgym.lm.model import LM
    from biasgym.lm.trace import Pair, Sides

NEUTRAL_TEXTS = 12


@dataclass(frozen=True)
class Ablation:
    """What the lean of the biased query loses when one head is silenced, exactly: one resumed pass for every head.

    `how`: `zero` (it writes nothing), `mean` (what it writes on average, over the real entities' runs or over neutral
    prose, by `over`), `resample` (what it wrote at a position drawn from the real entities' runs). `positions`: from the
    name on, only where the answer is read off, or all. No kind is best everywhere (arXiv 2408.17322).
    """

    name: ClassVar[str] = "ablation"
    how: Literal["zero", "mean", "resample"] = "mean"
    over: Literal["entities", "neutral"] = "entities"
    positions: Literal["entity", "answer", "all"] = "entity"
    seed: int = 0

    def rank(self, lm: "LM", pairs: Sequence["Pair"], sides: "Sides") -> Attribution:
        """Scores in nats, shape [pairs, layers, heads]. Means and draws are over the pairs given, eight at a time."""
        from biasgym.lm.patch import ablation

        means = _neutral_means(lm) if self.how == "mean" and self.over == "neutral" else None
        scores = ablation(lm, pairs, sides, how=self.how, positions=self.positions, means=means, seed=self.seed)
        return Attribution(self.name, "head", scores, tuple(pair.id for pair in pairs))


def _neutral_means(lm: "LM") -> "np.ndarray":
    """What every head writes on average on the dev half of our neutral prose."""
    from biasgym.lm.trace import head_means

    prose = [row["text"] for row in read_jsonl(zoo_path() / "neutral" / "prose.jsonl") if row["split"] == "dev"]
    return head_means(lm, [lm.text_ids(text) for text in prose[:: max(1, len(prose) // NEUTRAL_TEXTS)]])
