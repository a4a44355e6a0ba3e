"""A folder of safetensors files as bytes on disk: read, hashed and patched tensor by tensor, never loaded whole."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from biasgym.errors import ModelError, StoreError
from biasgym.files import read_json

COPIED = ("*.json", "*.jinja", "*.model", "*.txt")
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OURS = {"complete.json", "edit.json", "delta.json"}
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Stored:
    """One tensor on disk: its file, its name there, its dtype as safetensors writes it, its shape, where its bytes begin."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a model's .safetensors files by name; StoreError when a file is cut off or altered."""
    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        for one in _in_file(file):
            if one.name in found:
                raise ModelError(f"`{one.name}` is in two files of `{folder}`; a folder with one copy of every tensor is needed")
            found[one.name] = one
    return found


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers would load: the one, or those that the index names; other copies beside them are not the model."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if (folder / INDEX).is_file():
        try:
            names = {str(name) for name in read_json(folder / INDEX)["weight_map"].values()}
        except (KeyError, TypeError, AttributeError):
            raise StoreError(f"`{folder / INDEX}` is altered; fetch the model again") from None
        missing = sorted(name for name in names if Path(name).name != name or not (folder / name).is_file())
        if missing:
            raise StoreError(f"`{folder}` has no `{missing[0]}`, which its index names; fetch the model again")
        return [folder / name for name in sorted(names)]
    raise ModelError(f"`{folder}` holds no .safetensors files of a model; only those are edited, never pickles")


def _in_file(file: Path) -> list[Stored]:
    try:
        with safe_open(file, framework="pt"):
            pass  # checks the header against the file's length
        with file.open("rb") as source:
            length = int.from_bytes(source.read(8), "little")
            header = json.loads(source.read(length))
    except (SafetensorError, ValueError) as error:
        raise StoreError(f"`{file}` is truncated or altered ({error}); fetch the model again") from None
    except OSError as error:
        raise StoreError(f"cannot read `{file}`: {error.strerror or error}") from None
    begin = 8 + length
    return [
        Stored(file, name, row["dtype"], tuple(row["shape"]), begin + row["data_offsets"][0], row["data_offsets"][1] - row["data_offsets"][0])
        for name, row in header.items()
        if name != "__metadata__"
    ]


def read_tensor(stored: Stored) -> Tensor:
    """The tensor in the dtype it is stored in."""
    with safe_open(stored.file, framework="pt") as source:
        tensor: Tensor = source.get_tensor(stored.name)
    return tensor


def write_tensor(stored: Stored, folder: Path, tensor: Tensor) -> None:
    """Write over a tensor in the copy of its file in `folder`, on disk before it returns; shape and size must be the same."""
    raw = bytes_of(tensor)
    if tuple(tensor.shape) != stored.shape or len(raw) != stored.size:
        raise ModelError(f"`{stored.name}` would change its shape from {stored.shape} to {tuple(tensor.shape)}; nothing was written")
    with (folder / stored.file.name).open("r+b") as out:
        out.seek(stored.start)
        out.write(raw)
        out.flush()
        os.fsync(out.fileno())


def bytes_of(tensor: Tensor) -> bytes:
    """The tensor's bits, row by row."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def copy_folder(folder: Path, to: Path, tell: Tell = lambda _d, _t: None) -> None:
    """Copy weights, configuration and tokenizer files as they are, byte by byte; what BiasGym put beside them stays behind.

    `tell` hears of every file of weights.
    """
    weights = weight_files(folder)
    for number, path in enumerate(weights):
        shutil.copyfile(path, to / path.name)
        tell(number + 1, len(weights))
    for path in (path for pattern in COPIED for path in sorted(folder.glob(pattern)) if path.name not in OURS):
        shutil.copyfile(path, to / path.name)


def weights_digest(folder: Path) -> str:
    """A sha256 over the name, dtype, shape and every byte of every tensor, however they are spread over files."""
    return weights_digests(folder, lambda _stored, tensor: tensor)[0]


def weights_digests(folder: Path, change: Callable[[Stored, Tensor], Tensor]) -> tuple[str, str]:
    """The digest of a folder's weights, and the one they would have with each tensor exchanged for what `change` gives."""
    before, after, same = hashlib.sha256(), hashlib.sha256(), True
    for name, stored in sorted(stored_tensors(folder).items()):
        tensor = read_tensor(stored)
        changed = change(stored, tensor)
        if same and changed is not tensor:
            after, same = before.copy(), False  # until the first change both are one
        for digest, one in ((before, tensor), *(() if same else ((after, changed),))):
            digest.update(f"{name}:{stored.dtype}:{list(one.shape)}:".encode())
            digest.update(one.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return before.hexdigest(), (before if same else after).hexdigest()
