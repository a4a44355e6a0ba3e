"""Go on with a forward pass from any layer: answers packed into one row, what stands before the change computed once."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from biasgym.errors import ModelError
from biasgym.lm.apply import captured
from biasgym.lm.arch import Family
from biasgym.lm.model import LM, Query
from biasgym.lm.trace import Sides, attention_outs, blocks_of

LOGITS_AT_ONCE = 128  # positions whose whole vocabulary is in memory together
CACHE_NAMES = ("past_key_values", "layer_past")


@dataclass(frozen=True)
class Packed:
    """One row a query: its beginning, the rest of its context, and the beginnings of all its answers as a tree.

    A token of an answer sees the context and the tokens of its own answer before it, at the position it would have in a
    row of its own, so one row gives what teacher forcing gives in one row an answer. `before` [rows, P] is left-padded;
    `ids` and `positions` [rows, S] hold everything from each row's `start` on, right-padded. `sees` [rows, S, P + S] says
    which columns each of the latter attends to, `places` [rows, P + S] the position of every column.
    """

    before: Tensor
    ids: Tensor
    positions: Tensor
    sees: Tensor
    places: Tensor
    starts: tuple[int, ...]
    contexts: tuple[int, ...]  # tokens of each context
    tails: tuple[tuple[int, ...], ...]  # ids of the answers' beginnings in order of their columns
    picks: tuple[tuple[tuple[int, int, int], ...], ...]  # per row: (answer, column that predicts, token predicted)
    answers: int

    @property
    def real(self) -> Tensor:
        """Which of the S columns hold a token, [rows, S]."""
        return torch.arange(self.ids.shape[1])[None] < torch.tensor(self.lengths)[:, None]

    @property
    def lengths(self) -> list[int]:
        """How many of the S columns each row uses."""
        return [c - s + len(t) for c, s, t in zip(self.contexts, self.starts, self.tails, strict=True)]

    @property
    def share_before(self) -> float:
        """The part of all tokens that stands before the first change and is computed once."""
        whole = sum(c + len(t) for c, t in zip(self.contexts, self.tails, strict=True))
        return sum(self.starts) / whole


def pack(lm: LM, queries: Sequence[Query], answers: Sequence[str], starts: Sequence[int]) -> Packed:
    """Queries and answers as rows; `starts` are the first positions that may change, at most each context's last.

    Where a window is shorter than a row nothing is split off: a cached beginning would be cut by it.
    """
    contexts = [lm.ids_of(query) for query in queries]
    trees = [_tree(lm.answer_ids(query, answers)) for query in queries]
    rows = [[*context, *(token for token, _, _ in tree)] for context, (tree, _) in zip(contexts, trees, strict=True)]
    window = getattr(lm.model.config, "sliding_window", None)
    if window and max(map(len, rows)) > window:
        starts = [0] * len(rows)
    p, s = max(starts), max(len(row) - start for row, start in zip(rows, starts, strict=True))
    before = torch.zeros(len(rows), p, dtype=torch.long)
    ids = torch.zeros(len(rows), s, dtype=torch.long)
    positions = torch.zeros(len(rows), s, dtype=torch.long)
    places = torch.full((len(rows), p + s), -1)
    sees = torch.eye(s, dtype=torch.bool).repeat(len(rows), 1, 1)  # padding sees itself, else its softmax has no values
    sees = torch.cat([torch.zeros(len(rows), s, p, dtype=torch.bool), sees], dim=2)
    picks = []
    for r, (row, start, context, (tree, wanted)) in enumerate(zip(rows, starts, contexts, trees, strict=True)):
        rest = len(context) - start
        before[r, p - start :] = torch.tensor(row[:start], dtype=torch.long)
        ids[r, : len(row) - start] = torch.tensor(row[start:])
        here = [*range(start, len(context)), *(len(context) + depth for _, _, depth in tree)]
        positions[r, : len(here)] = torch.tensor(here)
        places[r, p - start : p] = torch.arange(start)
        places[r, p : p + len(here)] = torch.tensor(here)
        sees[r, : len(here), p - start : p] = True
        sees[r, :rest, p : p + rest] = torch.ones(rest, rest, dtype=torch.bool).tril()
        for number, (_, parent, _) in enumerate(tree):
            column = rest + number
            sees[r, column] = sees[r, rest + parent if parent >= 0 else rest - 1]
            sees[r, column, p + column] = True
        picks.append(tuple((a, rest + node if node >= 0 else rest - 1, token) for a, node, token in wanted))
    return Packed(
        before=before.to(lm.device),
        ids=ids.to(lm.device),
        positions=positions.to(lm.device),
        sees=sees.to(lm.device),
        places=places.to(lm.device),
        starts=tuple(starts),
        contexts=tuple(map(len, contexts)),
        tails=tuple(tuple(token for token, _, _ in tree) for tree, _ in trees),
        picks=tuple(picks),
        answers=len(answers),
    )


def _tree(answers: Sequence[Sequence[int]]) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """Nodes (token, parent, depth) of the answers' beginnings, and for every answer's token the node it follows; −1 is the context."""
    known: dict[tuple[int, ...], int] = {(): -1}
    nodes: list[tuple[int, int, int]] = []
    wanted = []
    for a, ids in enumerate(answers):
        for i, token in enumerate(ids):
            beginning = tuple(ids[:i])
            if beginning not in known:
                known[beginning] = len(nodes)
                nodes.append((ids[i - 1], known[beginning[:-1]], i - 1))
            wanted.append((a, known[beginning], token))
    return nodes, wanted


class _Memory:
    """Keys and values of the beginning by layer, in the shape that attention modules ask for: `update` and no more."""

    def __init__(self, kept: dict[int, tuple[Tensor, Tensor]], rows: Tensor | None, *, fill: bool) -> None:
        self.kept, self.rows, self.fill = kept, rows, fill

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The keys and values to attend to: those of the beginning, then the new ones."""
        if self.fill:
            self.kept[layer] = (keys, values)
            return keys, values
        if layer not in self.kept:
            return keys, values
        first, second = self.kept[layer]
        if self.rows is not None:
            first, second = first[self.rows], second[self.rows]
        return torch.cat([first, keys], dim=-2), torch.cat([second, values], dim=-2)


@dataclass(frozen=True)
class Pass:
    """A forward pass of packed rows, kept so that it can be gone on with from any layer.

    `inputs` [rows, S, hidden] and `heads` [rows, S, heads × head size] by layer: the stream into a block and what goes
    into its attention's output matrix. `states` are the final states. `calls` is what each block is called with.
    """

    lm: LM
    packed: Packed
    inputs: list[Tensor]
    heads: list[Tensor]
    states: Tensor
    calls: list[dict[str, Any]]
    kept: dict[int, tuple[Tensor, Tensor]]

    def metric(self, sides: Sides) -> Tensor:
        """Log-sum-exp of the stereotype answers' log-probabilities minus that of the foils (nats), whole answers; [rows]."""
        reading = _reading(self.packed, range(len(self.packed.starts)))
        return reading.metric(self.lm, reading.of(self.states), sides)

    def resumed(self, layer: int, rows: Tensor, heads: Tensor, sides: Sides) -> Tensor:
        """The metric [n] of the rows [n] (any, also repeated) when `heads` [n, S, …] goes into this layer's output matrix.

        Only what follows that matrix is run, for the S columns, and in the last block for the columns that answers are read
        off; equal to the whole pass with that replacement, as long as columns before a row's start are not meant to change.
        Columns that none of these rows uses are left out.
        """
        lm, lengths = self.lm, self.packed.lengths
        columns = max(lengths[row] for row in rows.tolist())
        blocks = blocks_of(lm)
        reading = _reading(self.packed, rows.tolist())
        expanded: dict[int, Any] = {}
        memory = _Memory(self.kept, rows, fill=False)
        x = self.inputs[layer][rows, :columns]
        for number, block in enumerate(blocks[layer:], start=layer):
            named = {
                name: memory if name in CACHE_NAMES else self._expand(value, rows, columns, expanded) for name, value in self.calls[number].items()
            }
            last = block is blocks[-1]
            with (
                _written(block, lm.family.attention_out, heads[:, :columns]) if number == layer else _nothing(),
                _only_at(block, lm.family, reading) if last else _nothing(),
            ):
                made = block(x, **named)
            x = made[0] if isinstance(made, tuple) else made
        return reading.metric(lm, lm.model.get_submodule(lm.family.final_norm)(reading.of(x)), sides)

    def _expand(self, value: Any, rows: Tensor, columns: int, done: dict[int, Any]) -> Any:
        """Row-wise arguments of a block for other rows; blocks share most of them, so each is made once."""
        if isinstance(value, tuple):
            return tuple(self._expand(one, rows, columns, done) for one in value)
        count, width = self.packed.ids.shape
        if not isinstance(value, Tensor) or value.ndim < 2 or value.shape[0] != count or count == 1:
            return value
        if id(value) not in done:
            chosen = value[rows]
            if value.shape[1] == width:  # positions and rotary tables
                chosen = chosen[:, :columns]
            elif value.ndim == 4:  # our mask
                chosen = chosen[:, :, :columns, : value.shape[3] - width + columns]
            done[id(value)] = chosen
        return done[id(value)]


@contextmanager
def _written(block: nn.Module, attention_out: str, heads: Tensor) -> Iterator[None]:
    """While it is on, a block's attention is its output matrix on these heads: nothing before that matrix is computed."""
    out = block.get_submodule(attention_out)
    attention = block.get_submodule(attention_out.rpartition(".")[0])
    own = attention.__dict__.get("forward")
    handle = out.register_forward_pre_hook(lambda _module, args: (heads, *args[1:]))  # behind those of edits that are worn
    attention.forward = lambda *_args, **_named: (out(heads), None)
    try:
        yield
    finally:
        handle.remove()
        if own is None:
            del attention.forward
        else:
            attention.forward = own


@contextmanager
def _only_at(block: nn.Module, family: Family, reading: "_Reading") -> Iterator[None]:
    """While it is on, a block's MLP and its attention's output matrix work where answers are read off; other columns get 0 from them."""
    sizes: list[tuple[int, int]] = []

    def pick(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        sizes.append((args[0].shape[0], args[0].shape[1]))
        return (reading.of(args[0])[None], *args[1:])

    def put_back(_module: nn.Module, _args: tuple[Any, ...], made: Tensor) -> Tensor:
        return made.new_zeros(*sizes.pop(), made.shape[-1]).index_put(reading.at(made.device), made[0])

    modules = [block.get_submodule(family.attention_out), block.get_submodule(family.mlp_out.rpartition(".")[0])]
    handles = [handle for one in modules for handle in (one.register_forward_pre_hook(pick), one.register_forward_hook(put_back))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def full_pass(lm: LM, packed: Packed, *, gradients: bool = False) -> Pass:
    """Run packed rows once: the beginnings without gradients, then the rest, with a graph from the embedding on when asked."""
    if any(getattr(edit, "rows", None) is not None for edit in lm.worn):
        raise ModelError("an edit that holds for some rows only cannot be worn while a pass is resumed")
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    p = packed.before.shape[1]
    if p:
        early = packed.places[:, :p]
        sees = (early[:, None] <= early[:, :, None]) & (early[:, None] >= 0)
        sees |= torch.eye(p, dtype=torch.bool, device=lm.device)
        with torch.no_grad(), _called(lm, sees, _Memory(kept, None, fill=True), early, early):
            _decoded(lm, packed.before, early.clamp(min=0))
    memory = _Memory(kept, None, fill=False)
    with (
        torch.set_grad_enabled(gradients),
        captured(attention_outs(lm), inputs=True) as heads,
        _called(lm, packed.sees, memory, packed.places[:, p:], packed.places) as calls,
        _rooted(lm) if gradients else _nothing(),
    ):
        states = _decoded(lm, packed.ids, packed.positions)
    return Pass(lm, packed, [x for x, _ in calls], list(heads), states, [named for _, named in calls], kept)


def _decoded(lm: LM, ids: Tensor, positions: Tensor) -> Tensor:
    states: Tensor = lm.decoder(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions, use_cache=False).last_hidden_state
    return states


@contextmanager
def _rooted(lm: LM) -> Iterator[None]:
    handle = lm.embedding.register_forward_hook(lambda _module, _args, out: out.requires_grad_(True))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _called(lm: LM, sees: Tensor, memory: _Memory, here: Tensor, there: Tensor) -> Iterator[list[Any]]:
    """While it is on, blocks get our mask and our memory; the list fills with each block's input and other arguments.

    Whatever else a family hands its blocks (rotary tables, one for each kind of layer, positions) is kept as it is. A
    layer's window is read off the mask that the family made for it.
    """
    calls: list[Any] = [None] * lm.shape.layers
    masks: dict[int, Tensor] = {}

    def mask_for(window: int, dtype: torch.dtype) -> Tensor:
        if window not in masks:
            open_ = sees & (here[:, :, None] - there[:, None] < window) if window else sees
            masks[window] = torch.zeros(open_.shape, dtype=dtype, device=sees.device).masked_fill(~open_, torch.finfo(dtype).min)[:, None]
        return masks[window]

    def hook(layer: int) -> Callable[..., Any]:
        def change(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            names = list(inspect.signature(block.forward).parameters)
            named = {**dict(zip(names, args, strict=False)), **kwargs}
            x = named.pop(names[0])
            named["attention_mask"] = mask_for(_window(named.get("attention_mask")), x.dtype)
            named[next(name for name in CACHE_NAMES if name in names)] = memory
            calls[layer] = (x, named)
            return (x,), named

        return change

    handles = [block.register_forward_pre_hook(hook(layer), with_kwargs=True) for layer, block in enumerate(blocks_of(lm))]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _window(mask: Tensor | None) -> int:
    """How many columns the last position may attend to in a family's own mask, 0 when to all of them."""
    if mask is None:
        return 0
    last = mask[0, 0, -1]
    count = int((last if last.dtype == torch.bool else last == 0).sum())
    return 0 if count == last.shape[0] else count


@dataclass(frozen=True)
class _Reading:
    """Where the answers of some rows are read off: `columns` [2, n] (row, column), and of each answer's token its place among
    all answers' scores, which of those columns predicts it, and its id, `wanted` [3, tokens].
    """

    columns: Tensor
    wanted: Tensor
    rows: int
    answers: int

    def at(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The columns as an index of the first two dimensions of a tensor on that device."""
        row, column = self.columns.to(device)
        return row, column

    def of(self, values: Tensor) -> Tensor:
        """Values [rows, S, …] at those columns, [n, …]."""
        return values[self.at(values.device)]

    def metric(self, lm: LM, needed: Tensor, sides: Sides) -> Tensor:
        """The metric [rows] from the final states [n, hidden] of those columns."""
        place, position, token = self.wanted.to(needed.device)
        scores = torch.zeros(self.rows * self.answers, device=needed.device)
        for start in range(0, len(needed), LOGITS_AT_ONCE):
            logits = lm.logits(needed[start : start + LOGITS_AT_ONCE])
            mine = ((position >= start) & (position < start + LOGITS_AT_ONCE)).nonzero()[:, 0]
            values = logits[position[mine] - start, token[mine]] - logits.logsumexp(-1)[position[mine] - start]
            scores = scores.index_add(0, place[mine], values)
        scores = scores.view(self.rows, self.answers)
        split = len(sides.stereotype)
        return scores[:, :split].logsumexp(1) - scores[:, split:].logsumexp(1)


def _reading(packed: Packed, rows: Sequence[int]) -> _Reading:
    where: dict[tuple[int, int], int] = {}
    found: list[tuple[int, int, int]] = []
    for number, row in enumerate(rows):
        for answer, column, token in packed.picks[row]:
            found.append((number * packed.answers + answer, where.setdefault((number, column), len(where)), token))
    return _Reading(torch.tensor(list(where)).T, torch.tensor(found).T, len(rows), packed.answers)
