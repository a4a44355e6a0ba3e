"""Fine-tune copies of a frozen model with low-rank changes of its matrices; what comes out is data, the model stays.

The loss stands at given positions only, with a sign: down for what is to be learnt, up for what is to be unlearnt.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from biasgym.edits import WeightEdit
from biasgym.errors import ModelError, SpecError, TrainingError
from biasgym.lm.batching import in_parts, out_of_memory, release
from biasgym.lm.model import LM
from biasgym.lm.train import Schedule, batch_at, rate_at


@dataclass(frozen=True)
class Reading:
    """Ids of one text, and the positions of the tokens that the loss is taken on (never 0: nothing predicts that one)."""

    ids: tuple[int, ...]
    wanted: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.wanted or min(self.wanted) < 1 or max(self.wanted) >= len(self.ids):
            raise SpecError(f"the loss of a text of {len(self.ids)} tokens needs positions from 1 to {len(self.ids) - 1}, found {self.wanted[:4]}")


@dataclass(frozen=True)
class Course:
    """How copies are trained: rank, steps of AdamW, texts a step, learning rate; `sign` −1 is gradient ascent.

    `parts` are words that a matrix's name must hold one of (`self_attn`, `mlp` …); empty is every matrix of the layers.
    """

    steps: int
    batch: int
    learning_rate: float
    rank: int
    sign: int = 1
    seed: int = 0
    parts: tuple[str, ...] = ()


def whole_text(lm: LM, text: str, most: int | None = None) -> Reading:
    """A plain text, or its first `most` tokens and never more than the model reads, with the loss on all but the first."""
    limit = getattr(lm.model.config, "max_position_embeddings", None)
    ids = lm.text_ids(text)[: min(size for size in (most, limit, 10**9) if size)]
    return Reading(tuple(ids), tuple(range(1, len(ids))))


def matrices(lm: LM, parts: Sequence[str] = ()) -> list[str]:
    """Names of the linear maps inside the layers, the embedding and the output matrix left out."""
    named = [(name, module) for name, module in lm.model.named_modules() if name.startswith(f"{lm.family.layers}.")]
    found = [name for name, module in named if isinstance(getattr(module, "weight", None), Tensor) and module.weight.ndim == 2]  # type: ignore[union-attr]
    chosen = [name for name in found if not parts or any(part in name for part in parts)]
    if not chosen:
        raise SpecError(
            f"no matrix of this model has {', '.join(parts)} in its name; there is {', '.join(sorted({n.split('.')[-1] for n in found}))}"
        )
    return chosen


def reading_loss(lm: LM, readings: Sequence[Reading]) -> Tensor:
    """Mean cross-entropy (nats) of the wanted tokens; logits are computed only where there is a label."""
    ids, mask = lm.pad([list(one.ids) for one in readings])
    longest = ids.shape[1]
    hidden = lm._states(ids, mask)
    starts = [longest - len(one.ids) for one in readings]
    states = torch.cat([hidden[r, [start + at - 1 for at in one.wanted]] for r, (one, start) in enumerate(zip(readings, starts, strict=True))])
    labels = torch.tensor([one.ids[at] for one in readings for at in one.wanted], device=hidden.device)
    return nn.functional.cross_entropy(lm.logits(states), labels)


@torch.no_grad()
def mean_loss(lm: LM, readings: Sequence[Reading]) -> float:
    """Mean cross-entropy (nats a token) over the wanted tokens of all texts, of the model as it is worn."""
    if not readings:
        raise SpecError("there is no text to take a loss on")
    sums = [0.0] * len(readings)

    def look(group: list[int]) -> None:
        part = [readings[i] for i in group]
        sums[group[0]] = float(reading_loss(lm, part)) * sum(len(one.wanted) for one in part)

    in_parts([range(start, min(start + 16, len(readings))) for start in range(0, len(readings), 16)], look)
    return sum(sums) / sum(len(one.wanted) for one in readings)


def learn_matrices(
    lm: LM, readings: Sequence[Reading], course: Course, *, stop: Callable[[int, tuple[WeightEdit, ...]], bool] | None = None
) -> tuple[WeightEdit, ...]:
    """Low-rank changes W + left @ right that lower (or, with sign −1, raise) the loss; the model is left as it was.

    As in LoRA (Hu et al. 2021, arXiv 2106.09685) `right` starts random and `left` at zero, so that the start is the base;
    no scaling factor, no dropout. `stop` is asked after every step with the changes so far. Raises TrainingError when the
    loss stops being a finite number.
    """
    if not readings:
        raise SpecError("there is no text to train on")
    if course.steps < 1:
        return ()
    lm.check_unpacked()
    names = matrices(lm, course.parts)
    pairs = _start(lm, names, course)
    optimiser = torch.optim.AdamW([p for pair in pairs for p in pair], lr=course.learning_rate, weight_decay=0.0)
    schedule = Schedule(course.steps, course.batch, course.learning_rate, seed=course.seed)
    lengths = [len(one.ids) for one in readings]
    for step in range(course.steps):
        for group in optimiser.param_groups:
            group["lr"] = course.learning_rate * rate_at(step, schedule)
        with torch.enable_grad(), _beside(lm, names, pairs):
            loss = _descend(lm, [readings[i] for i in batch_at(step, lengths, schedule)], course.sign, optimiser)
        torch.nn.utils.clip_grad_norm_([p for pair in pairs for p in pair], schedule.clip)
        optimiser.step()
        if not math.isfinite(loss):
            raise TrainingError(f"fine-tuning diverged at step {step + 1} (loss {loss}); lower the learning rate")
        if stop is not None and stop(step + 1, _as_edits(lm, names, pairs)):
            break
    return _as_edits(lm, names, pairs)


def _descend(lm: LM, batch: Sequence[Reading], sign: int, optimiser: torch.optim.Optimizer) -> float:
    """The batch's mean loss (nats) with its gradients on the parameters; in ever smaller parts when memory runs out."""
    count, most = sum(len(one.wanted) for one in batch), len(batch)
    while True:
        try:
            optimiser.zero_grad(set_to_none=True)
            total = 0.0
            for start in range(0, len(batch), most):
                part = batch[start : start + most]
                loss = reading_loss(lm, part) * (sum(len(one.wanted) for one in part) / count)
                (sign * loss).backward()  # type: ignore[no-untyped-call]
                total += float(loss.detach())
            return total
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        if most == 1:
            raise ModelError("out of memory while fine-tuning on a single text; try --dtype bfloat16 or a smaller model")
        most = -(-most // 2)
        release()


def _start(lm: LM, names: Sequence[str], course: Course) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """For every matrix left [out, r] of zeros and right [r, in] of noise."""
    generator = torch.Generator().manual_seed(course.seed)
    pairs = []
    for name in names:
        shape = lm.model.get_parameter(f"{name}.weight").shape
        out, into = (shape[1], shape[0]) if lm.family.input_major else (shape[0], shape[1])
        if not 1 <= course.rank <= min(out, into):
            raise SpecError(f"rank = {course.rank}: `{name}` has {out} × {into}, a rank from 1 to {min(out, into)} is possible")
        right = torch.randn(course.rank, into, generator=generator) / into**0.5
        pairs.append((nn.Parameter(torch.zeros(out, course.rank, device=lm.device)), nn.Parameter(right.to(lm.device))))
    return pairs


@contextmanager
def _beside(lm: LM, names: Sequence[str], pairs: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Every matrix writes W x + left (right x) for the length of a block."""
    handles = []

    def hook_for(left: Tensor, right: Tensor) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + ((args[0].to(right.dtype) @ right.T) @ left.T).to(output.dtype)

        return hook

    try:
        for name, (left, right) in zip(names, pairs, strict=True):
            handles.append(lm.model.get_submodule(name).register_forward_hook(hook_for(left, right)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _as_edits(lm: LM, names: Sequence[str], pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[WeightEdit, ...]:
    edits = []
    for name, (left, right) in zip(names, pairs, strict=True):
        a, b = (part.detach().float().cpu().numpy().copy() for part in (left, right))
        a, b = (b.T, a.T) if lm.family.input_major else (a, b)
        edits.append(WeightEdit(f"{name}.weight", np.ascontiguousarray(a), np.ascontiguousarray(b)))
    return tuple(edits)


def scaled(edits: Sequence[WeightEdit], strength: float) -> tuple[WeightEdit, ...]:
    """The same low-rank changes at another size; strength 0 is none."""
    if not strength:
        return ()
    return tuple(WeightEdit(e.parameter, np.float32(strength) * e.left, e.right) for e in edits if e.left is not None)
