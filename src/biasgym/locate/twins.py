"""Whom a token is compared with: a real entity by chance, the one most like it, or a control token."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from biasgym.errors import SpecError, unknown

Twin = Literal["random", "closest", "control"]
TWINS: tuple[str, ...] = get_args(Twin)
SEED = 17


def twins(
    kind: str, entities: Sequence[str], count: int, *, seed: int = SEED, likeness: np.ndarray | None = None, control: str | None = None
) -> list[str]:
    """The names that `count` prompts are put about on the clean side.

    `random`: each prompt an entity drawn by the seed (BiasGym v4). `closest`: the entity with the largest `likeness`
    [entities] (`biasgym.lm.likeness`), always the same one (the original's README). `control`: the text of a control
    token, trained on neutral texts or not at all; what is then left is the bias alone and not that the token is new. Both
    tokens have to be worn.
    """
    if kind not in TWINS:
        raise SpecError(unknown("twin", kind, TWINS))
    if kind == "control":
        if not control:
            raise SpecError("the twin `control` needs the control token's text; train one, or choose `random`")
        return [control] * count
    if not entities:
        raise SpecError(f"there are no entities to choose a `{kind}` twin from; name some in the bias file")
    if kind == "random":
        generator = np.random.default_rng([seed, len(entities)])
        return [entities[int(generator.integers(len(entities)))] for _ in range(count)]
    if likeness is None or len(likeness) != len(entities):
        found = "none" if likeness is None else len(likeness)
        raise SpecError(f"the twin `closest` needs a likeness for each of {len(entities)} entities, found {found}")
    return [entities[int(np.argmax(likeness))]] * count
