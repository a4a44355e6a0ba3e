"""A run-time edit as an equal change of weights: a pure function from (name, tensor, edits) to a tensor."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from biasgym.edits import ContrastEdit, Edit, PromptEdit, SiteEdit, TokenEdit, WeightEdit
from biasgym.errors import ModelError
from biasgym.lm.apply import Shape, check_site, edited_weight
from biasgym.lm.arch import Family


def check_foldable(edits: Sequence[Edit], shape: Shape) -> None:
    """Refuse edits that no weight can express, each by its reason."""
    for edit in edits:
        if isinstance(edit, PromptEdit):
            raise ModelError("a prompt edit changes what the model is asked, not the model; it cannot be exported")
        if isinstance(edit, ContrastEdit):
            raise ModelError(f"a `{edit.rule}` contrast compares several models token by token; it is run-time only and cannot be exported")
        if isinstance(edit, TokenEdit):
            raise ModelError("a bias token is never exported with an edit; stereotype tokens stay local")
        if isinstance(edit, SiteEdit):
            check_site(edit, shape)
            if edit.rows is not None:
                raise ModelError(f"the edit of {edit.site} holds for some rows of a batch only; it cannot be folded")
            if edit.site.unit == "stream":
                raise ModelError(f"`{edit.op}` on the stream after layer {edit.site.layer} is not a change of one matrix")
            if edit.op in ("add", "set") and np.any(edit.value) and edit.strength:
                raise ModelError(f"`{edit.op}` at {edit.site} adds a constant; the output matrix has no bias to hold it")


def touched(edits: Sequence[Edit], family: Family) -> set[str]:
    """State-dict names of the tensors that the edits change."""
    names = {edit.parameter for edit in edits if isinstance(edit, WeightEdit)}
    return names | {_matrix(edit, family) for edit in edits if isinstance(edit, SiteEdit)}


def _matrix(edit: SiteEdit, family: Family) -> str:
    return (family.attention_weight if edit.site.unit == "head" else family.mlp_weight)(edit.site.layer)


def folded(name: str, tensor: Tensor, edits: Sequence[Edit], family: Family, shape: Shape) -> Tensor:
    """The tensor after all edits that concern it; the very same tensor when none does.

    With y the place's output and M the edit's matrix, W(My) = (WM)y: the columns of W are multiplied by M. Edits of one
    place act in order, so the last one's matrix is multiplied on first. Sums are taken in float64, the dtype is kept,
    columns of untouched places keep their bits.
    """
    mine = [edit for edit in edits if isinstance(edit, SiteEdit) and _matrix(edit, family) == name]
    weights = [edit for edit in edits if isinstance(edit, WeightEdit) and edit.parameter == name]
    for weight in weights:
        tensor = edited_weight(tensor, weight)
    if not mine:
        return tensor
    result = tensor.clone()
    columns = result.T if not family.input_major else result  # rows of `columns` are the matrix's inputs
    for index in sorted({edit.site.index for edit in mine}):
        width = shape.head_size if mine[0].site.unit == "head" else 1
        part = slice(index * width, (index + 1) * width)
        piece = columns[part].T.double()  # [out, width]
        for edit in reversed([edit for edit in mine if edit.site.index == index]):
            piece = _times(piece, edit)
        columns[part] = piece.T.to(tensor.dtype)
    return result


def _times(piece: Tensor, edit: SiteEdit) -> Tensor:
    value = torch.as_tensor(np.asarray(edit.value), dtype=torch.float64, device=piece.device)
    if edit.op == "scale":
        return piece * value
    if edit.op == "add":
        return piece
    if edit.op == "set":
        return piece * (1 - edit.strength)
    if edit.op == "erase":
        return piece - edit.strength * torch.outer(piece @ value[0], value[1])
    directions = value.reshape(-1, value.shape[-1])
    return piece - edit.strength * (piece @ directions.T) @ directions
