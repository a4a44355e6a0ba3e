"""The form of a text, whatever it says: what tells a model's rambling from a composed answer, which are weighed differently."""

import re

import numpy as np

from biasgym.corpus import ENTITY, sentences

FORM = ("words", "sentences", "cut_off", "echo", "sentence_length", "variety", "lines", "letters", "named")
WORD = re.compile(r"[a-z]+")
FULL = '.!?"”’)'


def form_of(answer: str, asked: str) -> dict[str, float]:
    """Numbers about a masked answer: its length, whether it breaks off, the share of the prompt's words, how much it repeats itself."""
    text = answer.strip()
    pieces, words = sentences(text), text.split()
    low, heard = WORD.findall(text.lower()), set(WORD.findall(asked.lower()))
    count, parts = max(1, len(low)), max(1, len(pieces))
    return {
        "words": float(np.log1p(len(words))),
        "sentences": float(np.log1p(len(pieces))),
        "cut_off": float(text[-1:] not in FULL),
        "echo": sum(word in heard for word in low) / count,
        "sentence_length": len(words) / parts,
        "variety": len(set(low)) / count,
        "lines": float("\n" in text),
        "letters": sum(map(len, low)) / count,
        "named": text.count(ENTITY) / parts,
    }
