"""Proof that an edit acted: it moved what it should and nothing else, before any score of it is believed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from biasgym.edits import Edit, PromptEdit, SiteEdit, TokenEdit, WeightEdit
from biasgym.errors import ModelError, SpecError
from biasgym.lm.apply import captured
from biasgym.lm.conditions import found_from
from biasgym.lm.model import LM, Query


@dataclass(frozen=True)
class Acted:
    """Largest change of any logit by all edits together, and by each edit alone, over all positions of the queries."""

    largest: float
    each: tuple[float, ...]


@torch.no_grad()
def acted(lm: LM, edits: Sequence[Edit], queries: Sequence[Query], *, alone: bool = True) -> Acted:
    """Put edits on and look what moves; ModelError when nothing does, or when something does that must not.

    Queries go through in one batch. Checked, each to the bit: what enters the first edited layer is as before; rows that
    no edit names keep all logits, and so do positions before the token that an edit waits for; taken off, everything is
    as before. With `alone`, every edit that is not neutral is also worn by itself and has to change something. Queries
    should name what conditional edits wait for, and the token where one is on. An edit of a prompt alone acts by changing
    the text; that is what is checked then.
    """
    if not edits:
        raise SpecError("no edits were given, so there is nothing that could act")
    if any(isinstance(edit, TokenEdit) for edit in edits):
        raise SpecError("a token is judged with the token on, not as an edit; wear it around this check")
    named = {row for edit in edits if isinstance(edit, SiteEdit) for row in edit.rows or ()}
    if named - set(range(len(queries))):
        raise SpecError(f"an edit is for row {max(named)}; {len(queries)} queries were given")
    weights = [edit for edit in edits if not isinstance(edit, PromptEdit)]
    texts_moved = _texts_moved(lm, [edit for edit in edits if isinstance(edit, PromptEdit)], queries)
    if not weights:
        return Acted(texts_moved, (texts_moved,) * len(edits))
    rows = [lm.ids_of(query) for query in queries]
    base = _seen(lm, rows, weights, ())
    together = _seen(lm, rows, weights, weights)
    largest = _change(base, together)
    if largest == 0:
        raise ModelError(f"the edit ({_described(weights)}) changes no logit of {len(queries)} queries at all; no score of it would mean anything")
    _check_elsewhere(weights, base, together)
    after = _seen(lm, rows, weights, ())
    if not torch.equal(after.logits, base.logits):
        raise ModelError("after the edit was taken off the logits are not what they were before; the model is spoilt")
    each = tuple(_change(base, _seen(lm, rows, weights, [edit])) for edit in weights) if alone else ()
    idle = [edit for edit, moved in zip(weights, each, strict=False) if moved == 0 and not _neutral(edit)]
    if idle:
        raise ModelError(f"{len(idle)} of {len(weights)} edits change no logit when worn alone, the first is {_described(idle[:1])}")
    return Acted(largest, each)


@dataclass(frozen=True)
class _Seen:
    """Logits [rows, positions, vocabulary], what entered the first edited block, the ids and which of them are no padding."""

    logits: Tensor
    entered: Tensor | None
    ids: Tensor
    mask: Tensor


def _seen(lm: LM, rows: Sequence[Sequence[int]], edits: Sequence[Edit], worn: Sequence[Edit]) -> _Seen:
    ids, mask = lm.pad(rows)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    layers = [edit.site.layer for edit in edits if isinstance(edit, SiteEdit)]
    only_sites = len(layers) == len(edits)
    modules = [lm.model.get_submodule(f"{lm.family.layers}.{min(layers)}")] if only_sites else []
    with lm.edited(*worn), captured(modules, inputs=True) as entered:
        out = lm.decoder(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
        return _Seen(lm.logits(out), entered[0] if entered else None, ids, mask.bool())


def _change(one: _Seen, two: _Seen) -> float:
    moved = (one.logits - two.logits).abs().masked_fill(one.logits == two.logits, 0)  # columns never written are -inf in both
    return float(moved[one.mask].max())


def _check_elsewhere(edits: Sequence[Edit], base: _Seen, worn: _Seen) -> None:
    if base.entered is not None and worn.entered is not None and not torch.equal(base.entered, worn.entered):
        raise ModelError("the edit changes what comes before the layer that it edits; it does not act where it says")
    may = torch.zeros_like(base.mask)
    for edit in edits:
        if not isinstance(edit, SiteEdit):
            return  # a change of a matrix acts everywhere
        here = torch.ones_like(base.mask) if edit.when is None else found_from(base.ids, edit.when)
        if edit.rows is not None:
            named = torch.zeros_like(may)
            named[list(edit.rows)] = True
            here = here & named
        may |= here
    elsewhere = base.mask & ~may
    if not torch.equal(base.logits[elsewhere], worn.logits[elsewhere]):
        raise ModelError("the edit changes logits in rows, or before tokens, that it is not for")


def _texts_moved(lm: LM, edits: Sequence[PromptEdit], queries: Sequence[Query]) -> float:
    """The share of queries whose text the prompt edits change; ModelError when it is none."""
    if not edits:
        return 0.0
    plain = [lm.text_of(query) for query in queries]
    with lm.edited(*edits):
        share = sum(lm.text_of(query) != text for query, text in zip(queries, plain, strict=True)) / len(queries)
    if not share and not all(_neutral(edit) for edit in edits):
        raise ModelError("the prompt edit changes no text that the model sees")
    return share


def _neutral(edit: Edit) -> bool:
    """Whether an edit is at a setting that changes nothing by its own definition."""
    if isinstance(edit, PromptEdit):
        return edit.template == "{prompt}"
    if isinstance(edit, SiteEdit):
        if edit.op == "scale":
            return bool((torch.as_tensor(edit.value) == 1).all())
        return edit.strength == 0 or (edit.op == "add" and not torch.as_tensor(edit.value).any())
    return isinstance(edit, WeightEdit) and edit.left is not None and edit.right is not None and not (edit.left.any() and edit.right.any())


def _described(edits: Sequence[Edit]) -> str:
    names = [
        f"`{edit.op}` at {edit.site.unit} {edit.site.layer}.{edit.site.index}" if isinstance(edit, SiteEdit) else type(edit).__name__
        for edit in edits
    ]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
