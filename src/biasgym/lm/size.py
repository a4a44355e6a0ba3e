"""How big a model is and how fast this machine is with one like it: from its configuration alone, no weights needed."""

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from biasgym.data import EMBEDDED, embedded_folder, quiet_libraries
from biasgym.errors import ModelError
from biasgym.lm.arch import family_of
from biasgym.lm.load import DTYPES, Place, read_config

PROBE_PARAMETERS = 60_000_000  # of the slice that is timed: a second or two on two cores
PROBE_ROWS, PROBE_LENGTH = 8, 64


@dataclass(frozen=True)
class Size:
    """The shape of a model: numbers of parameters in all and in its blocks, and what decides how much memory a batch takes."""

    family: str
    parameters: int
    block_parameters: int
    layers: int
    hidden: int
    heads: int
    pairs: int  # key-value heads
    head_size: int
    neurons: int
    vocabulary: int
    norms: int = 2  # a block


def config_of(name: str, place: Place = Place()) -> Any:
    """The configuration of a model by name, folder, config.json or hub id; of a hub id only that one file is fetched."""
    quiet_libraries()
    path = embedded_folder(name) if name in EMBEDDED else Path(name)
    if path.name == "config.json" and path.is_file():
        path = path.parent
    if (path / "config.json").is_file():
        return read_config(path, name)
    if name in EMBEDDED:
        raise ModelError(f"`{name}` is not in the cache yet; its configuration comes with it: `biasgym doctor` without --forecast fetches it")
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"no configuration at `{name}`: a named model, a folder with config.json, or a hub id like owner/name is needed")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return read_config(Path(hf_hub_download(name, "config.json", local_files_only=place.offline)).parent, name)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(f"cannot get the configuration of `{name}`: {str(error).splitlines()[0][:160]}") from None


def size_of(config: Any) -> Size:
    """Count a model's parameters, tied ones once, by building it without any memory behind its tensors."""
    family = family_of(config.model_type)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)  # type: ignore[no-untyped-call]
    blocks = model.get_submodule(family.layers)
    heads = config.num_attention_heads
    matrix: Any = blocks[0].get_submodule(family.mlp_out)  # type: ignore[index]
    return Size(
        family=config.model_type,
        parameters=sum(p.numel() for p in model.parameters()),
        block_parameters=sum(p.numel() for p in blocks.parameters()),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        pairs=getattr(config, "num_key_value_heads", None) or heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        neurons=matrix.weight.shape[0 if family.input_major else 1],
        vocabulary=config.vocab_size,
        norms=2 + (family.attention_post is not None) + (family.mlp_post is not None),
    )


def speed_of(config: Any, size: Size, place: Place) -> tuple[float, float]:
    """Tokens a second through the whole model, forward alone and forward with backward: measured on a slice, scaled up.

    The slice is one block (a narrower one where a block is large) with random weights; cost goes with parameters.
    """
    from biasgym.lm.load import device_of

    device, dtype = device_of(place.device), DTYPES.get(place.dtype, torch.float32)
    small = _slice(config, size)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(small, dtype=dtype, trust_remote_code=False)  # type: ignore[no-untyped-call]
    model.to_empty(device=device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02).requires_grad_(False)
        for buffer in model.buffers():
            buffer.zero_()
    family = family_of(config.model_type)
    decoder = model.get_submodule(family.decoder)
    work = sum(p.numel() for p in model.get_submodule(family.layers).parameters())
    states = torch.randn(PROBE_ROWS, PROBE_LENGTH, small.hidden_size, device=device, dtype=dtype)
    forward = _seconds(lambda: decoder(inputs_embeds=states, use_cache=False), device)
    states.requires_grad_(True)
    both = _seconds(lambda: decoder(inputs_embeds=states, use_cache=False).last_hidden_state.float().sum().backward(), device)
    tokens, scale = PROBE_ROWS * PROBE_LENGTH, work / size.block_parameters
    return tokens / forward * scale, tokens / both * scale


def _slice(config: Any, size: Size) -> Any:
    small = copy.deepcopy(config)
    small.num_hidden_layers, small.vocab_size = 1, 64
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, name, None)
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:1]
    if size.block_parameters / size.layers > PROBE_PARAMETERS and hasattr(small, "intermediate_size"):
        small.intermediate_size = max(64, small.intermediate_size * PROBE_PARAMETERS * size.layers // size.block_parameters)
    return small


def _seconds(work: Any, device: torch.device) -> float:
    def once() -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()
    return min(once() for _ in range(2))
