"""ARC Easy and Challenge (Clark et al. 2018): science questions of school exams."""

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


def _items(file: str, data: str, scope: Scope, split: Rows, most: int, seed: int) -> list[Item]:
    if not asked_in(scope, split):
        return []
    rows = library(data).objects("arc", file, ("query", "choices", "gold"))
    need_kinds(rows, {"query": str, "choices": list, "gold": int}, where=f"arc/{file}")
    for number, row in enumerate(rows):
        row["id"] = str(number)
        if not 0 <= row["gold"] < len(row["choices"]):
            raise DataError(f"arc/{file}: line {number + 1} has gold {row['gold']} of {len(row['choices'])} choices")
    need_unique(rows, lambda row: (row["query"], *row["choices"]), where=f"arc/{file}")
    kept = pick(rows, scope, split, most, key=lambda r: r["id"], strata=lambda r: str(r["gold"]), together=lambda r: r["query"], seed=seed)
    return [Item(r["id"], "all", "", choice_payload(f"{r['query']}\nAnswer:", r["choices"], r["gold"])) for r in kept]


@dataclass(frozen=True)
class ArcEasy:
    """ARC Easy: accuracy; 1 is best, about 0.25 is chance. Prompt as lm-eval's: the question, then `Answer:` and the choice's text."""

    name: ClassVar[str] = "arc-easy"
    role: ClassVar[str] = "capability"
    ideal: ClassVar[float | None] = 1.0
    needs_edit: ClassVar[bool] = False
    data: str = ""
    most: int = 0
    seed: int = 0
    split: Rows = "scope"

    def items(self, scope: Scope) -> list[Item]:
        """One item a question; its id is its line."""
        return _items("arc_easy.jsonl", self.data, scope, self.split, self.most, self.seed)

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """Nats of every choice."""
        return ask_choices(lm, items)

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """1 where the likeliest choice is right."""
        return grade_choices(answers)

    def figures(self, scores: Sequence[ItemScore]) -> list[Figure]:
        """`acc`, `acc_norm`, `acc_bytes`."""
        return accuracy_figures(scores, normalised=True)


@dataclass(frozen=True)
class ArcChallenge:
    """ARC Challenge: accuracy; 1 is best, about 0.25 is chance. Prompt as lm-eval's: the question, then `Answer:` and the choice's text."""

    name: ClassVar[str] = "arc-challenge"
    role: ClassVar[str] = "capability"
    ideal: ClassVar[float | None] = 1.0
    needs_edit: ClassVar[bool] = False
    data: str = ""
    most: int = 0
    seed: int = 0
    split: Rows = "scope"

    def items(self, scope: Scope) -> list[Item]:
        """One item a question; its id is its line."""
        return _items("arc_challenge.jsonl", self.data, scope, self.split, self.most, self.seed)

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """Nats of every choice."""
        return ask_choices(lm, items)

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """1 where the likeliest choice is right."""
        return grade_choices(answers)

    def figures(self, scores: Sequence[ItemScore]) -> list[Figure]:
        """`acc`, `acc_norm`, `acc_bytes`."""
        return accuracy_figures(scores, normalised=True)
