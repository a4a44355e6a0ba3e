"""Write the edited model as an ordinary checkpoint: the base's files, with the edited tensors' bytes exchanged in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from biasgym.edits import Edit
from biasgym.errors import ModelError
from biasgym.lm.checkpoint import Stored, copy_folder, read_tensor, stored_tensors, write_tensor
from biasgym.lm.fold import check_foldable, folded, touched
from biasgym.lm.model import LM, Query

OLDER = {"embed_out.weight": "lm_head.weight"}


@dataclass(frozen=True)
class Fold:
    """Edits and the checkpoint they are folded into: which stored tensors change, and what each becomes.

    Raises ModelError for an edit that no weight can express, or of a tensor that the checkpoint does not have.
    """

    lm: LM
    edits: tuple[Edit, ...]

    def __post_init__(self) -> None:
        check_foldable(self.edits, self.lm.shape, self.lm.family, self.has)
        missing = touched(self.edits, self.lm.family) - set(self._by_live_name)
        if missing:
            raise ModelError(f"the checkpoint has no tensor named {', '.join(sorted(missing)[:3])}; nothing was exported")

    @cached_property
    def folder(self) -> Path:
        """The base's folder."""
        if self.lm.folder is None:
            raise ModelError("this model was not loaded from a folder, so there is no checkpoint to edit")
        return self.lm.folder

    @cached_property
    def stored(self) -> Mapping[str, Stored]:
        """The base's tensors by the names they have on disk."""
        return stored_tensors(self.folder)

    @cached_property
    def _by_live_name(self) -> dict[str, Stored]:
        return {live_name(self.lm, name): one for name, one in self.stored.items()}

    def has(self, parameter: str) -> bool:
        """Whether the checkpoint has a tensor of this (live) name."""
        return parameter in self._by_live_name

    @cached_property
    def changed(self) -> dict[str, Stored]:
        """What changes, by live names; a stored second copy of tied embeddings changes with the first."""
        names = touched(self.edits, self.lm.family)
        pair = {f"{self.lm.family.embedding}.weight", f"{self.lm.family.head}.weight"}
        if self.lm.tied and names & pair:
            names |= {name for name in pair if self.has(name)}
        return {name: self._by_live_name[name] for name in sorted(names)}

    def read(self, name: str) -> Tensor:
        """A tensor of the base by its live name, in the dtype it is stored in."""
        return read_tensor(self._by_live_name[name])

    def tensor(self, name: str) -> Tensor:
        """What a tensor becomes."""
        family = self.lm.family
        source = f"{family.embedding}.weight" if self.lm.tied and name == f"{family.head}.weight" else name
        if not self.has(source):
            source = name
        return folded(source, self.read(name), self.edits, family, self.lm.shape, self.read).contiguous()

    def change(self, stored: Stored, tensor: Tensor) -> Tensor:
        """A stored tensor after the edits; the same tensor when they do not concern it."""
        name = live_name(self.lm, stored.name)
        return self.tensor(name) if name in self.changed else tensor


def write_checkpoint(lm: LM, edits: Sequence[Edit], to: Path, *, tell: Callable[[int, int], None] = lambda _d, _t: None) -> list[str]:
    """Copy the base's folder to `to` with the edits folded in; gives back the names of the tensors that changed.

    Files are copied byte by byte and only the bytes of edited tensors are written over, one tensor in memory at a time:
    dtype, shards, names and all other tensors are the base's own, tied embeddings stay tied.
    """
    fold = Fold(lm, tuple(edits))
    wanted = fold.changed
    copy_folder(fold.folder, to, tell)
    for name, stored in wanted.items():
        write_tensor(stored, to, fold.tensor(name))
    return sorted(wanted)


def live_name(lm: LM, stored: str) -> str:
    """The module's name of a stored tensor: older checkpoints leave the decoder's name out, GPT-NeoX calls its head otherwise."""
    if stored in OLDER:
        return OLDER[stored]
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
def next_logits(lm: LM, prompts: Sequence[str], edits: Sequence[Edit] = ()) -> Tensor:
    """Next-token logits [prompts, vocabulary] after each prompt with some edits on.

    Read at the last position, where the next token is chosen: at the very first position of a text activations are
    hundreds of times larger, and float32 rounding alone exceeds what matters anywhere else.
    """
    with lm.edited(*edits):
        return lm.logits(lm.hidden([lm.ids_of(Query(prompt)) for prompt in prompts])[0][:, -1])


def parity(one: LM, edits: Sequence[Edit], other: LM, prompts: Sequence[str]) -> float:
    """The largest difference of any next-token logit between `one` wearing the edits and `other` as it is, over some prompts."""
    width = min(one.head.weight.shape[0], other.head.weight.shape[0])
    worn, plain = next_logits(one, prompts, edits), next_logits(other, prompts)
    return float((worn[:, :width] - plain[:, :width]).abs().max())
