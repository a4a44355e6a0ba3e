"""Bases kept in 4 or 8 bits by bitsandbytes: how they are asked for, what their matrices are as numbers, what keeps gradients right.

4 bits are NormalFloat with blocks of 64 (Dettmers et al. 2023, QLoRA, §3), 8 bits are LLM.int8() (Dettmers et al. 2022), which
rounds activations, too. Embeddings, norms and the output matrix are not quantized. Edits of sites and bias tokens act on such a base as
on any other; edits of weights are refused, since a packed matrix cannot hold them.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from biasgym.errors import ModelError

QUANTIZED: dict[str, dict[str, Any]] = {"int8": {"load_in_8bit": True}, "int4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}
PACKED = ("Params4bit", "Int8Params")  # names, so that nothing is imported to look


def is_packed(parameter: Any) -> bool:
    """Whether a parameter holds packed numbers."""
    return type(parameter).__name__ in PACKED


def check_quantized(device: str, input_major: bool) -> None:
    """ModelError where a base in 4 or 8 bits cannot be had: no bitsandbytes, a device it does not know, a family it turns around."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError("4- and 8-bit models need bitsandbytes, which is not installed: pip install 'biasgym[quantized]', or use --dtype bfloat16")
    if device not in ("auto", "auto-map", "cpu") and not device.startswith("cuda"):
        raise ModelError(f"4- and 8-bit models run on the CPU or an NVIDIA GPU, not on `{device}`; use --dtype bfloat16")
    if input_major:
        raise ModelError("models of this family keep their matrices the other way round, which 4 and 8 bits are not read for; use --dtype bfloat16")


def how_quantized(dtype: str, compute: torch.dtype) -> dict[str, Any]:
    """What transformers is told; sums are taken in `compute`."""
    return {"quant_method": "bitsandbytes", **QUANTIZED[dtype], **({"bnb_4bit_compute_dtype": compute} if dtype == "int4" else {})}


def settle(model: nn.Module) -> None:
    """Keep 4-bit weights in the form that has gradients; bitsandbytes repacks them on some CPUs into one that has none."""
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def numbers_of(module: Any) -> Tensor:
    """A packed matrix as numbers [out, in], in the dtype that bitsandbytes unpacks to."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    unpacked: Tensor = dequantize_bnb_weight(module.weight, getattr(module, "state", None))
    return unpacked
