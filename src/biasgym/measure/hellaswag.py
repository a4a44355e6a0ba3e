"""HellaSwag (Zellers et al. 2019): which of four endings does a description have?"""

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

WHERE = "hellaswag/validation_1000.jsonl"


@dataclass(frozen=True)
class HellaSwag:
    """HellaSwag: accuracy; 1 is best, 0.25 is chance. The likeliest ending, whole (`acc`) or per letter (`acc_norm`, the usual one)."""

    name: ClassVar[str] = "hellaswag"
    role: ClassVar[str] = "capability"
    ideal: ClassVar[float | None] = 1.0
    needs_edit: ClassVar[bool] = False
    data: str = ""
    most: int = 0
    seed: int = 0
    split: Rows = "scope"

    def items(self, scope: Scope) -> list[Item]:
        """One item a description; its id is the upstream index."""
        if not asked_in(scope, self.split):
            return []
        rows = library(self.data).objects("hellaswag", "validation_1000.jsonl", ("ind", "query", "choices", "gold"))
        need_kinds(rows, {"query": str, "choices": list, "gold": int}, where=WHERE)
        need_unique(rows, lambda row: row["ind"], where=WHERE)
        for row in rows:
            if len(row["choices"]) != 4 or row["gold"] not in range(4):
                raise DataError(f"{WHERE}: {row['ind']} has gold {row['gold']} of {len(row['choices'])} choices; one of four was expected")
        kept = pick(rows, scope, self.split, self.most, key=lambda r: str(r["ind"]), strata=lambda r: str(r["gold"]), seed=self.seed)
        return [Item(str(r["ind"]), "all", "", choice_payload(r["query"], r["choices"], r["gold"])) for r in kept]

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """Nats of every ending."""
        return ask_choices(lm, items)

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """1 where the likeliest ending is right."""
        return grade_choices(answers)

    def figures(self, scores: Sequence[ItemScore]) -> list[Figure]:
        """`acc`, `acc_norm`, `acc_bytes`."""
        return accuracy_figures(scores, normalised=True)
