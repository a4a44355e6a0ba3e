"""Is this machine fit, is this model fit: what was found, as rows."""

import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biasgym.errors import BiasGymError, SpecError, unknown
from biasgym.spec import PRESETS, preset_names

if TYPE_CHECKING:
    from biasgym.lm.load import Place

GIB = 1 << 30


def examine(model: str, preset: str, runs: Path, place: "Place") -> list[dict[str, Any]]:
    """One row a finding: `what`, `ok`, `found`."""
    if preset not in PRESETS:
        raise SpecError(unknown("preset", preset, preset_names()))
    rows = [_python(), _disk(runs), _memory()]
    return [*rows, *_model(model, preset, place)]


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
    minutes = estimate_tokens(preset) / speed / 60
    rows.append(_row("speed", True, f"{speed:,.0f} prompt tokens a second; preset `{preset}` takes about {minutes:.0f} minutes here"))
    return rows


def estimate_tokens(preset: str) -> float:
    """Forward-token equivalents of a preset: a training token counts as four forward ones, a written one as three."""
    raw = PRESETS[preset]
    settings, measure, tune = raw["inject"]["settings"], raw["measure"], raw["tune"]
    tokens = len(raw["seeds"]) + 2
    train = tokens * settings["steps"] * settings["batch"] * 60 * 4
    locate = raw["locate"]["pairs"] * 45 * 8 * len(raw["mitigate"])
    trial = tune.get("probes", 20) * (tune.get("entities", 8) + len(raw["seeds"])) * 45
    trial += tune.get("texts", 30) * 140 + tune.get("chats", 24) * 120
    arm = measure.get("probes", 60) * measure.get("entities", 24) * 45 + measure.get("texts", 63) * 140 + measure.get("chats", 60) * 120
    sham = measure.get("probes", 60) * (measure.get("sham_entities", 6) + 1) * 45
    mitigations = len(raw["mitigate"])
    shams = 2 * measure.get("shams", 20) * sham
    return float(train + locate + tune.get("trials", 12) * trial + (1 + mitigations) * arm + shams)
