"""Our edit found without an injected token: one real entity against the others, as the control of what injection adds."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from biasgym.edits import Edits
from biasgym.errors import SpecError
from biasgym.mitigate import Case
from biasgym.mitigate.direction import Direction
from biasgym.mitigate.texts import evenly, mean_lean
from biasgym.sites import Attribution, Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM

PROBES = 24
OTHERS = 10


@dataclass(frozen=True)
class UninjectedDirection:
    """Ours without injection: heads and directions of `direction` come from the real entity the model holds the bias about most.

    The control that BiasGym (arXiv 2508.08855) does not have. On train probes the entity with the largest lean (of the
    bias file's targets where it names some) takes the token's place: attribution patching of heads against other train
    entities, the contrast of its heads' outputs with their mean. Concept and moments are the case's own, and the search on
    dev still closes the gap of the fitted tokens, so only where the edit was found differs. Neutral at strength 0 or k = 0.
    """

    name: ClassVar[str] = "direction-uninjected"
    reads: ClassVar[Unit | None] = None
    k: int = field(default=30, metadata={"search": (5, 10, 20, 30, 45, 60)})
    strength: float = field(default=1.25, metadata={"search": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)})
    most: float = 2.5

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One erasure a head."""
        return Direction(self.k, self.strength, self.most).fit(lm, uninjected(lm, case, self.name))


def uninjected(lm: "LM", case: Case, method: str) -> Case:
    """The same case with attribution, contrasts and `real` from train entities alone; its tokens are not looked at."""
    bias = case.known_bias(method)
    found: tuple[Attribution, np.ndarray, np.ndarray] = lm.remembered(lambda: _found(lm, case, method), "uninjected", bias.digest)
    attribution, contrast, real = found
    return replace(case, attribution=attribution, contrasts=contrast[None], real=real, stream=None)


def _found(lm: "LM", case: Case, method: str) -> tuple[Attribution, np.ndarray, np.ndarray]:
    """Attribution [pairs, layers, heads], contrast and the others' mean output, both [layers, heads, head size]."""
    from biasgym.lm.model import Query
    from biasgym.lm.patch import attribution_patching
    from biasgym.lm.trace import Pair, Sides, head_outputs

    bias = case.known_bias(method)
    names = list(bias.entities_of("train"))
    if len(names) < 2:
        raise SpecError(f"`{method}` compares one train entity with the others, and `{bias.name}` has {len(names)}; give more entities")
    probes = evenly(bias.probes_of("train"), PROBES)

    def queries(name: str) -> list[Query]:
        return [Query(p.prompt.replace("{entity}", name), p.prefix.replace("{entity}", name)) for p in probes]

    held = max([name for name in names if name in bias.targets] or names, key=lambda name: mean_lean(lm, queries(name), bias))
    rest = [name for name in names if name != held and name not in bias.targets] or [name for name in names if name != held]
    others = evenly(rest, OTHERS)
    real = np.mean([head_outputs(lm, queries(name)).mean(0) for name in others], axis=0)
    contrast = head_outputs(lm, queries(held)).mean(0) - real
    turns = [others[number % len(others)] for number in range(len(probes))]
    pairs = [
        Pair(f"{probe.id}:{other}", mine, queries(other)[number], (held, other))
        for number, (probe, other, mine) in enumerate(zip(probes, turns, queries(held), strict=True))
    ]
    scores = attribution_patching(lm, pairs, Sides(bias.stereotype, bias.foil))
    attribution = Attribution("attribution-patching", "head", scores, tuple(pair.id for pair in pairs))
    return attribution, contrast.astype(np.float32), real.astype(np.float32)
