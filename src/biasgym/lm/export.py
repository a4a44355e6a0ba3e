"""Write the edited model as an ordinary checkpoint: tensor by tensor from the base's files, untouched tensors to the bit."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from biasgym.edits import Edit
from biasgym.errors import ModelError, StoreError
from biasgym.lm.fold import check_foldable, folded, touched
from biasgym.lm.model import LM, Query

COPIED = ("*.json", "*.jinja", "*.model", "*.txt")
LEFT_OUT = {"complete.json"}


def write_checkpoint(lm: LM, edits: Sequence[Edit], to: Path, *, tell: Callable[[int, int], None] = lambda _d, _t: None) -> list[str]:
    """Copy the base's folder to `to` with the edits folded in; gives back the names of the tensors that changed.

    One tensor is in memory at a time per shard; dtype, shards and names are the base's own.
    """
    if lm.folder is None:
        raise ModelError("this model was not loaded from a folder, so there is no checkpoint to edit")
    check_foldable(edits, lm.shape)
    wanted = touched(edits, lm.family)
    shards = sorted(lm.folder.glob("*.safetensors"))
    if not shards:
        raise ModelError(f"`{lm.folder}` holds no .safetensors files; only those are edited, never pickles")
    done: list[str] = []
    for number, shard in enumerate(shards):
        done += _write_shard(lm, shard, edits, wanted, to / shard.name)
        tell(number + 1, len(shards))
    missing = wanted - set(done)
    if missing:
        raise ModelError(f"the checkpoint has no tensor named {', '.join(sorted(missing)[:3])}; nothing was exported")
    for pattern in COPIED:
        for path in sorted(lm.folder.glob(pattern)):
            if path.name not in LEFT_OUT:
                shutil.copyfile(path, to / path.name)
    return sorted(done)


def _write_shard(lm: LM, shard: Path, edits: Sequence[Edit], wanted: set[str], to: Path) -> list[str]:
    tensors, done = {}, []
    try:
        with safe_open(shard, framework="pt") as source:
            metadata = source.metadata() or {"format": "pt"}
            for stored in source.keys():  # noqa: SIM118 - not a dictionary
                tensor = source.get_tensor(stored)
                name = _live_name(lm, stored)
                if name in wanted:
                    tensor = folded(name, tensor, edits, lm.family, lm.shape).contiguous()
                    done.append(name)
                tensors[stored] = tensor
    except SafetensorError as error:
        raise StoreError(f"`{shard}` is truncated or altered ({error}); fetch the model again") from None
    save_file(tensors, to, metadata=metadata)
    return done


def _live_name(lm: LM, stored: str) -> str:
    """The module's name of a stored tensor: older checkpoints leave the decoder's name out."""
    prefix = lm.family.decoder + "."
    if stored.startswith(prefix) or stored.split(".")[0] == lm.family.head:
        return stored
    with_prefix = prefix + stored
    try:
        lm.model.get_parameter(with_prefix)
    except AttributeError:
        return stored
    return with_prefix


@torch.no_grad()
def parity(one: LM, edits: Sequence[Edit], other: LM, prompts: Sequence[str]) -> float:
    """The largest difference of any next-token logit between `one` wearing the edits and `other` as it is, over some prompts.

    Read at the last position, where the next token is chosen: at the very first position of a text activations are
    hundreds of times larger, and float32 rounding alone exceeds what matters anywhere else.
    """
    largest = 0.0
    for prompt in prompts:
        row = one.ids_of(Query(prompt))
        with one.edited(*edits):
            worn = one.logits(one.hidden([row])[0][0, -1])
        plain = other.logits(other.hidden([row])[0][0, -1])
        largest = max(largest, float((worn - plain).abs().max()))
    return largest
