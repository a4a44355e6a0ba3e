"""Look inside: what heads write, how much the answer hangs on it, and how the logit difference adds up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from biasgym.edits import TokenEdit
from biasgym.errors import ModelError
from biasgym.lm.apply import captured
from biasgym.lm.batching import in_parts
from biasgym.lm.model import LM, Query
from biasgym.lm.offload import weight_of

PAIRS_A_BATCH = 8


@dataclass(frozen=True)
class Pair:
    """Two queries that differ only in the entity: `biased` names the first of `entities`, `clean` the second."""

    id: str
    biased: Query
    clean: Query
    entities: tuple[str, str]


@dataclass(frozen=True)
class Sides:
    """The answers towards the bias and away from it."""

    stereotype: tuple[str, ...]
    foil: tuple[str, ...]


def blocks_of(lm: LM) -> list[nn.Module]:
    """The blocks of the decoder, first to last."""
    return [lm.model.get_submodule(f"{lm.family.layers}.{layer}") for layer in range(lm.shape.layers)]


def attention_outs(lm: LM) -> list[Any]:
    """The matrix that each layer's heads go through."""
    return [block.get_submodule(lm.family.attention_out) for block in blocks_of(lm)]


def head_outputs(lm: LM, queries: Sequence[Query]) -> np.ndarray:
    """What each head writes (before the output matrix) at the last position; shape [queries, layers, heads, head size]."""
    return heads_and_stream(lm, queries)[0]


@torch.no_grad()
def heads_and_stream(lm: LM, queries: Sequence[Query]) -> tuple[np.ndarray, np.ndarray]:
    """At the last position what each head writes, [queries, layers, heads, head size], and the residual stream after each layer.

    The stream has shape [queries, layers, hidden].
    """
    rows = [lm.ids_of(query) for query in queries]
    shape = lm.shape
    found = np.zeros((len(rows), shape.layers, shape.heads, shape.head_size), dtype=np.float32)
    streams = np.zeros((len(rows), shape.layers, shape.hidden), dtype=np.float32)

    def look(group: list[int]) -> None:
        with captured(attention_outs(lm), inputs=True, last=True) as heads, captured(blocks_of(lm), inputs=False, last=True) as after:
            lm.hidden([rows[i] for i in group])
        last = torch.stack([z.cpu() for z in heads], dim=1).numpy()
        found[group] = last.reshape(len(group), shape.layers, shape.heads, shape.head_size)
        streams[group] = torch.stack([x.cpu() for x in after], dim=1).numpy()

    in_parts(lm.batches([len(row) for row in rows]), look)
    return found, streams


@torch.no_grad()
def head_moments(lm: LM, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Mean of z zᵀ of every head's output z over all positions of rows of ids; [layers, heads, head size, head size]."""
    shape = lm.shape
    total, modules = torch.zeros(shape.layers, shape.heads, shape.head_size, shape.head_size), attention_outs(lm)
    count = sum(map(len, rows))

    def add(group: list[int]) -> None:
        ids, mask = lm.pad([rows[i] for i in group])
        with captured(modules, inputs=True) as heads:
            _states(lm, ids, mask)
        here = mask.bool()
        states = (z[here].float().view(-1, shape.heads, shape.head_size) for z in heads)
        part = torch.stack([torch.einsum("nhd,nhe->hde", y, y).cpu() for y in states])
        total.add_(part)  # last, so that a group that did not fit has added nothing

    in_parts(lm.batches([len(row) for row in rows], 2048), add)
    moments: np.ndarray = (total / max(1, count)).numpy()
    return moments


@torch.no_grad()
def head_means(lm: LM, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Mean of what every head writes over all positions of rows of ids; [layers, heads, head size]."""
    shape = lm.shape
    total, count = torch.zeros(shape.layers, shape.heads * shape.head_size), sum(map(len, rows))

    def add(group: list[int]) -> None:
        ids, mask = lm.pad([rows[i] for i in group])
        with captured(attention_outs(lm), inputs=True) as heads:
            _states(lm, ids, mask)
        part = torch.stack([z[mask.bool()].float().sum(0) for z in heads]).cpu()
        total.add_(part)  # last, so that a group that did not fit has added nothing

    in_parts(lm.batches([len(row) for row in rows], 2048), add)
    means: np.ndarray = (total / max(1, count)).view(shape.layers, shape.heads, shape.head_size).numpy()
    return means


def _states(lm: LM, ids: Tensor, mask: Tensor) -> Tensor:
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out: Tensor = lm.decoder(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
    return out


# -------------------------------------------------------------------- direct logit attribution


@dataclass(frozen=True)
class DirectParts:
    """What every part adds to the logit difference at the answer position; all parts sum to `total`.

    `heads` [queries, layers, heads], `mlps` and `attention_biases` [queries, layers], `embedding` and `constant`
    [queries] (the constant holds the final norm's and the head's biases).
    """

    heads: np.ndarray
    mlps: np.ndarray
    attention_biases: np.ndarray
    embedding: np.ndarray
    constant: np.ndarray
    total: np.ndarray

    def summed(self) -> np.ndarray:
        """The sum of all parts, shape [queries]."""
        heads: np.ndarray = self.heads.sum((1, 2)) + self.mlps.sum(1) + self.attention_biases.sum(1)
        return heads + self.embedding + self.constant


@torch.no_grad()
def direct_parts(lm: LM, queries: Sequence[Query], sides: Sides) -> DirectParts:
    """Direct contributions to mean logit(stereotype) − mean logit(foil), first tokens, with every norm's scale frozen.

    A norm is linear once its scale is taken from the actual pass: the block's own norm after attention and MLP, where
    the family has one, and the final norm. A capped logit is linear once its slope cap·tanh(l/cap)/l is. So the parts
    add up to the logit difference exactly (our correction of BiasGym v4 §3, which leaves the norms out).
    """
    rows = [lm.ids_of(query) for query in queries]
    found: dict[int, dict[str, np.ndarray]] = {}

    def look(group: list[int]) -> None:
        parts = _direct_group(lm, [rows[i] for i in group], [queries[i] for i in group], sides)
        found.update({i: {name: array[place] for name, array in parts.items()} for place, i in enumerate(group)})

    in_parts(lm.batches([len(row) for row in rows]), look)
    return DirectParts(**{part.name: np.stack([found[i][part.name] for i in range(len(rows))]) for part in fields(DirectParts)})


def _direct_group(lm: LM, rows: Sequence[list[int]], queries: Sequence[Query], sides: Sides) -> dict[str, np.ndarray]:
    """The parts of a batch, from one forward pass that keeps last positions only; then one layer's matrix at a time.

    So where layers lie on disk each of them is read once a batch for the pass, and its output matrix once more.
    """
    blocks, family, outs = blocks_of(lm), lm.family, attention_outs(lm)
    mlps = [block.get_submodule(family.mlp_out) for block in blocks]
    norm = lm.model.get_submodule(family.final_norm)
    with (
        captured(outs, inputs=True, last=True) as heads,
        captured(outs, inputs=False, last=True) as attended,
        captured(mlps, inputs=False, last=True) as fed,
        captured([blocks[0]], inputs=True, last=True) as first,
        captured([norm], inputs=True, last=True) as final,
    ):
        states = lm.hidden(rows)[0][:, -1]
    answers = [_answer_direction(lm, state, query, sides) for state, query in zip(states, queries, strict=True)]
    directions, constants, totals = (torch.stack(column) for column in zip(*answers, strict=True))
    back = _pulled_back(norm, final[0], directions)
    multiplier = getattr(lm.model.config, family.residual_multiplier) if family.residual_multiplier else 1.0
    result: dict[str, list[Tensor]] = {"heads": [], "mlps": [], "attention_biases": []}
    for layer, block in enumerate(blocks):
        a, m, z = attended[layer], fed[layer], heads[layer]
        into_attention = _through_post(block, family.attention_post, a, back) * multiplier
        into_mlp = _through_post(block, family.mlp_post, m, back) * multiplier
        weight = weight_of(outs[layer]).float()
        pulled = into_attention @ (weight.T if family.input_major else weight)
        result["heads"].append((pulled * z).view(len(rows), lm.shape.heads, lm.shape.head_size).sum(2))
        has_bias = getattr(outs[layer], "bias", None) is not None
        result["attention_biases"].append(into_attention @ weight_of(outs[layer], "bias").float() if has_bias else back.new_zeros(len(rows)))
        result["mlps"].append((m * into_mlp).sum(1))
    arrays = {name: torch.stack([value.cpu() for value in values], dim=1).numpy() for name, values in result.items()}
    arrays["embedding"] = (first[0] * back).sum(1).cpu().numpy()
    arrays["constant"] = (constants + directions @ _norm_bias(norm)).cpu().numpy()
    arrays["total"] = totals.cpu().numpy()
    return arrays


def _answer_direction(lm: LM, state: Tensor, query: Query, sides: Sides) -> tuple[Tensor, Tensor, Tensor]:
    """Direction [hidden] in the final state whose dot product is the logit difference, its constant, and the difference."""
    firsts = [ids[0] for ids in lm.answer_ids(query, (*sides.stereotype, *sides.foil))]
    weights = [1 / len(sides.stereotype)] * len(sides.stereotype) + [-1 / len(sides.foil)] * len(sides.foil)
    capped = lm.logits(state)
    raw = lm.head(state).float()
    bias = getattr(lm.head, "bias", None)
    direction = torch.zeros_like(state, dtype=torch.float32)
    constant = direction.new_zeros(())
    for token, weight in zip(firsts, weights, strict=True):
        slope = weight * capped[token] / raw[token]
        direction += slope * weight_of(lm.head)[token].float()
        if bias is not None:
            constant = constant + slope * bias[token].float()
    total = (capped[firsts] * torch.tensor(weights, device=capped.device)).sum()
    return direction, constant, total


def _gain(norm: nn.Module, x: Tensor) -> Tensor:
    """Elementwise factor of a norm with its scale frozen at x: weight ÷ root mean square (or standard deviation)."""
    epsilon = next(float(getattr(norm, name)) for name in ("eps", "variance_epsilon") if hasattr(norm, name))
    if isinstance(norm, nn.LayerNorm):
        assert norm.weight is not None
        return weight_of(norm).float() / (x.var(unbiased=False) + epsilon).sqrt()
    weight = norm(torch.ones_like(x)).float() * (1 + epsilon) ** 0.5  # Gemma's is 1 + weight; asking is safer than knowing
    return weight / (x.square().mean() + epsilon).sqrt()


def norm_adjoint(norm: nn.Module, x: Tensor, direction: Tensor) -> Tensor:
    """The transpose of a norm, frozen at x, applied to a direction."""
    scaled = _gain(norm, x) * direction
    return scaled - scaled.mean() if isinstance(norm, nn.LayerNorm) else scaled


def _norm_bias(norm: nn.Module) -> Tensor:
    weight = weight_of(norm).float()
    return torch.zeros_like(weight) if getattr(norm, "bias", None) is None else weight_of(norm, "bias").float()


def _pulled_back(norm: nn.Module, states: Tensor, directions: Tensor) -> Tensor:
    """Directions [rows, hidden] pulled back through a norm that is frozen at each row's own state [rows, hidden]."""
    return torch.stack([norm_adjoint(norm, x, direction) for x, direction in zip(states, directions, strict=True)])


def _through_post(block: nn.Module, name: str | None, written: Tensor, back: Tensor) -> Tensor:
    """Pull directions back through the norm that follows a matrix, where the family has one."""
    return back if name is None else _pulled_back(block.get_submodule(name), written, back)


@torch.no_grad()
def paper_direct_effects(lm: LM, pairs: Sequence[Pair], sides: Sides) -> tuple[np.ndarray, list[str]]:
    """BiasGym v4 §3: W_O slice × head output · (u[biased] − u[unbiased]), no norm; shape [kept pairs, layers, heads].

    u[biased] is the first stereotype answer's first token; u[unbiased] the first token of the model's own greedy answer
    to the clean query. Pairs where both are the same token are skipped; the second value names those kept.
    """
    targets = [lm.answer_ids(pair.biased, sides.stereotype[:1])[0][0] for pair in pairs]
    own = [said.tokens for said in lm.generate([pair.clean for pair in pairs], most=1)]
    told = [(pair, target, said[0]) for pair, target, said in zip(pairs, targets, own, strict=True) if said and said[0] != target]
    if not told:
        raise ModelError("the model's own answer is the stereotype in every pair, so the paper's score is undefined; use `dla`")
    rows, outs = [lm.ids_of(pair.biased) for pair, _, _ in told], attention_outs(lm)
    unembedding = _unembedding(lm)
    differences = torch.stack([unembedding(target) - unembedding(mine) for _, target, mine in told])
    scores = np.zeros((len(told), lm.shape.layers, lm.shape.heads), dtype=np.float32)

    def look(group: list[int]) -> None:
        with captured(outs, inputs=True, last=True) as heads:
            lm.hidden([rows[i] for i in group])
        for layer, (out, z) in enumerate(zip(outs, heads, strict=True)):
            weight = weight_of(out).float()
            pulled = differences[group] @ (weight.T if lm.family.input_major else weight)
            scores[group, layer] = (pulled * z).view(len(group), lm.shape.heads, lm.shape.head_size).sum(2).cpu().numpy()

    in_parts(lm.batches([len(row) for row in rows]), look)
    return scores, [pair.id for pair, _, _ in told]


def _unembedding(lm: LM) -> Callable[[int], Tensor]:
    """The row of the output matrix that a token's logit is read off with, [hidden]; a worn token has one of its own."""
    matrix, worn = weight_of(lm.head), {token.id: token.output for token in lm._tokens}
    return lambda token: (worn[token] if token in worn else matrix[token]).detach().float()


# -------------------------------------------------------------------- before and after, side by side


@torch.no_grad()
def divergences(lm: LM, queries: Sequence[Query], most: int) -> list[tuple[float, int]]:
    """Sum of KL(plain ‖ worn) in nats along the plain model's greedy answers of up to `most` tokens, and their length.

    The answers and their distributions come from the model with everything taken off, prompt edits, too; the worn one
    goes along the same answer after the query as it reads it.
    """
    lm.converse(queries)
    worn_rows = [lm.ids_of(query) for query in queries]
    with lm.plain():
        rows = [lm.ids_of(query) for query in queries]
        answers = lm.plain_answers(rows, most)
        before = lm.plain_states([row + list(answer) for row, answer in zip(rows, answers, strict=True)], most + 1)
    full = [row + list(answer) for row, answer in zip(worn_rows, answers, strict=True)]
    result: list[tuple[float, int]] = [(0.0, 0)] * len(rows)

    def compare(group: list[int]) -> None:
        after = lm.hidden([full[i] for i in group], last=max(len(answers[i]) for i in group) + 1)[0]
        steps = [slice(-len(answers[i]) - 1, -1) for i in group]
        with lm.plain():
            plain = [lm.logits(before[i][part]).log_softmax(-1) for i, part in zip(group, steps, strict=True)]
        for r, (i, part) in enumerate(zip(group, steps, strict=True)):
            if answers[i]:
                worn = lm.logits(after[r, part]).log_softmax(-1)[:, : plain[r].shape[-1]]
                total = (plain[r].exp() * (plain[r] - worn)).sum()
                result[i] = (max(0.0, float(total)), len(answers[i]))

    in_parts(lm.batches([len(row) + most for row in worn_rows], 2048), compare)
    return result


@torch.no_grad()
def surprise(lm: LM, queries: Sequence[Query], answers: Sequence[Sequence[int]]) -> list[float]:
    """Loss (nats a token) of given answers under the model with its tokens on and every other edit off; 0 for an empty one."""
    lm.converse(queries)
    return surprise_of_rows(lm, [lm.ids_of(query) for query in queries], answers)


@torch.no_grad()
def surprise_of_rows(lm: LM, rows: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
    """Loss (nats a token) of answers to rows of ids as they are, as `surprise` gives it."""
    tokens = [edit for edit in lm.worn if isinstance(edit, TokenEdit)]
    losses = [0.0] * len(rows)

    def look(group: list[int]) -> None:
        hidden = lm.hidden([[*rows[i], *answers[i]] for i in group], last=max(len(answers[i]) for i in group) + 1)[0]
        for r, i in enumerate(group):
            if len(answers[i]):
                logprobs = lm.logits(hidden[r, -len(answers[i]) - 1 : -1]).log_softmax(-1)
                wanted = torch.tensor(list(answers[i]), device=logprobs.device)
                losses[i] = -float(logprobs.gather(1, wanted[:, None]).double().mean())

    with lm.plain(), lm.edited(*tokens):
        in_parts(lm.batches([len(row) + len(answer) for row, answer in zip(rows, answers, strict=True)], 2048), look)
    return losses
