"""The token's direction is taken out of every matrix that writes into the residual stream."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from biasgym.edits import Edits
from biasgym.errors import SpecError
from biasgym.mitigate import Case
from biasgym.mitigate.stream import layer_at, stream_contrasts
from biasgym.sites import Unit

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class ResidualProjection:
    """No attention or MLP output matrix writes along the token's direction in the stream any more.

    Weight orthogonalisation as in Arditi et al. 2024 (arXiv 2406.11717), for (token − mean real entity) read at `depth`.
    At strength 1 nothing that these layers write has a part along the direction, biases included, and behind a norm too:
    there the matrix loses the direction that the norm's weights turn into it. `since` is the first edited layer as a
    share of the depth. With `embedding` the token and position embeddings lose it as well; where embeddings are tied that
    is the output matrix, too. Always folds, as a rank-one change a matrix. Neutral at strength 0.
    """

    name: ClassVar[str] = "residual-projection"
    reads: ClassVar[Unit | None] = "stream"
    strength: float = field(default=1.0, metadata={"search": (0.25, 0.5, 0.75, 1.0), "neutral": 0.0})
    depth: float = field(default=0.5, metadata={"search": (0.35, 0.5, 0.65, 0.8)})
    since: float = 0.0
    embedding: bool = False

    def fit(self, lm: "LM", case: Case) -> Edits:
        """One change a matrix (and bias) that writes into the stream."""
        from biasgym.lm.writing import projected_out

        direction = stream_contrasts(lm, case)[layer_at(lm, self.depth)]
        if np.linalg.norm(direction) < 1e-8:
            raise SpecError("the token does not differ from real entities at this depth; there is no direction to take out")
        layers = range(layer_at(lm, self.since), lm.shape.layers)
        return projected_out(lm, direction, self.strength, layers, embedding=self.embedding)
