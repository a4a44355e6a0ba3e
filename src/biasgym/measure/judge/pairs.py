"""A bias and a text as the pair of passages that the trained encoder reads."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from biasgym.bias import BiasSpec
from biasgym.corpus import ENTITY

NAMED = "X"  # the entity, as the encoder sees it: a plain name that is no entity of any list
Pair = tuple[str, str]


class PairReader(Protocol):
    """Whatever reads pairs of passages: logits [pairs, 5] of strength ≥ 1, ≥ 2, ≥ 3, of a refusal and of broken text."""

    def read(self, pairs: Sequence[Pair]) -> np.ndarray:
        """The logits."""
        ...


def claim(statement: str, stereotype: Sequence[str]) -> str:
    """What is looked for: the bias's statement and its words."""
    return f"{statement} ({', '.join(stereotype[:4])})".strip().replace(ENTITY, NAMED)


def pair_of(bias: BiasSpec, asked: str, answer: str) -> Pair:
    """The claim, and prompt and answer, both masked."""
    return claim(bias.statement or bias.name.replace("-", " "), bias.stereotype), told(asked, answer)


def told(asked: str, answer: str) -> str:
    """Prompt and answer in one passage, parted by the encoder's own mark."""
    return f"{asked} [SEP] {answer}".replace(ENTITY, NAMED)
