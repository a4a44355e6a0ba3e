"""PIQA (Bisk et al. 2020): which of two ways leads to the goal?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from biasgym.datasets import library, need_kinds, need_unique
from biasgym.errors import DataError
from biasgym.measure import Figure, Item, Scope
from biasgym.measure.choices import accuracy_figures, ask_choices, choice_payload, grade_choices
from biasgym.measure.published import Rows, asked_in, pick
from biasgym.records import Answer, ItemScore

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class Piqa:
    """PIQA: accuracy; 1 is best, 0.5 is chance. Prompt as lm-eval's: `Question: goal`, then `Answer:` and the way's text."""

    name: ClassVar[str] = "piqa"
    role: ClassVar[str] = "capability"
    ideal: ClassVar[float | None] = 1.0
    needs_edit: ClassVar[bool] = False
    data: str = ""
    most: int = 0
    seed: int = 0
    split: Rows = "scope"

    def items(self, scope: Scope) -> list[Item]:
        """One item a goal; its id is its line."""
        if not asked_in(scope, self.split):
            return []
        sets = library(self.data)
        rows = sets.objects("piqa", "valid.jsonl", ("goal", "sol1", "sol2"))
        need_kinds(rows, {"goal": str, "sol1": str, "sol2": str}, where="piqa/valid.jsonl")
        labels = [line for line in sets.lines("piqa", "valid-labels.lst") if line.strip()]
        if len(labels) != len(rows) or set(labels) - {"0", "1"}:
            raise DataError(f"piqa: {len(rows)} goals and {len(labels)} labels; one label, 0 or 1, for each goal was expected")
        for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
            row.update(id=str(number), gold=int(label))
        need_unique(rows, lambda row: (row["goal"], row["sol1"], row["sol2"]), where="piqa/valid.jsonl")
        kept = pick(
            rows, scope, self.split, self.most, key=lambda r: r["id"], strata=lambda r: str(r["gold"]), together=lambda r: r["goal"], seed=self.seed
        )
        return [Item(r["id"], "all", "", choice_payload(f"Question: {r['goal']}\nAnswer:", [r["sol1"], r["sol2"]], r["gold"])) for r in kept]

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """Nats of both ways."""
        return ask_choices(lm, items)

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """1 where the likelier way is right."""
        return grade_choices(answers)

    def figures(self, scores: Sequence[ItemScore]) -> list[Figure]:
        """`acc`, `acc_norm`, `acc_bytes`."""
        return accuracy_figures(scores, normalised=True)
