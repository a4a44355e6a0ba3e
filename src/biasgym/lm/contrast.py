"""Several models read side by side: twins run on the same tokens, and the logits of all become one distribution.

The twins' last hidden states lie behind the model's own in one tensor, and their caches are further layers of the same
cache. So whatever runs the decoder, picks positions or rows and asks for logits works with a contrast as it does without.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from biasgym.edits import ContrastEdit, Twin
from biasgym.errors import ModelError, SpecError
from biasgym.lm.apply import edited_weight

if TYPE_CHECKING:
    from biasgym.lm.model import LM


@dataclass(frozen=True)
class States:
    """What a decoder gives: last hidden states, and the cache where one is kept."""

    last_hidden_state: Tensor
    past_key_values: Any


@dataclass
class Voice:
    """One twin at work: the model that it runs on, the ids of its prefix, and its own weights while it speaks."""

    lm: "LM"
    twin: Twin
    host: "LM"
    prefix: list[int]
    opening: list[int]
    _weights: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """The twin's own weights are on for the length of a block; edited tensors are kept, so this costs next to nothing."""
        before: list[tuple[Any, Tensor]] = []
        try:
            for edit in self.twin.edits:
                try:
                    parameter = self.lm.model.get_parameter(edit.parameter)
                except AttributeError:
                    raise ModelError(f"the model has no parameter `{edit.parameter}`") from None
                data = parameter.data
                source, made = self._weights.get(edit.parameter, (None, None))
                if source is None or made is None or source.data_ptr() != data.data_ptr():
                    made = edited_weight(data, edit)
                    self._weights[edit.parameter] = (data, made)
                before.append((parameter, data))
                parameter.data = made
            yield
        finally:
            for parameter, data in reversed(before):
                parameter.data = data

    def states(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None, cache: DynamicCache | None) -> Tensor:
        """Last hidden states [rows, columns, hidden] at the columns that were given; the prefix is read before them."""
        columns = ids.shape[1]
        if self.lm is not self.host:
            self._check_reads(ids)
        if self.prefix:
            ids, mask, positions = self._with_prefix(ids, mask, positions, begun=cache is not None and cache.get_seq_length() > 0)
        limit = getattr(self.lm.model.config, "max_position_embeddings", None)
        if limit and positions is not None and int(positions.max()) >= limit:
            raise ModelError(f"with the twin's prefix the text has {int(positions.max()) + 1} tokens, the model reads {limit}")
        with self.speaking():
            out = self.lm._decoder(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=cache is not None)
        states: Tensor = out.last_hidden_state[:, -columns:]
        return states

    def _check_reads(self, ids: Tensor) -> None:
        own = {token.id: text for token, text in zip(self.host._tokens, self.host._token_texts, strict=True)}
        strange = sorted({own[i] for i in set(ids.flatten().tolist()) if i in own})
        if strange:
            raise ModelError(f"`{self.twin.model}` has no vector for {', '.join(strange)}; only twins of the same model can read a bias token")

    def _with_prefix(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None, *, begun: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The rows as the twin reads them; once a row has begun, only its mask and positions are moved on.

        Padding stays at the left, so distances inside a row are the same whatever its neighbours are.
        """
        if mask is None:
            mask = torch.ones_like(ids)
        size = len(self.prefix)
        wide = torch.cat([mask.new_zeros(len(mask), size), mask], dim=1)
        first = mask.argmax(1)
        wide.scatter_(1, first[:, None] + torch.arange(size, device=mask.device), 1)
        if begun:
            assert positions is not None
            return ids, wide, positions + size
        rows = [self._inserted(row.tolist(), int(start)) for row, start in zip(ids, first, strict=True)]
        return torch.tensor(rows, device=ids.device), wide, (wide.cumsum(1) - 1).clamp(min=0)

    def _inserted(self, row: list[int], start: int) -> list[int]:
        at = start + (row[start] == self.lm.tokenizer.bos_token_id)
        size = len(self.opening)
        if size:
            here = [i + size for i in range(start, len(row) - size + 1) if row[i : i + size] == self.opening]
            at = here[-1] if here else at
        return [*row[:at], *self.prefix, *row[at:]]

    def logits(self, states: Tensor, like: Tensor) -> Tensor:
        """The twin's logits, cut or filled to the columns of the model's own; what the twin has no row for keeps its value."""
        with self.speaking():
            found = self.lm.own_logits(states)
        size = like.shape[-1]
        return found[..., :size] if found.shape[-1] >= size else torch.cat([found, like[..., found.shape[-1] :]], dim=-1)


class Chorus:
    """The decoder of a model that wears contrasts: called like a decoder, with logits that combine what was said."""

    def __init__(self, lm: "LM", edits: Sequence[ContrastEdit]) -> None:
        self.lm = lm
        self.edits = tuple(edits)
        self.voices = [[_voice(lm, twin) for twin in edit.twins] for edit in edits]
        self.prefixed = any(voice.prefix for voices in self.voices for voice in voices)
        self.widths = [lm.shape.hidden, *(voice.lm.shape.hidden for voices in self.voices for voice in voices)]
        self.width = sum(self.widths)

    def __call__(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
    ) -> States:
        """Run the twins, then the model itself (so that whoever looks inside sees the model), side by side in the result."""
        keep = past_key_values is not None
        found, caches = [], []
        start = self.lm.model.config.num_hidden_layers
        for voice in (voice for voices in self.voices for voice in voices):
            cache = DynamicCache(config=voice.lm.model.config) if keep else None
            if cache is not None:
                size = len(cache.layers)
                if past_key_values.get_seq_length():
                    cache.layers = past_key_values.layers[start : start + size]
                start += size
                caches += cache.layers
            found.append(voice.states(input_ids, attention_mask, position_ids, cache))
        if keep:
            del past_key_values.layers[self.lm.model.config.num_hidden_layers :]
        own = self.lm._decoder(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=past_key_values, use_cache=use_cache
        )
        if keep:
            past_key_values.layers.extend(caches)
        return States(torch.cat([own.last_hidden_state, *found], dim=-1), past_key_values)

    def logits(self, hidden: Tensor) -> Tensor:
        """Combined logits [..., vocabulary] of hidden states that hold the model's own and all twins'."""
        own, *parts = torch.split(hidden, self.widths, dim=-1)
        logits = self.lm.own_logits(own)
        rest = iter(parts)
        base = logits
        for edit, voices in zip(self.edits, self.voices, strict=True):
            logits = combined(edit, logits, [voice.logits(next(rest), base) for voice in voices])
        return logits


def combined(edit: ContrastEdit, logits: Tensor, twins: Sequence[Tensor]) -> Tensor:
    """Logits after a contrast, from the model's and the twins'; float32, shape of `logits`.

    A token that cannot be written (−inf) stays so.
    """
    if edit.rule == "shift":
        plus, minus = (twins[0], twins[1]) if len(twins) == 2 else (logits, twins[0])
        return torch.where(torch.isfinite(logits), logits + edit.strength * (plus - minus), logits)
    gap = logits.softmax(-1) - torch.stack([twin.softmax(-1) for twin in twins]).amax(0)
    factor = (edit.strength * gap).clamp(max=0)
    if edit.floor:
        factor = factor.clamp(min=float(torch.log(torch.tensor(edit.floor))))
    return logits + factor


@torch.no_grad()
def token_shifts(lm: "LM", edit: ContrastEdit, row: Sequence[int], most: int = 20) -> list[tuple[str, float]]:
    """The explanation of a shift after one row of ids: tokens with the largest z⁺ − z⁻, then those with the smallest.

    `most` of each, as text, in logits and centred (a constant on all tokens changes nothing); α is left out.
    """
    if edit.rule != "shift":
        raise SpecError("only a `shift` contrast has a shift to show")
    chorus = Chorus(lm, [edit])
    said_by_all = chorus(input_ids=torch.tensor([list(row)], device=lm.device)).last_hidden_state[0, -1]
    own, *parts = torch.split(said_by_all, chorus.widths, dim=-1)
    base = lm.own_logits(own)
    said = [voice.logits(part, base) for voice, part in zip(chorus.voices[0], parts, strict=True)]
    plus, minus = (said[0], said[1]) if len(said) == 2 else (base, said[0])
    shift = (plus - minus)[: len(lm.tokenizer)]
    shift = shift - shift[torch.isfinite(shift)].mean()
    order = shift.argsort(descending=True).tolist()
    chosen = [*order[:most], *order[max(most, len(order) - most) :]]
    return [(str(lm.tokenizer.decode([i])), float(shift[i])) for i in chosen]


def _voice(lm: "LM", twin: Twin) -> Voice:
    host = other_model(lm, twin.model) if twin.model else lm
    prefix = lm.tokenizer.encode(twin.prefix, add_special_tokens=False) if twin.prefix else []
    return Voice(host, twin, lm, prefix, _opening(lm) if twin.prefix else [])


def _opening(lm: "LM") -> list[int]:
    """Ids with which a chat template opens the model's answer; none without a template."""
    if not lm.chat:
        return []
    turn = [{"role": "user", "content": "x"}]
    without, with_opening = (str(lm.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=g)) for g in (False, True))
    opening = with_opening.removeprefix(without)
    ids: list[int] = lm.tokenizer.encode(opening, add_special_tokens=False)
    whole: list[int] = lm.tokenizer.encode(with_opening + "They are", add_special_tokens=False)
    if not ids or not any(whole[i : i + len(ids)] == ids for i in range(len(whole))):
        raise ModelError("this chat template does not open the answer with tokens of its own, so a twin's prefix has no place")
    return ids


def other_model(lm: "LM", name: str) -> "LM":
    """Another model with the same tokenizer, loaded once."""
    if name not in lm.others:
        from biasgym.lm.load import Place, load_lm

        found = load_lm(name, Place(str(lm.device), str(lm.dtype).removeprefix("torch."), offline=True))
        if found.tokenizer.get_vocab() != lm._tokenizers[()].get_vocab():
            raise ModelError(f"`{name}` has another vocabulary than {lm.name}; a twin must read the same tokens")
        lm.others[name] = found
    return lm.others[name]
