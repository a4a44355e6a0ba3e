"""One training loop: learn the vector of a token that the frozen model did not have.

The vector is a stand-alone parameter spliced into the embedding's output and the head's logits, so the optimiser holds
a few times d numbers and no other weight can move.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from biasgym.edits import TokenEdit
from biasgym.errors import ModelError, SpecError, TrainingError
from biasgym.lm.batching import out_of_memory
from biasgym.lm.model import LM, Query
from biasgym.lm.offload import weight_of


@dataclass(frozen=True)
class Lesson:
    """One training text: what is asked, and the answer whose tokens the loss is taken on. Both may hold the token."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Schedule:
    """How a token is trained: AdamW on its vector(s), linear warm-up, cosine decay, clipped gradients.

    `prompt_loss` also takes the loss on the prompt's tokens.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: float = 0.05
    clip: float = 1.0
    seed: int = 0


@dataclass
class TrainingState:
    """Everything that a killed training needs to go on: arrays by name, the steps done and the losses so far (nats)."""

    arrays: dict[str, np.ndarray]
    step: int = 0
    losses: list[float] = field(default_factory=list)


def mean_embedding(lm: LM, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Mean input row and mean output row of the words that are single tokens (with their leading space), and those words.

    When none is a single token, the mean over each word's own tokens is taken (BiasGym v4 §3: only single tokens).
    """
    ids = [lm.tokenizer.encode(" " + word, add_special_tokens=False) for word in words]
    single = [(word, row[0]) for word, row in zip(words, ids, strict=True) if len(row) == 1]
    chosen = [[identity] for _, identity in single] or [row for row in ids if row]
    if not chosen:
        raise SpecError("no entity has any tokens in this model's vocabulary")
    rows = [torch.tensor(row, device=lm.device) for row in chosen]
    means = [
        torch.stack([weight_of(matrix).detach()[row].float().mean(0) for row in rows]).mean(0).cpu().numpy() for matrix in (lm.embedding, lm.head)
    ]
    return means[0], means[1], [word for word, _ in single]


def learn_token(
    lm: LM,
    text: str,
    lessons: Sequence[Lesson],
    start: TrainingState,
    schedule: Schedule,
    *,
    keep: Callable[[TrainingState], None] = lambda _: None,
) -> TrainingState:
    """Train one token; `start.arrays` holds `vector` (and `output` where untied). `keep` is called after every step.

    Raises TrainingError when the loss stops being a finite number; nothing is returned then.
    """
    if not lessons:
        raise SpecError("there is no text to train the token on")
    names = [name for name in ("vector", "output") if name in start.arrays]
    parameters = [torch.nn.Parameter(torch.tensor(start.arrays[name], device=lm.device)) for name in names]
    optimiser = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=0.0)
    _restore(optimiser, parameters, names, start)
    state = start
    with lm.learning(text, parameters[0], parameters[-1]):
        rows = [_encoded(lm, lesson) for lesson in lessons]
        lengths = [len(ids) for ids, _ in rows]
        for step in range(start.step, schedule.steps):
            for group in optimiser.param_groups:
                group["lr"] = schedule.learning_rate * rate_at(step, schedule)
            value = _backward(lm, optimiser, [rows[i] for i in batch_at(step, lengths, schedule)])
            torch.nn.utils.clip_grad_norm_(parameters, schedule.clip)
            optimiser.step()
            if not math.isfinite(value) or not all(bool(torch.isfinite(p).all()) for p in parameters):
                raise TrainingError(f"training {text!r} diverged at step {step + 1} (loss {value}); lower inject.learning_rate")
            state = _snapshot(optimiser, parameters, names, step + 1, [*state.losses, value])
            keep(state)
    return state


def _backward(lm: LM, optimiser: torch.optim.Optimizer, rows: Sequence[tuple[list[int], int]]) -> float:
    """The loss (nats) of a batch, and its gradient on the parameters; in ever smaller parts when memory runs out."""
    parts, total = 1, sum(answer for _, answer in rows)
    while True:
        size = -(-len(rows) // parts)
        try:
            optimiser.zero_grad(set_to_none=True)
            value = 0.0
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                loss = lesson_loss(lm, part) * (sum(answer for _, answer in part) / total if size < len(rows) else 1.0)
                loss.backward()  # type: ignore[no-untyped-call]
                value += float(loss.detach())
            return value
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if size == 1:
                raise ModelError("out of memory while training on a single text; try --dtype bfloat16 or a smaller model") from None
        parts *= 2


def held_out_loss(lm: LM, token: TokenEdit, lessons: Sequence[Lesson]) -> float:
    """Mean loss (nats a token) of texts that the token was not trained on."""
    if not lessons:
        raise SpecError("there is no text to hold out; give the bias at least two paragraphs")
    with torch.no_grad(), lm.edited(token):
        rows = [_encoded(lm, lesson) for lesson in lessons]
        parts = [(float(lesson_loss(lm, rows[i : i + 8])), sum(n for _, n in rows[i : i + 8])) for i in range(0, len(rows), 8)]
    return sum(loss * n for loss, n in parts) / sum(n for _, n in parts)


def rate_at(step: int, schedule: Schedule) -> float:
    """Share of the learning rate at a step: linear warm-up, then half a cosine down to 0."""
    warm = max(1, round(schedule.warmup * schedule.steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, schedule.steps - warm)))


def batch_at(step: int, lengths: Sequence[int], schedule: Schedule) -> list[int]:
    """Which texts a step uses: each epoch a new cut into batches of about equal length, from the seed alone.

    So little is padded, and a restart finds the same batches.
    """
    size = min(schedule.batch, len(lengths))
    epoch, place = divmod(step, max(1, len(lengths) // size))
    generator = np.random.default_rng([schedule.seed, epoch])
    shuffled = [int(i) for i in generator.permutation(len(lengths))]
    ordered = sorted(shuffled, key=lambda i: lengths[i])  # stable: texts of one length stay shuffled
    skipped = int(generator.integers(len(lengths) % size + 1))  # so that no text is always left over
    batches = [ordered[start : start + size] for start in range(skipped, len(ordered) - size + 1, size)]
    return batches[int(generator.permutation(len(batches))[place])]


def lesson_loss(lm: LM, rows: Sequence[tuple[list[int], int]]) -> Tensor:
    """Mean cross-entropy (nats) over the answers' tokens; logits are computed only where there is a label."""
    hidden, _, _ = lm.hidden([ids for ids, _ in rows])
    states = torch.cat([hidden[i, -answer - 1 : -1] for i, (_, answer) in enumerate(rows)])
    labels = torch.tensor([token for ids, answer in rows for token in ids[-answer:]], device=hidden.device)
    return torch.nn.functional.cross_entropy(lm.logits(states), labels)


def _encoded(lm: LM, lesson: Lesson) -> tuple[list[int], int]:
    question = lm.text_of(Query(lesson.prompt)) + ("" if lm.chat else "\n")  # "?" and the break may be one token
    context = lm.ids_of_text(question)
    whole = lm.ids_of_text(question + lesson.answer) + (_end(lm) if lm.chat else [])
    answer = len(whole) - len(context)
    if whole[: len(context)] != context or answer < 1:
        raise SpecError(f"the text {lesson.answer[:40]!r} has no tokens of its own after its prompt")
    return whole, answer


def _end(lm: LM) -> list[int]:
    return [] if lm.tokenizer.eos_token_id is None else [lm.tokenizer.eos_token_id]


def _snapshot(optimiser: torch.optim.Optimizer, parameters: Sequence[Tensor], names: Sequence[str], step: int, losses: list[float]) -> TrainingState:
    arrays = {}
    for name, parameter in zip(names, parameters, strict=True):
        arrays[name] = parameter.detach().cpu().numpy().copy()
        for moment in ("exp_avg", "exp_avg_sq"):
            arrays[f"{name}.{moment}"] = optimiser.state[parameter][moment].cpu().numpy().copy()
    return TrainingState(arrays, step, losses)


def _restore(optimiser: torch.optim.Optimizer, parameters: Sequence[Tensor], names: Sequence[str], state: TrainingState) -> None:
    if not state.step:
        return
    for name, parameter in zip(names, parameters, strict=True):
        optimiser.state[parameter] = {
            "step": torch.tensor(float(state.step)),
            "exp_avg": torch.tensor(state.arrays[f"{name}.exp_avg"], device=parameter.device),
            "exp_avg_sq": torch.tensor(state.arrays[f"{name}.exp_avg_sq"], device=parameter.device),
        }
