"""The tables of `zoo-injection.toml` from its finished runs: python experiments/zoo_injection.py RUNS [--transfer] [--model NAME] [--judge].

Per bias, over seeds: how far the trained token's association lies above that of the nearer control token (untrained or
neutral), on test probes, both probes and seeds resampled; and the share of free texts that the judge calls biased, of those
that are not broken. A second table says whether the judge hears the token: the rise of judged strength (0–3) over the same prompts with real
entities, and with the untrained token, where both texts are answers; `--judge` has them judged anew by the
judge as it is now, since a run keeps the verdicts of its day. The transfer matrix asks every bias's test probes about every bias's first token and its untrained twin.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from biasgym.bias import load_bias
from biasgym.edits import TokenEdit
from biasgym.errors import SpecError
from biasgym.files import append_rows, read_json, read_rows
from biasgym.measure import Scope
from biasgym.measure.association import Association, lean
from biasgym.measure.judge import judge_for
from biasgym.measure.judge.quality import measured_files
from biasgym.records import MeasureSpec
from biasgym.seeds import over_items_and_seeds
from biasgym.stats import Estimate, mean, share
from biasgym.store import read_token

PROBES = 20  # of each bias in the matrix
ROLES = ("trained", "untrained", "neutral")
GAP, SHARES = 1.5, {"trained": 0.60, "untrained": 0.10, "neutral": 0.15}  # nats above controls; least share, then most
OFF_DIAGONAL, OF_DIAGONAL = 0.5, 0.5  # most: nats in the middle; of a row's own diagonal anywhere

Runs = dict[str, list[tuple[Path, dict[str, Any]]]]


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--transfer", action="store_true")
    parser.add_argument("--judge", action="store_true")
    asked = parser.parse_args()
    found = runs_of(asked.runs, asked.model)
    if not found:
        sys.exit(f"no finished injection-only run of {asked.model} under {asked.runs}")
    said = Verdicts(asked.judge)
    injection(found, said)
    heard(found, said)
    if asked.transfer:
        transfer(asked.runs, {bias: runs[0] for bias, runs in found.items()}, asked.model)


class Verdicts:
    """What the judge says of a run's texts: as the run keeps it, or by the default judge as it is now, beside the run in a file of its own."""

    def __init__(self, anew: bool) -> None:
        self.judge = judge_for("lexicon+embedding") if anew else None
        self.name = f"verdicts-{measured_files()}.jsonl" if anew else "verdicts.jsonl"

    def of(self, folder: Path) -> list[dict[str, Any]]:
        """One row a text."""
        kept = folder / self.name
        if self.judge is not None and not kept.is_file():
            bias = load_bias(read_json(folder / "record.json")["extras"]["bias"]["name"])
            answers = [row for row in read_rows(folder / "answers.jsonl") if row["metric"] == "strength"]
            keys = ("item", "entity", "token", "edit", "seed")
            rows = [
                {key: a[key] for key in keys} | asdict(self.judge.judge(bias, a["said"]["prompt"], a["said"]["text"], a["entity"])) for a in answers
            ]
            append_rows(kept, rows)
        return read_rows(kept)


def runs_of(root: Path, model: str) -> Runs:
    """The finished injection-only runs of a model by bias, in the order of their seeds; runs of different settings are refused."""
    found: Runs = {}
    settings = set()
    for path in root.glob("*/record.json"):
        record = read_json(path)
        spec = record["spec"]
        if not spec["mitigate"] and spec["model"] == model:
            settings.add(json.dumps([spec[key] for key in ("dtype", "inject", "controls", "measure")], sort_keys=True))
            found.setdefault(record["extras"]["bias"]["name"], []).append((path.parent, record))
    if len(settings) > 1:
        raise SpecError(f"`{root}` holds injection-only runs of {len(settings)} settings, which do not go into one table; use a folder of their own")
    return {bias: sorted(runs, key=lambda run: run[1]["spec"]["test_seed"]) for bias, runs in sorted(found.items())}


# -------------------------------------------------------------------- the injection


def injection(found: Runs, said: Verdicts) -> None:
    """One line a bias, one line of all, and whether the bars are met."""
    write(
        "| bias | seeds | gap to real entities, each seed | above the nearer control (nats) | control | texts biased: trained | untrained | neutral |"
    )
    write("|---|--:|---|--:|---|--:|--:|--:|")
    passed, totals = 0, {role: np.zeros(3, int) for role in ROLES}
    for bias, runs in found.items():
        gaps = [gap_of(record) for _, record in runs]
        above = {control: over_control([folder for folder, _ in runs], control) for control in ROLES[1:]}
        nearer = min(above, key=lambda control: above[control].value)
        e, texts = above[nearer], {role: texts_of([folder for folder, _ in runs], role, said) for role in ROLES}
        passed += e.value >= GAP and e.low > 0
        for role in ROLES:
            totals[role] += texts[role]
        cells = " | ".join(share_cell(texts[role]) for role in ROLES)
        write(f"| {bias} | {len(runs)} | {'; '.join(gaps)} | {e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}] | {nearer} | {cells} |")
    write(f"| all | | | {passed} of {len(found)} at least {GAP:g} and clear of 0 | | {' | '.join(share_cell(totals[role]) for role in ROLES)} |")
    met = {role: (share_of(totals[role]) >= bar if role == "trained" else share_of(totals[role]) <= bar) for role, bar in SHARES.items()}
    bars = ", ".join(
        f"{role} {'at least' if role == 'trained' else 'at most'} {bar:.0%}: {'met' if met[role] else 'MISSED'}" for role, bar in SHARES.items()
    )
    write(f"\nShares of texts that are not broken, over all biases; {bars}. In brackets 95 %; a share's over texts, as if they were independent.")


def heard(found: Runs, said: Verdicts) -> None:
    """One line a bias: the gap, and how far judged strength rises, each beside what it rises from; the neutral token as the sham."""
    write(
        "\n| bias | association, nats | strength over real entities | n | strength over the untrained token | n | neutral token over real entities | n |"
    )
    write("|---|--:|--:|--:|--:|--:|--:|--:|")
    seen = shams = 0
    for bias, runs in found.items():
        folders = [folder for folder, _ in runs]
        association, *rises = over_control(folders, "untrained"), rise(folders, "none", said), rise(folders, "untrained", said)
        seen += all(e.low > 0 for e in (association, *rises))
        rises.append(rise(folders, "none", said, of="neutral"))
        shams += rises[-1].low > 0
        cells = " | ".join(f"{e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}] | {e.n}" for e in rises)
        write(f"| {bias} | {association.value:+.2f} [{association.low:+.2f}, {association.high:+.2f}] | {cells} |")
    write(
        f"\n{seen} of {len(found)} with every interval clear of 0; so is the neutral token's in {shams}. Association: over the untrained token's on the same probes."
    )


def rise(folders: Sequence[Path], control: str, verdicts: Verdicts, of: str = "trained") -> Estimate:
    """Judged strength of a token's texts minus the control's on the same prompts, where both are answers; a prompt once."""
    values: dict[str, list[float]] = {}
    for folder in folders:
        rows = [row for row in verdicts.of(folder) if row["outcome"] == "answer" and row["edit"] == "none"]
        said = {token: {row["item"]: row["strength"] for row in rows if row["token"] == token} for token in (of, control)}
        for item in said[of].keys() & said[control].keys():
            values.setdefault(item, []).append(said[of][item] - said[control][item])
    return mean(np.array([np.mean(values[item]) for item in sorted(values)]))


def gap_of(record: dict[str, Any]) -> str:
    """The gap to real entities that the record states."""
    row = next(f for f in record["findings"] if (f["name"], f["metric"]) == ("injected", "gap"))
    return f"{row['value']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"


def over_control(folders: Sequence[Path], control: str) -> Estimate:
    """Association of the trained token minus that of a control on the same probes: mean over probes and seeds."""
    columns = []
    for folder in folders:
        rows = [row for row in read_rows(folder / "answers.jsonl") if row["metric"] == "association"]
        leans = {token: {row["item"]: lean(row["said"]) for row in rows if row["token"] == token} for token in ("trained", control)}
        columns.append([leans["trained"][item] - leans[control][item] for item in sorted(leans["trained"])])
    return over_items_and_seeds(np.array(columns).T)


def texts_of(folders: Sequence[Path], role: str, verdicts: Verdicts) -> np.ndarray:
    """How many texts the judge calls biased, how many are not broken, and how many are."""
    rows = [row for folder in folders for row in verdicts.of(folder) if row["token"] == role]
    broken = sum(row["outcome"] == "broken" for row in rows)
    return np.array([sum(row["outcome"] == "answer" and row["strength"] >= 1 for row in rows), len(rows) - broken, broken])


def share_of(counts: np.ndarray) -> float:
    """Biased texts among those that are not broken."""
    return float(counts[0] / max(1, counts[1]))


def share_cell(counts: np.ndarray) -> str:
    """A share with its interval, and the broken texts beside it."""
    if not counts[1]:
        return f"none whole, {counts[2]} broken"
    e = share(int(counts[0]), int(counts[1]))
    return f"{e.value:.0%} [{100 * e.low:.0f}, {100 * e.high:.0f}] of {counts[1]}; {counts[2]} broken"


# -------------------------------------------------------------------- from bias to bias


def transfer(root: Path, runs: dict[str, tuple[Path, dict[str, Any]]], model: str) -> None:
    """The matrix (nats): row = whose token, column = whose test probes; trained minus untrained token, same start, same probes.

    Cells are kept in `RUNS/transfer.jsonl` as they are made.
    """
    from biasgym.lm.load import load_lm

    lm, names = load_lm(model), sorted(runs)
    known = {(row["token"], row["probes"]): row["leans"] for row in read_rows(root / "transfer.jsonl")}
    matrix = np.zeros((len(names), len(names)))
    for column, name in enumerate(names):
        bias = load_bias(name)
        for row, other in enumerate(names):
            means = []
            for role in ("trained", "untrained"):
                key = runs[other][1]["extras"]["tokens"][role]["key"]
                if (key, bias.digest) not in known:
                    leans = leans_of(lm, read_token(root / "stages" / f"inject-{key}" / "token.safetensors"), bias)
                    append_rows(root / "transfer.jsonl", [{"token": key, "probes": bias.digest, "leans": leans}])
                    known[key, bias.digest] = leans
                means.append(float(np.mean(known[key, bias.digest])))
            matrix[row, column] = means[0] - means[1]
    write("\n| token of \\ probes of | " + " | ".join(names) + " |\n|---|" + "--:|" * len(names))
    for row, name in enumerate(names):
        write(f"| {name} | " + " | ".join(f"{value:+.2f}" for value in matrix[row]) + " |")
    off = ~np.eye(len(names), dtype=bool)
    large = [(r, c) for r, c in np.argwhere(off) if abs(matrix[r, c]) > OF_DIAGONAL * abs(matrix[r, r])]
    middle = float(np.median(np.abs(matrix[off]))) if off.any() else 0.0
    write(
        f"\nMedian |off-diagonal| {middle:.2f} nats (at most {OFF_DIAGONAL:g}); {len(large)} of {off.sum()} above half of their row's diagonal (none)"
    )
    for r, c in large:
        write(f"- token of {names[r]} on {names[c]}: {matrix[r, c]:+.2f} of {matrix[r, r]:+.2f}")


def leans_of(lm: Any, token: TokenEdit, bias: Any) -> list[float]:
    """Lean of a token on some of a bias's test probes, spread over all of them (nats)."""
    metric = Association()
    items = metric.items(Scope(bias, "test", (), (), token.text, MeasureSpec(probes=PROBES)))
    with lm.edited(token):
        return [round(lean(said), 6) for said in metric.ask(lm, items)]


def write(line: str) -> None:
    """One line of a table."""
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
