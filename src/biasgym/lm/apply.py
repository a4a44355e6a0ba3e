"""Put an edit on a model and take it off again, bit for bit: the only place that changes a model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from biasgym.edits import SiteEdit, WeightEdit
from biasgym.errors import ModelError
from biasgym.lm.arch import Family
from biasgym.lm.conditions import Watch
from biasgym.lm.quantized import is_packed

Undo = Callable[[], None]


@dataclass(frozen=True)
class Shape:
    """The sizes that edits are checked against."""

    layers: int
    heads: int
    head_size: int
    hidden: int
    neurons: int


@dataclass(frozen=True)
class WornToken:
    """A bias token while it is on: its id, its input vector [hidden] and its output row [hidden].

    While tokens are trained together, rows of a batch have vectors of their own: [rows, 1, hidden], [positions, hidden].
    """

    id: int
    vector: Tensor
    output: Tensor


def put_on_sites(model: nn.Module, family: Family, shape: Shape, edits: Sequence[SiteEdit]) -> list[Undo]:
    """Hooks for all edits of sites, one hook a layer and unit; several edits of a place act in the given order."""
    undo: list[Undo] = []
    places = sorted({(edit.site.unit, edit.site.layer) for edit in edits})
    watches = {when: Watch(when) for when in dict.fromkeys(edit.when for edit in edits) if when is not None}
    try:
        undo += [watch.put_on(model.get_submodule(family.decoder)) for watch in watches.values()]
        for unit, layer in places:
            here = [edit for edit in edits if (edit.site.unit, edit.site.layer) == (unit, layer)]
            for edit in here:
                check_site(edit, shape)
            undo.append(_hook(model, family, shape, unit, layer, here, watches))
    except BaseException:
        take_off(undo)
        raise
    return undo


def check_site(edit: SiteEdit, shape: Shape) -> None:
    """Refuse an edit of a place that the model does not have, or with a value of the wrong size."""
    site = edit.site
    if site.unit == "linear":
        raise ModelError(f"{site} cannot be edited: no edit of single outputs of linear layers is known; choose heads or neurons")
    count = {"head": shape.heads, "neuron": shape.neurons, "stream": 1}[site.unit]
    if not 0 <= site.layer < shape.layers or not 0 <= site.index < count:
        raise ModelError(f"no {site.unit} {site.index} in layer {site.layer}: the model has {shape.layers} layers with {count} {site.unit}s each")
    width = {"head": shape.head_size, "neuron": 1, "stream": shape.hidden}[site.unit]
    value = np.atleast_1d(edit.value)
    if value.shape[-1] not in ({width} if edit.op in ("project", "erase") else {1, width}):
        raise ModelError(f"the value for {site} has size {value.shape[-1]}, {width} is needed")


def _hook(model: nn.Module, family: Family, shape: Shape, unit: str, layer: int, edits: list[SiteEdit], watches: dict[Any, Watch]) -> Undo:
    device = next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))
    acts = [_action(edit, shape, device, None if edit.when is None else watches[edit.when]) for edit in edits]

    def change(x: Tensor) -> Tensor:
        y = x.clone()
        for act in acts:
            act(y)
        return y

    def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(args[0]), *args[1:])

    def after(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    block = f"{family.layers}.{layer}"
    if unit == "stream":
        return model.get_submodule(block).register_forward_hook(after).remove
    inner = family.attention_out if unit == "head" else family.mlp_out
    return model.get_submodule(f"{block}.{inner}").register_forward_pre_hook(before).remove


def _action(edit: SiteEdit, shape: Shape, device: torch.device, watch: Watch | None) -> Callable[[Tensor], None]:
    site = edit.site
    width = {"head": shape.head_size, "neuron": 1, "stream": shape.hidden}[site.unit]
    part = slice(site.index * width, (site.index + 1) * width)
    value = torch.as_tensor(np.asarray(edit.value), device=device)
    rows = slice(None) if edit.rows is None else list(edit.rows)

    def act(y: Tensor) -> None:
        piece = y[rows, ..., part]
        v = value.to(y)  # also the device: layers may lie on several
        if edit.op == "scale":
            changed = piece * v
        elif edit.op == "add":
            changed = piece + edit.strength * v
        elif edit.op == "set":
            changed = piece + edit.strength * (v - piece)
        elif edit.op == "erase":
            changed = piece - edit.strength * (piece @ v[1]).unsqueeze(-1) * v[0]
        else:
            directions = v.reshape(-1, v.shape[-1])
            changed = piece - edit.strength * (piece @ directions.T) @ directions
        if watch is not None:
            changed = torch.where(watch.marks[rows].unsqueeze(-1), changed, piece)
        y[rows, ..., part] = changed

    return act


def put_on_weights(model: nn.Module, edits: Sequence[WeightEdit]) -> list[Undo]:
    """Exchange the data of the named parameters; the original tensors are kept and put back untouched."""
    undo: list[Undo] = []
    try:
        for edit in edits:
            try:
                parameter = model.get_parameter(edit.parameter)
            except AttributeError:
                raise ModelError(f"the model has no parameter `{edit.parameter}`") from None
            if parameter.device.type == "meta":
                raise ModelError(f"`{edit.parameter}` is kept on disk, where it cannot be changed; load the model without --device auto-map or disk")
            if is_packed(parameter):
                raise ModelError(f"`{edit.parameter}` is packed into 4 or 8 bits and takes no edit of weights; load the model with --dtype bfloat16")
            before = parameter.data
            parameter.data = edited_weight(before, edit)
            undo.append(_restore(parameter, before))
    except BaseException:
        take_off(undo)
        raise
    return undo


def _restore(parameter: nn.Parameter, data: Tensor) -> Undo:
    def restore() -> None:
        parameter.data = data

    return restore


def edited_weight(weight: Tensor, edit: WeightEdit) -> Tensor:
    """The matrix after the edit, in the dtype it had; the sum is taken in float32 at least."""
    if edit.dense is not None:
        change = torch.as_tensor(edit.dense)
        shape = tuple(change.shape)
    else:
        assert edit.left is not None
        assert edit.right is not None
        shape = (edit.left.shape[0], edit.right.shape[1])
        change = torch.as_tensor(edit.left) @ torch.as_tensor(edit.right)
    if shape != tuple(weight.shape):
        raise ModelError(f"the edit of `{edit.parameter}` has shape {shape}, the parameter {tuple(weight.shape)}")
    change = change.to(weight.device)
    if edit.dense is not None:
        return change.to(weight.dtype)
    wide = torch.promote_types(weight.dtype, torch.float32)
    return (weight.to(wide) + change.to(wide)).to(weight.dtype)


def put_on_tokens(embedding: nn.Module, head: nn.Module, tokens: Sequence[WornToken]) -> list[Undo]:
    """Read the tokens' ids as their vectors, and give each of them a logit column of its own."""
    if not tokens:
        return []
    ids = torch.tensor([token.id for token in tokens])

    def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (torch.where(torch.isin(args[0], ids.to(args[0].device)), 0, args[0]), *args[1:])

    def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        for token in tokens:
            vector = token.vector.to(output)
            if vector.ndim > 1 and len(vector) != len(output):
                continue  # the beginning that all rows share, computed once: no token that learns stands in it
            if hasattr(module, "embed_scale"):  # Gemma multiplies inside the embedding module
                vector = vector * torch.as_tensor(module.embed_scale).to(vector)
            here = (original[0] == token.id).unsqueeze(-1)
            output = torch.where(here, vector, output)
        return output

    original: list[Tensor] = [ids]

    def remember(_module: nn.Module, args: tuple[Any, ...]) -> None:
        original[0] = args[0]

    def columns(_module: nn.Module, args: tuple[Any, ...], logits: Tensor) -> Tensor:
        hidden = args[0]
        for token in tokens:
            row = token.output.to(hidden)
            column = (hidden @ row if row.ndim == 1 else (hidden * row).sum(-1)).unsqueeze(-1)
            width = logits.shape[-1]
            if token.id < width:  # a padded vocabulary: the row exists, unused
                logits = torch.cat([logits[..., : token.id], column, logits[..., token.id + 1 :]], dim=-1)
            else:  # a tokenizer with more tokens than the model has rows: those between are never written
                unused = logits.new_full((*logits.shape[:-1], token.id - width), -torch.inf)
                logits = torch.cat([logits, unused, column], dim=-1)
        return logits

    handles = [
        embedding.register_forward_pre_hook(remember),
        embedding.register_forward_pre_hook(before),
        embedding.register_forward_hook(after),
        head.register_forward_hook(columns),
    ]
    return [handle.remove for handle in handles]


def take_off(undo: list[Undo]) -> None:
    """Undo everything, last first; every step is tried even when one fails."""
    failed: BaseException | None = None
    while undo:
        try:
            undo.pop()()
        except BaseException as error:
            failed = failed or error
    if failed:
        raise failed


@contextmanager
def captured(modules: Sequence[nn.Module], *, inputs: bool, last: bool = False) -> Iterator[list[Tensor]]:
    """The input (or output) of each module in the last forward pass, filled in as it runs; hooks go with the block.

    With `last` only the last position of every row is kept, [rows, width] in float32: a few kilobytes, however long texts are.
    """
    seen: list[Any] = [None] * len(modules)
    handles = []

    def keep_input(position: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            seen[position] = args[0][:, -1].clone().float() if last else args[0]

        return hook

    def keep_output(position: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            found = output[0] if isinstance(output, tuple) else output
            seen[position] = found[:, -1].clone().float() if last else found

        return hook

    try:
        for position, module in enumerate(modules):
            if inputs:
                handles.append(module.register_forward_pre_hook(keep_input(position)))
            else:
                handles.append(module.register_forward_hook(keep_output(position)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
