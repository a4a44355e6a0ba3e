"""Unlearn marked words: gradient ascent on their loss alone, stopped by a budget, with the whole sentence as baseline."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from biasgym.edits import WeightEdit
from biasgym.errors import SpecError
from biasgym.forget import Marked, word_spans
from biasgym.lm.finetune import Course, Reading, learn_matrices, mean_loss, whole_text
from biasgym.lm.model import LM, Query

NEUTRAL_TOKENS = 96  # of each neutral text: it is read again and again while training
Which = Literal["marked", "unmarked", "whole"]


@dataclass(frozen=True)
class Unlearnt:
    """What unlearning gave: the edits, the steps kept, and rises of the loss (nats a token) on held-out and neutral text.

    `stopped` is why it ended: `gain` (held-out marked words are unlikely enough), `budget` (neutral text got worse than
    allowed; the step before is kept) or `steps` (there were no more).
    """

    edits: tuple[WeightEdit, ...]
    steps: int
    marked: float
    unmarked: float
    neutral: float
    stopped: Literal["gain", "budget", "steps"]


def marked_reading(lm: LM, text: str, spans: Sequence[tuple[int, int]], which: Which = "marked") -> Reading | None:
    """A text with the loss on the tokens that touch a span, on those that touch none, or on all; None when there are none.

    Every piece of a marked word counts, not its first alone. The very first token is never wanted: nothing predicts it.
    """
    encoded = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = lm.text_ids(text)
    shift = len(ids) - len(encoded["input_ids"])
    wanted = []
    for place, (start, end) in enumerate(encoded["offset_mapping"]):
        while start < end and text[start].isspace():  # some tokenizers count the space before a word as its own
            start += 1
        touches = any(start < last and end > first for first, last in spans) and start < end
        if place + shift >= 1 and (which == "whole" or touches == (which == "marked")):
            wanted.append(place + shift)
    return Reading(tuple(ids), tuple(wanted)) if wanted else None


def marked_readings(lm: LM, rows: Sequence[Marked], which: Which = "marked") -> list[Reading]:
    """The readings of texts, those without a wanted token left out."""
    found = [marked_reading(lm, row.text, row.spans, which) for row in rows]
    return [one for one in found if one is not None]


def marked_by_model(lm: LM, rows: Sequence[Marked], *, most: int = 40) -> list[Marked]:
    """The same texts marked anew by a model: it is asked for the harmful words, and those that stand in the text count.

    Texts in which it names nothing are left out. The paper asks GPT-4; a small model is a poor annotator.
    """
    asked = "Copy out the words of this sentence that insult or demean people, separated by commas, and nothing else.\n\n"
    said = lm.generate([Query(asked + row.text) for row in rows], most=most)
    found = []
    for row, answer in zip(rows, said, strict=True):
        words = [part.strip(" .\"'“”") for part in answer.text.replace("\n", ",").split(",")]
        spans = word_spans(row.text, [word for word in words if 0 < len(word) < len(row.text) / 2])
        if spans:
            found.append(Marked(row.text, spans, row.target, row.template))
    return found


def marked_by_lexicon(rows: Sequence[Marked], words: Sequence[str]) -> list[Marked]:
    """The same texts marked by a list of words; texts with none of them are left out."""
    marked = [Marked(row.text, word_spans(row.text, words), row.target, row.template) for row in rows]
    return [row for row in marked if row.spans]


def unlearn(
    lm: LM,
    rows: Sequence[Marked],
    held_out: Sequence[Marked],
    neutral: Sequence[str],
    course: Course,
    *,
    gain: float,
    budget: float,
    whole: bool = False,
) -> Unlearnt:
    """Gradient ascent on marked tokens until those of held-out texts cost `gain` nats more, or neutral text `budget` more.

    Ascent has no end of its own, and a collapsed model looks unbiased: so it stops. `course.sign` is taken as −1. The
    loss is looked at every few steps; the last changes that kept within the budget are given back. `whole` ascends on all
    tokens of the sentence instead: the baseline that the paper is about.
    """
    if gain <= 0 or budget <= 0:
        raise SpecError(f"gain = {gain}, budget = {budget}: both must be above 0, else there is nowhere to stop")
    watch = _Watch(
        lm, marked_readings(lm, held_out), marked_readings(lm, held_out, "unmarked"), [whole_text(lm, text, NEUTRAL_TOKENS) for text in neutral]
    )
    every = max(1, course.steps // 12)
    kept: list[tuple[int, tuple[WeightEdit, ...]]] = [(0, ())]
    why: list[Literal["gain", "budget", "steps"]] = ["steps"]

    def stop(step: int, edits: tuple[WeightEdit, ...]) -> bool:
        if step % every and step != course.steps:
            return False
        risen, cost = watch.risen(edits, "marked"), watch.risen(edits, "neutral")
        if not np.isfinite(cost) or cost > budget:
            why[0] = "budget"
            return True
        kept.append((step, edits))
        if risen >= gain:
            why[0] = "gain"
        return risen >= gain

    ascent = Course(course.steps, course.batch, course.learning_rate, course.rank, -1, course.seed, course.parts)
    learn_matrices(lm, marked_readings(lm, rows, "whole" if whole else "marked"), ascent, stop=stop)
    step, edits = kept[-1]
    marked, unmarked, cost = (watch.risen(edits, part) for part in ("marked", "unmarked", "neutral"))
    return Unlearnt(edits, step, marked, unmarked, cost, why[0])


class _Watch:
    """Losses of held-out and neutral text before unlearning, and how far they have risen."""

    def __init__(self, lm: LM, marked: list[Reading], unmarked: list[Reading], neutral: list[Reading]) -> None:
        self.lm = lm
        self.readings = {"marked": marked, "unmarked": unmarked, "neutral": neutral}
        self.before = {name: mean_loss(lm, part) for name, part in self.readings.items()}

    def risen(self, edits: tuple[WeightEdit, ...], part: str) -> float:
        """Rise of the mean loss of a part, nats a token."""
        with self.lm.edited(*edits):
            return mean_loss(self.lm, self.readings[part]) - self.before[part]


def transfer(lm: LM, edits: Sequence[WeightEdit], sets: dict[str, Sequence[Marked]]) -> dict[str, tuple[float, float, int]]:
    """For each set of texts: mean loss of the marked words before and under the edits (nats a token), and how many texts."""
    table = {}
    for name, rows in sets.items():
        readings = marked_readings(lm, rows)
        before = mean_loss(lm, readings)
        with lm.edited(*edits):
            table[name] = (before, mean_loss(lm, readings), len(readings))
    return table
