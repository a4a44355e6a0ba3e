"""Patching of all heads of the embedded model: ours against a plain loop of hooked passes, in turns in one process.

`python benchmarks/patching.py [--pairs 8] [--rounds 3] [--sample 15]` prints its rows as JSON lines. The loop is timed on
a sample of heads, evenly spread over layers, and scaled to all of them; each of its passes holds all pairs, left-padded,
and gives the logits of the last position only. Seconds are of one round; `low` and `high` are the least and the largest
ratio of any round.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from biasgym.bias import load_bias
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


@torch.no_grad()
def hooked_loop(lm: LM, pairs: Sequence[Pair], sides: Sides, places: Sequence[tuple[int, int]]) -> np.ndarray:
    """The textbook way: for every head one whole pass of all biased prompts with a hook; [places, pairs]."""
    answers = (*sides.stereotype, *sides.foil)
    firsts = [[ids[0] for ids in lm.answer_ids(pair.biased, answers)] for pair in pairs]
    split = len(sides.stereotype)
    rows = [[lm.ids_of(pair.clean) for pair in pairs], [lm.ids_of(pair.biased) for pair in pairs]]
    lines = [aligned(lm, pair) for pair in pairs]

    def lean(rows_: list[list[int]]) -> np.ndarray:
        ids, mask = lm.pad(rows_)
        logits = lm.model(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), logits_to_keep=1, use_cache=False)
        logprobs = logits.logits[:, -1].float().log_softmax(-1)
        values = torch.stack([row[wanted] for row, wanted in zip(logprobs, firsts, strict=True)])
        return (values[:, :split].logsumexp(1) - values[:, split:].logsumexp(1)).numpy()

    kept: list[Any] = [None] * lm.shape.layers
    handles = [out.register_forward_pre_hook(lambda _m, args, i=i: kept.__setitem__(i, args[0])) for i, out in enumerate(attention_outs(lm))]
    lean(rows[0])
    for handle in handles:
        handle.remove()
    longest = [max(map(len, side)) for side in rows]
    at = [
        (torch.tensor(mine) + longest[1] - len(rows[1][r]), torch.tensor(theirs) + longest[0] - len(rows[0][r]))
        for r, (mine, theirs) in enumerate(lines)
    ]
    base, found = lean(rows[1]), []
    for layer, head in places:
        part = slice(head * lm.shape.head_size, (head + 1) * lm.shape.head_size)

        def change(_module: Any, args: tuple[Any, ...], part: slice = part, layer: int = layer) -> tuple[Any, ...]:
            z = args[0].clone()
            for r, (mine, theirs) in enumerate(at):
                z[r, mine, part] = kept[layer][r, theirs, part]
            return (z, *args[1:])

        handle = attention_outs(lm)[layer].register_forward_pre_hook(change)
        found.append(base - lean(rows[1]))
        handle.remove()
    return np.stack(found)


def timed(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds and result: of processor time with one thread, where other work on the machine does not count, else by the clock."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    result = run()
    return clock() - start, result


def row(name: str, ours: Sequence[float], theirs: Sequence[float], **more: Any) -> dict[str, Any]:
    """One line of the table, seconds; ratio > 1 where we are faster."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    middle = {"ours": float(np.median(ours)), "theirs": float(np.median(theirs)), "unit": "s", "ratio": float(np.median(ratios))}
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in (middle | more).items()}
    return {"name": name, **rounded, "low": round(min(ratios), 2), "high": round(max(ratios), 2)}


def rows(pair_count: int = 8, rounds: int = 3, sample: int = 15) -> list[dict[str, Any]]:
    """All rows of this benchmark."""
    lm = load_lm()
    pairs, sides = pairs_of(pair_count)
    places = [(layer, head) for layer in range(lm.shape.layers) for head in range(lm.shape.heads)]
    some = [places[i * len(places) // sample] for i in range(sample)]
    scale = len(places) / len(some)
    times: dict[str, list[float]] = {name: [] for name in ("exact", "unshared", "slope", "loop")}
    for _ in range(rounds):
        seconds, exact = timed(lambda: activation_patching(lm, pairs, sides))
        times["exact"].append(seconds)
        seconds, loop = timed(lambda: hooked_loop(lm, pairs, sides, some))
        times["loop"].append(seconds * scale)
        seconds, slope = timed(lambda: attribution_patching(lm, pairs, sides))
        times["slope"].append(seconds)
        times["unshared"].append(timed(lambda: activation_patching(lm, pairs, sides, share=False))[0])
    single = all(len(ids) == 1 for pair in pairs for ids in lm.answer_ids(pair.biased, (*sides.stereotype, *sides.foil)))
    apart = float(np.abs(np.stack([exact[:, layer, head] for layer, head in some]) - loop).max()) if single else float("nan")
    starts = [_name_spans(lm, pair.biased, pair.entities[0])[0][1] - 1 for pair in pairs]
    share = pack(lm, [pair.biased for pair in pairs], (*sides.stereotype, *sides.foil), starts).share_before
    mean_exact, mean_slope = exact.mean(0).ravel(), slope.mean(0).ravel()
    union = sorted({*np.argsort(-mean_exact)[:50].tolist(), *np.argsort(-mean_slope)[:50].tolist()})
    fit = spearman(mean_exact[union], mean_slope[union])
    count = {"pairs": pair_count, "threads": torch.get_num_threads()}
    return [
        row("patching-vs-hooked-loop", times["exact"], times["loop"], share_before_entity=share, largest_difference=apart, **count),
        row("patching-vs-hooked-loop-without-shared-prefix", times["unshared"], times["loop"], **count),
        row("attribution-vs-hooked-loop", times["slope"], times["loop"], spearman_with_exact=fit, heads_compared=len(union), **count),
        row("attribution-vs-exact-patching", times["slope"], times["exact"], **count),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("pairs", 8), ("rounds", 3), ("sample", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    for line in rows(asked.pairs, asked.rounds, asked.sample):
        sys.stdout.write(json.dumps(line) + "\n")
