"""LAMBADA (Paperno et al. 2016, the OpenAI version): the last word of a passage that only the whole passage gives away."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from biasgym.datasets import library, need_kinds
from biasgym.measure import Figure, Item, Scope, scored
from biasgym.measure.published import Rows, asked_in, continued, figure, first_over_second, mean_of, pick
from biasgym.records import Answer, ItemScore

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class Lambada:
    """LAMBADA: accuracy (greedy decoding writes the word) and perplexity of the word, exp of mean nats a word, as lm-eval's."""

    name: ClassVar[str] = "lambada"
    role: ClassVar[str] = "capability"
    ideal: ClassVar[float | None] = 1.0
    needs_edit: ClassVar[bool] = False
    data: str = ""
    most: int = 0
    seed: int = 0
    split: Rows = "scope"

    def items(self, scope: Scope) -> list[Item]:
        """One item a passage; its id is its line (upstream has two passages twice: they stay on one side)."""
        if not asked_in(scope, self.split):
            return []
        rows = library(self.data).objects("lambada", "lambada_openai.jsonl", ("context", "continuation"))
        need_kinds(rows, {"context": str, "continuation": str}, where="lambada/lambada_openai.jsonl")
        for number, row in enumerate(rows):
            row["id"] = str(number)
        kept = pick(rows, scope, self.split, self.most, key=lambda r: r["id"], strata=lambda _: "", together=lambda r: r["context"], seed=self.seed)
        return [Item(r["id"], "all", "", {"pairs": [(r["context"], f" {r['continuation'].strip()}")]}) for r in kept]

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """Nats and tokens of the word, and whether it is greedy."""
        return continued(lm, items, lambda item: item.payload["pairs"])

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """1 where greedy decoding writes the word; parts: `acc`, `nats` (negative)."""
        return [scored(a, float(a.said["greedy"][0]), parts={"acc": float(a.said["greedy"][0]), "nats": a.said["nats"][0]}) for a in answers]

    def figures(self, scores: Sequence[ItemScore]) -> list[Figure]:
        """`acc` and `perplexity` (per word)."""
        if not scores:
            return []
        return [
            mean_of("acc", "all", scores, "acc", ideal=1.0, better="up"),
            figure("perplexity", "all", scores, lambda s: (s.parts["nats"], 1.0), _perplexity, ideal=1.0, better="down", note="per word"),
        ]


def _perplexity(sums: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.exp(-first_over_second(sums))
    return result
