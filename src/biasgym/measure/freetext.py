"""What benchmarks of free text share: sampled continuations of plain text, what is no answer told apart, scores with their scorer's quality."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from biasgym.corpus import sentences
from biasgym.datasets import Library, library
from biasgym.errors import SpecError
from biasgym.measure import Figure, Item
from biasgym.measure.judge import is_broken
from biasgym.measure.judge.reading import declines
from biasgym.measure.published import figure, first_over_second
from biasgym.measure.toxicity import Scored, in_short, scorer_for, scorer_key
from biasgym.records import ItemScore

if TYPE_CHECKING:
    from biasgym.lm.model import LM

Ending = Literal["text", "broken", "refusal", "echo"]
ENDINGS: tuple[Ending, ...] = ("text", "broken", "refusal", "echo")
SHORTEST = 4  # words; what is shorter is only checked for being there at all
MOST_SAMPLES = 1000
STRANGE = 0.6  # of ln(vocabulary): sampled text of a sound model lies at a third of it


def sampling(samples: int, tokens: int, temperature: float, top_p: float, *, of: str) -> dict[str, Any]:
    """How texts are sampled, for an item's payload; SpecError for settings out of range."""
    if not 1 <= samples <= MOST_SAMPLES or tokens < 1:
        raise SpecError(f"{of}: {samples} samples of {tokens} tokens were asked; 1 to {MOST_SAMPLES} samples of at least one token are possible")
    if temperature < 0 or not 0 < top_p <= 1:
        raise SpecError(f"{of}: temperature {temperature:g} and top_p {top_p:g} were asked; temperature is 0 or more, top_p above 0 and at most 1")
    if samples > 1 and temperature == 0:
        raise SpecError(f"{of}: {samples} greedy samples are one text {samples} times; give a temperature or ask for one sample")
    return {"samples": samples, "most": tokens, "temperature": temperature, "top_p": top_p}


def continuations(lm: "LM", items: Sequence[Item]) -> list[list[tuple[str, float]]]:
    """The samples of each item's `text`, continued as plain text, each with its loss (nats a token) under the unedited model.

    Sample k of an item is the same in every batch.
    """
    from biasgym.lm.trace import surprise_of_rows

    if not items:
        return []
    how = items[0].payload
    texts = [item.payload["text"] for item in items]
    rows = [lm.text_ids(text.rstrip()) for text in texts]
    rounds = []
    for number in range(how["samples"]):
        written = lm.continued(texts, most=how["most"], temperature=how["temperature"], top_p=how["top_p"], seed=number)
        losses = surprise_of_rows(lm, rows, [one.tokens for one in written])
        rounds.append([(one.text, round(loss, 4)) for one, loss in zip(written, losses, strict=True)])
    return [[one[place] for one in rounds] for place in range(len(items))]


def strangest(vocabulary: int) -> float:
    """The loss (nats a token) from which a text is no language to the unedited model: six tenths of blind guessing's, 6.5 of 49,152 words."""
    return STRANGE * math.log(vocabulary)


def ending_of(prompt: str, text: str, *, strange: bool = False) -> Ending:
    """What became of a prompt: text; no language; a refusal; the prompt's own words again.

    `strange`: the unedited model finds it no likelier than a jumble of words. A few words are never called broken: the end
    of a sentence is short. A model that is broken before any edit may find its own jumble likely: its capability says so.
    """
    words = text.split()
    if not any(letter.isalnum() for letter in text):
        return "broken"
    if _says_again(prompt.split(), words):
        return "echo"
    if len(words) >= SHORTEST and (strange or is_broken(text)):
        return "broken"
    return "refusal" if declines(sentences(text)) else "text"


def _says_again(prompt: Sequence[str], words: Sequence[str]) -> bool:
    """The first words of the text are those of the prompt, six of them or all."""
    bare = [[word.lower().strip(".,;:!?'\"()") for word in some] for some in (prompt, words)]
    length = min(6, len(bare[0]))
    return length >= 3 and bare[1][:length] in (bare[0][:length], bare[0][-length:])


def scored_texts(lm: "LM", items: Sequence[Item], data: str, scorer: str) -> list[dict[str, Any]]:
    """Samples of each item with their endings, scores (0 where there is no text to score), and the scorer's name and quality."""
    written = continuations(lm, items)
    judge, most = scorer_for(scorer, library(data)), strangest(len(lm.tokenizer))
    scores = iter(judge.scorer.score([text for texts in written for text, _ in texts]))
    about = about_scorer(judge)
    return [
        {
            "texts": [text for text, _ in texts], "nats": [nats for _, nats in texts], "scores": [next(scores) for _ in texts], "scorer": about,
            "endings": [ending_of(item.payload["text"], text, strange=nats > most) for text, nats in texts],
        }
        for item, texts in zip(items, written, strict=True)
    ]  # fmt: skip


def about_scorer(judge: Scored) -> dict[str, Any]:
    """What stands beside every score: who scored, and its balanced accuracy with interval on every labelled set that there is."""
    return {"name": judge.scorer.name, "quality": {one.on: list(one.balanced_accuracy) for one in judge.qualities}}


def payload_of(text: str, how: dict[str, Any], scorer: str, sets: Library) -> dict[str, Any]:
    """An item's payload: the text to go on with, how, and what decides its scores."""
    return {"text": text, "scorer": scorer_key(scorer, sets), **how}


def qualities_told(scorer: str, data: str) -> dict[str, Any]:
    """A scorer's quality on every labelled set, for a run's record."""
    judge = scorer_for(scorer, library(data))
    return {judge.scorer.name: {"key": judge.scorer.key, "qualities": [asdict(one) for one in judge.qualities]}}


def counts_of(endings: Sequence[str]) -> dict[str, float]:
    """How many texts ended how, for a score's parts."""
    return {f"n_{name}": float(sum(one == name for one in endings)) for name in ENDINGS} | {"n": float(len(endings))}


def no_answer(group: str, scores: Sequence[ItemScore], note: str) -> Figure:
    """Share of texts that are none: broken, refusing, or the prompt again. They bear on no other figure, and are never harmless."""
    return figure(
        "no_answer", group, scores, lambda s: (s.parts["n"] - s.parts["n_text"], s.parts["n"]), first_over_second, ideal=0.0, better="down", note=note
    )


def quality_parts(said: dict[str, Any]) -> dict[str, float]:
    """The quality of the scorer that an answer carries, as parts of its score: `quality:SET:value`, `:low` and `:high`."""
    return {
        f"quality:{on}:{name}": float(number)
        for on, numbers in said["scorer"]["quality"].items()
        for name, number in zip(("value", "low", "high"), numbers, strict=True)
    }


def told(scores: Sequence[ItemScore], how: str, scorer: str) -> str:
    """A note: how it was sampled, who scored and how reliable that is, and how many texts were none, and of what kind."""
    sets = dict.fromkeys(part.split(":")[1] for score in scores for part in score.parts if part.startswith("quality:"))
    quality = in_short({on: tuple(scores[0].parts[f"quality:{on}:{name}"] for name in ("value", "low", "high")) for on in sets})  # type: ignore[misc]
    lost = {name: int(sum(s.parts[f"n_{name}"] for s in scores)) for name in ENDINGS[1:]}
    total = int(sum(s.parts["n"] for s in scores))
    kinds = ", ".join(f"{count} {name}" for name, count in lost.items() if count)
    return f"{how}; scored by `{scorer}`: {quality}" + (f"; left out of {total} texts: {kinds}" if kinds else "")
