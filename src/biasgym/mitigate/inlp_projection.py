"""Whatever tells the groups apart linearly in the residual stream is projected out of it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from biasgym.bias import BiasSpec, split_by_hash
from biasgym.edits import Edits, SiteEdit
from biasgym.errors import SpecError, unknown
from biasgym.mitigate import Case
from biasgym.mitigate.texts import groups, moulds, twins
from biasgym.sites import Site, Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM

HOW = ("inlp", "sentence-debias")


@dataclass(frozen=True)
class InlpProjection:
    """Iterated nullspace projection, or SentenceDebias, in the stream after one layer.

    INLP (Ravfogel et al. 2020, arXiv 2004.07667): linear probes for the group are trained one after the other, each on
    what the ones before left over, and all their directions are projected out. `sentence-debias` (Liang et al. 2020,
    arXiv 2007.08100) takes principal components of counterfactual pairs instead; `rounds` is then their number. Groups:
    the fitted tokens against real train entities in the very same sentences (without tokens: the file's targets against
    the others); states are means over a sentence's tokens. Deviations: the stream after a layer at `depth`, where the
    papers take a sentence encoder's last state; logistic probes; few, made-up sentences instead of Wikipedia. Neutral at
    strength 0 or no rounds. Run-time only: a projection of the stream between two layers is not a change of one matrix.
    """

    name: ClassVar[str] = "inlp-projection"
    reads: ClassVar[Unit | None] = "stream"
    contract_settings: ClassVar[dict[str, int]] = {"texts": 12}
    rounds: int = field(default=4, metadata={"search": (1, 2, 4, 8, 16), "neutral": 0})
    depth: float = field(default=0.5, metadata={"search": (0.25, 0.5, 0.75, 1.0)})
    strength: float = field(default=1.0, metadata={"search": (0.5, 0.75, 1.0), "neutral": 0.0})
    how: str = field(default="inlp", metadata={"search": HOW})
    texts: int = 160

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One projection of rank ≤ rounds."""
        if self.how not in HOW:
            raise SpecError(unknown("how", self.how, HOW))
        if not 0 <= self.depth <= 1:
            raise SpecError(f"depth = {self.depth}: a share of the layers from 0 to 1 is needed")
        if self.rounds < 1:
            return ()
        layer = round(self.depth * (lm.shape.layers - 1))
        rows = self._rows(lm, case, layer)
        return (SiteEdit(Site("stream", layer), "project", rows.astype(np.float32), self.strength),) if len(rows) else ()

    def _rows(self, lm: "LM", case: Case, layer: int) -> np.ndarray:
        from biasgym.lm.subspace import nullspace_rows, pair_components

        first, second = self._states(lm, case, layer)
        if self.how == "sentence-debias":
            return pair_components(first, second, self.rounds)
        labels = np.repeat([1, 0], [len(first), len(second)])
        return nullspace_rows(np.concatenate([first, second]), labels, self.rounds)

    def _states(self, lm: "LM", case: Case, layer: int) -> tuple[np.ndarray, np.ndarray]:
        from biasgym.lm.subspace import text_states

        bias = case.known_bias(self.name)
        pairs = twins(bias, *groups(case, self.name), self.texts, 0, templates=kept_templates(bias, "train"))

        def make() -> tuple[np.ndarray, np.ndarray]:
            with lm.edited(*case.tokens):
                return text_states(lm, [a for a, _ in pairs], layer), text_states(lm, [b for _, b in pairs], layer)

        found: tuple[np.ndarray, np.ndarray] = lm.remembered(make, "states", layer, tuple(pairs), case.tokens)
        return found


def kept_templates(bias: BiasSpec, part: str) -> list[str]:
    """The templates that the projection is fitted on (`train`), or those on which a probe may test it (`test`)."""
    chosen = set(split_by_hash(moulds(bias), {"train": 0.7, "test": 0.3})[part])
    return [template for template in moulds(bias) if template in chosen]
