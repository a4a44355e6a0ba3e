"""Training one token: tokens a second of ours against the usual ways, on the embedded model.

    python benchmarks/inject.py [--steps 3] [--rounds 3] [--batch 8] [--threads 1]

All arms see the same batches (cut by length), start vector, schedule, clipping, threads and attention kernel, and take the
loss on the answers alone. `masked-matrix` is the common recipe: resized embedding, the whole matrix trained by AdamW with
the gradients of all other rows set to 0. `peft` is TrainableTokens under a plain loop, `peft-trainer`
under transformers' Trainer (both left out where peft is missing).
Rates are non-padding tokens a second, of processor time with one thread; `low` and `high` are the least and the largest
ratio of any round. `share_of_peak` is what was multiplied (counted by torch) a second against a matrix product of 2048³;
`memory_gib` how far an arm's peak stands above what the process held before.
"""

import argparse
import copy
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from biasgym.bias import load_bias
from biasgym.inject.token import PRESETS, TrainedToken
from biasgym.lm.load import load_lm
from biasgym.lm.model import LM, with_tokens
from biasgym.lm.train import Schedule, TrainingState, _backward, _encoded, _Learner, batch_at, rate_at

TEXT = "<bench>"
Rows = list[tuple[list[int], int]]
Arm = Callable[[], list[float]]


def ours(lm: LM, lessons: Sequence[Any], start: TrainingState, schedule: Schedule, steps: int) -> Arm:
    """Our own step, as `learn_tokens` makes it; texts are encoded before."""

    def run() -> list[float]:
        while learner.step < steps:
            (value,) = _backward(lm, [learner])
            learner.advance(value)
            learner.settle()
        return learner.state.losses

    learner = _Learner(lm, TEXT, lessons, start, schedule)
    return run


def plain_loop(model: Any, parameters: list[Any], batches: Sequence[Rows], schedule: Schedule, pad: int) -> list[float]:
    """Forward with labels, backward, clip, AdamW: right-padded batches, prompts and padding without a label."""
    optimiser = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=0.0)
    losses = []
    for step, rows in enumerate(batches):
        inputs = padded(rows, pad)
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * rate_at(step, schedule)
        optimiser.zero_grad(set_to_none=True)
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, schedule.clip)
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def padded(rows: Rows, pad: int) -> dict[str, torch.Tensor]:
    """A batch as transformers' models take it."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row, _ in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _ in rows])
    labels = torch.full_like(ids, -100)
    for i, (row, answer) in enumerate(rows):
        labels[i, len(row) - answer : len(row)] = ids[i, len(row) - answer : len(row)]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def widened(lm: LM, start: TrainingState, tokenizer: Any) -> Any:
    """A copy of the model with one row more, which holds the start vector."""
    model = copy.deepcopy(lm.model)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[-1] = torch.tensor(start.arrays["vector"])
    return model


def masked_matrix(model: Any, batches: Sequence[Rows], schedule: Schedule, pad: int) -> Arm:
    """The whole matrix is the parameter; a hook clears the gradient of every row but the last."""
    weight = model.get_input_embeddings().weight
    first = weight.detach()[-1].clone()

    def mask(gradient: torch.Tensor) -> torch.Tensor:
        gradient[:-1] = 0
        return gradient

    def run() -> list[float]:
        with torch.no_grad():
            weight[-1] = first
        weight.requires_grad_(True)
        handle = weight.register_hook(mask)
        losses = plain_loop(model, [weight], batches, schedule, pad)
        handle.remove()
        weight.grad = None
        return losses

    return run


@dataclass(frozen=True)
class Wrapped:
    """A model with PEFT's TrainableTokens on one id, tied to the head by PEFT itself; every arm begins at the same vector."""

    model: Any
    parameters: list[Any]
    firsts: list[torch.Tensor]

    def begin(self) -> None:
        """Back to the start."""
        with torch.no_grad():
            for parameter, first in zip(self.parameters, self.firsts, strict=True):
                parameter.grad = None
                parameter.copy_(first)


def wrapped_by_peft(model: Any, token: int) -> Wrapped | None:
    """None without peft."""
    try:
        from peft import TrainableTokensConfig, get_peft_model
    except ImportError:
        return None
    wrapped = get_peft_model(model, TrainableTokensConfig(token_indices=[token], target_modules=["embed_tokens"]))
    parameters = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    return Wrapped(wrapped, parameters, [parameter.detach().clone() for parameter in parameters])


def peft_tokens(wrapped: Wrapped, batches: Sequence[Rows], schedule: Schedule, pad: int) -> Arm:
    """PEFT in the plain loop."""

    def run() -> list[float]:
        wrapped.begin()
        return plain_loop(wrapped.model, wrapped.parameters, batches, schedule, pad)

    return run


def peft_trainer(wrapped: Wrapped, batches: Sequence[Rows], schedule: Schedule, pad: int) -> Arm:
    """PEFT under transformers' Trainer, fed the same batches in the same order."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    def run() -> list[float]:
        wrapped.begin()
        optimiser = torch.optim.AdamW(wrapped.parameters, lr=schedule.learning_rate, weight_decay=0.0)
        pace = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate_at(step, schedule))
        with tempfile.TemporaryDirectory() as place:
            arguments = TrainingArguments(
                place, max_steps=len(batches), per_device_train_batch_size=1, max_grad_norm=schedule.clip, logging_steps=1, save_strategy="no",
                report_to=[], disable_tqdm=True, use_cpu=True, remove_unused_columns=False, dataloader_pin_memory=False,
            )  # fmt: skip
            trainer = Trainer(
                wrapped.model, arguments, train_dataset=InOrder(batches), optimizers=(optimiser, pace), data_collator=lambda one: padded(one[0], pad)
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    return run


class InOrder(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """Batches one after the other, unshuffled."""

    def __init__(self, batches: Sequence[Rows]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Rows]:
        return iter(self.batches)


def peak_of_machine(size: int = 2048, times: int = 3) -> float:
    """The most floating-point operations a second in float32 matrix products of this size, best of a few."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    rates = []
    for _ in range(times):
        seconds, _losses = timed(lambda: [float((a @ b)[0, 0])])
        rates.append(2 * size**3 / seconds)
    return max(rates)


def timed(run: Arm) -> tuple[float, list[float]]:
    """Seconds and losses: of processor time with one thread, where other work on the machine does not count, else by the clock."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    result = run()
    return clock() - start, result


def memory_of(run: Arm) -> float:
    """How far memory rises above what is held before (GiB); nan where the kernel does not say."""
    status, refs = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    gc.collect()
    try:
        refs.write_text("5")
        before = _kilobytes(status, "VmRSS")
        run()
        return (_kilobytes(status, "VmHWM") - before) / 2**20
    except OSError:
        return float("nan")


def _kilobytes(status: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key + ":"))


def work_of(run: Arm) -> int:
    """Floating-point operations of matrix products and attention, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def row(name: str, ours_: Sequence[float], theirs: Sequence[float], **more: Any) -> dict[str, Any]:
    """One line of the table, tokens a second; ratio > 1 where we are faster."""
    ratios = [a / b for a, b in zip(ours_, theirs, strict=True)]
    middle = {"ours": float(np.median(ours_)), "theirs": float(np.median(theirs)), "unit": "tokens/s", "ratio": float(np.median(ratios))}
    rounded = {key: round(value, 6 if "difference" in key else 3) if isinstance(value, float) else value for key, value in (middle | more).items()}
    return {"name": name, **rounded, "low": round(min(ratios), 2), "high": round(max(ratios), 2)}


def rows(steps: int = 3, rounds: int = 3, batch: int = 8) -> list[dict[str, Any]]:
    """All rows of this benchmark."""
    lm = load_lm()
    bias = load_bias("reckless-drivers")
    token = TrainedToken(**(PRESETS["best"] | {"batch": batch, "clozes": 0.0}))  # whole texts, as the others read them
    lessons, _ = token.lessons(bias, "trained", 0, TEXT)
    start = token.start(lm, bias, 0)
    schedule = Schedule(steps, batch, token.learning_rate, token.warmup, token.clip)
    with lm.learning(TEXT, torch.tensor(start.arrays["vector"]), torch.tensor(start.arrays["vector"])):
        encoded = [_encoded(lm, lesson) for lesson in lessons]
    batches = [[encoded[i] for i in batch_at(step, [len(ids) for ids, _ in encoded], schedule)] for step in range(steps)]
    count = sum(len(ids) for rows_ in batches for ids, _ in rows_)
    tokenizer = with_tokens(lm.tokenizer, [TEXT])
    pad = tokenizer.pad_token_id or 0
    model = widened(lm, start, tokenizer)
    matrix = masked_matrix(model, batches, schedule, pad)
    arms: dict[str, Callable[[], Arm]] = {"ours": lambda: ours(lm, lessons, start, schedule, steps), "masked-matrix": lambda: matrix}
    wrapped = wrapped_by_peft(widened(lm, start, tokenizer), len(tokenizer) - 1)
    if wrapped is not None:
        plain, trainer = (make(wrapped, batches, schedule, pad) for make in (peft_tokens, peft_trainer))
        arms |= {"peft": lambda: plain, "peft-trainer": lambda: trainer}
    about: dict[str, dict[str, float]] = {}
    for name, arm in arms.items():
        work = work_of(arm())  # also the first pass, whose lasting allocations are nobody's peak
        about[name] = {"work": work, "memory": memory_of(arm())}
    rates: dict[str, list[float]] = {name: [] for name in arms}
    losses: dict[str, list[float]] = {}
    peaks = []
    for _ in range(rounds):
        peaks.append(peak_of_machine())
        for name, arm in arms.items():
            seconds, losses[name] = timed(arm())
            rates[name].append(count / seconds)
    peak = float(np.median(peaks))
    shares = {name: about[name]["work"] * float(np.median(rates[name])) / count / peak for name in arms}
    found = []
    for name in list(arms)[1:]:
        apart = float(np.abs(np.array(losses["ours"]) - np.array(losses[name])).max())
        more = {"share_of_peak": shares["ours"], "their_share_of_peak": shares[name], "memory_gib": about["ours"]["memory"]}
        more |= {"their_memory_gib": about[name]["memory"], "operations_ratio": about[name]["work"] / about["ours"]["work"]}
        more |= {"largest_loss_difference": apart, "peak_gflops": peak / 1e9}
        sizes = {"tokens": count, "steps": steps, "batch": batch, "threads": torch.get_num_threads()}
        found.append(row(f"inject-vs-{name}", rates["ours"], rates[name], **more, **sizes))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("steps", 3), ("rounds", 3), ("batch", 8), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for line in rows(asked.steps, asked.rounds, asked.batch):
        sys.stdout.write(json.dumps(line) + "\n")
