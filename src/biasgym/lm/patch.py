"""What the lean loses when places are given other values: by patching, by ablation, and to first order by gradients."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from biasgym.errors import ModelError, SpecError
from biasgym.lm.apply import captured
from biasgym.lm.batching import in_parts
from biasgym.lm.model import LM, Query
from biasgym.lm.resume import Pass, full_pass, pack
from biasgym.lm.trace import PAIRS_A_BATCH, Pair, Sides, attention_outs, blocks_of
from biasgym.sites import Unit

TOKENS_A_CHUNK = 576  # more rows at once do not fit a processor's cache and are slower
Positions = Literal["all", "entity", "answer"]
How = Literal["zero", "mean", "resample"]


# -------------------------------------------------------------------- pairs as two passes


@dataclass(frozen=True)
class _Twins:
    """The two passes of a batch of pairs and which of their columns stand for each other.

    `at` [pairs, S] says which columns of the biased rows are exchanged, `partner` [pairs, S] the column of the clean row.
    """

    biased: Pass
    clean: Pass
    at: Tensor
    partner: Tensor

    def clean_values(self, kept: Tensor) -> Tensor:
        """Values of the clean pass [pairs, S', n] moved to the biased pass's columns [pairs, S, n]."""
        rows = torch.arange(len(self.partner), device=kept.device)[:, None]
        return kept[rows, self.partner]


def _twins(lm: LM, pairs: Sequence[Pair], sides: Sides, positions: Positions, *, share: bool, gradients: bool, modules: "_Modules") -> _Twins:
    answers = (*sides.stereotype, *sides.foil)
    lines = [aligned(lm, pair) for pair in pairs]
    passes: list[Pass] = []
    for side, queries in enumerate(([pair.clean for pair in pairs], [pair.biased for pair in pairs])):
        contexts = [len(lm.ids_of(query)) for query in queries]
        first = [line[1 - side][0] for line in lines]
        starts = _starts(contexts, first, positions) if share else [0] * len(pairs)
        with captured(modules.places, inputs=modules.inputs) as kept:
            passes.append(full_pass(lm, pack(lm, queries, answers, starts), gradients=gradients and side == 1))
        modules.kept.append(list(kept))
    clean, biased = passes
    if biased.packed.tails != clean.packed.tails:
        raise ModelError("the answers are cut differently after the two names; choose answers of whole words")
    at = torch.zeros(biased.packed.ids.shape, dtype=torch.bool)
    partner = torch.zeros(biased.packed.ids.shape, dtype=torch.long)
    for r, (mine, theirs) in enumerate(lines):
        ends = biased.packed.contexts[r], clean.packed.contexts[r]
        tails = range(len(biased.packed.tails[r]))
        left = [*mine, *(ends[0] + t for t in tails)]
        right = [*theirs, *(ends[1] + t for t in tails)]
        chosen = [i for i, a in enumerate(left) if positions != "answer" or a >= ends[0] - 1]
        columns = torch.tensor([left[i] - biased.packed.starts[r] for i in chosen])
        at[r, columns] = True
        partner[r, columns] = torch.tensor([right[i] - clean.packed.starts[r] for i in chosen])
    return _Twins(biased, clean, at.to(lm.device), partner.to(lm.device))


def _starts(contexts: Sequence[int], first: Sequence[int], positions: Positions) -> list[int]:
    if positions == "all":
        return [0] * len(contexts)
    return list(first) if positions == "entity" else [length - 1 for length in contexts]


def aligned(lm: LM, pair: Pair) -> tuple[list[int], list[int]]:
    """Positions of the biased query and their partners in the clean one, from the first name on.

    The texts after a name are aligned from their ends, token by token; of the names themselves the last tokens. Before
    the first name the two runs are the same, so those positions are left out.
    """
    mine = _name_spans(lm, pair.biased, pair.entities[0])
    theirs = _name_spans(lm, pair.clean, pair.entities[1])
    if len(mine) != len(theirs) or not mine:
        raise ModelError(f"pair {pair.id}: the entity stands {len(mine)} times on one side and {len(theirs)} on the other")
    left: list[int] = []
    right: list[int] = []
    lengths = len(lm.ids_of(pair.biased)), len(lm.ids_of(pair.clean))
    ends = [*[span[0] for span in mine[1:]], lengths[0]], [*[span[0] for span in theirs[1:]], lengths[1]]
    for (_, a), (_, b), a_next, b_next in zip(mine, theirs, *ends, strict=True):
        length = min(a_next - a, b_next - b)  # text after this name, up to the next one
        left += [a - 1, *range(a_next - length, a_next)]
        right += [b - 1, *range(b_next - length, b_next)]
    return left, right


def _name_spans(lm: LM, query: Query, name: str) -> list[tuple[int, int]]:
    """Token spans [first, after) of every mention of a name in a query."""
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


# -------------------------------------------------------------------- exact: one head at a time, resumed


@torch.no_grad()
def activation_patching(lm: LM, pairs: Sequence[Pair], sides: Sides, *, positions: Positions = "entity", share: bool = True) -> np.ndarray:
    """What the lean loses (nats) when a head is given its clean output, exactly; shape [pairs, layers, heads].

    metric(biased) − metric(biased with that one head's output taken from the clean run): positive = the head pushes
    towards the bias. `positions`: every position from the first name on (`entity`, the same as all), or only where an
    answer's tokens are read off (`answer`). After Vig et al. 2020 (arXiv 2004.12265) and Wang et al. 2022 (arXiv
    2211.00593). `share=False` computes the positions before the name with every head, for comparison.
    """
    scores = []
    for batch in _batches(pairs):
        twins = _twins(lm, batch, sides, positions, share=share, gradients=False, modules=_Modules([], inputs=True))
        scores.append(_exchanged(twins.biased, [twins.clean_values(z) for z in twins.clean.heads], twins.at, sides))
    return np.concatenate(scores)


@torch.no_grad()
def ablation(
    lm: LM, pairs: Sequence[Pair], sides: Sides, *, how: How = "mean", positions: Positions = "entity", means: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """What the lean of the biased query loses (nats) when a head is silenced; shape [pairs, layers, heads].

    metric(biased) − metric(biased with that one head replaced). `zero` writes nothing; `mean` writes the head's mean
    over the clean queries of the pairs given, at the same kind of positions, or the given `means` [layers, heads, head
    size]; `resample` writes at each position what the head wrote at one drawn from those, the same draw for all heads.
    """
    scores = []
    for number, batch in enumerate(_batches(pairs)):
        twins = _twins(lm, batch, sides, positions, share=True, gradients=False, modules=_Modules([], inputs=True))
        at = _from_name(twins.biased, [aligned(lm, pair)[0][0] for pair in batch]) if positions == "entity" else twins.at
        at = twins.biased.packed.real.to(lm.device) if positions == "all" else at
        real = twins.clean.packed.real.to(lm.device)
        if positions == "entity":
            real = _from_name(twins.clean, [aligned(lm, pair)[1][0] for pair in batch])
        draw = torch.from_numpy(np.random.default_rng([seed, number]).integers(int(real.sum()), size=tuple(at.shape)))
        values = []
        for layer, (mine, theirs) in enumerate(zip(twins.biased.heads, twins.clean.heads, strict=True)):
            if how == "zero":
                values.append(torch.zeros_like(mine))
            elif how == "resample":
                values.append(theirs[real][draw.to(lm.device)])
            else:
                middle = theirs[real].mean(0) if means is None else torch.from_numpy(means[layer]).flatten().to(mine)
                values.append(middle.expand_as(mine))
        scores.append(_exchanged(twins.biased, values, at, sides))
    return np.concatenate(scores)


def _from_name(begun: Pass, first: Sequence[int]) -> Tensor:
    """The columns [rows, S] that hold a token at or behind a row's first position."""
    packed = begun.packed
    return packed.real.to(packed.ids.device) & (packed.positions >= torch.tensor(first, device=packed.ids.device)[:, None])


def _exchanged(begun: Pass, values: Sequence[Tensor], at: Tensor, sides: Sides) -> np.ndarray:
    """metric − metric with one head's values exchanged at some columns, every layer and head; [rows, layers, heads]."""
    lm = begun.lm
    base = begun.metric(sides)
    lengths = begun.packed.lengths
    by_length = sorted(range(len(lengths)), key=lambda row: lengths[row])
    scores = torch.zeros(len(lengths), lm.shape.layers, lm.shape.heads)
    cells = [(row, head) for row in by_length for head in range(lm.shape.heads)]
    for layer, (mine, other) in enumerate(zip(begun.heads, values, strict=True)):
        for chunk in _chunks(cells, [lengths[row] for row, _ in cells]):
            rows = torch.tensor([row for row, _ in chunk], device=lm.device)
            heads = torch.tensor([head for _, head in chunk], device=lm.device)
            one = torch.arange(lm.shape.heads, device=lm.device)[None] == heads[:, None]
            wide = one.repeat_interleave(lm.shape.head_size, 1)
            z = torch.where(at[rows][:, :, None] & wide[:, None], other[rows], mine[rows])
            scores[rows.cpu(), layer, heads.cpu()] = (base[rows] - begun.resumed(layer, rows, z, sides)).cpu()
    return scores.numpy()


def _groups(pairs: Sequence[Pair]) -> list[range]:
    """Positions of the pairs that are looked at together."""
    if not pairs:
        raise SpecError("there are no pairs to compare; give at least one")
    return [range(start, min(start + PAIRS_A_BATCH, len(pairs))) for start in range(0, len(pairs), PAIRS_A_BATCH)]


def _batches(pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    for group in _groups(pairs):
        yield pairs[group.start : group.stop]


def _chunks(cells: Sequence[tuple[int, Any]], lengths: Sequence[int]) -> Iterator[Sequence[tuple[int, Any]]]:
    """Cells in order, as many at a time as fit the token budget when padded to the longest of them."""
    start, longest = 0, 0
    for i, length in enumerate(lengths):
        longest = max(longest, length)
        if i > start and (i - start + 1) * longest > TOKENS_A_CHUNK:
            yield cells[start:i]
            start, longest = i, length
    yield cells[start:]


# -------------------------------------------------------------------- to first order: one backward pass for all


@dataclass
class _Modules:
    """Whose inputs (or outputs) a unit reads, in order of layers, and what they were in the clean and in the biased pass."""

    places: list[nn.Module]
    inputs: bool
    a_layer: int = 1

    def __post_init__(self) -> None:
        self.kept: list[list[Tensor]] = []


def _modules(lm: LM, unit: Unit) -> _Modules:
    blocks = blocks_of(lm)
    if unit == "head":
        return _Modules(attention_outs(lm), inputs=True)
    if unit == "neuron":
        return _Modules([block.get_submodule(lm.family.mlp_out) for block in blocks], inputs=True)
    if unit == "stream":
        return _Modules(blocks, inputs=False)
    found = [linear_names(block) for block in blocks]
    return _Modules([block.get_submodule(n) for block, names in zip(blocks, found, strict=True) for n in names], False, len(found[0]))


def linear_names(block: nn.Module) -> list[str]:
    """Names of the matrices of a block, in the order in which the unit `linear` counts their outputs."""
    return [name for name, module in block.named_modules() if isinstance(getattr(module, "weight", None), Tensor) and module.weight.ndim == 2]


def attribution_patching(lm: LM, pairs: Sequence[Pair], sides: Sides, *, unit: Unit = "head", positions: Positions = "entity") -> np.ndarray:
    """First-order effect (nats) of giving each place its clean value; shape [pairs, layers, index].

    The metric is log-sum-exp of the stereotype answers' log-probabilities minus that of the foils, whole answers. The
    gradient is taken at the biased run, the run that would be patched (Nanda 2023; biased minus clean, so positive =
    the place pushes towards the bias). `unit`: heads (their output before the output matrix), neurons (what goes into
    the MLP's output matrix), the stream after each block (one place a layer), or every output of every linear layer of a
    block, in the order of `linear_names`. Positions as in `activation_patching`.
    """
    scores: dict[int, np.ndarray] = {}

    def look(group: list[int]) -> None:
        scores.update(zip(group, _attributed(lm, [pairs[i] for i in group], sides, unit, positions), strict=True))

    in_parts(_groups(pairs), look)
    return np.stack([scores[i] for i in range(len(pairs))])


def _attributed(lm: LM, batch: Sequence[Pair], sides: Sides, unit: Unit, positions: Positions) -> np.ndarray:
    """The scores of some pairs in one pass there and back, [pairs, layers, index]; a pair's do not hang on its neighbours."""
    modules = _modules(lm, unit)
    twins = _twins(lm, batch, sides, positions, share=True, gradients=True, modules=modules)
    clean, biased = modules.kept
    slopes = torch.autograd.grad(twins.biased.metric(sides).sum(), biased)
    parts = []
    for mine, slope, theirs in zip(biased, slopes, clean, strict=True):
        effect = (slope * (mine.detach() - twins.clean_values(theirs.detach()))).float()
        parts.append((effect * twins.at[:, :, None]).sum(1).cpu())
    layers = [torch.cat(parts[i : i + modules.a_layer], dim=1) for i in range(0, len(parts), modules.a_layer)]
    found = torch.stack(layers, dim=1)
    if unit == "head":
        found = found.view(*found.shape[:2], lm.shape.heads, lm.shape.head_size).sum(3)
    return (found.sum(2, keepdim=True) if unit == "stream" else found).numpy()


def integrated_gradients(lm: LM, pairs: Sequence[Pair], sides: Sides, *, steps: int, positions: Positions = "entity") -> np.ndarray:
    """Attribution patching of heads with the gradient integrated along a path (nats); shape [pairs, layers, heads].

    The path of a layer: all its heads together go on a straight line from their biased to their clean outputs, at the
    aligned positions, while everything before that layer stays the biased run's; the gradient is taken at `steps`
    midpoints. So the scores of a layer's heads add up to what patching the whole layer does, as steps grow
    (Sundararajan, Taly & Yan 2017, arXiv 1703.01365). Costs `steps` resumed passes and backward passes a layer, not one
    for all: dearer than exact patching where a layer has no more heads than about three times the steps.
    """
    if steps < 1:
        raise SpecError(f"steps = {steps} was asked; integrated gradients need at least 1")
    shape, scores = lm.shape, []
    for batch in _batches(pairs):
        with torch.no_grad():
            twins = _twins(lm, batch, sides, positions, share=True, gradients=False, modules=_Modules([], inputs=True))
        found = torch.zeros(len(batch), shape.layers, shape.heads)
        cells = [(row, (step + 0.5) / steps) for row in range(len(batch)) for step in range(steps)]
        for layer, mine in enumerate(twins.biased.heads):
            way = (twins.clean_values(twins.clean.heads[layer]) - mine) * twins.at[:, :, None]
            for chunk in _chunks(cells, [way.shape[1]] * len(cells)):
                rows = torch.tensor([row for row, _ in chunk], device=lm.device)
                how_far = torch.tensor([far for _, far in chunk], device=lm.device, dtype=way.dtype)
                z = (mine[rows] + how_far[:, None, None] * way[rows]).requires_grad_(True)
                (slope,) = torch.autograd.grad(twins.biased.resumed(layer, rows, z, sides).sum(), z)
                effect = -(slope * way[rows]).float().sum(1).view(len(rows), shape.heads, shape.head_size).sum(2) / steps
                found[:, layer].index_add_(0, rows.cpu(), effect.cpu())
        scores.append(found.numpy())
    return np.concatenate(scores)
