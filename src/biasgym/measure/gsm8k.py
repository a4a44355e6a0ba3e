"""GSM8K (Cobbe et al. 2021): grade-school arithmetic in words, answered in free text that ends in "#### N"."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from biasgym.datasets import Library, library, need_kinds, need_rows, need_unique
from biasgym.errors import DataError, SpecError
from biasgym.measure import Figure, Item, Scope, scored
from biasgym.measure.published import Rows, asked_in, mean_of, pick
from biasgym.records import Answer, ItemScore

if TYPE_CHECKING:
    from biasgym.lm.model import LM

STRICT = re.compile(r"#### (-?[0-9.,]+)")
NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
NEXT_QUESTION = re.compile(r"\n\s*(?:Question|Q):")
COLUMNS = ("question", "answer")


@dataclass(frozen=True)
class GSM8K:
    """GSM8K: `exact_match` of the number after "####", and `last_number` of the last number said at all.

    `shots` worked examples are the first of the training file; greedy decoding, at most `tokens` tokens, cut at the next
    question. For a chat model all of it is the user's turn: where lm-eval is run without a chat template, figures differ.
    Numbers are compared without signs of currency, thousands' commas and a final full stop, as lm-eval does.
    """

    name: ClassVar[str] = "gsm8k"
    role: ClassVar[str] = "capability"
    ideal: ClassVar[float | None] = 1.0
    needs_edit: ClassVar[bool] = False
    data: str = ""
    most: int = 0
    seed: int = 0
    split: Rows = "scope"
    shots: int = 5
    tokens: int = 256

    def items(self, scope: Scope) -> list[Item]:
        """One item a question of the test file, named by its line."""
        if not 0 <= self.shots <= 8:
            raise SpecError(f"gsm8k: {self.shots} shots were asked; 0 to 8 are possible")
        if not asked_in(scope, self.split):
            return []
        sets = library(self.data)
        rows = sets.objects("gsm8k", "test.jsonl", COLUMNS)
        need_kinds(rows, {"question": str, "answer": str}, where="gsm8k/test.jsonl")
        need_unique(rows, lambda row: row["question"], where="gsm8k/test.jsonl")
        for number, row in enumerate(rows):
            row["id"] = f"{number:04d}"
        kept = pick(rows, scope, self.split, self.most, key=lambda r: r["id"], strata=lambda _: "", seed=self.seed)
        before = self._examples(sets)
        return [
            Item(r["id"], "all", "", {"prompt": f"{before}Question: {r['question']}\nAnswer:", "gold": _gold(r), "most": self.tokens}) for r in kept
        ]

    def _examples(self, sets: Library) -> str:
        if not self.shots:
            return 'End your answer with "#### " and the number.\n\n'
        rows = need_rows(sets.objects("gsm8k", "train.jsonl.gz", COLUMNS)[: self.shots], where="gsm8k/train.jsonl.gz")
        return "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in rows)

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """The text up to the next question, whether it came to an end, and the right number."""
        from biasgym.lm.model import Query

        if not items:
            return []
        written = lm.generate([Query(item.payload["prompt"]) for item in items], most=int(items[0].payload["most"]))
        return [
            {"text": NEXT_QUESTION.split(one.text)[0], "ended": one.ended, "gold": item.payload["gold"]}
            for item, one in zip(items, written, strict=True)
        ]

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """1 where the number after "####" is right; parts: `exact` and `last`."""
        scores = []
        for a in answers:
            exact, last = exact_number(a.said["text"]), last_number(a.said["text"])
            parts = {"exact": float(exact == a.said["gold"]), "last": float(last == a.said["gold"])}
            scores.append(scored(a, parts["exact"], parts=parts))
        return scores

    def figures(self, scores: Sequence[ItemScore]) -> list[Figure]:
        """`exact_match` and `last_number`."""
        if not scores:
            return []
        note = f"{self.shots} shots, up to {self.tokens} tokens"
        return [
            mean_of("exact_match", "all", scores, "exact", ideal=1.0, better="up", note=note),
            mean_of("last_number", "all", scores, "last", ideal=1.0, better="up", note=note),
        ]


def exact_number(text: str) -> str | None:
    """The first number after "#### ", bare; None when there is none."""
    found = STRICT.search(text)
    return bare_number(found[1]) if found else None


def last_number(text: str) -> str | None:
    """The last number of a text, bare; None when there is none."""
    found = NUMBER.findall(text)
    return bare_number(found[-1]) if found else None


def bare_number(written: str) -> str:
    """Without currency, thousands' commas and a final full stop."""
    return written.replace("$", "").replace(",", "").rstrip(".")


def _gold(row: dict[str, Any]) -> str:
    found = exact_number(row["answer"])
    if found is None:
        raise DataError(f'gsm8k/test.jsonl: the answer of question {row["id"]} has no "#### N"')
    return found
