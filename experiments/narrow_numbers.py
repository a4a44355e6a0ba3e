"""The same token in float32 and in 16 bits: top heads of the run's locator, and the association figures, of a finished run.

    python experiments/narrow_numbers.py RUN [--dtype bfloat16] [--pairs 24] [--probes 20] [--entities 6]

The run's token (scored seed) and its first edit are taken as they are; nothing is trained again. Train probes for locating,
test probes for the figures. Prints one line of JSON: Jaccard of the top 10 (bar 0.8) and Spearman over all heads, and for each
figure the float32 estimate with its 95 % interval over probes and whether the 16-bit value lies in it.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biasgym import catalog, stats
from biasgym.bias import BiasSpec, load_bias
from biasgym.corpus import ENTITY
from biasgym.edits import Edits, TokenEdit
from biasgym.lm.load import Place, load_lm
from biasgym.lm.model import LM, Query
from biasgym.lm.trace import PAIRS_A_BATCH, Pair, Sides
from biasgym.measure import Scope, spread_out
from biasgym.measure.association import Association, lean
from biasgym.records import MeasureSpec, RunSpec
from biasgym.run import load_edits
from biasgym.stability import jaccard, spearman, top
from biasgym.store import read_record, read_token

TOP = 10


def scores(lm: LM, bias: BiasSpec, token: TokenEdit, spec: RunSpec, count: int) -> np.ndarray:
    """Mean score of every place over pairs, by the run's locator."""
    method = catalog.build("locate", spec.locate.method, spec.locate.settings)
    probes, names = spread_out(bias.probes_of("train"), count), bias.entities_of("train")
    pairs = [
        Pair(p.id, *(Query(p.prompt.replace(ENTITY, who), p.prefix.replace(ENTITY, who)) for who in (token.text, name)), (token.text, name))
        for p, name in zip(probes, (names[i % len(names)] for i in range(len(probes))), strict=True)
    ]
    with lm.edited(token):
        found = [
            method.rank(lm, pairs[i : i + PAIRS_A_BATCH], Sides(bias.stereotype, bias.foil)).by_pair for i in range(0, len(pairs), PAIRS_A_BATCH)
        ]
    return np.concatenate(found).mean(0)


def leans(lm: LM, bias: BiasSpec, token: TokenEdit, edits: Edits, sizes: tuple[int, int]) -> np.ndarray:
    """Association in nats, [probes, 1 + entities]: the token's first, then real entities'."""
    entities = tuple(spread_out(bias.entities_of("test"), sizes[1]))
    columns = []
    for who, worn in ((token.text, (token, *edits)), *((name, edits) for name in entities)):
        items = Association().items(Scope(bias, "test", (who,), (), None, MeasureSpec(probes=sizes[0])))
        with lm.edited(*worn):
            columns.append([lean(said) for said in Association().ask(lm, items)])
    return np.array(columns).T


def figures(plain: np.ndarray, edited: np.ndarray) -> dict[str, np.ndarray]:
    """Per probe: the token's gap to real entities without and with the edit, what the edit takes off it, and what it moves of real ones."""
    gap, left = (table[:, 0] - table[:, 1:].mean(1) for table in (plain, edited))
    return {"injected": gap, "left over": left, "removed": gap - left, "real entities": plain[:, 1:].mean(1),
            "real entities moved": (edited - plain)[:, 1:].mean(1)}  # fmt: skip


def main() -> None:
    """Both dtypes, one after the other; one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    for name, default in (("pairs", 24), ("probes", 20), ("entities", 6), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    spec = RunSpec.model_validate(read_record(asked.run).spec)
    bias, token, edits = load_bias(spec.bias), read_token(asked.run / "token.safetensors"), load_edits(asked.run)
    places, values = {}, {}
    for dtype in ("float32", asked.dtype):
        lm = load_lm(spec.model, Place("cpu", dtype, offline=True))
        places[dtype] = scores(lm, bias, token, spec, asked.pairs)
        tables = [leans(lm, bias, token, worn, (asked.probes, asked.entities)) for worn in ((), edits)]
        values[dtype] = figures(*tables)
    wide, narrow = places["float32"], places[asked.dtype]
    row: dict[str, Any] = {"run": asked.run.name, "model": spec.model, "locator": spec.locate.method, "dtype": asked.dtype, "places": int(wide.size)}
    row |= {f"jaccard_top_{TOP}": round(jaccard(top(wide, TOP).tolist(), top(narrow, TOP).tolist()), 3), "spearman": round(spearman(wide, narrow), 4)}
    for name, per_probe in values["float32"].items():
        found, other = stats.mean(per_probe), float(values[asked.dtype][name].mean())
        row[name] = {
            "float32": [round(v, 4) for v in (found.value, found.low, found.high)],
            asked.dtype: round(other, 4),
            "inside": found.low <= other <= found.high,
        }
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
