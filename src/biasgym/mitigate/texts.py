"""Short texts of a bias for methods that learn from texts: who is named, and what is said of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from biasgym import grammar
from biasgym.bias import BiasSpec, read_jsonl, zoo_path
from biasgym.corpus import ENTITY
from biasgym.errors import SpecError
from biasgym.mitigate import Case

if TYPE_CHECKING:
    from biasgym.lm.model import LM, Query

Side = Literal["stereotype", "foil"]
T = TypeVar("T")


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
    """At most `most` different sentences: names and sides take turns, so each gets its share; template and word are drawn."""
    chosen = list(templates or moulds(bias))
    generator = np.random.default_rng([seed, len(names), len(chosen)])
    made: dict[str, Sentence] = {}
    for number in range(most):
        name, side = names[number % len(names)], sides[(number // len(names)) % len(sides)]
        words = bias.stereotype if side == "stereotype" else bias.foil
        for _ in range(20):  # a name that has said everything is passed over
            template, word = chosen[int(generator.integers(len(chosen)))], words[int(generator.integers(len(words)))]
            text = grammar.fill_word(template, word).replace(ENTITY, name)
            if text not in made:
                made[text] = Sentence(text, name, side, template)
                break
    return list(made.values())


def twins(
    bias: BiasSpec, first: Sequence[str], second: Sequence[str], most: int, seed: int, *, templates: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Sentences about the first names, each beside the very same sentence about one of the second."""
    generator = np.random.default_rng([seed, 5])
    pairs = []
    for one in sentences(bias, first, ("stereotype", "foil"), most, seed, templates=templates):
        pairs.append((one.text, one.text.replace(one.name, second[int(generator.integers(len(second)))])))
    return pairs


def neutral_texts(names: Sequence[str], most: int, seed: int) -> list[str]:
    """Paragraphs of our own about nothing in particular, each about one of the names; none of them is measured on."""
    rows = read_jsonl(zoo_path() / "neutral" / "paragraphs.jsonl")
    generator = np.random.default_rng([seed, 11])
    chosen = [rows[int(i)]["text"] for i in generator.permutation(len(rows))[:most]]
    return [text.replace(ENTITY, names[number % len(names)]) for number, text in enumerate(chosen)]


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


def evenly(things: Sequence[T], most: int) -> list[T]:
    """At most `most` of the things, evenly spaced over their order."""
    if len(things) <= most:
        return list(things)
    return [things[int(i)] for i in np.linspace(0, len(things) - 1, most).round()]


def mean_lean(lm: "LM", queries: "Sequence[Query]", bias: BiasSpec) -> float:
    """How much likelier stereotype words are than foils after these queries (nats): difference of their log-sum-exps, mean over queries."""
    said = lm.answer_logprobs(queries, [*bias.stereotype, *bias.foil])
    split = len(bias.stereotype)
    return float((np.logaddexp.reduce(said[:, :split], axis=1) - np.logaddexp.reduce(said[:, split:], axis=1)).mean())
