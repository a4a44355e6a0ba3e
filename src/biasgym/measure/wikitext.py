"""WikiText-2 (Merity et al. 2017): bits per byte of encyclopaedic prose."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from biasgym.datasets import Library, library, need_rows, sample
from biasgym.measure import Figure, Item, Scope, scored
from biasgym.measure.published import Rows, asked_in, figure, first_over_second
from biasgym.records import Answer, ItemScore

if TYPE_CHECKING:
    from biasgym.lm.model import LM

TITLE = re.compile(r"= [^=].*[^=] =")


def read_paragraphs(sets: Library, half: str) -> list[dict[str, str]]:
    """Paragraphs of the validation (dev) or test file with their article's title; headings and empty lines left out."""
    file = {"dev": "valid.txt", "test": "test.txt"}[half]
    rows, title = [], ""
    for number, line in enumerate(sets.lines("wikitext2", file)):
        text = line.strip()
        if TITLE.fullmatch(text):
            title = text.strip("= ")
        elif text and not text.startswith("= "):
            rows.append({"id": f"{half}/{number}", "title": title, "text": text})
    return need_rows(rows, where=f"wikitext2/{file}")


@dataclass(frozen=True)
class WikiText:
    """WikiText-2: bits per byte, every paragraph by itself; lower is better.

    The tokenised version (`<unk>`, `@-@`), and no context across paragraphs: not comparable with word perplexities of
    rolling windows on the raw version. `split = "scope"` asks its validation file on dev and its test file on test.
    """

    name: ClassVar[str] = "wikitext"
    role: ClassVar[str] = "capability"
    ideal: ClassVar[float | None] = 0.0
    needs_edit: ClassVar[bool] = False
    data: str = ""
    most: int = 0
    seed: int = 0
    split: Rows = "scope"

    def items(self, scope: Scope) -> list[Item]:
        """One item a paragraph; entity its article, whose paragraphs stay together."""
        if not asked_in(scope, self.split):
            return []
        rows = read_paragraphs(library(self.data), scope.split)
        kept = sample(rows, self.most, strata=lambda _: "", key=lambda r: r["id"], seed=self.seed)
        return [Item(r["id"], "all", r["title"], {"text": r["text"]}) for r in kept]

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """Sum of log-probabilities (nats), tokens and bytes of each paragraph."""
        return read_texts(lm, [item.payload["text"] for item in items])

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """Bits of each paragraph, with its bytes as weight."""
        return bits_of(answers)

    def figures(self, scores: Sequence[ItemScore]) -> list[Figure]:
        """`bits_per_byte`: all bits ÷ all bytes."""
        return bits_per_byte(scores, "by paragraph, tokenised version")


def read_texts(lm: "LM", texts: Sequence[str]) -> list[dict[str, Any]]:
    """Sum of log-probabilities (nats), tokens and bytes of each text."""
    found = lm.text_logprobs(texts) if texts else []
    return [{"nats": round(total, 5), "tokens": count, "bytes": len(text.encode())} for text, (total, count) in zip(texts, found, strict=True)]


def bits_of(answers: Sequence[Answer]) -> list[ItemScore]:
    """Bits of each text, with its bytes as weight."""
    scores = []
    for a in answers:
        bits, size = -a.said["nats"] / math.log(2), float(a.said["bytes"])
        scores.append(scored(a, bits, weight=size, parts={"bits": bits, "bytes": size}))
    return scores


def bits_per_byte(scores: Sequence[ItemScore], note: str) -> list[Figure]:
    """All bits ÷ all bytes; what has one entity (an article) is resampled together."""
    if not scores:
        return []
    return [
        figure(
            "bits_per_byte", "all", scores, lambda s: (s.parts["bits"], s.parts["bytes"]), first_over_second,
            ideal=0.0, better="down", note=note, cluster=lambda s: s.entity or s.item,
        )
    ]  # fmt: skip
