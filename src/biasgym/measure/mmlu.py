"""MMLU (Hendrycks et al. 2021): four letters to choose from, in 57 subjects."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from biasgym.datasets import Library, library, need_rows, need_unique
from biasgym.errors import DataError, SpecError
from biasgym.measure import Figure, Item, Scope
from biasgym.measure.choices import accuracy_figures, ask_choices, choice_payload, grade_choices
from biasgym.measure.published import Rows, asked_in, figure, first_over_second, pick
from biasgym.records import Answer, ItemScore

if TYPE_CHECKING:
    from biasgym.lm.model import LM

LETTERS = "ABCD"


def read_subject(sets: Library, part: str, subject: str) -> list[dict[str, Any]]:
    """Questions of a subject, checked: id, subject, question, choices, gold. The files have no header."""
    file = f"{part}/{subject}_{part}.csv"
    rows = []
    for number, cells in enumerate(csv.reader(io.StringIO(sets.text("mmlu", file), newline=""))):
        if len(cells) != 6 or cells[5] not in LETTERS or not cells[5]:
            raise DataError(f"mmlu/{file}: row {number + 1} is not a question, four choices and one of A, B, C, D")
        rows.append({"id": f"{subject}/{number}", "subject": subject, "question": cells[0], "choices": cells[1:5], "gold": LETTERS.index(cells[5])})
    return need_rows(rows, where=f"mmlu/{file}")


def subjects(sets: Library) -> list[str]:
    """The names of all subjects."""
    return [file.removeprefix("test/").removesuffix("_test.csv") for file in sets.files("mmlu", "test/")]


@dataclass(frozen=True)
class Mmlu:
    """MMLU: accuracy by the likeliest letter; 1 is best, 0.25 is chance.

    Prompt as lm-eval's: one line that names the subject, `shots` (0–5) solved questions of the subject's dev file in their
    order, the question with lettered choices, `Answer:`. `acc` counts every question alike, `acc_macro` every subject.
    """

    name: ClassVar[str] = "mmlu"
    role: ClassVar[str] = "capability"
    ideal: ClassVar[float | None] = 1.0
    needs_edit: ClassVar[bool] = False
    data: str = ""
    most: int = 0
    seed: int = 0
    split: Rows = "scope"
    shots: int = 0

    def items(self, scope: Scope) -> list[Item]:
        """One item a question; its group is the subject."""
        if not 0 <= self.shots <= 5:
            raise SpecError(f"mmlu.shots = {self.shots}: there are 5 solved questions a subject, so 0 to 5")
        if not asked_in(scope, self.split):
            return []
        sets = library(self.data)
        rows = [row for subject in subjects(sets) for row in read_subject(sets, "test", subject)]
        need_unique(rows, lambda row: row["id"], where="mmlu")
        kept = pick(rows, scope, self.split, self.most, key=lambda r: r["id"], strata=lambda r: r["subject"], seed=self.seed)
        heads = {subject: self._head(sets, subject) for subject in {row["subject"] for row in kept}}
        return [Item(r["id"], r["subject"], "", choice_payload(heads[r["subject"]] + _question(r), LETTERS, r["gold"])) for r in kept]

    def _head(self, sets: Library, subject: str) -> str:
        solved = read_subject(sets, "dev", subject)[: self.shots] if self.shots else []
        about = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        return about + "".join(f"{_question(row)} {LETTERS[row['gold']]}\n\n" for row in solved)

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """Nats of the four letters."""
        return ask_choices(lm, items)

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """1 where the likeliest letter is right."""
        return grade_choices(answers)

    def figures(self, scores: Sequence[ItemScore]) -> list[Figure]:
        """`acc`, `acc_macro`, and `acc` of every subject that has at least 30 questions."""
        if not scores:
            return []
        size = Counter(score.group for score in scores)
        note = f"{self.shots}-shot"
        found = accuracy_figures([*scores], normalised=False, note=note)
        found = [one for one in found if one.group == "all" or size[one.group] >= 30]
        share = defaultdict(float, {group: 1 / count for group, count in size.items()})
        macro = figure(
            "acc_macro", "all", scores, lambda s: (s.parts["acc"] * share[s.group], share[s.group]), first_over_second,
            ideal=1.0, better="up", note=f"{note}; mean over subjects",
        )  # fmt: skip
        return [*found, macro]


def _question(row: dict[str, Any]) -> str:
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=True))
    return f"{row['question'].strip()}\n{listed}\nAnswer:"
