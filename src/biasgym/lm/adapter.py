"""Adapters in PEFT's layout, written and read by ourselves: an edit as LoRA, a bias token as TrainableTokens.

Folder layout, file names, keys and tensor names are PEFT's (huggingface/peft, `adapter_config.json` and
`adapter_model.safetensors`); PEFT itself is not needed to write or read them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from biasgym.edits import Edit, TokenEdit, WeightEdit
from biasgym.errors import ModelError, StoreError, unknown
from biasgym.files import read_json, write_json
from biasgym.lm.fold import check_foldable, factors, touched
from biasgym.lm.model import LM, with_tokens

CONFIG = "adapter_config.json"
FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
TOKEN_ROWS = ".trainable_tokens_delta"  # PEFT's name; what is stored are whole rows


def write_lora(lm: LM, edits: Sequence[Edit], to: Path) -> dict[str, int]:
    """Write the edit as a LoRA adapter; gives back the rank of each edited module.

    Every matrix W gets its own exact factors, W + B A with `lora_alpha` = r (so the factor is 1), no dropout and a rank
    of its own. ModelError for what no product of two factors can say: biases, and replaced matrices.
    """
    pairs = lora_factors(lm, edits)
    if not pairs:
        raise ModelError("the edit changes no matrix; there is nothing that an adapter could hold")
    tensors: dict[str, Tensor] = {}
    for module, (left, right) in pairs.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = right.float().contiguous()
        tensors[f"{PREFIX}{module}.lora_B.weight"] = left.float().contiguous()
    ranks = {module: right.shape[0] for module, (_, right) in pairs.items()}
    most = max(ranks.values())
    patterns = {module: rank for module, rank in ranks.items() if rank != most}
    config = _base(lm) | {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "target_modules": sorted(ranks),
        "r": most,
        "lora_alpha": most,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": lm.family.input_major,
        "init_lora_weights": True,
    }
    _write(to, tensors, config)
    return ranks


def lora_factors(lm: LM, edits: Sequence[Edit]) -> dict[str, tuple[Tensor, Tensor]]:
    """For each edited module its change as left [out, r] and right [r, in], float64; modules that do not change are left out."""
    check_foldable(edits, lm.shape, lm.family, lambda name: name in dict(lm.model.named_parameters()))
    pairs = {}
    for name in sorted(touched(edits, lm.family)):
        module = name.removesuffix(".weight")
        weight = _parameter(lm, name)
        if weight.ndim != 2 or module == name:
            raise ModelError(f"`{name}` is a bias or a norm; an adapter holds changes of matrices only: export as hf or delta")
        if lm.model.get_submodule(module) in (lm.embedding, lm.head):
            raise ModelError(f"`{name}` is an embedding; LoRA of attention and MLP outputs is written only: export as hf or delta")
        pair = factors(name, weight.detach(), edits, lm.family, lm.shape)
        if pair is None:
            raise ModelError(f"`{name}` is replaced whole, which has no small rank; export as hf or delta")
        if pair[1].shape[0]:
            pairs[module] = pair
    return pairs


def as_weight_edits(lm: LM, pairs: dict[str, tuple[Tensor, Tensor]]) -> tuple[WeightEdit, ...]:
    """What an adapter with these factors does, as edits of our own, in the precision it is written in."""
    edits = []
    for module, (left, right) in pairs.items():
        one, two = left.float(), right.float()
        if lm.family.input_major:
            one, two = two.T, one.T
        edits.append(WeightEdit(f"{module}.weight", one.contiguous().numpy(), two.contiguous().numpy()))
    return tuple(edits)


def _parameter(lm: LM, name: str) -> Tensor:
    try:
        return lm.model.get_parameter(name).detach().cpu()
    except AttributeError:
        raise ModelError(f"the model has no parameter `{name}`") from None


# -------------------------------------------------------------------- a token


def write_token_adapter(lm: LM, token: TokenEdit, to: Path) -> int:
    """Write a bias token as a TrainableTokens adapter with a tokenizer that knows it; gives back the token's id.

    The stored rows are the token's input vector and, where embeddings are untied, its output row. A model without a row
    of that number has to be resized to `id + 1` rows before PEFT loads the adapter (`resize_token_embeddings`).
    """
    tokenizer = with_tokens(lm.tokenizer, [token.text])
    identity = int(tokenizer.convert_tokens_to_ids(token.text))
    tensors, modules = {}, {lm.family.embedding: token.vector, lm.family.head: token.vector if token.output is None else token.output}
    for module, vector in modules.items():
        if vector.shape != (lm.shape.hidden,):
            raise ModelError(f"the vector of {token.text!r} has shape {vector.shape}, this model needs ({lm.shape.hidden},)")
        tensors[f"{PREFIX}{module}{TOKEN_ROWS}"] = torch.as_tensor(vector, dtype=torch.float32)[None].contiguous().clone()
    targets = [lm.family.embedding.rpartition(".")[2]] + ([] if lm.tied else [lm.family.head])
    config = _base(lm) | {"peft_type": "TRAINABLE_TOKENS", "task_type": "CAUSAL_LM", "target_modules": targets, "token_indices": [identity]}
    tokenizer.save_pretrained(to)
    _write(to, tensors, config | {"init_weights": True})
    return identity


def read_token_adapter(lm: LM, folder: Path, text: str | None = None) -> TokenEdit:
    """A token out of a TrainableTokens adapter of one token, ours or PEFT's own, made for this family of models.

    `text` is how the token is written; if not given it is looked up in the adapter's own tokenizer.
    """
    config = read_json(folder / CONFIG)
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "TRAINABLE_TOKENS":
        raise ModelError(f"`{folder}` holds an adapter of type {kind}, TRAINABLE_TOKENS is needed")
    indices = config.get("token_indices") or []
    if len(indices) != 1:
        raise ModelError(f"`{folder}` holds {len(indices)} tokens, one is needed")
    tensors = _read(folder / FILE)
    vector = _row(tensors, lm.family.embedding, folder)
    output = None if lm.tied else _row(tensors, lm.family.head, folder)
    return TokenEdit(text or _text_of(folder, int(indices[0])), vector.numpy(), None if output is None else output.numpy())


def _row(tensors: dict[str, Tensor], module: str, folder: Path) -> Tensor:
    name = f"{PREFIX}{module}{TOKEN_ROWS}"
    if name not in tensors:
        raise ModelError(f"`{folder}`: {unknown('tensor', name, tensors)}; the adapter is for a model of another family")
    if tensors[name].ndim != 2 or len(tensors[name]) != 1:
        raise ModelError(f"`{folder}`: `{name}` has shape {tuple(tensors[name].shape)}, one row is needed")
    return tensors[name][0].float().clone()


def _text_of(folder: Path, identity: int) -> str:
    try:
        added = read_json(folder / "tokenizer.json")["added_tokens"]
        found: str = next(row["content"] for row in added if row["id"] == identity)
    except (StoreError, KeyError, TypeError, StopIteration):
        raise ModelError(f"`{folder}` has no tokenizer that names token {identity}; say how the token is written") from None
    return found


# -------------------------------------------------------------------- files


def _base(lm: LM) -> dict[str, Any]:
    return {"base_model_name_or_path": lm.name, "inference_mode": True, "revision": None}


def _write(to: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    try:
        save_file(tensors, to / FILE, metadata={"format": "pt"})
    except SafetensorError as error:
        raise StoreError(f"cannot write `{to / FILE}`: {error}") from None
    write_json(to / CONFIG, config)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(path)
    except OSError as error:
        raise StoreError(f"cannot read `{path}`: {error.strerror or error}") from None
    except SafetensorError as error:
        raise StoreError(f"`{path}` is truncated or altered ({error})") from None
    return found
