"""Direct scores from a model's files, one layer's output matrix at a time: for models larger than memory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from biasgym.errors import ModelError, SpecError
from biasgym.lm.apply import captured
from biasgym.lm.arch import Family, family_of
from biasgym.lm.model import LM, Query
from biasgym.lm.trace import norm_adjoint

STORED_HEAD = "embed_out.weight"  # what GPT-NeoX files call a head that is `lm_head` in memory


class Shards:
    """The tensors of a model folder by their state-dict names, read one by one; nothing is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            self.files: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return
        try:
            with safe_open(folder / "model.safetensors", "pt") as opened:
                self.files = dict.fromkeys(opened.keys(), "model.safetensors")
        except (OSError, SafetensorError) as error:
            raise ModelError(f"`{folder}` has no readable model.safetensors: {str(error).splitlines()[0][:160]}") from None

    def tensor(self, name: str) -> Tensor:
        """A whole tensor in float32."""
        with self._opened(name) as opened:
            tensor: Tensor = opened.get_tensor(name).float()
        return tensor

    def rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """Some rows of a matrix in float32, the rest unread."""
        with self._opened(name) as opened:
            part = opened.get_slice(name)
            return torch.cat([part[row : row + 1] for row in rows]).float()

    def maybe(self, name: str) -> Tensor | None:
        """A tensor, or None where the model has none of that name."""
        return self.tensor(name) if name in self.files else None

    def _opened(self, name: str) -> Any:
        if name not in self.files:
            raise ModelError(f"`{self.folder}` has no tensor `{name}`; its family's row is wrong for it, or a file is missing")
        try:
            return safe_open(self.folder / self.files[name], "pt")
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot read `{self.folder / self.files[name]}`: {str(error).splitlines()[0][:160]}") from None


@torch.no_grad()
def stream_ends(lm: LM, queries: Sequence[Query]) -> np.ndarray:
    """What goes into the final norm at the last position of each query, [queries, hidden]."""
    norm = lm.model.get_submodule(lm.family.final_norm)
    found = []
    for query in queries:
        with captured([norm], inputs=True) as last:
            lm.hidden([lm.ids_of(query)])
        found.append(last[0][0, -1].float().cpu().numpy())
    return np.stack(found)


@torch.no_grad()
def direct_from_files(folder: Path, heads: np.ndarray, ends: np.ndarray, firsts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> np.ndarray:
    """The heads' part of `direct_parts` without the model in memory; logits, shape [queries, layers, heads].

    `heads` [queries, layers, heads, head size] as from `head_outputs`, `ends` [queries, hidden] as from `stream_ends`,
    `firsts` for each query the first tokens of the stereotype and of the foil answers. At any time one layer's output
    matrix, the norms at hand and the answers' rows of the unembedding are in memory. A bias token that stands among the
    answers has no row in the files and is refused.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    family, shards = family_of(config.model_type), Shards(folder)
    with torch.device("meta"):
        skeleton: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    if heads.ndim != 4 or len(heads) != len(ends) or len(heads) != len(firsts) or heads.shape[1] != config.num_hidden_layers:
        raise SpecError(f"heads {heads.shape}, ends {ends.shape} and {len(firsts)} answers do not belong together, or to this model")
    norm = _filled(skeleton, family.final_norm, shards)
    last = torch.from_numpy(ends).float()
    matrix = _unembedding(skeleton, family, shards)
    directions = _directions(config, family, shards, matrix, norm(last), firsts)
    back = torch.stack([norm_adjoint(norm, x, direction) for x, direction in zip(last, directions, strict=True)])
    multiplier = getattr(config, family.residual_multiplier) if family.residual_multiplier else 1.0
    scores = []
    for layer in range(config.num_hidden_layers):
        weight = shards.tensor(family.attention_weight(layer))
        weight = weight if family.input_major else weight.T  # [heads × head size, hidden]
        z = torch.from_numpy(heads[:, layer]).float().flatten(1)
        into = back
        if family.attention_post is not None:
            bias = shards.maybe(family.attention_weight(layer).removesuffix("weight") + "bias")
            written = z @ weight + (0 if bias is None else bias)
            post = _filled(skeleton, f"{family.layers}.{layer}.{family.attention_post}", shards)
            into = torch.stack([norm_adjoint(post, x, b) for x, b in zip(written, back, strict=True)])
        scores.append((z * (into * multiplier @ weight.T)).view(heads.shape[0], heads.shape[2], -1).sum(2))
    return torch.stack(scores, dim=1).numpy()


def _filled(skeleton: nn.Module, name: str, shards: Shards) -> nn.Module:
    """One module of a model without memory, with its own weights read in."""
    module = skeleton.get_submodule(name).to_empty(device="cpu")
    for own, _ in list(module.named_parameters()):
        module.get_parameter(own).copy_(shards.tensor(f"{name}.{own}"))
    return module


def _unembedding(skeleton: Any, family: Family, shards: Shards) -> str:
    """The name of the matrix that answers are read off with: the head's own, or the embedding where they are tied."""
    head = skeleton.get_output_embeddings()
    name = next(f"{name}.weight" for name, module in skeleton.named_modules() if module is head)
    if skeleton.config.tie_word_embeddings:
        return name if name in shards.files else f"{family.embedding}.weight"
    return next((stored for stored in (name, STORED_HEAD) if stored in shards.files), name)


def _directions(
    config: Any, family: Family, shards: Shards, matrix: str, states: Tensor, firsts: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[Tensor]:
    """For each query the direction in its final state whose dot product is the logit difference, caps frozen at their slope."""
    bias = shards.maybe(matrix.removesuffix("weight") + "bias")
    directions = []
    for state, sides in zip(states, firsts, strict=True):
        tokens = [token for side in sides for token in side]
        weights = torch.tensor([sign / len(side) for sign, side in zip((1, -1), sides, strict=True) for _ in side])
        if max(tokens) >= config.vocab_size:
            raise ModelError(f"token {max(tokens)} is not in the model's files; choose answers without a bias token")
        rows = shards.rows(matrix, tokens)
        raw = rows @ state + (0 if bias is None else bias[tokens])
        logits = raw / (getattr(config, family.logit_scale) if family.logit_scale else 1.0)
        cap = getattr(config, family.logit_cap, None) if family.logit_cap else None
        if cap:
            logits = torch.tanh(logits / cap) * cap
        directions.append((weights * logits / raw) @ rows)
    return directions
