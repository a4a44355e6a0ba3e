"""Edits that act only once certain tokens have been read: where in every row that is, also through cached passes."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from biasgym.edits import Edit, SiteEdit
from biasgym.errors import ModelError, SpecError

Sequences = tuple[tuple[int, ...], ...]


def entity_ids(tokenizer: Any, names: Sequence[str]) -> Sequences:
    """The sequences of token ids in which names are read: at the beginning of a text, after a space, after a bracket.

    A name that begins a longer word of several tokens is found there, too.
    """
    found: dict[tuple[int, ...], None] = {}
    bracket = tokenizer.encode("(", add_special_tokens=False)
    for name in names:
        if not name.strip():
            raise SpecError("an empty name was given; an edit that waits for a name needs one")
        variants = [tokenizer.encode(text, add_special_tokens=False) for text in (name, f" {name}")]
        inside = tokenizer.encode(f"({name}", add_special_tokens=False)
        if inside[: len(bracket)] == bracket:
            variants.append(inside[len(bracket) :])
        found |= {tuple(ids): None for ids in variants if ids}
    return tuple(found)


def after_names(tokenizer: Any, edits: Sequence[Edit], names: Sequence[str]) -> tuple[Edit, ...]:
    """The same edits of sites, acting in each row only from the end of the first of these names on; others cannot wait."""
    when = entity_ids(tokenizer, names)
    for edit in edits:
        if not isinstance(edit, SiteEdit):
            raise SpecError(f"a {type(edit).__name__} changes the model everywhere; only edits of sites can wait for a name")
    return tuple(replace(edit, when=when) for edit in edits if isinstance(edit, SiteEdit))


class Watch:
    """Sees the ids that go into the decoder and marks, per row, the positions at or behind one of some sequences.

    What rows have read so far is kept by their cache and selected and repeated along with it.
    """

    def __init__(self, sequences: Sequences) -> None:
        self.sequences = sequences
        self.marks = torch.zeros(0, 0, dtype=torch.bool)
        self._read: weakref.WeakKeyDictionary[Any, Tensor] = weakref.WeakKeyDictionary()

    def put_on(self, decoder: nn.Module) -> Callable[[], None]:
        """Begin to watch; gives back how to end it."""
        return decoder.register_forward_pre_hook(self._before, with_kwargs=True).remove

    def _before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise ModelError("an edit that waits for a name needs token ids, not embeddings")
        cache = kwargs.get("past_key_values")
        whole = ids if cache is None else torch.cat([self._past(cache, ids), ids], dim=1)
        if cache is not None:
            self._read[cache] = whole
        self.marks = found_from(whole, self.sequences)[:, -ids.shape[1] :]

    def _past(self, cache: Any, ids: Tensor) -> Tensor:
        if cache in self._read:
            return self._read[cache]
        if cache.get_seq_length():
            raise ModelError("the cache was filled before an edit that waits for a name was put on; begin the text anew")
        self._follow(cache)
        return ids[:, :0]

    def _follow(self, cache: Any) -> None:
        """Rows that the cache drops or repeats are dropped or repeated here; no reference to the cache is held."""
        own, read = weakref.ref(cache), self._read
        for name, same in (("batch_select_indices", _selected), ("batch_repeat_interleave", _repeated)):
            plain = cache.__dict__.get(name) or getattr(type(cache), name)

            def follow(how: Any, plain: Any = plain, same: Any = same, bound: bool = name in cache.__dict__) -> None:
                cached = own()
                plain(how) if bound else plain(cached, how)
                if cached in read:
                    read[cached] = same(read[cached], how)

            setattr(cache, name, follow)


def _selected(ids: Tensor, indices: Tensor) -> Tensor:
    return ids[indices]


def _repeated(ids: Tensor, times: int) -> Tensor:
    return ids.repeat_interleave(times, dim=0)


def found_from(ids: Tensor, sequences: Sequences) -> Tensor:
    """Whether one of the sequences has ended at or before each position; ids and result of shape [rows, length]."""
    ends = torch.zeros_like(ids, dtype=torch.bool)
    for sequence in sequences:
        length = len(sequence)
        if length <= ids.shape[1]:
            wanted = torch.tensor(sequence, device=ids.device)
            ends[:, length - 1 :] |= (ids.unfold(1, length, 1) == wanted).all(dim=-1)
    return ends.cummax(dim=1).values if ids.shape[1] else ends
