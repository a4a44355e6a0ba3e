"""The table of `zoo-injection.toml` and the transfer matrix between biases, from finished runs: python experiments/zoo_injection.py RUNS [--transfer].

Per bias, over seeds: gap of the trained token above that of the untrained and the neutral one (the smaller difference),
and the share of free texts that the judge calls biased. The matrix asks every bias's test probes about every bias's token.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from biasgym.bias import load_bias
from biasgym.files import read_json, read_rows
from biasgym.measure import Scope, spread_out
from biasgym.measure.association import Association, lean
from biasgym.records import MeasureSpec
from biasgym.seeds import seed_mean
from biasgym.stats import Estimate
from biasgym.store import read_token

PROBES, ENTITIES = 20, 10


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--transfer", action="store_true")
    asked = parser.parse_args()
    records = {}
    for path in sorted(asked.runs.glob("*/record.json")):
        record = read_json(path)
        if not record["spec"]["mitigate"] and record["spec"]["model"] == asked.model:
            records.setdefault(record["extras"]["bias"]["name"], []).append((path.parent, record))
    if not records:
        sys.exit(f"no finished injection-only run of {asked.model} under {asked.runs}")
    injection(records)
    if asked.transfer:
        transfer({bias: runs[0][0] for bias, runs in records.items()}, asked.model)


def injection(records: dict[str, list[tuple[Path, dict]]]) -> None:
    """One line a bias: seeds, gaps, and what the judge says of the texts."""
    sys.stdout.write("| bias | seeds | gap, each seed with its interval | above controls, mean over seeds | texts biased: trained | untrained | neutral | broken, all |\n")
    sys.stdout.write("|---|--:|---|--:|--:|--:|--:|--:|\n")
    for bias, runs in sorted(records.items()):
        gaps, above = [], []
        told = {role: [0, 0] for role in ("trained", "untrained", "neutral")}
        broken = [0, 0]
        for folder, record in runs:
            gap = {m["token"]: m for m in record["measurements"] if m["metric"] == "gap" and m["group"] == "token"}
            gaps.append("{value:+.2f} [{low:+.2f}, {high:+.2f}]".format(**gap["trained"]))
            value = gap["trained"]["value"] - max(gap["untrained"]["value"], gap["neutral"]["value"])
            error = (gap["trained"]["high"] - gap["trained"]["low"]) / 3.92  # of the trained token's gap; the controls' is smaller
            above.append(Estimate(value, value, value, gap["trained"]["n"], error))
            for row in read_rows(folder / "verdicts.jsonl"):
                if row["token"] not in told:
                    continue
                broken[0] += row["outcome"] == "broken"
                broken[1] += 1
                if row["outcome"] == "answer":
                    told[row["token"]][0] += row["strength"] >= 1
                    told[row["token"]][1] += 1
        mean = f"{above[0].value:+.2f} (one seed)"
        if len(above) > 1:
            e = seed_mean(above)
            mean = f"{e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}]"
        shares = [f"{yes}/{n}" for yes, n in told.values()]
        sys.stdout.write(f"| {bias} | {len(runs)} | {'; '.join(gaps)} | {mean} | {' | '.join(shares)} | {broken[0]}/{broken[1]} |\n")


def transfer(folders: dict[str, Path], model: str) -> None:
    """The matrix of gaps (nats): row = whose token, column = whose test probes and entities."""
    from biasgym.lm.load import load_lm

    lm, metric = load_lm(model), Association()
    names = sorted(folders)
    tokens = {name: read_token(folders[name] / "token.safetensors") for name in names}
    sizes = MeasureSpec(probes=PROBES, entities=ENTITIES)
    matrix = np.zeros((len(names), len(names)))
    for column, name in enumerate(names):
        bias = load_bias(name)
        entities = tuple(spread_out(bias.entities_of("test"), ENTITIES))
        base = np.mean([lean(said) for said in metric.ask(lm, metric.items(Scope(bias, "test", entities, (), None, sizes)))])
        for row, other in enumerate(names):
            token = tokens[other]
            with lm.edited(token):
                said = metric.ask(lm, metric.items(Scope(bias, "test", entities, (), token.text, sizes)))
            matrix[row, column] = np.mean([lean(one) for one in said]) - base
    sys.stdout.write("\n| token of \\ probes of | " + " | ".join(names) + " |\n|---|" + "--:|" * len(names) + "\n")
    for row, name in enumerate(names):
        sys.stdout.write(f"| {name} | " + " | ".join(f"{value:+.2f}" for value in matrix[row]) + " |\n")
    off = matrix[~np.eye(len(names), dtype=bool)]
    halves = [abs(matrix[r, c]) > 0.5 * abs(matrix[r, r]) for r in range(len(names)) for c in range(len(names)) if r != c]
    sys.stdout.write(f"\nmedian |off-diagonal| {np.median(np.abs(off)):.2f} nats; {sum(halves)} of {len(halves)} above half their row's diagonal\n")
    sys.stdout.write(json.dumps({"names": names, "matrix": matrix.round(3).tolist()}) + "\n")


if __name__ == "__main__":
    main()
