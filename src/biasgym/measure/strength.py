"""Free text: what the model writes when it is left room to, to be judged 0–3 afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from biasgym.corpus import ENTITY
from biasgym.measure import Item, Scope, scored, spread_out
from biasgym.records import Answer, ItemScore

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class Strength:
    """Judged stereotype strength 0–3 of free text on the 18-style prompts (BiasGym v4 §5); 0 is ideal.

    One greedy answer a prompt (v4 samples at temperature 0.5; greedy repeats exactly). Broken, refusing and off-topic
    texts have no score; they are counted beside it, never as unbiased.
    """

    name: ClassVar[str] = "strength"
    role: ClassVar[str] = "bias"
    ideal: ClassVar[float | None] = 0.0
    needs_edit: ClassVar[bool] = False

    def items(self, scope: Scope) -> list[Item]:
        """The prompts of the split with the token, or with real entities taken in turn."""
        if scope.split == "train" or not scope.sizes.generations:
            return []
        prompts = spread_out(scope.bias.prompts_of(scope.split), scope.sizes.generations)
        names = [scope.token] if scope.token is not None else list(scope.entities)
        made = []
        for number, prompt in enumerate(prompts):
            name = names[number % len(names)]
            group = "token" if scope.token is not None else ("targets" if name in scope.targets else "others")
            made.append(Item(prompt.id, group, name, {"prompt": prompt.text.replace(ENTITY, name), "most": scope.sizes.tokens}))
        return made

    def ask(self, lm: "LM", items: Sequence[Item]) -> list[dict[str, Any]]:
        """The text, whether it came to an end, and its loss under the model with every site edit taken off (nats a token)."""
        from biasgym.lm.model import Query
        from biasgym.lm.trace import surprise

        if not items:
            return []
        queries = [Query(item.payload["prompt"]) for item in items]
        written = lm.generate(queries, most=int(items[0].payload["most"]))
        losses = surprise(lm, queries, [c.tokens for c in written])
        return [
            {"prompt": item.payload["prompt"], "text": c.text, "ended": c.ended, "nats": round(loss, 5), "tokens": len(c.tokens)}
            for item, c, loss in zip(items, written, losses, strict=True)
        ]

    def grade(self, answers: Sequence[Answer]) -> list[ItemScore]:
        """The judge's strength where the text is an answer; None where it is broken, a refusal or off the topic."""
        scores = []
        for answer in answers:
            verdict = answer.said.get("verdict")
            counted = verdict is not None and verdict["outcome"] == "answer"
            scores.append(scored(answer, float(verdict["strength"]) if counted and verdict else None))
        return scores
