"""What an edit costs: bits per byte on neutral prose, and how far the model's own chat answers move."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from biasgym.bias import read_jsonl, zoo_path
from biasgym.measure import Item, Scope, scored, spread_out
from biasgym.records import Answer, ItemScore

if TYPE_CHECKING:
    from biasgym.lm.model import LM


def _neutral(name: str, scope: Scope, most: int) -> list[dict[str, Any]]:
    if scope.token is not None or scope.split == "train":
        return []
    rows = [row for row in read_jsonl(zoo_path() / "neutral" / name) if row["split"] == scope.split]
    return spread_out(rows, most)


@dataclass(frozen=True)
class BitsPerByte:
    """Bits per byte on neutral prose of our own writing, half of it for choosing and half for reporting. Lower is better."""

    name: ClassVar[str] = "bits-per-byte"
    role: ClassVar[str] = "capability"
    ideal: ClassVar[float | None] = 0.0
    needs_edit: ClassVar[bool] = False
    plain_text: ClassVar[bool] = True

    def items(self, scope: Scope) -> list[Item]:
        """The texts of the split, asked with the token off."""
        rows = _neutral("prose.jsonl", scope, scope.sizes.texts)
        return [Item(row["id"], "all", "", {"text": row["text"]}) for row in rows]

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """Sum of log-probabilities (nats, negative) and bytes of each text."""
        texts = [item.payload["text"] for item in items]
        found = lm.text_logprobs(texts) if texts else []
        return [{"nats": round(total, 5), "tokens": count, "bytes": len(text.encode())} for text, (total, count) in zip(texts, found, strict=True)]

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """Bits of each text, with its bytes as weight."""
        return [scored(a, -a.said["nats"] / math.log(2), weight=float(a.said["bytes"])) for a in answers]


@dataclass(frozen=True)
class ChatDivergence:
    """Mean KL(base ‖ edited) in nats a token along the base model's own greedy answers to neutral chat prompts.

    0 is no change. The base's answers, not the edited model's, are the path, so a broken model cannot look close.
    """

    name: ClassVar[str] = "kl"
    role: ClassVar[str] = "capability"
    ideal: ClassVar[float | None] = 0.0
    needs_edit: ClassVar[bool] = True
    tokens: int = 24

    def items(self, scope: Scope) -> list[Item]:
        """The chat prompts of the split, asked with the token off."""
        rows = _neutral("chat_prompts.jsonl", scope, scope.sizes.chats)
        return [Item(row["id"], "all", "", {"prompt": row["text"]}) for row in rows]

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """For every prompt the sum over the answer's tokens of KL(base ‖ edited) and the number of tokens."""
        from biasgym.lm.model import Query
        from biasgym.lm.trace import divergences

        if not items:
            return []
        found = divergences(lm, [Query(item.payload["prompt"]) for item in items], self.tokens)
        return [{"nats": round(total, 7), "tokens": count} for total, count in found]

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """Sum of KL of each answer, with its tokens as weight; an empty answer has none."""
        return [scored(a, a.said["nats"] if a.said["tokens"] else None, weight=float(a.said["tokens"])) for a in answers]
