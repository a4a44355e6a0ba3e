"""Text as hashed words and pieces of words, for a scorer that is trained in seconds and read in no time."""

import html
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SIZE = 1 << 18  # places; collisions are rare and cost little (Weinberger et al. 2009)
PIECES = (3, 4, 5)  # letters of a piece of a word, its ends counted
MOST_WORDS = 400  # of one text; what stands behind is not read
LINKS_AND_NAMES = re.compile(r"https?://\S+|www\.\S+|@\w+|\brt\b")
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
LOOKS_LIKE = str.maketrans({"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s", "!": "i"})
DISGUISED = re.compile(r"(?=\S*[a-z])(?=\S*[0134578@$!])[a-z0-9@$!]{3,}")
DRAWN_OUT = re.compile(r"(.)\1{2,}")


def words_of(text: str) -> list[str]:
    """Lower-case words: links, user names and marks dropped, digits for letters put back, drawn-out letters shortened to two."""
    low = LINKS_AND_NAMES.sub(" ", html.unescape(text).lower())
    low = DISGUISED.sub(lambda found: _plain(found[0]), low)
    return ["0" if word.isdigit() else DRAWN_OUT.sub(r"\1\1", word) for word in WORD.findall(low)[:MOST_WORDS]]


def _plain(word: str) -> str:
    """A word with letters for the signs that stand for them; signs at its end are marks."""
    bare = word.rstrip("!")
    return bare.translate(LOOKS_LIKE) + " " * (len(word) - len(bare))


def places_of(text: str) -> np.ndarray:
    """The places of a text's single words, pairs of neighbours and pieces of words, each once, in order; empty for a text without words."""
    words = words_of(text)
    grams = {f"w {word}" for word in words} | {f"p {a} {b}" for a, b in itertools.pairwise(words)}
    for word in set(words):
        framed = f"<{word}>"
        grams |= {f"c {framed[i : i + size]}" for size in PIECES for i in range(len(framed) - size + 1)}
    return np.unique(np.fromiter((crc32(gram.encode()) % SIZE for gram in grams), dtype=np.int64, count=len(grams)))


def matrix_of(texts: Sequence[str]) -> "csr_array":
    """Texts as rows [texts, SIZE] of length 1; a text without words is a row of zeros."""
    from scipy.sparse import csr_array  # a quarter of a second, and reading results needs none of it

    rows = [places_of(text) for text in texts]
    ends = np.cumsum([0, *(len(row) for row in rows)])
    values = np.concatenate([np.full(len(row), 1 / np.sqrt(len(row))) for row in rows if len(row)] or [np.zeros(0)])
    places = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    return csr_array((values, places, ends), shape=(len(rows), SIZE))
