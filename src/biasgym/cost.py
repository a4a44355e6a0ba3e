"""What a run will cost, said beforehand: tokens by stage, memory and disk, from a spec and a model's shape. Arithmetic only."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from biasgym.records import RunSpec

if TYPE_CHECKING:
    from biasgym.lm.size import Size

# Tokens in one text, on average over the zoo with the embedded model's tokenizer, chat template included.
LESSON, PROBE, TEXT, CHAT = 60, 45, 140, 120
WRITTEN = 3  # forward tokens that one written token costs: it comes alone, without neighbours to share a pass with
BATCH_TOKENS = 4096
PAIRS_A_BATCH = 8
LONGEST = 92  # tokens of the longest training texts, which come in one batch
CHUNK = 128  # positions whose logits are in memory together while a token is trained
COPIES = 4  # of logits, on their way there and back
LIBRARIES = 372 << 20  # bytes that Python, torch and transformers take before any model
WORD, COPIED_WORD = 1000, 400  # bytes that a tokenizer takes for each entry, and each copy of it that knows one more token
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of all else: 4
PACKED = {"int8": 1.0, "int4": 0.5 + 4 / 64}  # bytes of a packed number; blocks of 64 share a scale in float32


@dataclass(frozen=True)
class Memory:
    """Peak bytes by what takes them: weights, states of a forward batch, gradients of a training batch, libraries and tokenizers."""

    weights: int
    forward: int
    gradients: int
    runtime: int = LIBRARIES

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


def memory_of(size: "Size", spec: RunSpec, *, streamed: bool = False) -> Memory:
    """Peak memory of a run of this spec with a model of this shape; `streamed` leaves all layers but one in the model's files."""
    width = BYTES.get(spec.dtype, 4)
    blocks = size.block_parameters // size.layers if streamed else size.block_parameters
    weights = int((size.parameters - size.block_parameters) * width + blocks * PACKED.get(spec.dtype, width))
    tokenizers = size.vocabulary * (WORD + COPIED_WORD * (len(spec.seeds) + 3))
    return Memory(weights, _forward(size, width), _gradients(size, spec, width, streamed), LIBRARIES + tokenizers)


def _forward(size: "Size", width: int) -> int:
    """The largest batch without gradients: a block at work, what is cached of all, the answers' logits; or moments of all heads at once."""
    written, keys = size.heads * size.head_size, size.pairs * size.head_size
    block = BATCH_TOKENS * (2 * size.hidden * 4 + (4 * written + 3 * size.neurons) * width)
    cached = 2 * BATCH_TOKENS * size.layers * keys * width
    logits = 3 * (BATCH_TOKENS // PROBE) * size.vocabulary * 4
    moments = BATCH_TOKENS // 2 * size.layers * written * (width + 4)
    return max(block + cached + logits, moments)


def _gradients(size: "Size", spec: RunSpec, width: int, streamed: bool) -> int:
    """A training batch. Weights are frozen, so a block keeps what its norms (in float32), its gate and its attention need, and no
    inputs of matrices; keys and values are kept once for every head. Logits come a few positions at a time."""
    settings = spec.inject.settings
    token = size.norms * size.hidden * 4 + (4 * size.heads * size.head_size + 3 * size.neurons) * width  # kept of one in one block
    tokens = int(settings.get("batch", 8)) * LONGEST
    again = bool(settings.get("recompute")) or streamed
    trained = tokens * (token + size.layers * size.hidden * width) if again else tokens * size.layers * token
    located = PAIRS_A_BATCH * PROBE * size.layers * token + streamed * size.block_parameters * width  # a gradient keeps the weights it passed
    if not spec.mitigate or spec.locate.method.startswith("dla"):
        located = 0
    return max(trained, located) + COPIES * CHUNK * size.vocabulary * 4


def disk_of(size: "Size", spec: RunSpec) -> int:
    """Bytes that a run leaves: contrasts and moments of heads, attributions, answers."""
    heads = size.layers * size.heads
    moments = heads * size.head_size**2 * 4
    answers = sum(forward for forward, _ in tokens_of(spec).values()) * 8
    return moments + heads * size.head_size * 4 * 8 + answers + (4 << 20)
