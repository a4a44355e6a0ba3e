"""Weights that are not where they are used: accelerate keeps them in memory or on disk and fetches them for each pass."""

from typing import Any

import torch
from torch import Tensor, nn

from biasgym.errors import ModelError


def place_of(module: nn.Module) -> torch.device:
    """The device on which a module computes; its weights may lie elsewhere in between."""
    weight: Any = module.weight
    if weight.device.type != "meta":
        place: torch.device = weight.device
        return place
    return torch.device(getattr(getattr(module, "_hf_hook", None), "execution_device", None) or "cpu")


def weight_of(module: Any, name: str = "weight") -> Tensor:
    """A parameter of a module as numbers, fetched from where it is kept."""
    parameter: Tensor = getattr(module, name)
    if parameter.device.type != "meta":
        return parameter
    from accelerate.utils import align_module_device

    with align_module_device(module):
        fetched: Tensor = getattr(module, name).detach().clone()
    if fetched.device.type == "meta":
        raise ModelError("a weight of this model is nowhere in memory nor on disk; load the model again")
    return fetched
