"""Patching of all heads of the embedded model: ours against TransformerLens, nnsight and a plain loop of hooked passes, in turns.

`python -m benchmarks.patching [--pairs 8] [--rounds 3] [--sample 15]` prints its rows as JSON lines. The others are timed on
a sample of heads, evenly spread over layers, and scaled to all of them; each of their passes holds all pairs, left-padded,
and gives the logits of the last position only. Ours is timed whole, without a shared prefix on every fourth pair and scaled
by tokens. Seconds are of one round; `low` and `high` are the least and the largest ratio of any round.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from benchmarks.lens import PEERS, Patch, Peer, Places, Rows, arguments

from biasgym.bias import load_bias
from biasgym.errors import SpecError
from biasgym.lm.load import load_lm
from biasgym.lm.model import LM, Query
from biasgym.lm.patch import _name_spans, activation_patching, aligned, attribution_patching
from biasgym.lm.resume import pack
from biasgym.lm.trace import Pair, Sides, attention_outs
from biasgym.stability import spearman


def pairs_of(count: int) -> tuple[list[Pair], Sides]:
    """Pairs from the zoo's own probes, two countries each."""
    bias = load_bias("reckless-drivers")
    names, pairs = bias.entities_of("train"), []
    probes = bias.probes_of("train")
    for i in range(count):
        probe, two = probes[i * len(probes) // count], (names[2 * i], names[2 * i + 1])
        queries = [Query(probe.prompt.replace("{entity}", n), probe.prefix.replace("{entity}", n)) for n in two]
        pairs.append(Pair(probe.id, queries[0], queries[1], two))
    return pairs, Sides(bias.stereotype, bias.foil)


def as_rows(lm: LM, pairs: Sequence[Pair], sides: Sides) -> Rows:
    """The pairs as the others are given them: padded rows, the columns to exchange, and the metric of the last position."""
    answers = (*sides.stereotype, *sides.foil)
    firsts = torch.tensor([[ids[0] for ids in lm.answer_ids(pair.biased, answers)] for pair in pairs])
    ids = [[lm.ids_of(pair.biased) for pair in pairs], [lm.ids_of(pair.clean) for pair in pairs]]
    biased, clean = (lm.pad(side) for side in ids)
    row, mine, theirs = [], [], []
    for r, pair in enumerate(pairs):
        left, right = aligned(lm, pair)
        row += [r] * len(left)
        mine += [biased[0].shape[1] - len(ids[0][r]) + at for at in left]
        theirs += [clean[0].shape[1] - len(ids[1][r]) + at for at in right]

    def lean(logits: torch.Tensor) -> np.ndarray:
        values = logits.float().log_softmax(-1).gather(1, firsts)
        split = len(sides.stereotype)
        return (values[:, :split].logsumexp(1) - values[:, split:].logsumexp(1)).numpy()

    return Rows(biased, clean, torch.tensor(row), torch.tensor(mine), torch.tensor(theirs), lean)


def hooked_loop(lm: LM, rows_: Rows) -> Peer:
    """The textbook way: for every head one whole pass of all biased prompts with a hook on what goes into the output matrix."""
    outs = attention_outs(lm)

    @torch.no_grad()
    def begin() -> Patch:
        kept: list[Any] = [None] * lm.shape.layers
        handles = [out.register_forward_pre_hook(lambda _m, args, i=i: kept.__setitem__(i, args[0])) for i, out in enumerate(outs)]
        lm.model(**arguments(rows_.clean))
        for handle in handles:
            handle.remove()
        base = rows_.lean(lm.model(**arguments(rows_.biased)).logits[:, -1])

        @torch.no_grad()
        def run(places: Places) -> np.ndarray:
            found = []
            for layer, head in places:
                part = slice(head * lm.shape.head_size, (head + 1) * lm.shape.head_size)

                def change(_module: Any, args: tuple[Any, ...], part: slice = part, layer: int = layer) -> tuple[Any, ...]:
                    z = args[0].clone()
                    z[rows_.row, rows_.mine, part] = kept[layer][rows_.row, rows_.theirs, part]
                    return (z, *args[1:])

                handle = outs[layer].register_forward_pre_hook(change)
                found.append(base - rows_.lean(lm.model(**arguments(rows_.biased)).logits[:, -1]))
                handle.remove()
            return np.stack(found)

        return run

    return begin


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result: of processor time with one thread, where other work on the machine does not count, else by the clock."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    result = run()
    return clock() - start, result


def row(name: str, ours: Sequence[float], theirs: Sequence[float], **more: Any) -> dict[str, Any]:
    """One line of the table, seconds; ratio > 1 where we are faster."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    middle = {"ours": float(np.median(ours)), "theirs": float(np.median(theirs)), "unit": "s", "ratio": float(np.median(ratios))}
    rounded = {key: round(value, 6 if "difference" in key else 3) if isinstance(value, float) else value for key, value in (middle | more).items()}
    return {"name": name, **rounded, "low": round(min(ratios), 2), "high": round(max(ratios), 2)}


def others_of(lm: LM, rows_: Rows) -> tuple[dict[str, Peer], list[str]]:
    """Those we are compared with by name, and the names of those that are not installed."""
    peers, missing = {"hooked-loop": hooked_loop(lm, rows_)}, []
    for name, peer in PEERS.items():
        try:
            peers[name] = peer(lm, rows_)
        except ImportError:
            missing.append(name)
    return peers, missing


def rows(pair_count: int = 8, rounds: int = 3, sample: int = 15) -> Iterator[dict[str, Any]]:
    """All rows of this benchmark; a SpecError behind the last one where a peer is not installed. One thread."""
    torch.set_num_threads(1)
    lm = load_lm()
    pairs, sides = pairs_of(pair_count)
    peers, missing = others_of(lm, as_rows(lm, pairs, sides))
    places = [(layer, head) for layer in range(lm.shape.layers) for head in range(lm.shape.heads)]
    some = [places[i * len(places) // sample] for i in range(sample)]
    few = pairs[::4]
    tokens = [sum(len(lm.ids_of(pair.biased)) for pair in group) for group in (pairs, few)]
    times: dict[str, list[float]] = {name: [] for name in ("exact", "unshared", "slope", *peers)}
    said: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, peer in peers.items():
            peer()(some[:1])  # what a first call does beside is nobody's time
            once, run = timed(peer)
            seconds, said[name] = timed(lambda run=run: run(some))
            times[name].append(once + seconds * len(places) / len(some))
        seconds, exact = timed(lambda: activation_patching(lm, pairs, sides))
        times["exact"].append(seconds)
        seconds, slope = timed(lambda: attribution_patching(lm, pairs, sides))
        times["slope"].append(seconds)
        times["unshared"].append(timed(lambda: activation_patching(lm, few, sides, share=False))[0] * tokens[0] / tokens[1])
    single = all(len(ids) == 1 for pair in pairs for ids in lm.answer_ids(pair.biased, (*sides.stereotype, *sides.foil)))
    ours = np.stack([exact[:, layer, head] for layer, head in some])
    starts = [_name_spans(lm, pair.biased, pair.entities[0])[0][1] - 1 for pair in pairs]
    share = pack(lm, [pair.biased for pair in pairs], (*sides.stereotype, *sides.foil), starts).share_before
    mean_exact, mean_slope = exact.mean(0).ravel(), slope.mean(0).ravel()
    union = sorted({*np.argsort(-mean_exact)[:50].tolist(), *np.argsort(-mean_slope)[:50].tolist()})
    fit = spearman(mean_exact[union], mean_slope[union])
    count = {"pairs": pair_count, "threads": torch.get_num_threads(), "sample": sample}
    for name in peers:
        apart = float(np.abs(ours - said[name]).max()) if single else float("nan")
        yield row(f"patching-vs-{name}", times["exact"], times[name], share_before_entity=share, largest_difference=apart, **count)
        yield row(f"patching-vs-{name}-without-shared-prefix", times["unshared"], times[name], share_before_entity=0.0, **count)
    yield row("attribution-vs-hooked-loop", times["slope"], times["hooked-loop"], spearman_with_exact=fit, heads_compared=len(union), **count)
    yield row("attribution-vs-exact-patching", times["slope"], times["exact"], **count)
    if missing:
        raise SpecError(f"not compared with {', '.join(missing)}: not installed (the extra `lens`)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("pairs", 8), ("rounds", 3), ("sample", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    for line in rows(asked.pairs, asked.rounds, asked.sample):
        sys.stdout.write(json.dumps(line) + "\n")
