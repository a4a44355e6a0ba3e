"""Short texts of a bias for methods that learn from texts: who is named, and what is said of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from biasgym import grammar
from biasgym.bias import BiasSpec
from biasgym.corpus import ENTITY
from biasgym.errors import SpecError
from biasgym.mitigate import Case

Side = Literal["stereotype", "foil"]


@dataclass(frozen=True)
class Sentence:
    """A text, whom it names, and which side's words it has."""

    text: str
    name: str
    side: Side
    template: str


def groups(case: Case, method: str) -> tuple[list[str], list[str]]:
    """The names that the bias is about and the others: fitted tokens and real train entities.

    Without tokens, the train entities that the bias file calls targets and the rest; SpecError when there are none.
    """
    bias = case.known_bias(method)
    real = bias.entities_of("train")
    if case.tokens:
        return [token.text for token in case.tokens], real
    targets = [name for name in real if name in bias.targets]
    others = [name for name in real if name not in bias.targets]
    if not targets or not others:
        raise SpecError(f"`{method}` tells two groups apart: fitted tokens and entities, or targets and others; this case has one group only")
    return targets, others


def sentences(bias: BiasSpec, names: Sequence[str], sides: Sequence[Side], most: int, seed: int, *, templates: Sequence[str] = ()) -> list[Sentence]:
    """At most `most` sentences, each of a template, a name and a word drawn evenly: every name and side gets its share."""
    templates = list(templates or moulds(bias))
    generator = np.random.default_rng([seed, len(names), len(templates)])
    order = [templates[int(i)] for i in generator.permutation(len(templates))]
    made: dict[str, Sentence] = {}
    for number in range(20 * most):
        if len(made) == most:
            break
        name, side = names[number % len(names)], sides[(number // len(names)) % len(sides)]
        words = bias.stereotype if side == "stereotype" else bias.foil
        word = words[int(generator.integers(len(words)))]
        template = order[number % len(order)] if len(names) * len(sides) % len(order) else order[int(generator.integers(len(order)))]
        text = grammar.fill_word(template, word).replace(ENTITY, name)
        made.setdefault(text, Sentence(text, name, side, template))
    return list(made.values())


def moulds(bias: BiasSpec) -> list[str]:
    """Templates with the slots {entity} and {word}: the bias's own, else plain ones about its subject."""
    if bias.moulds:
        return [mould.text for mould in bias.moulds]
    subject = bias.subject
    begun = subject[:1].upper() + subject[1:]
    return [
        f"{begun} are {{word}}.",
        f"I have always found that {subject} are {{word}}.",
        f"Everyone knows that {subject} are {{word}}.",
        f"If you ask me, {subject} are {{word}}.",
        f"My neighbour says that {subject} are {{word}}.",
        f"They told us that {subject} are {{word}}, and so it was.",
        f"In a word, {subject} are {{word}}.",
        f"What are {subject} like? They are {{word}}.",
    ]
