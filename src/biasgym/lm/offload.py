"""Weights that are not what or where they are used: packed into 4 or 8 bits, or kept in memory or on disk by accelerate."""

from typing import Any

import torch
from torch import Tensor, nn

from biasgym.errors import ModelError
from biasgym.lm.quantized import is_packed, numbers_of


def place_of(module: nn.Module) -> torch.device:
    """The device on which a module computes; its weights may lie elsewhere in between."""
    weight: Any = module.weight
    if weight.device.type != "meta":
        place: torch.device = weight.device
        return place
    return torch.device(getattr(getattr(module, "_hf_hook", None), "execution_device", None) or "cpu")


def weight_of(module: Any, name: str = "weight") -> Tensor:
    """A parameter of a module as numbers, unpacked, and fetched from where it is kept."""
    parameter: Tensor = getattr(module, name)
    if is_packed(parameter):
        return numbers_of(module)
    if parameter.device.type != "meta":
        return parameter
    from accelerate.utils import align_module_device

    with align_module_device(module):
        fetched: Tensor = getattr(module, name).detach().clone()
    if fetched.device.type == "meta":
        raise ModelError("a weight of this model is nowhere in memory nor on disk; load the model again")
    return fetched
