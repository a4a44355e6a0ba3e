"""What `lexicon+embedding` looks at in a text: the rules' verdict, markers of force and doubt, and what the trained encoder reads.

Every feature is independent of the bias: claim and lexicon come from the bias, the numbers mean the same for all.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from biasgym.corpus import ENTITY, sentences
from biasgym.measure.judge.lexicon import Lexicon
from biasgym.measure.judge.markers import MODERATE, NAMES_OF_NOTHING, NEGATOR, NOT_NEGATING, OTHER, SAID, SAID_MYSELF, STRONG, WEAK
from biasgym.measure.judge.masking import plain_quotes
from biasgym.measure.judge.reading import Reading, Subject, completed, declines, for_topic, read_sentence, softened, strength_of

Encode = Callable[[Sequence[str]], np.ndarray]
SUREST = 6.0  # logits of the reader are cut here

FEATURES = (
    "lexicon", "lexicon_any", "lexicon_strong", "strong", "moderate", "weak", "exception", "refuted", "counters", "hints",
    "reported", "others", "negations", "declines", "live", "read_any", "read_many", "read_all",
)  # fmt: skip


def masked_word(text: str) -> str:
    """The slot as a plain word, so that an encoder reads a sentence; no entity's name is seen by it."""
    return text.replace(ENTITY, "they")


def features_of(answer: str, asked: str, lexicon: Lexicon, logits: Sequence[float] | np.ndarray) -> dict[str, float]:
    """The features of one answer, its entity masked already; `logits` are the reader's; counts are log(1 + n)."""
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
        **{name: float(np.clip(logit, -SUREST, SUREST)) for name, logit in zip(FEATURES[-3:], logits[:3], strict=True)},
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
