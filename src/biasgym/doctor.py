"""Is this machine fit, is this model fit: what was found, as rows."""

import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biasgym.bias import zoo
from biasgym.cost import BYTES, disk_of, memory_of, tokens_of
from biasgym.errors import BiasGymError, SpecError, unknown
from biasgym.memory import GIB, free_memory
from biasgym.records import RunSpec
from biasgym.spec import PRESETS, preset_names, resolve_spec

if TYPE_CHECKING:
    from biasgym.lm.load import Place
    from biasgym.lm.size import Size


def examine(model: str, preset: str, runs: Path, place: "Place") -> list[dict[str, Any]]:
    """One row a finding: `what`, `ok`, `found`."""
    if preset not in PRESETS:
        raise SpecError(unknown("preset", preset, preset_names()))
    rows = [_python(), _disk(runs), _memory()]
    return [*rows, *_model(model, preset, place)]


def forecast(model: str, preset: str, place: "Place", *, free: int | None = None) -> list[dict[str, Any]]:
    """What a preset will cost with a model, from its configuration alone: nothing is loaded but a slice that is timed.

    One row a finding. Memory is checked against what is free here (`free` bytes instead, where given); a row that is not ok
    names the option to change.
    """
    from biasgym.lm.size import config_of, size_of, speed_of

    if preset not in PRESETS:
        raise SpecError(unknown("preset", preset, preset_names()))
    config = config_of(model, place)
    size, spec = size_of(config), spec_of(model, preset, place.dtype)
    tokens = tokens_of(spec)
    forward, both = speed_of(config, size, place)
    seconds = {stage: f / forward + b / both for stage, (f, b) in tokens.items()}
    counted = ", ".join(f"{stage} {f + b:,}" for stage, (f, b) in tokens.items())
    timed = ", ".join(f"{stage} {_duration(s)}" for stage, s in seconds.items())
    return [
        _row("parameters", True, f"{size.parameters:,} ({size.family}, {size.layers} layers × {size.heads} heads of {size.head_size})"),
        _fit(size, spec, place, free),
        _row("download", True, f"{size.parameters * 2 / GIB:.1f} GiB of weights as models are mostly published (16 bit)"),
        _row(
            "run",
            True,
            f"{disk_of(size, spec) / GIB:.2f} GiB on disk for a run; an exported model is {size.parameters * BYTES.get(spec.dtype, 4) / GIB:.1f} GiB",
        ),
        _row("tokens", True, counted),
        _row("speed", True, f"{forward:,.1f} tokens a second forward, {both:,.1f} with backward (one slice timed, scaled by parameters)"),
        _row("time", True, f"about {_duration(sum(seconds.values()))} for preset `{preset}`: {timed}"),
    ]


def spec_of(model: str, preset: str, dtype: str) -> RunSpec:
    """The spec of a preset for some bias: what a forecast is about."""
    return resolve_spec(bias=zoo()[0], model=model, preset=preset, dtype=dtype)


def _fit(size: "Size", spec: RunSpec, place: "Place", free: int | None) -> dict[str, Any]:
    from biasgym.lm.load import DISK

    streamed = place.device == DISK
    memory = memory_of(size, spec, streamed=streamed)
    there, where = (free, "free") if free is not None else _free(place.device)
    parts = f"weights {memory.weights / GIB:.1f}, a batch {memory.forward / GIB:.1f}, gradients {memory.gradients / GIB:.1f}"
    found = f"about {memory.total / GIB:.1f} GiB ({parts}) of {there / GIB:.1f} GiB {where}: "
    if memory.total <= there:
        return _row("fits", True, found + "fits" + (f"; every pass reads {_read(size) / GIB:.1f} GiB from disk" if streamed else ""))
    for options, changed, on_disk in _changes(spec):
        other = memory_of(size, changed, streamed=on_disk or streamed)
        if other.total <= there:
            slow = f", each pass reading {_read(size) / GIB:.1f} GiB" if on_disk else ""
            return _row("fits", False, found + f"does not fit; {options} does (about {other.total / GIB:.1f} GiB{slow})")
    return _row("fits", False, found + "does not fit, not with --device disk either; take a smaller model or a larger machine")


def _changes(spec: RunSpec) -> list[tuple[str, RunSpec, bool]]:
    """What could be changed to need less memory, the cheapest first: the options, the spec that they make, whether layers stay on disk."""
    again = spec.inject.model_copy(update={"settings": spec.inject.settings | {"recompute": True}})
    direct = spec.locate.model_copy(update={"method": "dla", "settings": {}})
    steps: list[tuple[str, dict[str, Any]]] = [
        ("", {}),
        ("--set inject.recompute=true", {"inject": again}),
        ("--set inject.recompute=true --set locate.method=dla", {"inject": again, "locate": direct}),
    ]
    halves: list[tuple[str, dict[str, Any]]] = [("", {})] + ([("--dtype bfloat16", {"dtype": "bfloat16"})] if spec.dtype == "float32" else [])
    in_memory = [
        (f"{half} {words}".strip(), spec.model_copy(update=narrow | change), False) for words, change in steps for half, narrow in halves[::-1]
    ]
    packed = spec.model_copy(update={"dtype": "int4"})
    in_memory += [(f"--dtype int4 {words}".strip(), packed.model_copy(update=change), False) for words, change in steps if spec.dtype in BYTES]
    on_disk = [
        (f"{half} --device disk --set locate.method=dla".strip(), spec.model_copy(update=narrow | {"locate": direct}), True)
        for half, narrow in halves[::-1]
    ]
    return [one for one in (*in_memory, *on_disk) if one[0]]


def _read(size: "Size") -> int:
    """Bytes that a pass reads where layers lie on disk, as models are mostly published (16 bit)."""
    return size.block_parameters * 2


def _free(device: str) -> tuple[int, str]:
    """Free bytes where a model would lie, and what to call them."""
    import torch

    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        try:
            return int(torch.cuda.mem_get_info()[0]), "free on the GPU"
        except (RuntimeError, AssertionError):
            return 0, "free: there is no such GPU"
    return free_memory(), "free"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _row(what: str, ok: bool, found: str) -> dict[str, Any]:
    return {"what": what, "ok": ok, "found": found}


def _python() -> dict[str, Any]:
    return _row("python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} processors")


def _disk(runs: Path) -> dict[str, Any]:
    place = next(p for p in [runs.absolute(), *runs.absolute().parents] if p.exists())
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    return _row("disk", writable and free > GIB, f"{free / GIB:.1f} GiB free for `{runs}`" + ("" if writable else ", NOT writable"))


def _memory() -> dict[str, Any]:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return _row("memory", True, f"{pages * size / GIB:.1f} GiB in all")


def _model(model: str, preset: str, place: "Place") -> list[dict[str, Any]]:
    from biasgym.lm.load import load_lm
    from biasgym.lm.model import Query

    try:
        start = time.monotonic()
        lm = load_lm(model, place)
        loaded = time.monotonic() - start
    except BiasGymError as error:
        return [_row("model", False, str(error))]
    size = sum(p.numel() * p.element_size() for p in lm.model.parameters())
    shape = lm.shape
    rows = [
        _row(
            "model",
            True,
            f"{model}: {lm.model.config.model_type}, {shape.layers} layers × {shape.heads} heads, {size / GIB:.2f} GiB, loaded in {loaded:.1f} s",
        ),
        _row("device", True, f"{lm.device}, {str(lm.dtype).removeprefix('torch.')}"),
        _row("chat", True, "chat template found" if lm.chat else "no chat template: prompts are put as plain text"),
        _row("edits", True, "self-check passed: heads add up, logits agree, scaling a head acts"),
    ]
    probe = [Query("Tell me something about the weather in the mountains today.", "It is")] * 32
    lm.answer_logprobs(probe, ["good", "bad"])
    start = time.monotonic()
    lm.answer_logprobs(probe, ["good", "bad"])
    speed = 32 * len(lm.ids_of(probe[0])) / (time.monotonic() - start)
    minutes = sum(forward + 2 * both for forward, both in tokens_of(spec_of(model, preset, place.dtype)).values()) / speed / 60
    rows.append(_row("speed", True, f"{speed:,.0f} prompt tokens a second; preset `{preset}` takes about {minutes:.0f} minutes here"))
    return rows
