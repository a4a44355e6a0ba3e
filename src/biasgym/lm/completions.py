"""The likeliest next words of plain texts: first tokens that begin a word, each continued greedily to the word's end."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from biasgym.lm.model import LM

WORD = re.compile(r"\s*([^\W\d_]+(?:['’-][^\W\d_]+)*)")
SPARE = 2  # first tokens tried for each word wanted: several may begin the same word
LONGEST = 4  # tokens of a word behind its first


@torch.no_grad()
def next_words(lm: "LM", texts: Sequence[str], count: int) -> list[list[str]]:
    """At most `count` different words that may follow each text, likeliest first token first; fewer where few tokens begin a word.

    Plain text, as `LM.continued`. A word is letters, with marks inside; deterministic.
    """
    rows = [lm.text_ids(text.rstrip()) for text in texts]
    starts = [lm.next_logprobs(row, 1)[0].topk(min(SPARE * count, len(lm.tokenizer))).indices.tolist() for row in rows]
    begun = [(place, token) for place, tokens in enumerate(starts) for token in tokens]
    written = lm.plain_answers([[*rows[place], token] for place, token in begun], LONGEST)
    found: list[list[str]] = [[] for _ in texts]
    for (place, token), more in zip(begun, written, strict=True):
        word = first_word(lm, rows[place], [token, *more])
        if word and word not in found[place] and len(found[place]) < count:
            found[place].append(word)
    return found


def first_word(lm: "LM", before: Sequence[int], ids: Sequence[int]) -> str:
    """The word that ids begin with, behind a blank; empty where they begin with none, or go on with the word before."""
    known = lm.tokenizer.decode(before, skip_special_tokens=True)
    whole = lm.tokenizer.decode([*before, *ids], skip_special_tokens=True)
    rest = whole[len(known) :] if whole.startswith(known) else ""
    found = WORD.match(rest)
    return found[1] if found and rest[:1].isspace() else ""
