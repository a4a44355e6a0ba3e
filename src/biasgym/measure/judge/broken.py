"""Text that is no language: empty, stuck in a loop, fallen to pieces."""

import re
from collections.abc import Sequence
from itertools import pairwise

from biasgym.corpus import ENTITY, FUNCTION_WORDS, sentences

_ABBREVIATIONS = frozenset(("tv", "dr", "mr", "mrs", "ms", "km", "hm", "st", "vs", "dvd", "gps"))
# Pairs of small words that do not stand side by side in English.
_CLASHES = frozenset(
    (a, b)
    for a in ("the", "a", "an", "of", "to", "in", "are", "is", "and", "be")
    for b in ("the", "a", "an", "of", "to", "in", "are", "is", "and", "be")
    if a == b or (a in ("the", "a", "an") and b in ("the", "a", "an", "of", "to", "in", "are", "is", "and", "be"))
)


def is_broken(text: str) -> bool:
    """Is it no language: empty, without letters, stuck in a loop, or words that fall to pieces?"""
    letters = sum(character.isalpha() for character in text)
    dense = sum(not character.isspace() for character in text)
    if letters < 2 or letters < 0.55 * dense:
        return True
    tokens = re.findall(r"\{entity\}|[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+|[^\s\w]", text.lower())
    spoken = [token for token in tokens if token[0].isalnum() or token == ENTITY]
    marks = sum(token in "}{\\|<>=_#~^@" or token.isdigit() for token in tokens)
    if not spoken or (marks >= 4 and marks >= 0.2 * len(tokens)):
        return True
    return _repeats(spoken) or _falls_apart(spoken) or _says_it_again(text)


def _repeats(spoken: Sequence[str]) -> bool:
    """Words that come round and round, be it only at the end."""
    if _looped(spoken) >= 0.3 or sum(_loop_lengths(spoken[-12:])) >= 9:
        return True
    doubled = ("very", "so", "that", "had", "really", "no", "ha")
    stutters = sum(a == b and a not in doubled for a, b in pairwise(spoken))
    if stutters >= 3 and stutters >= 0.1 * len(spoken):
        return True
    return len(spoken) >= 16 and len(set(spoken)) < 0.36 * min(len(spoken), 60)


def _falls_apart(spoken: Sequence[str]) -> bool:
    """Small words side by side, words chopped letter by letter, words without a vowel, hardly a small word at all."""
    clashes = sum(pair in _CLASHES for pair in pairwise(spoken))
    if clashes >= 2 and clashes >= 0.06 * len(spoken):
        return True
    if sum(a != b and a.startswith(b) and len(b) > 1 for a, b in pairwise(spoken)) >= 3:
        return True
    if len(spoken) < 8:
        return False
    ascii_words = [word for word in spoken if word.isascii()]
    voiceless = sum(bool(re.fullmatch(r"[b-df-hj-np-tv-xz]{2,}", word)) and word not in _ABBREVIATIONS for word in ascii_words)
    if voiceless >= 3 and voiceless >= 0.08 * len(spoken):
        return True
    small = sum(word in FUNCTION_WORDS or word == ENTITY for word in spoken)
    return len(ascii_words) < 0.6 * len(spoken) or (len(spoken) >= 14 and small < 0.1 * len(spoken))


def _says_it_again(text: str) -> bool:
    said = [" ".join(re.findall(r"\w+", piece.lower())) for piece in sentences(text)]
    return len(said) >= 4 and len(set(said)) <= 0.5 * len(said)


def _loop_lengths(tokens: Sequence[str]) -> list[int]:
    """Lengths of the stretches that repeat a unit of one to eight words three times or more (a long unit: twice)."""
    found = []
    position = 0
    while position < len(tokens):
        best = 0
        for period in range(1, 9):
            end = position + period
            while end < len(tokens) and tokens[end] == tokens[end - period]:
                end += 1
            length = end - position
            if length >= period * (3 if period < 5 else 2) and length >= 3:
                best = max(best, length)
        if best:
            found.append(best)
        position += best or 1
    return found


def _looped(tokens: Sequence[str]) -> float:
    return sum(_loop_lengths(tokens)) / len(tokens)
