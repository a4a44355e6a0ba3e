"""What writes into the residual stream, and how a direction is kept from being written."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from biasgym.edits import WeightEdit
from biasgym.errors import ModelError
from biasgym.lm.fold import bias_of
from biasgym.lm.model import LM


@torch.no_grad()
def projected_out(lm: LM, direction: np.ndarray, strength: float, layers: Iterable[int], *, embedding: bool = False) -> tuple[WeightEdit, ...]:
    """Edits after which attention and MLP outputs of the layers write (1 − strength) of their part along a direction [hidden].

    With u of unit length a matrix W becomes W − s·u(uᵀW). Where a norm with weights g stands between the matrix and the
    stream, u is g∘u made unit length: what the norm lets through has no part along the direction then.
    """
    if direction.shape != (lm.shape.hidden,) or not np.linalg.norm(direction):
        raise ModelError(
            f"the direction has shape {direction.shape} and length {np.linalg.norm(direction):.2g}; ({lm.shape.hidden},) and more than 0 is needed"
        )
    lm.check_unpacked()
    u = torch.as_tensor(direction, dtype=torch.float64)
    edits: list[WeightEdit] = []
    for layer in layers:
        for matrix, norm in (
            (lm.family.attention_weight(layer), lm.family.attention_post),
            (lm.family.mlp_weight(layer), lm.family.mlp_post),
        ):
            before = u if norm is None else u * _gain(lm, f"{lm.family.layers}.{layer}.{norm}")
            edits += _writer(lm, matrix, before / before.norm(), strength)
    return (*edits, *(_rows(lm, name, u / u.norm(), strength) for name in _embeddings(lm) if embedding))


def _gain(lm: LM, norm: str) -> Tensor:
    """A root-mean-square norm's weights: what it makes of ones."""
    module = lm.model.get_submodule(norm)
    ones = torch.ones(1, 1, lm.shape.hidden, device=lm.device, dtype=lm.dtype)
    gain: Tensor = module(ones)[0, 0].double().cpu()
    return gain


def _writer(lm: LM, matrix: str, u: Tensor, strength: float) -> list[WeightEdit]:
    weight = lm.model.get_parameter(matrix).detach().cpu().double()
    along = (weight if lm.family.input_major else weight.T) @ u  # [in]: what each input writes along u
    left, right = (along[:, None], -strength * u[None]) if lm.family.input_major else (-strength * u[:, None], along[None])
    edits = [WeightEdit(matrix, left.float().numpy(), right.float().numpy())]
    bias = dict(lm.model.named_parameters()).get(bias_of(matrix))
    if bias is not None:
        values = bias.detach().cpu().double()
        edits.append(WeightEdit(bias_of(matrix), dense=(values - strength * (values @ u) * u).float().numpy()))
    return edits


def _embeddings(lm: LM) -> list[str]:
    names = [f"{lm.family.embedding}.weight", f"{lm.family.decoder}.wpe.weight"]  # learnt positions: GPT-2
    return [name for name in names if name in dict(lm.model.named_parameters())]


def _rows(lm: LM, name: str, u: Tensor, strength: float) -> WeightEdit:
    rows = lm.model.get_parameter(name).detach().cpu().double()
    return WeightEdit(name, (rows @ u)[:, None].float().numpy(), (-strength * u[None]).float().numpy())
