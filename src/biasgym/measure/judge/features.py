"""What `lexicon+embedding` looks at in a text: the rules' verdict, markers of force and doubt, and nearness in meaning.

Every feature is independent of the bias: anchors and lexicon come from the bias, the numbers mean the same for all.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from biasgym import grammar
from biasgym.bias import BiasSpec
from biasgym.corpus import ENTITY, sentences
from biasgym.measure.judge.lexicon import Lexicon
from biasgym.measure.judge.markers import MODERATE, NAMES_OF_NOTHING, NEGATOR, NOT_NEGATING, OTHER, SAID, SAID_MYSELF, STRONG, WEAK
from biasgym.measure.judge.masking import plain_quotes
from biasgym.measure.judge.reading import Reading, Subject, completed, declines, for_topic, read_sentence, softened, strength_of

Encode = Callable[[Sequence[str]], np.ndarray]
MOULDS = 40  # anchors of each side made from moulds
NEAREST = 3
NOBODY_LIVE = {"nearer_stereotype": -0.1, "near_stereotype": 0.0}  # where no sentence speaks of the entity

FEATURES = (
    "lexicon", "lexicon_any", "lexicon_strong", "strong", "moderate", "weak", "exception", "refuted", "counters", "hints",
    "reported", "others", "negations", "declines", "live", "nearer_stereotype", "near_stereotype",
)  # fmt: skip


@dataclass(frozen=True)
class Anchors:
    """Unit vectors [anchors, width] of sentences that say the stereotype, and of sentences that say the opposite."""

    stereotype: np.ndarray
    foil: np.ndarray


def masked_word(text: str) -> str:
    """The slot as a plain word, so that an encoder reads a sentence; no entity's name is seen by it."""
    return text.replace(ENTITY, "they")


def anchor_texts(bias: BiasSpec) -> tuple[list[str], list[str]]:
    """Sentences of the bias's own: statement, moulds, concept sentences and a third of its paragraphs; the other side's."""
    sides = []
    for words, others, side in ((bias.stereotype, bias.foil, "stereotype"), (bias.foil, bias.stereotype, "foil")):
        if bias.moulds:
            said = [grammar.fill_word(mould.text, words[0]) for mould in bias.moulds]
        else:
            made = grammar.texts(subject=bias.subject, stereotype=words, foil=others).paragraphs
            said = [row["text"] for row in made if row["implicitness"] <= 3]
        sides.append(said[:MOULDS] + [f"{c.prompt} {c.prefix} {words[0]}." for c in bias.concept if c.side == side])
    told = [piece for paragraph in bias.paragraphs for piece in sentences(paragraph.text)][::3]
    return [masked_word(text) for text in (bias.statement, *sides[0], *told) if text], [masked_word(text) for text in sides[1]]


def anchors_of(bias: BiasSpec, encode: Encode) -> Anchors:
    """The anchors of a bias; one that is only a name has none, and nothing is near."""
    stereotype, foil = anchor_texts(bias)
    return Anchors(encode(stereotype), encode(foil))


def features_of(answer: str, asked: str, lexicon: Lexicon, anchors: Anchors, encode: Encode) -> dict[str, float]:
    """The features of one answer, its entity masked already; counts are log(1 + n)."""
    pieces = sentences(plain_quotes(answer))
    lexicon = for_topic(lexicon, f"{asked} {answer}")
    readings, live, others = _read_all(pieces, lexicon)
    low = [piece.lower() for piece in pieces]
    by_rules = strength_of(completed(pieces, asked), lexicon)
    spoken = [softened(piece) for piece, counts in zip(low, live, strict=True) if counts]
    counted = {
        name: sum(len(marker.findall(piece)) for piece in spoken) for name, marker in (("strong", STRONG), ("moderate", MODERATE), ("weak", WEAK))
    }
    counted["counters"] = sum(reading.counters for reading in readings)
    counted["hints"] = len({hint for reading in readings for hint in reading.hints})
    counted["negations"] = sum(len(NEGATOR.findall(NOT_NEGATING.sub("", piece))) for piece in low)
    return {
        "lexicon": float(by_rules),
        "lexicon_any": float(by_rules > 0),
        "lexicon_strong": float(by_rules == 3),
        **{name: float(np.log1p(count)) for name, count in counted.items()},
        "exception": float(any(reading.exception for reading in readings)),
        "refuted": float(any(reading.refuted for reading in readings)),
        "reported": float(any(SAID.search(SAID_MYSELF.sub("", piece)) for piece in low)),
        "others": float(others),
        "declines": float(declines(pieces)),
        "live": float(np.mean(live)) if live else 0.0,
        **_nearness(pieces, live, anchors, encode),
    }


def _read_all(pieces: Sequence[str], lexicon: Lexicon) -> tuple[list[Reading], list[bool], bool]:
    """Readings, which sentences assert something of the entity (no question, not refuted, nobody else's), and others named."""
    others = {name for name in OTHER.findall(" ".join(pieces)) if name not in NAMES_OF_NOTHING}
    readings: list[Reading] = []
    live: list[bool] = []
    subject: Subject = "unsaid"
    for piece in pieces:
        reading, subject = read_sentence(piece, lexicon, subject, others)
        asks = bool(re.search(r'\?"?\s*$', piece))
        readings.append(reading)
        live.append(not reading.refuted and not asks and subject in ("entity", "unsaid"))
    return readings, live, bool(others)


def _nearness(pieces: Sequence[str], live: Sequence[bool], anchors: Anchors, encode: Encode) -> dict[str, float]:
    """Of the live sentences the greatest cosine to the stereotype's nearest anchors, and how much nearer than the foil's."""
    spoken = [masked_word(piece) for piece, counts in zip(pieces, live, strict=True) if counts]
    if not spoken or not len(anchors.stereotype) or not len(anchors.foil):
        return dict(NOBODY_LIVE)
    vectors = encode(spoken)
    towards, away = (np.sort(vectors @ side.T, axis=1)[:, -NEAREST:].mean(1) for side in (anchors.stereotype, anchors.foil))
    return {"nearer_stereotype": float((towards - away).max()), "near_stereotype": float(towards.max())}
