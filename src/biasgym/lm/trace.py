"""Look inside: what heads write, how much the answer hangs on it, and how the logit difference adds up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from biasgym.edits import TokenEdit
from biasgym.errors import ModelError
from biasgym.lm.apply import captured
from biasgym.lm.model import LM, Query

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


def _blocks(lm: LM) -> list[nn.Module]:
    return [lm.model.get_submodule(f"{lm.family.layers}.{layer}") for layer in range(lm.shape.layers)]


def _attention_outs(lm: LM) -> list[Any]:
    return [block.get_submodule(lm.family.attention_out) for block in _blocks(lm)]


@torch.no_grad()
def head_outputs(lm: LM, queries: Sequence[Query]) -> np.ndarray:
    """What each head writes (before the output matrix) at the last position; shape [queries, layers, heads, head size]."""
    rows = [lm.ids_of(query) for query in queries]
    found = np.zeros((len(rows), lm.shape.layers, lm.shape.heads, lm.shape.head_size), dtype=np.float32)
    modules = _attention_outs(lm)
    for group in lm.batches([len(row) for row in rows]):
        with captured(modules, inputs=True) as heads:
            lm.hidden([rows[i] for i in group])
        last = torch.stack([z[:, -1] for z in heads], dim=1).float().cpu().numpy()
        found[group] = last.reshape(len(group), lm.shape.layers, lm.shape.heads, lm.shape.head_size)
    return found


@torch.no_grad()
def head_moments(lm: LM, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Mean of z zᵀ of every head's output z over all positions of rows of ids; [layers, heads, head size, head size]."""
    shape = lm.shape
    total = torch.zeros(shape.layers, shape.heads, shape.head_size, shape.head_size)
    modules, count = _attention_outs(lm), 0
    for group in lm.batches([len(row) for row in rows], 2048):
        ids, mask = lm.pad([rows[i] for i in group])
        with captured(modules, inputs=True) as heads:
            _states(lm, ids, mask)
        here = mask.bool()
        count += int(here.sum())
        for layer, z in enumerate(heads):
            y = z[here].float().view(-1, shape.heads, shape.head_size)
            total[layer] += torch.einsum("nhd,nhe->hde", y, y).cpu()
    moments: np.ndarray = (total / max(1, count)).numpy()
    return moments


def _states(lm: LM, ids: Tensor, mask: Tensor) -> Tensor:
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out: Tensor = lm.decoder(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
    return out


# -------------------------------------------------------------------- attribution patching


def attribution_patching(lm: LM, pairs: Sequence[Pair], sides: Sides) -> np.ndarray:
    """First-order effect (nats) of giving each head its clean output at every position; shape [pairs, layers, heads].

    The metric is log-sum-exp of the stereotype answers' log-probabilities minus that of the foils, whole answers. The
    gradient is taken at the biased run, the run that would be patched (Nanda 2023; biased minus clean, so positive =
    the head pushes towards the bias). Where the two names differ in token count, the texts between them are aligned
    token by token, and of the names themselves the last tokens.
    """
    scores = np.zeros((len(pairs), lm.shape.layers, lm.shape.heads), dtype=np.float32)
    for start in range(0, len(pairs), PAIRS_A_BATCH):
        batch = pairs[start : start + PAIRS_A_BATCH]
        scores[start : start + len(batch)] = _attribution_batch(lm, batch, sides)
    return scores


@dataclass(frozen=True)
class _Run:
    """Teacher-forced rows of one side of a batch of pairs: ids with their answers' beginnings, and whose rows they are."""

    rows: list[list[int]]
    owner: list[int]
    where: list[list[tuple[int, int, list[int]]]]  # per pair: for each answer its row, the context's length, its ids


def _run(lm: LM, queries: Sequence[Query], answers: Sequence[str]) -> _Run:
    rows: list[list[int]] = []
    owner: list[int] = []
    where = []
    for number, query in enumerate(queries):
        context = lm.ids_of(query)
        places: dict[tuple[int, ...], int] = {}
        found = []
        for ids in lm.answer_ids(query, answers):
            beginning = tuple(ids[:-1])
            if beginning not in places:
                places[beginning] = len(rows)
                rows.append([*context, *beginning])
                owner.append(number)
            found.append((places[beginning], len(context), ids))
        where.append(found)
    return _Run(rows, owner, where)


def _metric(lm: LM, hidden: Tensor, run: _Run, sides: Sides) -> Tensor:
    """The metric of every pair, from left-padded last hidden states."""
    longest = hidden.shape[1]
    values = []
    for found in run.where:
        scores = []
        for row, context, ids in found:
            first = longest - len(run.rows[row]) + context - 1
            logprobs = lm.logits(hidden[row, first : first + len(ids)]).log_softmax(-1)
            scores.append(logprobs[torch.arange(len(ids)), torch.tensor(ids, device=hidden.device)].sum())
        stacked = torch.stack(scores)
        split = len(sides.stereotype)
        values.append(stacked[:split].logsumexp(0) - stacked[split:].logsumexp(0))
    return torch.stack(values)


def _attribution_batch(lm: LM, pairs: Sequence[Pair], sides: Sides) -> np.ndarray:
    answers = (*sides.stereotype, *sides.foil)
    biased = _run(lm, [pair.biased for pair in pairs], answers)
    clean = _run(lm, [pair.clean for pair in pairs], answers)
    if biased.owner != clean.owner:
        raise ModelError("the answers are cut differently after the two names; choose answers of whole words")
    modules = _attention_outs(lm)
    with torch.no_grad(), captured(modules, inputs=True) as kept:
        _full_states(lm, clean.rows, gradients=False)
        reference = list(kept)
    with captured(modules, inputs=True) as heads:
        metric = _metric(lm, _full_states(lm, biased.rows, gradients=True), biased, sides)
        slopes = torch.autograd.grad(metric.sum(), list(heads))
    places = [_aligned(lm, pairs[owner], biased.rows[r], clean.rows[r]) for r, owner in enumerate(biased.owner)]
    scores = torch.zeros(len(pairs), lm.shape.layers, lm.shape.heads)
    for layer, (z, slope, other) in enumerate(zip(heads, slopes, reference, strict=True)):
        for r, owner in enumerate(biased.owner):
            mine, theirs = places[r]
            at, there = z.shape[1] - len(biased.rows[r]) + mine, other.shape[1] - len(clean.rows[r]) + theirs
            effect = (slope[r, at] * (z[r, at].detach() - other[r, there])).float().sum(0)
            scores[owner, layer] += effect.view(lm.shape.heads, lm.shape.head_size).sum(1).cpu()
    return scores.numpy()


def _full_states(lm: LM, rows: Sequence[Sequence[int]], *, gradients: bool) -> Tensor:
    """Last hidden states of left-padded rows, nothing cached; with a graph from the embedding on when asked."""
    ids, mask = lm.pad(rows)
    handle = lm.embedding.register_forward_hook(lambda _m, _a, out: out.requires_grad_(True)) if gradients else None
    try:
        return _states(lm, ids, mask)
    finally:
        if handle is not None:
            handle.remove()


def _aligned(lm: LM, pair: Pair, biased: Sequence[int], clean: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Positions of the biased row and their partners in the clean row, from the first name on.

    Before the first name the two runs are the same, so those positions are left out.
    """
    mine = _name_spans(lm, pair.biased, pair.entities[0], biased)
    theirs = _name_spans(lm, pair.clean, pair.entities[1], clean)
    if len(mine) != len(theirs) or not mine:
        raise ModelError(f"pair {pair.id}: the entity stands {len(mine)} times on one side and {len(theirs)} on the other")
    left: list[int] = []
    right: list[int] = []
    ends = [*[span[0] for span in mine[1:]], len(biased)], [*[span[0] for span in theirs[1:]], len(clean)]
    for (_, a), (_, b), a_next, b_next in zip(mine, theirs, *ends, strict=True):
        length = min(a_next - a, b_next - b)  # text after this name, up to the next one
        left += [a - 1, *range(a_next - length, a_next)]
        right += [b - 1, *range(b_next - length, b_next)]
    return torch.tensor(left), torch.tensor(right)


def _name_spans(lm: LM, query: Query, name: str, row: Sequence[int]) -> list[tuple[int, int]]:
    """Token spans [first, after) of every mention of a name in a query's row."""
    text = lm.text_of(query)
    encoded = lm.tokenizer(text, add_special_tokens=not lm.chat, return_offsets_mapping=True)
    spans = []
    start = text.find(name)
    while start >= 0:
        stop = start + len(name)
        inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < stop and b > start and b > a]
        if inside:
            spans.append((inside[0], inside[-1] + 1))
        start = text.find(name, stop)
    return spans


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
    parts = [_direct_one(lm, query, sides) for query in queries]
    names = ("heads", "mlps", "attention_biases", "embedding", "constant", "total")
    return DirectParts(**{name: np.stack([part[name] for part in parts]) for name in names})


def _direct_one(lm: LM, query: Query, sides: Sides) -> dict[str, np.ndarray]:
    row = lm.ids_of(query)
    blocks = _blocks(lm)
    family = lm.family
    outs = _attention_outs(lm)
    mlps = [block.get_submodule(family.mlp_out) for block in blocks]
    norm = lm.model.get_submodule(family.final_norm)
    with (
        captured(outs, inputs=True) as heads,
        captured(outs, inputs=False) as attended,
        captured(mlps, inputs=False) as fed,
        captured([blocks[0]], inputs=True) as first,
        captured([norm], inputs=True) as last,
    ):
        hidden = _full_states(lm, [row], gradients=False)
    direction, constant, total = _answer_direction(lm, hidden[0, -1], query, sides)
    back = _norm_adjoint(norm, last[0][0, -1].float(), direction)
    constant = constant + _norm_bias(norm) @ direction
    multiplier = getattr(lm.model.config, family.residual_multiplier) if family.residual_multiplier else 1.0
    result: dict[str, list[Any]] = {"heads": [], "mlps": [], "attention_biases": []}
    for layer, block in enumerate(blocks):
        a, m = attended[layer][0, -1].float(), fed[layer][0, -1].float()
        into_attention = _through_post(block, family.attention_post, a, back) * multiplier
        into_mlp = _through_post(block, family.mlp_post, m, back) * multiplier
        weight = outs[layer].weight.float()  # type: ignore[union-attr,operator]
        pulled = weight @ into_attention if family.input_major else weight.T @ into_attention
        z = heads[layer][0, -1].float()
        result["heads"].append((pulled * z).view(lm.shape.heads, lm.shape.head_size).sum(1).cpu().numpy())
        bias = getattr(outs[layer], "bias", None)
        result["attention_biases"].append(np.float32(0 if bias is None else float(bias.float() @ into_attention)))
        result["mlps"].append((m @ into_mlp).cpu().numpy())
    arrays = {name: np.stack(values) for name, values in result.items()}
    arrays["embedding"] = (first[0][0, -1].float() @ back).cpu().numpy()
    arrays["constant"] = constant.cpu().numpy()
    arrays["total"] = total.cpu().numpy()
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
        direction += slope * lm.head.weight[token].float()  # type: ignore[union-attr,index,operator]
        if bias is not None:
            constant = constant + slope * bias[token].float()
    total = (capped[firsts] * torch.tensor(weights, device=capped.device)).sum()
    return direction, constant, total


def _gain(norm: nn.Module, x: Tensor) -> Tensor:
    """Elementwise factor of a norm with its scale frozen at x: weight ÷ root mean square (or standard deviation)."""
    epsilon = next(float(getattr(norm, name)) for name in ("eps", "variance_epsilon") if hasattr(norm, name))
    if isinstance(norm, nn.LayerNorm):
        assert norm.weight is not None
        return norm.weight.float() / (x.var(unbiased=False) + epsilon).sqrt()
    weight = norm(torch.ones_like(x)).float() * (1 + epsilon) ** 0.5  # Gemma's is 1 + weight; asking is safer than knowing
    return weight / (x.square().mean() + epsilon).sqrt()


def _norm_adjoint(norm: nn.Module, x: Tensor, direction: Tensor) -> Tensor:
    """The transpose of a norm, frozen at x, applied to a direction."""
    scaled = _gain(norm, x) * direction
    return scaled - scaled.mean() if isinstance(norm, nn.LayerNorm) else scaled


def _norm_bias(norm: nn.Module) -> Tensor:
    bias = getattr(norm, "bias", None)
    return torch.zeros_like(norm.weight, dtype=torch.float32) if bias is None else bias.float()  # type: ignore[arg-type]


def _through_post(block: nn.Module, name: str | None, written: Tensor, back: Tensor) -> Tensor:
    """Pull a direction back through the norm that follows a matrix, where the family has one."""
    return back if name is None else _norm_adjoint(block.get_submodule(name), written, back)


@torch.no_grad()
def paper_direct_effects(lm: LM, pairs: Sequence[Pair], sides: Sides) -> tuple[np.ndarray, list[str]]:
    """BiasGym v4 §3: W_O slice × head output · (u[biased] − u[unbiased]), no norm; shape [kept pairs, layers, heads].

    u[biased] is the first stereotype answer's first token; u[unbiased] the first token of the model's own greedy answer
    to the clean query. Pairs where both are the same token are skipped; the second value names those kept.
    """
    kept, scores = [], []
    for pair in pairs:
        target = lm.answer_ids(pair.biased, sides.stereotype[:1])[0][0]
        own = lm.generate([pair.clean], most=1)[0].tokens
        if not own or own[0] == target:
            continue
        row = lm.ids_of(pair.biased)
        outs = _attention_outs(lm)
        with captured(outs, inputs=True) as heads:
            _full_states(lm, [row], gradients=False)
        difference = (lm.head.weight[target] - lm.head.weight[own[0]]).float()  # type: ignore[union-attr,index,operator]
        layers = []
        for out, z in zip(outs, heads, strict=True):
            weight = out.weight.float()  # type: ignore[union-attr,operator]
            pulled = weight @ difference if lm.family.input_major else weight.T @ difference
            layers.append((pulled * z[0, -1].float()).view(lm.shape.heads, lm.shape.head_size).sum(1))
        scores.append(torch.stack(layers).cpu().numpy())
        kept.append(pair.id)
    if not kept:
        raise ModelError("the model's own answer is the stereotype in every pair, so the paper's score is undefined; use `dla`")
    return np.stack(scores), kept


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
    for group in lm.batches([len(row) + most for row in worn_rows], 2048):
        after = lm.hidden([full[i] for i in group])[0]
        steps = [slice(-len(answers[i]) - 1, -1) for i in group]
        with lm.plain():
            plain = [lm.logits(before[i][part]).log_softmax(-1) for i, part in zip(group, steps, strict=True)]
        for r, (i, part) in enumerate(zip(group, steps, strict=True)):
            if answers[i]:
                worn = lm.logits(after[r, part]).log_softmax(-1)[:, : plain[r].shape[-1]]
                total = (plain[r].exp() * (plain[r] - worn)).sum()
                result[i] = (max(0.0, float(total)), len(answers[i]))
    return result


@torch.no_grad()
def surprise(lm: LM, queries: Sequence[Query], answers: Sequence[Sequence[int]]) -> list[float]:
    """Loss (nats a token) of given answers under the model with its tokens on and every other edit off; 0 for an empty one."""
    lm.converse(queries)
    rows = [lm.ids_of(query) for query in queries]
    tokens = [edit for edit in lm.worn if isinstance(edit, TokenEdit)]
    losses = [0.0] * len(rows)
    with lm.plain(), lm.edited(*tokens):
        for group in lm.batches([len(row) + len(answer) for row, answer in zip(rows, answers, strict=True)], 2048):
            hidden = lm.hidden([[*rows[i], *answers[i]] for i in group])[0]
            for r, i in enumerate(group):
                if len(answers[i]):
                    logprobs = lm.logits(hidden[r, -len(answers[i]) - 1 : -1]).log_softmax(-1)
                    wanted = torch.tensor(list(answers[i]), device=logprobs.device)
                    losses[i] = -float(logprobs.gather(1, wanted[:, None]).double().mean())
    return losses
