"""Patching all heads by TransformerLens and by nnsight: one whole pass of all prompts a head, in their own words.

What `benchmarks/patching.py` times beside ours. Both get every advantage that a plain user can give them: all pairs in one
left-padded batch, the logits of the last position only, and the clean run's head outputs kept from one pass. TransformerLens
runs with its weight processing off; attention is by its own code, as it always is there.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biasgym.lm.model import LM

Places = Sequence[tuple[int, int]]
Patch = Callable[[Places], np.ndarray]  # effects [places, pairs]
Peer = Callable[[], Patch]  # first what is done once: the clean run and the unpatched one


@dataclass(frozen=True)
class Rows:
    """The biased and the clean prompts, left-padded, and which columns [all] of rows [all] stand for each other.

    `lean` takes the last position's logits [pairs, vocabulary] to the metric [pairs].
    """

    biased: tuple[Tensor, Tensor]
    clean: tuple[Tensor, Tensor]
    row: Tensor
    mine: Tensor
    theirs: Tensor
    lean: Callable[[Tensor], np.ndarray]


def arguments(side: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """What a forward pass of transformers is called with."""
    ids, mask = side
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0), "logits_to_keep": 1, "use_cache": False}


def transformer_lens(lm: LM, rows: Rows) -> Peer:
    """Its bridge around a copy of our model; a hook on `hook_z` a head, as its own sweeps do. Raises ImportError where it is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, at import
        from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(lm.folder), hf_model=copy.deepcopy(lm.model), tokenizer=lm.tokenizer)
    bridge.enable_compatibility_mode(disable_warnings=True, no_processing=True)
    bridge.eval()

    @torch.no_grad()
    def begin() -> Patch:
        named = {name: value for name, value in arguments(rows.clean).items() if name != "input_ids"}
        _, kept = bridge.run_with_cache(rows.clean[0], names_filter=lambda name: name.endswith("attn.hook_z"), **named)
        named = {name: value for name, value in arguments(rows.biased).items() if name != "input_ids"}
        base = rows.lean(bridge(rows.biased[0], **named)[:, -1])

        @torch.no_grad()
        def run(places: Places) -> np.ndarray:
            found = []
            for layer, head in places:
                name = f"blocks.{layer}.attn.hook_z"

                def put(z: Tensor, hook: Any, name: str = name, head: int = head) -> Tensor:
                    z = z.clone()
                    z[rows.row, rows.mine, head] = kept[name][rows.row, rows.theirs, head]
                    return z

                logits = bridge.run_with_hooks(rows.biased[0], fwd_hooks=[(name, put)], **named)
                found.append(base - rows.lean(logits[:, -1]))
            return np.stack(found)

        return run

    return begin


def nnsight(lm: LM, rows: Rows) -> Peer:
    """Our own model wrapped by it; a trace a head, which writes into what goes into the output matrix. Raises ImportError where it is missing."""
    from nnsight import NNsight, save

    model = NNsight(lm.model)
    outs = [model.get(f"{lm.family.layers}.{layer}.{lm.family.attention_out}") for layer in range(lm.shape.layers)]

    @torch.no_grad()
    def begin() -> Patch:
        with model.trace(**arguments(rows.clean)):
            kept = save([out.input for out in outs])
        base = rows.lean(lm.model(**arguments(rows.biased)).logits[:, -1])

        @torch.no_grad()
        def run(places: Places) -> np.ndarray:
            found = []
            for layer, head in places:
                part, out, clean = slice(head * lm.shape.head_size, (head + 1) * lm.shape.head_size), outs[layer], kept[layer]
                with model.trace(**arguments(rows.biased)) as tracer:
                    out.input[rows.row, rows.mine, part] = clean[rows.row, rows.theirs, part]
                    result = tracer.result.save()
                found.append(base - rows.lean(result.logits[:, -1]))
            return np.stack(found)

        return run

    return begin


PEERS: dict[str, Callable[[LM, Rows], Peer]] = {"transformer-lens": transformer_lens, "nnsight": nnsight}
