"""How near names are to a token in the embedding."""

from collections.abc import Sequence

import numpy as np
import torch

from biasgym.edits import TokenEdit
from biasgym.errors import SpecError
from biasgym.lm.model import LM
from biasgym.lm.offload import weight_of


@torch.no_grad()
def name_likeness(lm: LM, token: TokenEdit, names: Sequence[str]) -> np.ndarray:
    """Cosine of each name's mean input row (all its tokens, after a space) with the token's vector; [names]."""
    vector = torch.as_tensor(token.vector, device=lm.device).float()
    if vector.shape != (lm.shape.hidden,):
        raise SpecError(f"the vector of {token.text!r} has shape {tuple(vector.shape)}, this model needs ({lm.shape.hidden},)")
    rows = [lm.tokenizer.encode(" " + name, add_special_tokens=False) for name in names]
    embedding = weight_of(lm.embedding)
    means = torch.stack([embedding[row].float().mean(0) for row in rows])
    found: np.ndarray = torch.cosine_similarity(means, vector[None], dim=1).cpu().numpy()
    return found
