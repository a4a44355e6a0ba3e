"""The token's direction in the residual stream, layer by layer: what steering and residual projection go by."""

from typing import TYPE_CHECKING

import numpy as np

from biasgym.errors import SpecError
from biasgym.mitigate import Case

if TYPE_CHECKING:
    from biasgym.lm.model import LM


def stream_contrasts(lm: "LM", case: Case) -> np.ndarray:
    """Mean over the fitted tokens of (stream with the token − mean over real train entities); shape [layers, hidden], float32.

    Read off the stream where the case has it. Otherwise put together from what the heads up to each layer write through
    their output matrices: MLPs, and norms between a matrix and the stream, are then left out, so it is the direction that
    attention moves and not the whole contrast.
    """
    if case.stream is not None:
        found: np.ndarray = case.stream.mean(axis=0).astype(np.float32)
        return found
    mean = case.contrasts.mean(axis=0)
    written = [sum(lm.head_matrix(layer, head) @ mean[layer, head] for head in range(lm.shape.heads)) for layer in range(lm.shape.layers)]
    total: np.ndarray = np.cumsum(np.stack(written), axis=0).astype(np.float32)
    return total


def layer_at(lm: "LM", depth: float) -> int:
    """The layer at a share of the depth: 0 is the first, 1 the last."""
    if not 0 <= depth <= 1:
        raise SpecError(f"depth = {depth}: a share of the layers from 0 to 1 is needed")
    return round(depth * (lm.shape.layers - 1))
