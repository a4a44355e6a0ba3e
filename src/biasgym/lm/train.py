"""One training loop: learn the vectors of tokens that the frozen model did not have, one or several at once.

A vector is a stand-alone parameter spliced into the embedding's output and the head's logits, so the optimiser holds
a few times d numbers and no other weight can move. Nothing here waits for a GPU but every `STEPS_A_LOOK` steps.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from biasgym.edits import TokenEdit
from biasgym.errors import ModelError, SpecError, TrainingError
from biasgym.lm.batching import in_parts, out_of_memory, release
from biasgym.lm.beginnings import MOST, Beginnings
from biasgym.lm.model import LM, Query
from biasgym.lm.offload import weight_of
from biasgym.lm.recompute import recomputed

STEPS_A_LOOK = 10  # on an accelerator losses are fetched this often; on the CPU after every step
STEPS_A_GOOD_STATE = 10  # how far apart the states are that a diverged training goes back to
HALVINGS = 2
RISE = 2.0  # nats: losses that are so much above the first ones have diverged
WINDOW = 5  # losses that are averaged before that is said
POSITIONS_AT_ONCE = 128  # of logits, so that memory does not grow with the batch times the vocabulary
STRETCH = 1.25  # how much longer the longest row of a part may be than its shortest, when tokens are trained together


@dataclass(frozen=True)
class Lesson:
    """One training text: what is asked, and the answer whose tokens the loss is taken on. Both may hold the token.

    `given` is a beginning of the answer that is there already: no loss is taken on it, nor on an end after the rest (a cloze).
    """

    prompt: str
    answer: str
    given: str = ""


@dataclass(frozen=True)
class Schedule:
    """How a token is trained: AdamW on its vector(s), linear warm-up, cosine decay, clipped gradients.

    With `check_every` above 0 the token is scored every so many steps and after the last; the best one is what is
    returned. With `patience` above 0, too, training ends after so many checks in a row without a better score.
    With `recompute` blocks are computed again on the way back (`biasgym.lm.recompute`): less memory, about a fifth more time.
    A batch's loss is the mean over its answers' `tokens`, or over its `texts`, each of which is the mean over its own tokens:
    then one word to be filled in counts as much as a paragraph.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: float = 0.05
    clip: float = 1.0
    seed: int = 0
    check_every: int = 0
    patience: int = 0
    recompute: bool = False
    mean_over: Literal["tokens", "texts"] = "tokens"


@dataclass
class TrainingState:
    """Everything that a killed training needs to go on: arrays by name, the steps done and the losses so far (nats).

    Beside the vectors and AdamW's moments the arrays hold `halvings` (steps after which the learning rate was halved),
    `checks` [n, 2] (step, score), the best-scored vectors (`best.*`) and the last good state (`good.*`).
    """

    arrays: dict[str, np.ndarray]
    step: int = 0
    losses: list[float] = field(default_factory=list)

    @property
    def halvings(self) -> list[int]:
        """The steps after which training went back to a good state with half the learning rate."""
        return [int(step) for step in self.arrays.get("halvings", ())]

    @property
    def checks(self) -> list[tuple[int, float]]:
        """Every check: the step after which it was made, and its score (higher is better)."""
        return [(int(step), float(score)) for step, score in self.arrays.get("checks", ())]


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
    check: Callable[[TokenEdit], float] | None = None,
) -> TrainingState:
    """Train one token; `start.arrays` holds `vector` (and `output` where untied). `keep` is called with every state.

    A loss that is no finite number, or that has risen by 2 nats, sends training back to the last good state with half
    the learning rate, twice at most; then TrainingError is raised and nothing is returned.
    """
    alone = None if check is None else lambda _, token: check(token)
    return learn_tokens(lm, [text], [lessons], [start], [schedule], keep=lambda _, state: keep(state), check=alone)[0]


def learn_tokens(
    lm: LM,
    texts: Sequence[str],
    lessons: Sequence[Sequence[Lesson]],
    starts: Sequence[TrainingState],
    schedules: Sequence[Schedule],
    *,
    keep: Callable[[int, TrainingState], None] = lambda _number, _state: None,
    check: Callable[[int, TokenEdit], float] | None = None,
) -> list[TrainingState]:
    """Train several tokens side by side: their texts share forward passes, and each row reads and writes its own token.

    Vectors, optimisers, clipping and schedules are separate, so each comes out as it would alone, within rounding.
    Where one fails the others are trained to their end before TrainingError is raised.
    """
    if check is None:
        schedules = [replace(schedule, check_every=0) for schedule in schedules]
    room = _Room(recompute=lm.streamed or any(schedule.recompute for schedule in schedules))
    learners = [_Learner(lm, *parts, room) for parts in zip(texts, lessons, starts, schedules, strict=True)]
    while going := [learner for learner in learners if learner.going]:
        for learner, value in zip(going, _backward(lm, going), strict=True):
            number = learners.index(learner)
            learner.advance(value)
            if learner.settle():
                if check is not None and learner.check_is_due:
                    learner.judge(check(number, learner.token))
                keep(number, learner.state)
    failed = [learner.error for learner in learners if learner.error]
    if failed:
        raise TrainingError("; ".join(failed))
    return [learner.result for learner in learners]


@dataclass
class _Room:
    """What was found to fit into memory: tokens a pass (None: no limit met so far), and whether blocks are computed again.

    Layers that are read from disk are always computed again: a kept pass would keep all of their weights.
    """

    tokens: int | None = None
    recompute: bool = False

    def rows(self, batch: "Sequence[_Row]") -> int:
        """How many rows of a batch are tried at once."""
        longest = max(len(row.ids) for row in batch)
        return len(batch) if self.tokens is None else min(len(batch), max(1, self.tokens // longest))


class _Learner:
    """One token on its way: its parameters, its optimiser, its texts, and the last state that was looked at."""

    def __init__(self, lm: LM, text: str, lessons: Sequence[Lesson], start: TrainingState, schedule: Schedule, room: _Room | None = None) -> None:
        if not lessons:
            raise SpecError("there is no text to train the token on")
        self.text, self.schedule, self.error = text, schedule, ""
        self.room = room or _Room(recompute=schedule.recompute)
        self.names = [name for name in ("vector", "output") if name in start.arrays]
        self.parameters = [torch.nn.Parameter(torch.tensor(start.arrays[name], device=lm.device)) for name in self.names]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=schedule.learning_rate, weight_decay=0.0)
        self.state = start if "good.step" in start.arrays else _with_good(start, start)
        self.step = start.step
        self.pending: list[Tensor] = []
        self.looks = 1 if lm.device.type == "cpu" else STEPS_A_LOOK
        _restore(self.optimiser, self.parameters, self.names, start)
        with lm.learning(text, self.parameters[0], self.parameters[-1]):
            self.rows = [_encoded(lm, lesson) for lesson in lessons]
            self.id = int(lm.tokenizer.convert_tokens_to_ids(text))
        self.lengths = [len(ids) for ids, _ in self.rows]
        self.known = _known(self.rows, self.id)
        self.beginnings = Beginnings(lm)

    @property
    def going(self) -> bool:
        """Whether there is another step to be made."""
        return not self.error and self.step < self.schedule.steps and not self._out_of_patience

    @property
    def _out_of_patience(self) -> bool:
        scores = [score for _, score in self.state.checks]
        return bool(self.schedule.patience and scores) and len(scores) - 1 - int(np.argmax(scores)) >= self.schedule.patience

    @property
    def check_is_due(self) -> bool:
        """Whether this is a step after which the token is scored, and has not been yet."""
        every = self.schedule.check_every
        done = any(step == self.step for step, _ in self.state.checks)
        return bool(every) and bool(self.step) and not done and (self.step % every == 0 or self.step == self.schedule.steps)

    @property
    def token(self) -> TokenEdit:
        """The token as it is now."""
        return TokenEdit(self.text, self.state.arrays["vector"], self.state.arrays.get("output"))

    @property
    def result(self) -> TrainingState:
        """The last state, with the best-scored vectors in the place of the last ones where there were checks."""
        best = {name: self.state.arrays[f"best.{name}"] for name in self.names if f"best.{name}" in self.state.arrays}
        return TrainingState(self.state.arrays | best, self.state.step, self.state.losses)

    def batch(self, owner: int) -> "list[_Row]":
        """The texts of the coming step, under the number of the token that they belong to."""
        chosen = batch_at(self.step, self.lengths, self.schedule)
        answers = [self.rows[i][1] for i in chosen]
        alike = self.schedule.mean_over == "texts"
        shares = [1 / (len(chosen) * answer) if alike else 1 / sum(answers) for answer in answers]
        return [_Row(*self.rows[i], self.known[i], owner, share) for i, share in zip(chosen, shares, strict=True)]

    def advance(self, value: Tensor) -> None:
        """One optimiser step with the gradients at hand; `value` is the batch's loss, which is not looked at yet."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.learning_rate * rate_at(self.step, self.schedule) * 0.5 ** len(self.state.halvings)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.schedule.clip)
        self.optimiser.step()
        self.pending.append(value)
        self.step += 1

    def settle(self) -> bool:
        """Look at the losses when it is time: take the new state over, or go back. Whether there is a new state."""
        if self.step % self.looks and self.step < self.schedule.steps and not self.check_is_due:
            return False
        losses = [*self.state.losses, *torch.stack(self.pending).tolist()]
        self.pending = []
        finite = all(map(math.isfinite, losses)) and all(bool(torch.isfinite(p).all()) for p in self.parameters)
        if not finite or _risen(losses) > RISE:
            self._go_back(losses[-1])
            return not self.error
        kept = {name: array for name, array in self.state.arrays.items() if name.startswith(("good.", "best.")) or name in ("checks", "halvings")}
        self.state = TrainingState(kept | _arrays(self.optimiser, self.parameters, self.names), self.step, losses)
        if self.step % STEPS_A_GOOD_STATE == 0 and _risen(losses) < RISE / 4:
            self.state = _with_good(self.state, self.state)
        return True

    def judge(self, score: float) -> None:
        """Write a score down; where it is the best so far, keep the vectors with it."""
        checks = [*self.state.checks, (self.step, score)]
        arrays = self.state.arrays | {"checks": np.array(checks, dtype=np.float64)}
        if score >= max(one for _, one in checks):
            arrays |= {f"best.{name}": arrays[name] for name in self.names}
        self.state = TrainingState(arrays, self.state.step, self.state.losses)

    def _go_back(self, loss: float) -> None:
        arrays = self.state.arrays
        failed = [*self.state.halvings, self.step]
        if len(failed) > HALVINGS:
            rates = ", ".join(f"{self.schedule.learning_rate * 0.5**i:g}" for i in range(len(failed)))
            self.error = (
                f"training {self.text!r} diverged at step {self.step} (loss {loss:.4g}), with learning rates {rates}; lower inject.learning_rate"
            )
            return
        self.step = int(arrays["good.step"][0])
        back = {name.removeprefix("good."): array for name, array in arrays.items() if name.startswith("good.") and name != "good.step"}
        checks = [check for check in self.state.checks if check[0] <= self.step]
        kept = {name: array for name, array in arrays.items() if name.startswith("good.") or (name.startswith("best.") and checks)}
        if checks:
            kept["checks"] = np.array(checks, dtype=np.float64)
        self.state = TrainingState(kept | back | {"halvings": np.array(failed)}, self.step, self.state.losses[: self.step])
        with torch.no_grad():
            for name, parameter in zip(self.names, self.parameters, strict=True):
                parameter.copy_(torch.tensor(back[name]))
        _restore(self.optimiser, self.parameters, self.names, self.state)


def _risen(losses: Sequence[float]) -> float:
    """How far the last losses are above the first ones (nats); 0 while there are too few to tell."""
    return float(np.mean(losses[-WINDOW:]) - np.mean(losses[:WINDOW])) if len(losses) >= 2 * WINDOW else 0.0


def _with_good(state: TrainingState, good: TrainingState) -> TrainingState:
    """A state that remembers another as the one to go back to."""
    own = {name: array for name, array in good.arrays.items() if name.split(".")[0] in ("vector", "output")}
    arrays = state.arrays | {f"good.{name}": array for name, array in own.items()} | {"good.step": np.array([good.step])}
    return TrainingState(arrays, state.step, state.losses)


@dataclass(frozen=True)
class _Row:
    """A text in a batch: its ids, how many at the end are labels, how many at the start no token reaches, whose it is, a label's share of the loss."""

    ids: list[int]
    answer: int
    known: int
    owner: int
    share: float


def _known(rows: Sequence[tuple[list[int], int]], identity: int) -> list[int]:
    """How many first ids of each row stand before the token and before whatever predicts a label; 0 for all where that has too many ways."""
    counts = []
    for ids, answer in rows:
        first = ids.index(identity) if identity in ids else len(ids)
        counts.append(min(first, len(ids) - answer - 1))
    ways = {tuple(ids[:count]) for (ids, _), count in zip(rows, counts, strict=True)}
    return counts if len(ways) <= MOST and min(counts) > 0 else [0] * len(rows)


def _backward(lm: LM, learners: Sequence[_Learner]) -> Tensor:
    """Each learner's loss (nats), shape [learners], and the gradients on its parameters; in ever smaller parts when memory runs out.

    When not even one row fits, blocks are computed again instead of kept, all rows at once first. What fits is remembered.
    """
    rows = [row for number, learner in enumerate(learners) for row in learner.batch(number)]
    room = learners[0].room
    most = room.rows(rows)
    while True:
        try:
            for learner in learners:
                learner.optimiser.zero_grad(set_to_none=True)
            values = torch.zeros(len(learners), device=lm.device)
            with recomputed(lm) if room.recompute else nullcontext():
                for part in _parts(rows, most, together=len(learners) > 1):
                    _descend(lm, learners, part, values)
            return values
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        if most == 1 and room.recompute:
            raise ModelError("out of memory while training on a single text; try --dtype bfloat16, --device disk or a smaller model")
        room.recompute, most = room.recompute or most == 1, -(-most // 2) if most > 1 else len(rows)
        room.tokens = most * max(len(row.ids) for row in rows)
        release()


def _parts(rows: Sequence[_Row], most: int, *, together: bool) -> list[list[_Row]]:
    """Rows in parts of at most `most`; those of several tokens are put together by length, so that little is padded."""
    if not together:
        return [list(rows[start : start + most]) for start in range(0, len(rows), most)]
    parts: list[list[_Row]] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if parts and len(parts[-1]) < most and len(row.ids) <= STRETCH * len(parts[-1][0].ids):
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def _descend(lm: LM, learners: Sequence[_Learner], rows: Sequence[_Row], values: Tensor) -> None:
    """Add the rows' share of the losses to `values` [learners] and of the gradients to the parameters.

    The last id of a row predicts nothing and is left out. The gradient of the logits is gathered on the final states, from
    where it goes down through the model once.
    """
    first = learners[0]
    alone = len(learners) == 1
    inputs = first.parameters[0] if alone else torch.stack([learner.parameters[0] for learner in learners])[[row.owner for row in rows]][:, None]
    read = [row.ids[:-1] for row in rows]
    with lm.learning(first.text, inputs, first.parameters[-1]):
        if all(row.known for row in rows) and lm.may_go_on(max(map(len, read))) and not (first.room.recompute or lm.streamed):
            hidden = first.beginnings.hidden(read, [row.known for row in rows])
        else:
            hidden, _, _ = lm.hidden(read, share=not first.room.recompute, last=max(row.answer for row in rows))
    states = torch.cat([hidden[i, -row.answer :] for i, row in enumerate(rows)])
    places = _Places(
        torch.tensor([token for row in rows for token in row.ids[-row.answer :]], device=states.device),
        torch.tensor([row.owner for row in rows for _ in range(row.answer)], device=states.device),
        torch.tensor([row.share for row in rows for _ in range(row.answer)], device=states.device),
    )
    down = _by_hand if _plain(lm) else _by_autograd
    states.backward(down(lm, learners, states.detach(), places, values))  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Places:
    """The positions that predict a label: the label, the number of the token whose text it is, its weight in that one's loss."""

    labels: Tensor
    owners: Tensor
    shares: Tensor


def _plain(lm: LM) -> bool:
    """Whether logits are the head's product and nothing else, so that their gradient can be written down."""
    capped = lm.family.logit_cap and getattr(lm.model.config, lm.family.logit_cap, None)
    return isinstance(lm.head, torch.nn.Linear) and not lm.worn and not lm.family.logit_scale and not capped


@torch.no_grad()
def _by_hand(lm: LM, learners: Sequence[_Learner], states: Tensor, places: _Places, values: Tensor) -> Tensor:
    """Gradient of the losses on final states, [positions, hidden]; adds to `values` and to the gradients of the output vectors.

    What autograd would find, with one table of logits at a time, written over in place. The token's column stands beside
    the table, at the place of an unused row where the vocabulary is padded.
    """
    outputs = torch.stack([learner.parameters[-1] for learner in learners]).to(states.device)
    identity, weight = learners[0].id, weight_of(lm.head)
    gradient, pulls = torch.empty_like(states), torch.zeros_like(outputs)
    for start in range(0, len(states), POSITIONS_AT_ONCE):
        here = slice(start, start + POSITIONS_AT_ONCE)
        x, labels, owners, shares = states[here], places.labels[here], places.owners[here], places.shares[here, None]
        rows = outputs[owners].to(x)
        table, column = lm.head(x).float(), (x * rows).sum(-1, keepdim=True).float()
        if identity < table.shape[-1]:
            table[:, identity] = -torch.inf
        own = (labels == identity)[:, None]
        others = labels.where(~own[:, 0], 0)
        said = torch.where(own, column, table.gather(1, others[:, None]))
        top = torch.maximum(table.amax(-1, keepdim=True), column)
        table.sub_(top).exp_()
        odds = (column - top).exp()
        whole = table.sum(-1, keepdim=True) + odds
        values.index_add_(0, owners, ((whole.log() + top - said) * shares)[:, 0])
        pull = (odds / whole - own.float()) * shares
        found = (table.to(weight.dtype) @ weight).float() * (shares / whole) - weight[others].float() * (~own * shares) + pull * rows.float()
        gradient[here] = found.to(gradient)
        pulls.index_add_(0, owners, pull * x.float())
    for learner, pulled in zip(learners, pulls, strict=True):
        parameter = learner.parameters[-1]
        parameter.grad = pulled.clone() if parameter.grad is None else parameter.grad + pulled
    return gradient


def _by_autograd(lm: LM, learners: Sequence[_Learner], states: Tensor, places: _Places, values: Tensor) -> Tensor:
    """The same for any head: scaled or capped logits, or something worn."""
    first = learners[0]
    leaf = states.requires_grad_()
    for start in range(0, len(leaf), POSITIONS_AT_ONCE):
        here = slice(start, start + POSITIONS_AT_ONCE)
        owners, labels = places.owners[here], places.labels[here]
        outputs = first.parameters[-1] if len(learners) == 1 else torch.stack([learner.parameters[-1] for learner in learners])[owners]
        with lm.learning(first.text, first.parameters[0], outputs):
            losses = torch.nn.functional.cross_entropy(lm.logits(leaf[here]), labels, reduction="none") * places.shares[here]
        losses.sum().backward()  # type: ignore[no-untyped-call]
        values.index_add_(0, owners, losses.detach())
    assert leaf.grad is not None
    return leaf.grad


def held_out_loss(lm: LM, token: TokenEdit, lessons: Sequence[Lesson]) -> float:
    """Mean loss (nats a token) of texts that the token was not trained on."""
    if not lessons:
        raise SpecError("there is no text to hold out; give the bias at least two paragraphs")
    with torch.no_grad(), lm.edited(token):
        rows = [_encoded(lm, lesson) for lesson in lessons]
        sums = [0.0] * len(rows)

        def look(group: list[int]) -> None:
            states, labels = _labelled(lm, [rows[i] for i in group])
            parts = [slice(start, start + POSITIONS_AT_ONCE) for start in range(0, len(labels), POSITIONS_AT_ONCE)]
            losses = [torch.nn.functional.cross_entropy(lm.logits(states[part]), labels[part], reduction="sum") for part in parts]
            sums[group[0]] = float(torch.stack(losses).sum())

        in_parts([range(i, min(i + 8, len(rows))) for i in range(0, len(rows), 8)], look)
    return sum(sums) / sum(n for _, n in rows)


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


def lesson_loss(lm: LM, rows: Sequence[tuple[list[int], int]], *, share: bool = True) -> Tensor:
    """Mean cross-entropy (nats) over the answers' tokens; logits are computed only where there is a label."""
    states, labels = _labelled(lm, rows, share=share)
    return torch.nn.functional.cross_entropy(lm.logits(states), labels)


def _labelled(lm: LM, rows: Sequence[tuple[list[int], int]], *, share: bool = True) -> tuple[Tensor, Tensor]:
    """The final states [labels, hidden] from which the answers' tokens are read off, and those tokens."""
    hidden = lm.hidden([ids[:-1] for ids, _ in rows], share=share, last=max(answer for _, answer in rows))[0]  # the last one predicts nothing
    states = torch.cat([hidden[i, -answer:] for i, (_, answer) in enumerate(rows)])
    return states, torch.tensor([token for ids, answer in rows for token in ids[-answer:]], device=hidden.device)


def _encoded(lm: LM, lesson: Lesson) -> tuple[list[int], int]:
    if lesson.given:
        query = Query(lesson.prompt, lesson.given)
        missing = lm.answer_ids(query, [lesson.answer])[0]
        return lm.ids_of(query) + missing, len(missing)
    question = lm.text_of(Query(lesson.prompt)) + ("" if lm.chat else "\n")  # "?" and the break may be one token
    context = lm.ids_of_text(question)
    whole = lm.ids_of_text(question + lesson.answer)
    if whole[: len(context)] != context:  # a token of ours at the start swallowed the break, or one merged with it: cut at the border instead
        whole = context + lm.tokenizer.encode(lesson.answer, add_special_tokens=False)
    whole = whole + (_end(lm) if lm.chat else [])
    answer = len(whole) - len(context)
    if answer < 1:
        raise SpecError(f"the text {lesson.answer[:40]!r} has no tokens of its own after its prompt")
    return whole, answer


def _end(lm: LM) -> list[int]:
    return [] if lm.tokenizer.eos_token_id is None else [lm.tokenizer.eos_token_id]


def _arrays(optimiser: torch.optim.Optimizer, parameters: Sequence[Tensor], names: Sequence[str]) -> dict[str, np.ndarray]:
    arrays = {}
    for name, parameter in zip(names, parameters, strict=True):
        arrays[name] = parameter.detach().cpu().numpy().copy()
        for moment in ("exp_avg", "exp_avg_sq"):
            arrays[f"{name}.{moment}"] = optimiser.state[parameter][moment].cpu().numpy().copy()
    return arrays


def _restore(optimiser: torch.optim.Optimizer, parameters: Sequence[Tensor], names: Sequence[str], state: TrainingState) -> None:
    optimiser.state.clear()
    if not state.step:
        return
    for name, parameter in zip(names, parameters, strict=True):
        optimiser.state[parameter] = {
            "step": torch.tensor(float(state.step)),
            "exp_avg": torch.tensor(state.arrays[f"{name}.exp_avg"], device=parameter.device),
            "exp_avg_sq": torch.tensor(state.arrays[f"{name}.exp_avg_sq"], device=parameter.device),
        }
