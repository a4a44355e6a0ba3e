"""Which outputs of the linear maps push an answer: activation × gradient, after CRISPR; and how they are pruned, reversibly."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from biasgym.edits import WeightEdit
from biasgym.errors import SpecError
from biasgym.lm.finetune import matrices
from biasgym.lm.model import LM, Query

QUERIES_A_BATCH = 8


@dataclass(frozen=True)
class Confusion:
    """A query with the answers that would be wrong and those that would be right; `group` names its instruction."""

    query: Query
    wrong: tuple[str, ...]
    right: tuple[str, ...]
    group: str = ""


@dataclass(frozen=True)
class Neuron:
    """One output of a linear map: the map's name in the model, and the output's number."""

    matrix: str
    index: int


def bias_scores(lm: LM, items: Sequence[Confusion]) -> dict[str, np.ndarray]:
    """CRISPR's score of every output of every linear map in the layers, [outputs] by the map's name; high = biased.

    ŷ is an item's most probable wrong answer, y its most probable right one. The attribution of an output for an answer
    is activation × gradient of the answer's log-probability, the largest over the real positions of prompt and answer but
    the very first.
    Both are weighted by P(ŷ) among all answers and summed over a group; the sum for y, where positive, is skill and is
    taken off. Then the mean over groups (Yang et al. 2023, arXiv 2311.09627 §3, and their code).
    """
    if not items:
        raise SpecError("there is no question to find biased neurons with")
    groups = list(dict.fromkeys(item.group for item in items))
    total: dict[str, np.ndarray] = {}
    for group in groups:
        mine = [item for item in items if item.group == group]
        towards, skill = _sums(lm, mine)
        for name, values in towards.items():
            total[name] = total.get(name, 0.0) + (values - np.maximum(skill[name], 0.0)) / len(groups)
    return total


def _sums(lm: LM, items: Sequence[Confusion]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Σ P(ŷ)·attribution, for ŷ and for y."""
    chosen = [_choice(lm, item) for item in items]
    sums = []
    for side in (0, 1):
        total: dict[str, np.ndarray] = {}
        for start in range(0, len(items), QUERIES_A_BATCH):
            part = chosen[start : start + QUERIES_A_BATCH]
            found = attributions(lm, [(one.context, one.answers[side]) for one in part])
            weights = np.array([one.confusion for one in part])
            for name, values in found.items():
                total[name] = total.get(name, 0.0) + weights @ values
        sums.append(total)
    return sums[0], sums[1]


@dataclass(frozen=True)
class _Choice:
    context: list[int]
    answers: tuple[list[int], list[int]]
    confusion: float


def _choice(lm: LM, item: Confusion) -> _Choice:
    answers = [*item.wrong, *item.right]
    scores = lm.answer_logprobs([item.query], answers)[0]
    shares = np.exp(scores - np.logaddexp.reduce(scores))
    ids = lm.answer_ids(item.query, answers)
    wrong = int(scores[: len(item.wrong)].argmax())
    right = len(item.wrong) + int(scores[len(item.wrong) :].argmax())
    return _Choice(lm.ids_of(item.query), (ids[wrong], ids[right]), float(shares[wrong]))


def attributions(lm: LM, rows: Sequence[tuple[list[int], list[int]]]) -> dict[str, np.ndarray]:
    """For each row (context, answer) and output: the largest activation × gradient over real positions; [rows, outputs].

    The very first position is left out: decoders park attention there, with activations hundreds of times larger than
    anywhere else, which would win every maximum (the paper's models are encoder-decoders and have no such place).
    """
    names = matrices(lm)
    ids, mask = lm.pad([[*context, *answer] for context, answer in rows])
    counted = mask * (mask.cumsum(1) > 1)
    with torch.enable_grad(), _outputs(lm, names) as outputs:
        hidden = lm._states(ids, mask)
        total = torch.stack([_answer_logprob(lm, hidden[r], answer) for r, (_, answer) in enumerate(rows)]).sum()
        gradients = torch.autograd.grad(total, [outputs[name] for name in names], allow_unused=True)
    found = {}
    for name, gradient in zip(names, gradients, strict=True):
        output = outputs[name].detach()
        pushed = torch.zeros_like(output) if gradient is None else output * gradient
        pushed = pushed.masked_fill(counted[..., None] == 0, -torch.inf)  # nor must padding win the maximum
        found[name] = pushed.amax(1).double().cpu().numpy()
    return found


def _answer_logprob(lm: LM, hidden: Tensor, answer: Sequence[int]) -> Tensor:
    logprobs = lm.logits(hidden[-len(answer) - 1 : -1]).log_softmax(-1)
    return logprobs[torch.arange(len(answer)), torch.tensor(list(answer), device=hidden.device)].sum()


@contextmanager
def _outputs(lm: LM, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The output of each map as a tensor that a gradient can be taken for."""
    seen: dict[str, Tensor] = {}
    handles = []

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            seen[name] = output if output.requires_grad else output.requires_grad_()
            return seen[name]

        return hook

    try:
        for name in names:
            handles.append(lm.model.get_submodule(name).register_forward_hook(keep(name)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def strongest(scores: dict[str, np.ndarray], count: int) -> list[Neuron]:
    """The outputs with the highest scores, the first ones among equals."""
    places = [(name, index) for name, values in scores.items() for index in range(len(values))]
    flat = np.concatenate(list(scores.values()))
    if not 0 <= count <= len(flat):
        raise SpecError(f"{count} neurons were asked; the layers have {len(flat)} outputs of linear maps")
    return [Neuron(*places[int(i)]) for i in np.argsort(-flat, kind="stable")[:count]]


def random_neurons(scores: dict[str, np.ndarray], count: int, seed: int) -> list[Neuron]:
    """As many outputs drawn evenly: the sham of equal number."""
    places = [(name, index) for name, values in scores.items() for index in range(len(values))]
    chosen = np.random.default_rng(seed).choice(len(places), size=count, replace=False)
    return [Neuron(*places[int(i)]) for i in chosen]


def pruned(lm: LM, neurons: Sequence[Neuron], share: float = 1.0) -> tuple[WeightEdit, ...]:
    """Edits that take the share of each output's weights, and of its bias, off: with share 1 it is 0 for every input.

    One row a neuron in the orientation of a linear map; the rank of an edit is the number of its neurons.
    """
    lm.check_unpacked()
    edits = []
    for matrix in dict.fromkeys(neuron.matrix for neuron in neurons):
        indices = sorted({neuron.index for neuron in neurons if neuron.matrix == matrix})
        weight = lm.model.get_parameter(f"{matrix}.weight").detach().float().cpu().numpy()
        rows = weight.T if lm.family.input_major else weight
        chosen = np.eye(len(rows), dtype=np.float32)[:, indices]
        taken = -np.float32(share) * rows[indices]
        pair = (taken.T, chosen.T) if lm.family.input_major else (chosen, taken)
        edits.append(WeightEdit(f"{matrix}.weight", *(np.ascontiguousarray(part) for part in pair)))
        module = lm.model.get_submodule(matrix)
        if getattr(module, "bias", None) is not None:
            bias = lm.model.get_parameter(f"{matrix}.bias").detach().float().cpu().numpy().copy()
            bias[indices] *= np.float32(1 - share)
            edits.append(WeightEdit(f"{matrix}.bias", dense=bias))
    return tuple(edits)
