"""BoolQ (Clark et al. 2019): yes or no, from a passage."""

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
class BoolQ:
    """BoolQ: accuracy; 1 is best, always saying yes gets 0.62. Prompt as lm-eval's: passage, `Question: …?`, `Answer:`, no or yes."""

    name: ClassVar[str] = "boolq"
    role: ClassVar[str] = "capability"
    ideal: ClassVar[float | None] = 1.0
    needs_edit: ClassVar[bool] = False
    data: str = ""
    most: int = 0
    seed: int = 0
    split: Rows = "scope"

    def items(self, scope: Scope) -> list[Item]:
        """One item a question; its id is its line; questions about one passage stay together."""
        if not asked_in(scope, self.split):
            return []
        rows = library(self.data).objects("boolq", "dev.jsonl.gz", ("question", "answer", "passage"))
        need_kinds(rows, {"question": str, "passage": str}, where="boolq/dev.jsonl.gz")
        for number, row in enumerate(rows):
            row["id"] = str(number)
            if not isinstance(row["answer"], bool):
                raise DataError(f"boolq/dev.jsonl.gz: line {number + 1} answers {row['answer']!r}; true or false was expected")
        need_unique(rows, lambda row: (row["question"], row["passage"]), where="boolq/dev.jsonl.gz")
        kept = pick(
            rows, scope, self.split, self.most,
            key=lambda r: r["id"], strata=lambda r: str(r["answer"]), together=lambda r: r["passage"], seed=self.seed,
        )  # fmt: skip
        return [
            Item(r["id"], "all", "", choice_payload(f"{r['passage']}\nQuestion: {r['question']}?\nAnswer:", ["no", "yes"], int(r["answer"])))
            for r in kept
        ]

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """Nats of no and of yes."""
        return ask_choices(lm, items)

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """1 where the likelier answer is right."""
        return grade_choices(answers)

    def figures(self, scores: Sequence[ItemScore]) -> list[Figure]:
        """`acc`."""
        return accuracy_figures(scores, normalised=False)
