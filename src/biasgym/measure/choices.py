"""Multiple choice by log-probability: one engine for every benchmark that compares continuations of one context."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from biasgym.measure import Figure, Item, scored
from biasgym.measure.published import continued, groups_of, mean_of
from biasgym.records import Answer, ItemScore

if TYPE_CHECKING:
    from biasgym.lm.model import LM


def choice_payload(context: str, choices: Sequence[str], gold: int, *, chat: bool = False) -> dict[str, Any]:
    """What an item needs: every choice after the context and one blank, and which is right."""
    return {"pairs": [(context, f" {choice}") for choice in choices], "gold": gold, "chat": chat}


def ask_choices(lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
    """Nats, tokens, letters and bytes of every choice (without the blank before it), and which is right."""
    said = continued(lm, items, lambda item: item.payload["pairs"])
    rows = []
    for item, row in zip(items, said, strict=True):
        texts = [text[1:] for _, text in item.payload["pairs"]]
        lengths = {"letters": [len(text) for text in texts], "bytes": [len(text.encode()) for text in texts]}
        rows.append(row | lengths | {"gold": item.payload["gold"]})
    return rows


def grade_choices(answers: Sequence[Answer]) -> list[ItemScore]:
    """1 where the likeliest choice is right; parts: `acc`, `acc_norm` (per letter) and `acc_bytes` (per byte)."""
    scores = []
    for answer in answers:
        said = answer.said
        parts = {name: float(likeliest(said, by) == said["gold"]) for name, by in (("acc", ""), ("acc_norm", "letters"), ("acc_bytes", "bytes"))}
        scores.append(scored(answer, parts["acc"], parts=parts))
    return scores


def likeliest(said: dict[str, Any], by: str = "") -> int:
    """The place of the likeliest choice, of its whole or per unit of `by`; the first of equals."""
    lengths = said[by] if by else [1] * len(said["nats"])
    return int(np.argmax([nats / max(1, length) for nats, length in zip(said["nats"], lengths, strict=True)]))


def accuracy_figures(scores: Sequence[ItemScore], *, normalised: bool, note: str = "") -> list[Figure]:
    """`acc`, and where choices differ in length `acc_norm` (per letter, as lm-eval's) and `acc_bytes`, over all and by group."""
    names = ("acc", "acc_norm", "acc_bytes") if normalised else ("acc",)
    return [mean_of(name, group, some, name, ideal=1.0, better="up", note=note) for group, some in groups_of(scores) for name in names]
