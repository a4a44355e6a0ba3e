"""The residual stream is shifted away from the token's direction."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from biasgym.edits import Edits, SiteEdit
from biasgym.errors import SpecError
from biasgym.mitigate import Case
from biasgym.mitigate.stream import layer_at, stream_contrasts
from biasgym.sites import Site, Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class Steering:
    """The stream is shifted by −strength × (token − mean real entity) after some layers, at every position.

    A difference of means added to the stream, as in contrastive activation addition (Rimsky et al. 2023, arXiv
    2312.06681); the contrast is between entities, not between answers. `depth` is where, as a share of the layers;
    `layers` neighbours up to there share the strength, each along its own contrast. A constant shift: it also moves text
    about no entity at all. Folds only where the MLP's output matrix has a bias and no norm behind it (GPT-2, GPT-NeoX);
    llama.cpp takes it as a control vector. Neutral at strength 0.
    """

    name: ClassVar[str] = "steering"
    reads: ClassVar[Unit | None] = "stream"
    strength: float = field(default=0.5, metadata={"search": (0.1, 0.25, 0.5, 0.75, 1.0), "neutral": 0.0})
    depth: float = field(default=0.5, metadata={"search": (0.2, 0.35, 0.5, 0.65, 0.8)})
    layers: int = 1

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One shift a layer."""
        last = layer_at(lm, self.depth)
        if not 1 <= self.layers <= last + 1:
            raise SpecError(f"steering.layers = {self.layers}: from 1 to {last + 1} layers end at depth {self.depth:g}")
        contrasts = stream_contrasts(lm, case)
        here = range(last + 1 - self.layers, last + 1)
        return tuple(SiteEdit(Site("stream", layer), "add", contrasts[layer], -self.strength / self.layers) for layer in here)
