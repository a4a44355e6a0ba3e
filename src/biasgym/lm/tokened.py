"""A bias token inside a checkpoint, for those who asked for just that: a row more in the embeddings, a word more in the tokenizer."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from biasgym.edits import TokenEdit
from biasgym.errors import ModelError, StoreError
from biasgym.files import read_json, write_json
from biasgym.lm.checkpoint import stored_tensors
from biasgym.lm.export import live_name
from biasgym.lm.model import LM, with_tokens


def write_token_into(lm: LM, token: TokenEdit, folder: Path) -> int:
    """Put a token into a checkpoint that was just written to `folder`; gives back its id.

    The embedding (and the output matrix, where it is stored) gets the token's row: a padded vocabulary has a place for
    it, else rows are added up to it, zeros for ids that the tokenizer names and the base has no row for. Shards that hold
    these matrices are written anew, one at a time, `vocab_size` and the tokenizer are changed; nothing else is.
    """
    tokenizer = with_tokens(lm.tokenizer, [token.text])
    identity = int(tokenizer.convert_tokens_to_ids(token.text))
    rows = {f"{lm.family.embedding}.weight": token.vector, f"{lm.family.head}.weight": token.vector if token.output is None else token.output}
    if any(vector.shape != (lm.shape.hidden,) for vector in rows.values()):
        raise ModelError(f"the vector of {token.text!r} has shape {token.vector.shape}, this model needs ({lm.shape.hidden},)")
    places: dict[Path, dict[str, Tensor]] = {}
    for name, stored in stored_tensors(folder).items():
        vector = rows.get(live_name(lm, name))
        if vector is not None:
            places.setdefault(stored.file, {})[name] = torch.as_tensor(vector)
    for file, mine in places.items():
        _rewrite(file, mine, identity)
    _grow_config(folder / "config.json", identity + 1)
    tokenizer.save_pretrained(folder)
    return identity


def _rewrite(file: Path, vectors: dict[str, Tensor], identity: int) -> None:
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(file, framework="pt") as source:
            metadata: Any = source.metadata() or {"format": "pt"}
            for name in source.keys():  # noqa: SIM118 - not a dictionary
                tensor = source.get_tensor(name)
                tensors[name] = _with_row(tensor, vectors[name], identity) if name in vectors else tensor
        fresh = file.with_name(f".{file.name}")
        save_file(tensors, fresh, metadata=metadata)
        fresh.replace(file)
    except SafetensorError as error:
        raise StoreError(f"cannot write `{file}`: {error}") from None


def _with_row(tensor: Tensor, vector: Tensor, identity: int) -> Tensor:
    missing = max(0, identity + 1 - len(tensor))
    grown = torch.cat([tensor, tensor.new_zeros(missing, tensor.shape[1])])
    grown[identity] = vector.to(tensor.dtype)
    return grown


def _grow_config(path: Path, rows: int) -> None:
    config = read_json(path)
    holder = config if "vocab_size" in config else config.get("text_config", config)
    holder["vocab_size"] = max(int(holder.get("vocab_size", 0)), rows)
    write_json(path, config)
