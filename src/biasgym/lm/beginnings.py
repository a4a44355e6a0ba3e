"""What stands before the token that learns is the same at every step: its keys and values are computed once and kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

if TYPE_CHECKING:
    from biasgym.lm.model import LM

MOST = 16  # beginnings kept; there are about as many as ways to ask


@dataclass
class Beginnings:
    """Keys and values of every layer, each [1, pairs, ids, head size], by the ids that they stand for."""

    lm: "LM"
    layers: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = field(default_factory=dict, repr=False)

    def hidden(self, rows: Sequence[Sequence[int]], known: Sequence[int]) -> Tensor:
        """Final states [rows, longest rest, hidden] of what follows each row's first `known` ids, left-padded; within rounding those of whole rows.

        No gradient goes into the beginnings. The model must be the plain one, save for tokens that do not stand in them.
        """
        begun = [tuple(row[:count]) for row, count in zip(rows, known, strict=True)]
        for one in dict.fromkeys(begun):
            if one not in self.layers:
                self.layers[one] = self._computed(one)
        longest = max(known)
        cache = DynamicCache(config=self.lm.model.config)
        padded = {one: [self._padded(pair, longest) for pair in self.layers[one]] for one in dict.fromkeys(begun)}
        for layer in range(len(self.layers[begun[0]])):
            keys, values = (torch.cat([padded[one][layer][part] for one in begun]) for part in (0, 1))
            cache.update(keys, values, layer)
        ids, mask = self.lm.pad([row[count:] for row, count in zip(rows, known, strict=True)])
        before = torch.tensor([[0] * (longest - count) + [1] * count for count in known], device=mask.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0) + torch.tensor(known, device=mask.device)[:, None]
        out: Tensor = self.lm.decoder(
            input_ids=ids, attention_mask=torch.cat([before, mask], dim=1), position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state
        return out

    def _computed(self, ids: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        cache: Any = DynamicCache(config=self.lm.model.config)
        with torch.no_grad():
            self.lm.decoder(input_ids=torch.tensor([list(ids)], device=self.lm.device), past_key_values=cache, use_cache=True)
        return [(layer.keys, layer.values) for layer in cache.layers]

    @staticmethod
    def _padded(pair: tuple[Tensor, Tensor], longest: int) -> tuple[Tensor, ...]:
        return tuple(torch.nn.functional.pad(tensor, (0, 0, longest - tensor.shape[-2], 0)) for tensor in pair)
