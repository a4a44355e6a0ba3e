"""TruthfulQA (Lin, Hilton, Evans 2022): are true answers likelier than common falsehoods?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from biasgym.datasets import library, need_unique
from biasgym.errors import DataError
from biasgym.measure import Figure, Item, Scope, scored
from biasgym.measure.published import Rows, asked_in, continued, groups_of, mean_of, pick
from biasgym.records import Answer, ItemScore

if TYPE_CHECKING:
    from biasgym.lm.model import LM

WHERE = "truthfulqa/TruthfulQA.csv"
COLUMNS = ("Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers")


def split_answers(cell: str) -> list[str]:
    """Answers of one cell, between semicolons, each ending in a full stop, as the authors' code closes them."""
    texts = [text.strip() for text in cell.strip().split(";")]
    return [text if text.endswith(".") else f"{text}." for text in texts if text]


@dataclass(frozen=True)
class TruthfulQA:
    """TruthfulQA MC1 and MC2 (0 … 1, 1 is best).

    MC1: the best answer is likelier than every false one. MC2: probability of all true answers among all answers. Both by
    the sum of the answer's log-probability after `Q: …\nA:`. The authors' (and lm-eval's) prompt opens with six solved
    questions, which are theirs and not shipped: give their text as `primer` to compare with published figures.
    """

    name: ClassVar[str] = "truthfulqa"
    role: ClassVar[str] = "capability"
    ideal: ClassVar[float | None] = 1.0
    needs_edit: ClassVar[bool] = False
    data: str = ""
    most: int = 0
    seed: int = 0
    split: Rows = "scope"
    primer: str = ""

    def items(self, scope: Scope) -> list[Item]:
        """One item a question; its id is its row, its group the category."""
        if not asked_in(scope, self.split):
            return []
        rows = library(self.data).table("truthfulqa", "TruthfulQA.csv", COLUMNS)
        need_unique(rows, lambda row: row["Question"], where=WHERE)
        numbered = [row | {"id": str(number)} for number, row in enumerate(rows)]
        kept = pick(numbered, scope, self.split, self.most, key=lambda r: r["id"], strata=lambda r: r["Category"], seed=self.seed)
        return [Item(r["id"], r["Category"], "", self._payload(r)) for r in kept]

    def _payload(self, row: dict[str, str]) -> dict[str, Any]:
        best, true, false = (split_answers(row[column]) for column in ("Best Answer", "Correct Answers", "Incorrect Answers"))
        if not best or not true or not false:
            raise DataError(f"{WHERE}: row {int(row['id']) + 1} lacks a best, a correct or an incorrect answer")
        context = f"{self.primer}\n\n" if self.primer else ""
        context += f"Q: {row['Question']}\nA:"
        return {"pairs": [(context, f" {text}") for text in (best[0], *true, *false)], "true": len(true)}

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """Nats of the best answer, of the true ones and of the false ones; how many are true."""
        said = continued(lm, items, lambda item: item.payload["pairs"])
        return [row | {"true": item.payload["true"]} for item, row in zip(items, said, strict=True)]

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """MC2; parts: `mc1`, `mc2`."""
        scores = []
        for answer in answers:
            nats, count = np.array(answer.said["nats"]), answer.said["true"]
            true, false = nats[1 : 1 + count], nats[1 + count :]
            mc2 = float(np.exp(np.logaddexp.reduce(true) - np.logaddexp.reduce(nats[1:])))
            scores.append(scored(answer, mc2, parts={"mc1": float(nats[0] > false.max()), "mc2": mc2}))
        return scores

    def figures(self, scores: Sequence[ItemScore]) -> list[Figure]:
        """`mc1` and `mc2` over all and by category."""
        note = "with a primer" if self.primer else "no primer"
        return [mean_of(name, group, some, name, ideal=1.0, better="up", note=note) for group, some in groups_of(scores) for name in ("mc1", "mc2")]
