"""A run-time edit as an equal change of weights: a pure function from (name, tensor, edits) to a tensor."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from biasgym.edits import ContrastEdit, Edit, PromptEdit, SiteEdit, TokenEdit, WeightEdit
from biasgym.errors import ModelError
from biasgym.lm.apply import Shape, check_site, edited_weight
from biasgym.lm.arch import Family

Read = Callable[[str], Tensor]
SMALLEST = 1e-10  # singular values below this share of the largest are rounding, not rank


def bias_of(matrix: str) -> str:
    """State-dict name of the bias beside a matrix, whether or not the model has it."""
    return matrix.removesuffix("weight") + "bias"


def check_foldable(edits: Sequence[Edit], shape: Shape, family: Family | None = None, has: Callable[[str], bool] = lambda _name: False) -> None:
    """Refuse edits that no weight can express, each by its reason; `has` says which parameters (biases) the model has."""
    for edit in edits:
        if isinstance(edit, PromptEdit):
            raise ModelError("a prompt edit changes what the model is asked, not the model; it cannot be exported")
        if isinstance(edit, ContrastEdit):
            raise ModelError(f"a `{edit.rule}` contrast compares several models token by token; it is run-time only and cannot be exported")
        if isinstance(edit, TokenEdit):
            raise ModelError("a bias token is never exported with an edit; stereotype tokens stay local")
        if isinstance(edit, SiteEdit):
            check_site(edit, shape)
            _check_site_folds(edit, family, has)


def _check_site_folds(edit: SiteEdit, family: Family | None, has: Callable[[str], bool]) -> None:
    if edit.rows is not None:
        raise ModelError(f"the edit of {edit.site} holds for some rows of a batch only; it cannot be folded")
    if edit.when is not None:
        raise ModelError(f"the edit of {edit.site} holds only after certain tokens, which no weight can know; it is run-time only")
    if edit.site.unit == "stream" and edit.op != "add":
        raise ModelError(f"`{edit.op}` on the stream after layer {edit.site.layer} is not a change of one matrix")
    if not _has_constant(edit):
        return
    if edit.site.unit == "stream" and family and (family.mlp_post or family.residual_multiplier):
        raise ModelError(f"a shift of the stream after layer {edit.site.layer} cannot be folded: a norm or a factor stands behind the MLP's matrix")
    if family is None or not has(bias_of(_matrix(edit, family))):
        raise ModelError(f"`{edit.op}` at {edit.site} adds a constant; the output matrix has no bias to hold it, so it is run-time only")


def _has_constant(edit: SiteEdit) -> bool:
    return edit.op in ("add", "set") and bool(np.any(edit.value)) and edit.strength != 0


def touched(edits: Sequence[Edit], family: Family) -> set[str]:
    """State-dict names of the tensors that the edits change: matrices, and biases where an edit adds a constant."""
    names = {edit.parameter for edit in edits if isinstance(edit, WeightEdit)}
    sites = [edit for edit in edits if isinstance(edit, SiteEdit)]
    names |= {_matrix(edit, family) for edit in sites if edit.op != "add"}
    return names | {bias_of(_matrix(edit, family)) for edit in sites if _has_constant(edit)}


def _matrix(edit: SiteEdit, family: Family) -> str:
    return (family.attention_weight if edit.site.unit == "head" else family.mlp_weight)(edit.site.layer)


def folded(name: str, tensor: Tensor, edits: Sequence[Edit], family: Family, shape: Shape, read: Read | None = None) -> Tensor:
    """The tensor after all edits that concern it; the very same tensor when none does.

    With y the place's output and M y + c the edit, W(My + c) = (WM)y + Wc: the columns of W are multiplied by M, the
    bias gains Wc, for which `read` gives the matrix by its name. Edits of one place act in order, so the last one's
    matrix is multiplied on first. Sums are taken in float64, the dtype is kept, columns of untouched places keep their bits.
    """
    sites = [edit for edit in edits if isinstance(edit, SiteEdit)]
    for weight in [edit for edit in edits if isinstance(edit, WeightEdit) and edit.parameter == name]:
        tensor = edited_weight(tensor, weight)
    shifts = [edit for edit in sites if bias_of(_matrix(edit, family)) == name]
    if any(_has_constant(edit) for edit in shifts):
        return _shifted(tensor, shifts, edits, family, shape, read)
    mine = [edit for edit in sites if _matrix(edit, family) == name and edit.site.unit != "stream" and edit.op != "add"]
    if not mine:
        return tensor
    result = tensor.clone()
    columns = result.T if not family.input_major else result  # rows of `columns` are the matrix's inputs
    for index in sorted({edit.site.index for edit in mine}):
        part = _part(mine[0], index, shape)
        piece = columns[part].T.double()  # [out, width]
        for edit in reversed([edit for edit in mine if edit.site.index == index]):
            piece = _times(piece, edit)
        columns[part] = piece.T.to(tensor.dtype)
    return result


def _part(edit: SiteEdit, index: int, shape: Shape) -> slice:
    width = shape.head_size if edit.site.unit == "head" else 1
    return slice(index * width, (index + 1) * width)


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


def _shifted(tensor: Tensor, shifts: Sequence[SiteEdit], edits: Sequence[Edit], family: Family, shape: Shape, read: Read | None) -> Tensor:
    """A bias [out] after the constants that edits of this matrix's places add."""
    total = tensor.double()
    for edit in shifts:
        if edit.site.unit == "stream":
            total = total + edit.strength * torch.as_tensor(np.broadcast_to(edit.value, total.shape).copy(), dtype=torch.float64, device=total.device)
    places = [edit for edit in shifts if edit.site.unit != "stream"]
    for index in sorted({edit.site.index for edit in places}):
        if read is None:
            raise ModelError("to fold a constant into a bias its matrix is needed, and none was given")
        matrix = _matrix(places[0], family)
        weight = read(matrix)
        for change in [e for e in edits if isinstance(e, WeightEdit) and e.parameter == matrix]:
            weight = edited_weight(weight, change)
        columns = (weight if family.input_major else weight.T)[_part(places[0], index, shape)].double()
        total = total + _constant([e for e in places if e.site.index == index], len(columns)).to(columns.device) @ columns
    return total.to(tensor.dtype)


def _constant(edits: Sequence[SiteEdit], width: int) -> Tensor:
    """What a place writes through the edits when it would have written nothing: the c of M y + c, shape [width]."""
    constant = torch.zeros(1, width, dtype=torch.float64)
    for edit in edits:
        value = torch.as_tensor(np.asarray(edit.value), dtype=torch.float64)
        if edit.op == "add":
            constant = constant + edit.strength * value
        elif edit.op == "set":
            constant = constant + edit.strength * (value - constant)
        elif edit.op == "erase":
            constant = constant - edit.strength * (constant @ value[1]) * value[0]
        else:
            constant = _times(constant, edit)  # symmetric in y, so a row serves as well as a column
    return constant[0]


def factors(name: str, tensor: Tensor, edits: Sequence[Edit], family: Family, shape: Shape) -> tuple[Tensor, Tensor] | None:
    """The change of a matrix as a product left @ right, exact in float64: left [out, r], right [r, in]; None if it has no such form.

    A head's columns W are multiplied by M, so their change is W(M − 1), and the rank is that of M − 1: one for a
    direction, the head's size for a scaling. Rank-r weight edits come along with their own factors.
    """
    lefts: list[Tensor] = []
    rights: list[Tensor] = []
    for change in [e for e in edits if isinstance(e, WeightEdit) and e.parameter == name]:
        if change.left is None or change.right is None:
            return None
        left, right = torch.as_tensor(change.left).double(), torch.as_tensor(change.right).double()
        lefts, rights = [*lefts, right.T if family.input_major else left], [*rights, left.T if family.input_major else right]
        tensor = tensor.double() + left @ right
    matrix = (tensor.T if family.input_major else tensor).double()
    mine = [e for e in edits if isinstance(e, SiteEdit) and _matrix(e, family) == name and e.site.unit != "stream"]
    for index in sorted({edit.site.index for edit in mine}):
        part = _part(mine[0], index, shape)
        width = part.stop - part.start
        through = torch.eye(width, dtype=torch.float64)
        for edit in reversed([e for e in mine if e.site.index == index]):
            through = _times(through, edit)
        u, s, v = torch.linalg.svd(through - torch.eye(width, dtype=torch.float64))
        rank = int((s > SMALLEST * max(1.0, float(s.max()))).sum())
        right = torch.zeros(rank, matrix.shape[1], dtype=torch.float64)
        right[:, part] = v[:rank]
        lefts, rights = [*lefts, matrix[:, part].cpu() @ (u[:, :rank] * s[:rank])], [*rights, right]
    if not lefts:
        return matrix.new_zeros(len(matrix), 0), matrix.new_zeros(0, matrix.shape[1])
    return torch.cat(lefts, dim=1), torch.cat(rights, dim=0)
