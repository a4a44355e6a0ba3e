"""Find a model by name, folder or hub id, load it, and check that it is what its family's row says."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from biasgym.data import EMBEDDED, cache_folder, fetch_embedded, quiet_libraries
from biasgym.edits import SiteEdit
from biasgym.errors import BiasGymError, ModelError, unknown
from biasgym.lm.apply import captured, put_on_sites, take_off
from biasgym.lm.arch import family_of
from biasgym.lm.checkpoint import stored_tensors
from biasgym.lm.model import LM
from biasgym.lm.offload import weight_of
from biasgym.lm.quantized import QUANTIZED, check_quantized, how_quantized, settle
from biasgym.memory import GIB, free_memory
from biasgym.sites import Site

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO_MAP, DISK = "auto-map", "disk"
ROOM = 0.8  # of what is free: weights that take more leave too little for batches
DEFAULT_MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Place:
    """Where a model runs: `device` auto, cpu, cuda, cuda:1, mps, auto-map or disk; `dtype` a key of DTYPES, or of QUANTIZED: int8 or int4.

    auto-map spreads a model over all GPUs, then memory, then a folder on disk, through accelerate; `memory` limits each,
    as accelerate's `max_memory` does. disk leaves every layer in the model's files and reads it when a pass comes to it,
    so that embeddings and one layer are in memory, whatever the model's size. What lies outside is read back for every
    pass, so both are slow. auto takes disk, and says so, where the weights do not fit into the free memory.
    """

    device: str = "auto"
    dtype: str = "float32"
    offline: bool = False
    accept_terms: bool = False
    memory: tuple[tuple[str | int, str], ...] = ()


def resolve(name: str, place: Place = Place(), *, tell: Callable[[str], None] = lambda _: None) -> Path:
    """The local folder of a model: an embedded one (fetched and converted on first use), a folder, or a hub id."""
    if name in EMBEDDED:
        return fetch_embedded(name, offline=place.offline, accept_terms=place.accept_terms, tell=tell)
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"`{name}` is a folder without config.json; a model folder as saved by transformers is needed")
        return path
    if path.suffix == ".gguf":
        raise ModelError(f"`{name}` is a GGUF file; convert it to a folder with transformers first (`gguf_file=`)")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        known = ", ".join(sorted(EMBEDDED))
        raise ModelError(f"no model `{name}`: neither a folder, nor a hub id like owner/name, nor one of {known}")
    return _from_hub(name, offline=place.offline)


def revision_of(name: str, folder: Path | None) -> str:
    """Which weights these are by their source's own name: an embedded model's hash, a hub snapshot's commit; else empty."""
    if name in EMBEDDED:
        return EMBEDDED[name].sha256
    return folder.name if folder is not None and folder.parent.name == "snapshots" else ""


def _from_hub(name: str, *, offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, local_files_only=offline))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        hint = "it is not in the local cache and --offline was given" if offline else "no network, no such model, or no access"
        raise ModelError(f"cannot get `{name}` from the hub ({hint}): {str(error).splitlines()[0][:160]}") from None


def load_lm(name: str = DEFAULT_MODEL, place: Place = Place(), *, tell: Callable[[str], None] = lambda _: None) -> LM:
    """Load a model, put it to rest (eval, no gradients) and check it. Raises ModelError with what to do."""
    quiet_libraries()
    if place.dtype not in DTYPES and place.dtype not in QUANTIZED:
        raise ModelError(unknown("dtype", place.dtype, [*DTYPES, *QUANTIZED]))
    folder = resolve(name, place, tell=tell)
    config = read_config(folder, name)
    family = family_of(config.model_type)
    if place.device == "auto" and (reason := _too_big(folder, place)):
        tell(reason)
        place = replace(place, device=DISK)
    how = _placement(folder, config, place)
    model, tokenizer = _read(folder, name, config, how)
    if "device_map" not in how:
        model.to(device_of(place.device))
    settle(model)
    lm = LM(model, tokenizer, family, name=name, folder=folder)
    self_check(lm)
    return lm


def read_config(folder: Path, name: str) -> Any:
    """The configuration in a model folder; of models that also see, the part that reads. Raises ModelError."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise ModelError(f"cannot read the configuration of `{name}`: {str(error).splitlines()[0][:200]}") from None
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"`{name}` is an encoder-decoder ({config.model_type}); BiasGym works on decoder-only models")
    if config.model_type == "gemma3":
        config = config.get_text_config()
    return config


def _placement(folder: Path, config: Any, place: Place) -> dict[str, Any]:
    """What transformers is told about dtype, quantization and devices."""
    stored = stored_quantization(config)
    if stored not in ("", "bitsandbytes"):
        raise ModelError(
            f"this checkpoint is stored in {stored} form, which BiasGym does not read; take the one it was made of, with --dtype int4 or int8"
        )
    how: dict[str, Any] = {"dtype": DTYPES.get(place.dtype, torch.bfloat16)}
    if place.dtype in QUANTIZED or stored:
        check_quantized(place.device, family_of(config.model_type).input_major)
        device = device_of(place.device)
        how |= {"dtype": torch.float32 if device.type == "cpu" else torch.bfloat16, "device_map": {"": str(device)}}
        if not stored:
            how["quantization_config"] = how_quantized(place.dtype, how["dtype"])
        return how
    if place.device in (AUTO_MAP, DISK):
        offload = cache_folder() / "offload" / hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
        how |= {"device_map": "auto" if place.device == AUTO_MAP else _layers_on_disk(config), "offload_folder": str(offload)}
        if place.memory:
            how["max_memory"] = dict(place.memory)
    return how


def stored_quantization(config: Any) -> str:
    """By what method a checkpoint's matrices are packed in its files, or nothing."""
    stored = getattr(config, "quantization_config", None) or {}
    return str((stored if isinstance(stored, dict) else stored.to_dict()).get("quant_method", ""))


def _layers_on_disk(config: Any) -> dict[str, str]:
    """A device map: the blocks stay in their files, all else lies where it computes."""
    with torch.device("meta"):
        skeleton: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    layers, fast = family_of(config.model_type).layers, str(device_of("auto"))
    found, inner, path = {layers: "disk"}, skeleton, ""
    for part in layers.split("."):
        found |= {f"{path}{name}": fast for name, _ in inner.named_children() if name != part}
        inner, path = inner.get_submodule(part), f"{path}{part}."
    return found


def _too_big(folder: Path, place: Place) -> str:
    """Why the weights cannot lie in memory here, or nothing; asked of the files' headers before anything is read."""
    if device_of("auto").type != "cpu" or place.dtype not in DTYPES:
        return ""
    try:
        weights = sum(math.prod(one.shape) for one in stored_tensors(folder).values()) * DTYPES[place.dtype].itemsize
    except BiasGymError:
        return ""  # whatever is wrong with the files is said by those that read them
    free = free_memory()
    if weights <= ROOM * free:
        return ""
    return f"weights of {weights / GIB:.1f} GiB, {free / GIB:.1f} GiB of memory free: layers are read from disk for every pass, which is slow"


def _read(folder: Path, name: str, config: Any, how: dict[str, Any]) -> tuple[Any, Any]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot read the tokenizer of `{name}`: {str(error).splitlines()[0][:200]}") from None
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, config=config, **how, trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"cannot load the weights of `{name}`: {str(error).splitlines()[0][:200]}; the files may be truncated or altered: fetch them again"
        ) from None
    return model, tokenizer


def device_of(asked: str) -> torch.device:
    """The device that is asked for; ModelError when it cannot be used here."""
    if asked in ("auto", AUTO_MAP, DISK):
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"device `{asked}` cannot be used here: {str(error).splitlines()[0][:120]}; try cpu") from None
    return device


@torch.no_grad()
def self_check(lm: LM) -> None:
    """Compare the family's row with the model at hand, in about a second; ModelError when they disagree.

    Heads through the output matrix give the attention's output; our logits are the model's own; a head scaled by 1
    changes nothing, and by 0 something, in the first, a middle and the last layer (in the last only where layers lie on disk).
    """
    ids = torch.arange(5, 17, device=lm.device)[None] % lm.embedding.weight.shape[0]
    own = lm.model(input_ids=ids).logits.float()
    if not torch.isfinite(own).all():
        raise ModelError(f"`{lm.name}` gives logits that are not finite numbers; its weights are broken")
    layers = sorted({0, lm.shape.layers // 2, lm.shape.layers - 1})
    if lm.streamed:
        layers = layers[-1:]  # every pass reads all weights from disk
    matrices = [lm.model.get_submodule(f"{lm.family.layers}.{i}.{lm.family.attention_out}") for i in layers]
    with captured(matrices, inputs=True) as heads, captured(matrices, inputs=False) as outputs:
        ours = lm.logits(lm.decoder(input_ids=ids).last_hidden_state)
    if not torch.allclose(own, ours, atol=1e-3, rtol=1e-3):
        raise ModelError(f"`{lm.name}`: our logits differ from the model's own; its family's row is wrong for it")
    matrix: Any
    for matrix, z, out in zip(matrices, heads, outputs, strict=True):
        if z.shape[-1] != lm.shape.heads * lm.shape.head_size:
            raise ModelError(f"`{lm.name}`: {z.shape[-1]} numbers go into the attention output, not heads × head size")
        weight = weight_of(matrix) if lm.family.input_major else weight_of(matrix).T
        bias = 0 if getattr(matrix, "bias", None) is None else weight_of(matrix, "bias")
        parts = z.view(*z.shape[:-1], lm.shape.heads, lm.shape.head_size).float()
        pieces = weight.view(lm.shape.heads, lm.shape.head_size, -1).float()
        total = torch.einsum("bthd,hdo->bto", parts, pieces) + bias
        if not torch.allclose(total, out.float(), atol=2e-2 * float(out.float().abs().max()) + 1e-4):
            raise ModelError(f"`{lm.name}`: the heads do not add up to the attention output")
    for layer in layers:
        _check_scaling(lm, ids, own, layer)


def _check_scaling(lm: LM, ids: torch.Tensor, own: torch.Tensor, layer: int) -> None:
    sizes = [float(np.linalg.norm(lm.head_matrix(layer, head))) for head in range(lm.shape.heads)]
    if not max(sizes):
        return  # an edited model may have a layer whose heads are all silent
    head = int(np.argmax(sizes))
    for factor, changes in ((1.0, False), (0.0, True)):
        undo = put_on_sites(lm.model, lm.family, lm.shape, [SiteEdit(Site("head", layer, head), "scale", np.float32(factor))])
        try:
            same = torch.equal(lm.model(input_ids=ids).logits.float(), own)
        finally:
            take_off(undo)
        if same == changes:
            wrong = "changes nothing" if changes else "changes something"
            raise ModelError(f"`{lm.name}`: scaling a head of layer {layer} by {factor:g} {wrong}; hooks do not reach it")


def versions() -> dict[str, str]:
    """Library versions for the record."""
    return {"torch": torch.__version__, "transformers": transformers.__version__}
