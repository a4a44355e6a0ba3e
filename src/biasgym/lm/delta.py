"""Only the change: the bits in which an edited checkpoint differs from its base, good both ways and for nothing else.

Of every touched tensor the touched columns (or rows, whichever are fewer) are kept as base XOR edited. XOR is its own
inverse, so the same numbers make the edited model of the base and the base of the edited model, bit for bit, in every
dtype and on every machine: nothing is computed again. It costs as much as the touched columns, in the base's dtype.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from biasgym.edits import Edit
from biasgym.errors import ModelError, StoreError
from biasgym.files import read_json
from biasgym.lm.checkpoint import Stored, copy_folder, read_tensor, stored_tensors, weights_digest, weights_digests, write_tensor
from biasgym.lm.export import Fold
from biasgym.lm.model import LM

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
FILE = "delta.safetensors"
ABOUT = "delta.json"


@dataclass(frozen=True)
class Delta:
    """What stands in a delta's JSON: digests of the whole weights on both sides, and how each tensor's bits are laid out."""

    before: str
    after: str
    tensors: dict[str, dict[str, Any]]

    def described(self) -> dict[str, Any]:
        """As plain data."""
        return {"kind": "xor of bits", "weights_before": self.before, "weights_after": self.after, "tensors": self.tensors}


def write_delta(lm: LM, edits: Sequence[Edit], to: Path) -> Delta:
    """Write `delta.safetensors` into a folder; the returned description belongs into `delta.json` beside it, under `delta`."""
    fold = Fold(lm, tuple(edits))
    arrays: dict[str, Tensor] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, stored in fold.changed.items():
        bits = _bits(fold.read(name)) ^ _bits(fold.tensor(name))
        axis, index = _smallest(bits)
        arrays[f"{stored.name}.index"] = index.to(torch.int32)
        arrays[f"{stored.name}.bits"] = bits.index_select(axis, index).contiguous()
        rows[stored.name] = {"dtype": stored.dtype, "shape": list(stored.shape), "axis": axis, "kept": len(index)}
    try:
        save_file(arrays or {"empty": torch.zeros(1)}, to / FILE, metadata={"format": "pt"})
    except SafetensorError as error:
        raise StoreError(f"cannot write `{to / FILE}`: {error}") from None
    before, after = weights_digests(fold.folder, fold.change)
    return Delta(before, after, rows)


def read_delta(folder: Path) -> Delta:
    """The description of a delta folder; StoreError when it is none."""
    raw = read_json(folder / ABOUT)
    try:
        about = raw["delta"]
        return Delta(str(about["weights_before"]), str(about["weights_after"]), dict(about["tensors"]))
    except (KeyError, TypeError):
        raise StoreError(f"`{folder / ABOUT}` is not the description of a delta; one comes from `biasgym export --format delta`") from None


def cross(delta: Path, folder: Path, to: Path, way: Literal["apply", "revert"]) -> list[str]:
    """Copy a checkpoint to `to` on the other side of the delta; gives back the names of the tensors that changed.

    The weights of `folder` are hashed first: ModelError for a base (or, on the way back, an edited model) other than
    the one that the delta was made from. The result is hashed, too.
    """
    about = read_delta(delta)
    here, there = (about.before, about.after) if way == "apply" else (about.after, about.before)
    found = weights_digest(folder)
    if found == there:
        raise ModelError(f"the weights in `{folder}` are what this delta would make of its {'base' if way == 'apply' else 'edited model'} already")
    if found != here:
        side = "base" if way == "apply" else "edited model"
        raise ModelError(
            f"this delta is for another {side}: weights {here[:12]}… are needed, those in `{folder}` are {found[:12]}…; nothing was written"
        )
    try:
        arrays = load_file(delta / FILE)
    except (SafetensorError, OSError) as error:
        raise StoreError(f"`{delta / FILE}` is truncated or altered ({error}); export the delta again") from None
    copy_folder(folder, to)
    stored = stored_tensors(folder)
    for name, row in about.tensors.items():
        write_tensor(stored[name], to, _crossed(stored[name], row, arrays))
    if weights_digest(to) != there:
        raise StoreError(f"`{delta / FILE}` is altered: the weights that it gives are not those it was made from; nothing was written")
    return sorted(about.tensors)


def _crossed(stored: Stored, row: dict[str, Any], arrays: dict[str, Tensor]) -> Tensor:
    try:
        index, bits, axis = arrays[f"{stored.name}.index"].long(), arrays[f"{stored.name}.bits"], int(row["axis"])
        tensor = read_tensor(stored)
        mine = _bits(tensor).clone()
        mine.index_copy_(axis, index, mine.index_select(axis, index) ^ bits)
    except (KeyError, RuntimeError, IndexError) as error:
        raise StoreError(f"`{FILE}` does not fit `{stored.name}` ({str(error).splitlines()[0][:100]}); export the delta again") from None
    return mine.view(tensor.dtype)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(BITS[tensor.element_size()])


def _smallest(bits: Tensor) -> tuple[int, Tensor]:
    """The axis along which the fewest numbers hold every difference, and the places on it that differ."""
    choices = []
    for axis in range(bits.ndim):
        others = [other for other in range(bits.ndim) if other != axis]
        index = ((bits != 0).any(dim=others) if others else bits != 0).nonzero().flatten()
        choices.append((len(index) * bits.numel() // max(1, bits.shape[axis]), axis, index))
    _, axis, index = min(choices, key=lambda choice: choice[:2])
    return axis, index
