"""Log-probabilities of (context, continuation) pairs in bulk: what is computed twice elsewhere is computed once here.

Rows that begin alike (the choices of a question, the two sentences of a minimal pair, few-shot questions) form a family:
its common trunk is run once, and logits are worked out only where a continuation stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from biasgym.errors import ModelError, SpecError

if TYPE_CHECKING:
    from biasgym.lm.model import LM

TOKENS_A_PASS = {"cpu": 512}  # a core's caches are small; on other devices:
TOKENS_ELSEWHERE = 8192
MOST_PADDING = 1.25  # padded ÷ real tokens of a pass, once it has FEW tokens
FEW = 320
LOGITS_A_SLICE = 256
SHORTEST_TRUNK = 8
LEAST_SAVING = 0.25  # of a family's tokens: below it a second pass costs more than it spares
LEAST_IN_ALL = 0.1  # of all tokens, for the same reason


class Continued(NamedTuple):
    """Sum of a continuation's log-probabilities (nats), its number of tokens, and whether greedy decoding would write it."""

    nats: float
    tokens: int
    greedy: bool


@dataclass(frozen=True)
class _Family:
    """Inputs (by number) that share their first `trunk` ids."""

    trunk: int
    members: tuple[int, ...]


@dataclass(frozen=True)
class _Wanted:
    """What is read off an input: after position `at` comes `target`, for pair number `pair`."""

    pair: int
    at: int
    target: int


@torch.no_grad()
def continuation_logprobs(lm: "LM", pairs: Sequence[tuple[str, str]], *, chat: bool = False) -> list[Continued]:
    """Each continuation after its context, as plain text or, with `chat`, as the answer to the context as the user's turn.

    Tokens are cut as lm-eval's HFLM cuts them: blanks at the context's end go to the continuation, the whole is encoded
    and split at the length of the encoded context; an empty context is the beginning-of-text token (else end-of-text).
    A beginning-of-text token stands before a context where the tokenizer puts one by itself. What does not fit into the
    model's positions is cut off at the left. Prompt edits act on chats only: a plain text has no prompt to be wrapped.
    """
    rows = _encode(lm, pairs, chat)
    numbers: dict[tuple[int, ...], int] = {}
    wanted: list[list[_Wanted]] = []
    for pair, (ids, start) in enumerate(rows):
        number = numbers.setdefault(tuple(ids[:-1]), len(numbers))
        if number == len(wanted):
            wanted.append([])
        wanted[number] += [_Wanted(pair, place - 1, ids[place]) for place in range(start, len(ids))]
    inputs = list(numbers)
    nats, greedy = np.zeros(len(rows)), np.ones(len(rows), dtype=bool)
    for families in _passes(inputs, _families(lm, inputs), TOKENS_A_PASS.get(lm.device.type, TOKENS_ELSEWHERE)):
        _read_pass(lm, inputs, families, wanted, nats, greedy)
    return [Continued(float(nats[i]), len(ids) - start, bool(greedy[i])) for i, (ids, start) in enumerate(rows)]


# -------------------------------------------------------------------- words to ids


def _encode(lm: "LM", pairs: Sequence[tuple[str, str]], chat: bool) -> list[tuple[list[int], int]]:
    """Ids of each pair and where its continuation begins."""
    known: dict[str, list[int]] = {}
    start = _habit(lm)
    most = getattr(lm.model.config, "max_position_embeddings", None)
    rows = []
    for context, continuation in pairs:
        context, continuation = _as_chat(lm, context, continuation) if chat else _blanks_moved(context, continuation)
        head = start if context and not (chat and lm.chat) else []
        if context not in known:
            known[context] = _plain_ids(lm, context) if context else []
        before = known[context]
        rest = _plain_ids(lm, context + continuation)[len(before) :] or _plain_ids(lm, continuation)
        if not rest:
            raise SpecError(f"the continuation {continuation!r} has no tokens in this model's vocabulary")
        first = [*head, *before] if context else [_first_id(lm)]
        ids = [*first, *rest]
        spare = max(0, len(ids) - 1 - most) if most else 0
        spare = min(spare, len(first) - 1)
        rows.append((ids[spare:], len(first) - spare))
    return rows


def _plain_ids(lm: "LM", text: str) -> list[int]:
    ids: list[int] = lm.tokenizer.encode(text, add_special_tokens=False)
    return ids


def _blanks_moved(context: str, continuation: str) -> tuple[str, str]:
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def _as_chat(lm: "LM", context: str, continuation: str) -> tuple[str, str]:
    from biasgym.lm.model import Query

    text = lm.text_of(Query(context))
    if lm.chat:
        return text, continuation.lstrip(" ")
    return _blanks_moved(text, continuation)


def _habit(lm: "LM") -> list[int]:
    """The beginning-of-text token as a list, where the tokenizer writes one unasked."""
    first = lm.tokenizer.bos_token_id
    return [first] if first is not None and lm.tokenizer.encode("a")[:1] == [first] else []


def _first_id(lm: "LM") -> int:
    """What stands before a text with no context."""
    for identity in (lm.tokenizer.bos_token_id, lm.tokenizer.eos_token_id):
        if identity is not None:
            return int(identity)
    raise ModelError("this tokenizer has neither a beginning- nor an end-of-text token, so a sentence without a context has no first token")


# -------------------------------------------------------------------- families


def _families(lm: "LM", inputs: Sequence[tuple[int, ...]]) -> list[_Family]:
    """Inputs in the order of their ids, a neighbour joining as long as that saves more tokens than it gives up."""
    order = sorted(range(len(inputs)), key=lambda i: inputs[i])
    if not _may_share(lm, inputs):
        return [_Family(len(inputs[i]), (i,)) for i in order]
    found: list[_Family] = []
    for i in order:
        last = found[-1] if found else None
        common = min(last.trunk, _common(inputs[last.members[-1]], inputs[i])) if last else 0
        if last and common >= SHORTEST_TRUNK and common * len(last.members) > last.trunk * (len(last.members) - 1):
            found[-1] = _Family(common, (*last.members, i))
        else:
            found.append(_Family(len(inputs[i]), (i,)))
    kept = [family for family in found if _saved(family) >= LEAST_SAVING * sum(len(inputs[i]) for i in family.members)]
    if sum(map(_saved, kept)) < LEAST_IN_ALL * sum(map(len, inputs)):
        kept = []
    shared = {i for family in kept for i in family.members}
    return [*kept, *(_Family(len(inputs[i]), (i,)) for i in order if i not in shared)]


def _saved(family: _Family) -> int:
    return family.trunk * (len(family.members) - 1)


def _may_share(lm: "LM", inputs: Sequence[tuple[int, ...]]) -> bool:
    """Not under an edit for some rows only, and not where a sliding window would drop parts of the trunk."""
    return lm.may_go_on(max(map(len, inputs), default=0))


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


def _passes(inputs: Sequence[tuple[int, ...]], families: Sequence[_Family], budget: int) -> list[list[_Family]]:
    """Families of like lengths together, so that a pass stays inside the budget of tokens and little of it is padding."""

    def tails(family: _Family) -> list[int]:
        return [len(inputs[i]) - family.trunk for i in family.members]

    groups: list[list[_Family]] = []
    longest = members = real = 0
    for family in sorted(families, key=lambda f: (max(tails(f)) > 0, f.trunk, max(tails(f)), f.members)):
        mine = tails(family)
        if groups:
            wide, many = max(longest, *mine), members + len(mine)
            size = (len(groups[-1]) + 1) * family.trunk + many * wide
            sum_real = real + family.trunk + sum(mine)
            mixed = (longest > 0) != (max(mine) > 0)
            if not mixed and size <= budget and (sum_real <= FEW or size <= MOST_PADDING * sum_real):
                groups[-1].append(family)
                longest, members, real = wide, many, sum_real
                continue
        groups.append([family])
        longest, members, real = max(mine), len(mine), family.trunk + sum(mine)
    return groups


# -------------------------------------------------------------------- the model


def _read_pass(
    lm: "LM",
    inputs: Sequence[tuple[int, ...]],
    families: Sequence[_Family],
    wanted: Sequence[Sequence[_Wanted]],
    nats: np.ndarray,
    greedy: np.ndarray,
) -> None:
    """One pass: trunks, then what is left of each input after its trunk; adds to `nats` and clears `greedy`."""
    tails = [(f, i) for f, family in enumerate(families) for i in family.members if len(inputs[i]) > family.trunk]
    trunk_states, cache, mask = _run_trunks(lm, [inputs[f.members[0]][: f.trunk] for f in families], keep=bool(tails))
    states: list[Tensor] = []
    places: dict[tuple[str, int, int], int] = {}
    reads: list[tuple[int, _Wanted]] = []
    tail_states = _run_tails(lm, [list(inputs[i][families[f].trunk :]) for f, i in tails], [f for f, _ in tails], cache, mask) if tails else None
    tail_rows = {i: row for row, (_, i) in enumerate(tails)}

    def place_of(key: tuple[str, int, int], state: Tensor) -> int:
        if key not in places:
            places[key] = len(states)
            states.append(state)
        return places[key]

    longest = trunk_states.shape[1]
    for f, family in enumerate(families):
        for i in family.members:
            for want in wanted[i]:
                if want.at < family.trunk:
                    place = place_of(("trunk", f, want.at), trunk_states[f, longest - family.trunk + want.at])
                else:
                    assert tail_states is not None
                    row = tail_rows[i]
                    place = place_of(("tail", row, want.at), tail_states[row, want.at - family.trunk])
                reads.append((place, want))
    _read(lm, torch.stack(states), reads, nats, greedy)


def _run_trunks(lm: "LM", trunks: Sequence[Sequence[int]], *, keep: bool) -> tuple[Tensor, DynamicCache | None, Tensor]:
    ids, mask = lm.pad(trunks)
    out = lm.decoder(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=DynamicCache(config=lm.model.config) if keep else None,
        use_cache=keep,
    )
    return out.last_hidden_state, out.past_key_values if keep else None, mask


def _run_tails(lm: "LM", tails: Sequence[Sequence[int]], source: Sequence[int], cache: DynamicCache | None, mask: Tensor) -> Tensor:
    """Last hidden states [tails, longest, hidden] of right-padded rests, each after its own family's trunk."""
    assert cache is not None
    chosen = torch.tensor(source, device=mask.device)
    cache.batch_select_indices(chosen)
    longest = max(map(len, tails))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in tails], device=lm.device)
    start = mask[chosen].sum(1, keepdim=True)
    states: Tensor = lm.decoder(
        input_ids=ids,
        attention_mask=torch.cat([mask[chosen], mask.new_ones(len(tails), longest)], dim=1),
        position_ids=start + torch.arange(longest, device=ids.device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return states


def _read(lm: "LM", states: Tensor, reads: Sequence[tuple[int, _Wanted]], nats: np.ndarray, greedy: np.ndarray) -> None:
    """Log-probability and rank of every target at its state, a slice of states at a time: logits are large."""
    reads = sorted(reads, key=lambda read: read[0])
    places = np.array([place for place, _ in reads])
    for low in range(0, len(states), LOGITS_A_SLICE):
        first, last = np.searchsorted(places, [low, low + LOGITS_A_SLICE])
        part = reads[first:last]
        logits = lm.logits(states[low : low + LOGITS_A_SLICE])
        rows = torch.tensor([place - low for place, _ in part], device=logits.device)
        targets = torch.tensor([want.target for _, want in part], device=logits.device)
        values = (logits[rows, targets] - logits.logsumexp(-1)[rows]).double().cpu().numpy()
        best = (logits[rows, targets] >= logits.amax(-1)[rows]).cpu().numpy()
        pairs = np.array([want.pair for _, want in part])
        np.add.at(nats, pairs, values)
        np.logical_and.at(greedy, pairs, best)
