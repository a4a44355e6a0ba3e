"""What a run will cost, said beforehand: tokens by stage, memory and disk, from a spec and a model's shape. Arithmetic only."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from biasgym.records import RunSpec

if TYPE_CHECKING:
    from biasgym.lm.size import Size

# Tokens in one text, on average over the zoo with the embedded model's tokenizer, chat template included.
LESSON, PROBE, TEXT, CHAT = 60, 45, 140, 120
WRITTEN = 3  # forward tokens that one written token costs: it comes alone, without neighbours to share a pass with
BATCH_TOKENS = 4096
PAIRS_A_BATCH = 8
RUNTIME = 480 << 20  # bytes that Python, torch and transformers take before any model
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Memory:
    """Peak bytes by what takes them: weights, states of a forward batch, gradients of a training batch, the libraries."""

    weights: int
    forward: int
    gradients: int
    runtime: int = RUNTIME

    @property
    def total(self) -> int:
        """Weights and libraries stay; the larger of the two kinds of batches comes on top."""
        return self.weights + self.runtime + max(self.forward, self.gradients)


def tokens_of(spec: RunSpec) -> dict[str, tuple[int, int]]:
    """Tokens of each stage as (forward, forward with backward)."""
    settings, measure, tune = spec.inject.settings, spec.measure, spec.tune
    edits, fitted = len(spec.mitigate), len(spec.seeds) if spec.mitigate else 0
    steps, batch, held_out = (int(settings.get(key, default)) for key, default in (("steps", 60), ("batch", 8), ("held_out", 16)))
    controls = len(spec.controls)
    learners = fitted + 1 + sum(role != "untrained" for role in spec.controls)
    inject = ((fitted + 1 + controls) * 2 * held_out * LESSON, learners * steps * batch * LESSON)
    if not edits:
        arms, shams, locate, mitigate = 2 + controls, 0, (0, 0), (0, 0)
    else:
        arms, shams = 2 + controls + 2 * edits, 2 * 2 * measure.shams  # two kinds of shams, each with and without the token
        locators = {one.locator or spec.locate.method for one in spec.mitigate} | {spec.locate.method}
        contrasts = (fitted + 10 + 6) * 24 * PROBE + 60 * TEXT
        locate = (contrasts + len(locators) * 2 * spec.locate.pairs * PROBE, len(locators) * 2 * spec.locate.pairs * PROBE)
        trial = tune.probes * (tune.entities + fitted) * PROBE + 40 * PROBE + tune.texts * TEXT + tune.chats * CHAT
        tuned = sum(tune.trials if one.tuned else 1 for one in spec.mitigate)
        mitigate = ((1 + tuned) * trial, 0)
    real = measure.probes * (measure.entities + 1) * PROBE
    free = measure.texts * TEXT + measure.chats * (CHAT + WRITTEN * 24) + measure.generations * (PROBE + WRITTEN * measure.tokens)
    sham = measure.probes * (measure.sham_entities + 1) * PROBE // 2
    return {
        "inject": inject,
        "locate": locate,
        "mitigate": mitigate,
        "measure": ((1 + edits) * (real + free) + arms * measure.probes * PROBE + shams * sham, 0),
    }


def memory_of(size: "Size", spec: RunSpec) -> Memory:
    """Peak memory of a run of this spec with a model of this shape."""
    width = BYTES.get(spec.dtype, 4)
    written, keys = size.heads * size.head_size, size.pairs * size.head_size
    # Forward: what every head writes is kept in all layers at once (head outputs), beside one block at work.
    captured = BATCH_TOKENS * size.layers * written * width
    cached = 2 * BATCH_TOKENS * size.layers * keys * width
    block = 2 * BATCH_TOKENS * (4 * size.hidden + 3 * size.neurons) * width
    logits = 3 * (BATCH_TOKENS // PROBE) * size.vocabulary * 4
    # Backward: weights are frozen, so a block keeps what its norms (in float32), its gate and its attention need, and no inputs
    # of matrices; logits are computed for answers only, about two thirds of a text.
    tokens = max(int(spec.inject.settings.get("batch", 8)) * 2 * LESSON, 2 * PAIRS_A_BATCH * PROBE)
    kept = 4 * size.hidden * 4 + (3 * written + 4 * keys + 4 * size.neurons) * width
    gradients = tokens * (size.layers * kept + size.hidden * width) + 2 * tokens * size.vocabulary * 4
    return Memory(size.parameters * width, max(captured, cached) + block + logits, gradients)


def disk_of(size: "Size", spec: RunSpec) -> int:
    """Bytes that a run leaves: contrasts and moments of heads, attributions, answers."""
    heads = size.layers * size.heads
    moments = heads * size.head_size**2 * 4
    answers = sum(forward for forward, _ in tokens_of(spec).values()) * 8
    return moments + heads * size.head_size * 4 * 8 + answers + (4 << 20)


def free_memory() -> int:
    """Bytes that new processes can have on this machine: what is available, or what this process's group may still take."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            free = min(free, int(limit) - int((group / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError):
        pass
    return max(0, free)
