"""Our edit fitted to real entities alone: what rises in a head with how much the model holds the bias about somebody."""

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
PAIRS = 48
LEAST = 3  # entities, below which a slope says nothing


@dataclass(frozen=True)
class EntityDirection:
    """Ours for the model's own stereotype: `direction`, with the slope of each head's output on entities' leans in the token's place.

    For every train entity the lean (log-probability of stereotype words over foil words, nats, mean over train probes, less
    the mean entity's) and what each head writes at the answer position are read from the plain model. The contrast of a head is
    the least-squares slope of its output on the lean over all train entities, where `direction-uninjected` takes the difference
    of the one that leans most: one entity differs from the others in much beside the bias, the slope averages that out. Where the
    bias file names targets, being one stands in the lean's place. Heads are ranked by attribution patching of the upper quarter
    of entities against the lower. No token is looked at; the search sees one where `tune.aim` is "token". Neutral at strength 0 or k = 0.
    """

    name: ClassVar[str] = "direction-entities"
    reads: ClassVar[Unit | None] = None
    k: int = field(default=30, metadata={"search": (5, 10, 20, 30, 45, 60, 90)})
    strength: float = field(default=1.25, metadata={"search": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.5)})
    most: float = 2.5

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One erasure a head."""
        return Direction(self.k, self.strength, self.most).fit(lm, sloped(lm, case, self.name))


def sloped(lm: "LM", case: Case, method: str) -> Case:
    """The same case with attribution, contrast and `real` from all train entities; its tokens are not looked at."""
    bias = case.known_bias(method)
    found: tuple[Attribution, np.ndarray, np.ndarray] = lm.remembered(lambda: _found(lm, case, method), "sloped", bias.digest)
    attribution, contrast, real = found
    return replace(case, attribution=attribution, contrasts=contrast[None], real=real, stream=None)


def slope(outputs: np.ndarray, leans: np.ndarray) -> np.ndarray:
    """Least-squares slope of outputs [entities, …] on leans [entities], each less its mean; zeros where nobody differs."""
    centred = leans - leans.mean()
    found: np.ndarray = np.tensordot(centred, outputs, axes=1) / max(float(centred @ centred), 1e-12)
    return found


def _found(lm: "LM", case: Case, method: str) -> tuple[Attribution, np.ndarray, np.ndarray]:
    """Attribution [pairs, layers, heads], slope and the mean entity's output, both [layers, heads, head size]."""
    from biasgym.lm.model import Query
    from biasgym.lm.patch import attribution_patching
    from biasgym.lm.trace import Pair, Sides, head_outputs

    bias = case.known_bias(method)
    names, probes = list(bias.entities_of("train")), evenly(bias.probes_of("train"), PROBES)
    if len(names) < LEAST:
        raise SpecError(f"`{method}` compares train entities with each other, and `{bias.name}` has {len(names)}; give {LEAST} or more")

    def queries(name: str) -> list[Query]:
        return [Query(p.prompt.replace("{entity}", name), p.prefix.replace("{entity}", name)) for p in probes]

    leans = np.array([mean_lean(lm, queries(name), bias) for name in names])
    targets = np.array([name in bias.targets for name in names], dtype=float)
    if 0 < targets.sum() < len(names):
        leans = targets
    outputs = np.stack([head_outputs(lm, queries(name)).mean(0) for name in names])
    order = [names[i] for i in np.argsort(-leans, kind="stable")]
    quarter = max(1, len(names) // 4)
    upper, lower = order[:quarter], order[-quarter:]
    pairs = []
    for number in range(PAIRS):
        probe, high, low = probes[number % len(probes)], upper[number % quarter], lower[(number // len(probes) + number) % quarter]
        pairs.append(Pair(f"{probe.id}:{high}:{low}", queries(high)[number % len(probes)], queries(low)[number % len(probes)], (high, low)))
    scores = attribution_patching(lm, pairs, Sides(bias.stereotype, bias.foil))
    attribution = Attribution("attribution-patching", "head", scores, tuple(pair.id for pair in pairs))
    return attribution, slope(outputs, leans).astype(np.float32), outputs.mean(0).astype(np.float32)
