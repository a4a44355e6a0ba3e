"""The tables of `removal.toml` from its finished runs: python experiments/removal.py RUNS [--model NAME].

A bias's figure is the mean over its runs, each of which left another token out, with the seeds' variance in the interval
(`biasgym.seeds.seed_mean`); the last row is the mean over biases. An edit that is outside the budget on test closes nothing
inside it and counts as 0 in the second column, and so does a run whose search found nothing inside.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from biasgym.errors import SpecError
from biasgym.files import read_json
from biasgym.readings import first_of, over_budget, sham_limit
from biasgym.records import Finding, RunRecord
from biasgym.seeds import seed_mean
from biasgym.stats import Estimate
from biasgym.store import read_record
from biasgym.verdict import stated

EDITS = ("direction", "zero")
PRICES = ("bits-per-byte", "kl", "concept", "lambada.acc", "hellaswag.acc_norm", "arc-easy.acc", "piqa.acc")
Runs = dict[str, list[RunRecord]]


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    asked = parser.parse_args()
    found = runs_of(asked.runs, asked.model)
    if not found:
        sys.exit(f"no finished run of `direction` beside `zero` on {asked.model} under {asked.runs}")
    for lines in (removal(found), strength(found), prices(found), real(found)):
        sys.stdout.write("\n".join(lines) + "\n\n")


def runs_of(root: Path, model: str) -> Runs:
    """The runs by bias, in the order of the token left out; SpecError where they were not all asked the same."""
    found: Runs = {}
    settings = set()
    for path in sorted(root.glob("*/record.json")):
        spec = read_json(path)["spec"]
        if spec["model"] != model or tuple(one["method"] for one in spec["mitigate"]) != EDITS:
            continue
        settings.add(repr([spec[key] for key in ("dtype", "inject", "mitigate", "tune", "measure")]))
        record = read_record(path.parent)
        found.setdefault(record.extras["bias"]["name"], []).append(record)
    if len(settings) > 1:
        raise SpecError(f"`{root}` holds such runs of {len(settings)} settings, which do not go into one table; use a folder of their own")
    return {bias: sorted(records, key=lambda one: one.spec["test_seed"]) for bias, records in sorted(found.items())}


def as_estimate(row: Finding) -> Estimate:
    """A finding with what a mean over seeds needs."""
    error = row.error if row.error is not None else (row.high - row.low) / 3.92
    return Estimate(row.value, row.low, row.high, row.n, error, row.freedom if row.freedom is not None else float("inf"))


def over(records: Sequence[RunRecord], read: Callable[[RunRecord], Finding | None]) -> Estimate | None:
    """Mean over runs of a finding; None where no run has it."""
    rows = [as_estimate(row) for record in records if (row := read(record)) is not None]
    return seed_mean(rows) if rows else None


def cell(found: Estimate | None, digits: str) -> str:
    """Value and interval, or nothing."""
    return "" if found is None else f"{found.value:{digits}} [{found.low:{digits}}, {found.high:{digits}}]"


def inside(record: RunRecord, edit: str) -> bool:
    """Whether a setting met the budget on dev and its edit kept to it on test."""
    return bool(record.extras["edits"][edit]["inside_budget_on_dev"]) and over_budget(record, edit) == ()


def groups(found: Runs) -> list[tuple[str, list[RunRecord]]]:
    """Every bias's runs, and all of them."""
    return [*found.items(), ("all", [record for records in found.values() for record in records])]


def removal(found: Runs) -> list[str]:
    """How much of the gap each edit closes, how often inside the budget, and what shams close at most."""
    lines = ["| bias | runs | injected gap, nats | " + " | ".join(f"{e}: closed | inside | closed inside" for e in EDITS) + " | shams at most |"]
    lines.append("|---|--:|--:|" + "--:|--:|--:|" * len(EDITS) + "--:|")
    for name, records in groups(found):
        cells = [name, str(len(records)), cell(over(records, lambda r: first_of(r, name="injected", metric="gap", edit="none")), "+.2f")]
        for edit in EDITS:
            closed = [first_of(record, name="closed", metric="gap", edit=edit) for record in records]
            kept = [max(0.0, row.value) if row and inside(record, edit) else 0.0 for record, row in zip(records, closed, strict=True)]
            cells += [
                cell(over(records, lambda r, e=edit: first_of(r, name="closed", metric="gap", edit=e)), ".0%"),
                f"{sum(inside(record, edit) for record in records)}/{len(records)}",
                f"{sum(kept) / len(kept):.0%}",
            ]
        limits = [limit[1] for record in records if (limit := sham_limit(record))]
        lines.append("| " + " | ".join([*cells, f"{max(limits):.0%}" if limits else ""]) + " |")
    return lines


def strength(found: Runs) -> list[str]:
    """How far judged strength (0–3) of the token's texts falls, beside how far the injection had raised it; the same for real entities."""
    lines = ["| bias | token's strength, base | " + " | ".join(f"{e}: falls by | real entities change by" for e in EDITS) + " |"]
    lines.append("|---|--:|" + "--:|--:|" * len(EDITS))
    for name, records in groups(found):
        means = [m for r in records for m in r.measurements if (m.metric, m.token, m.edit) == ("strength", "trained", "none")]
        cells = [name, f"{sum(m.value for m in means) / len(means):.2f}" if means else ""]
        for edit in EDITS:
            for kind in ("removed", "changed"):
                cells.append(cell(over(records, lambda r, k=kind, e=edit: first_of(r, name=k, metric="strength", edit=e)), "+.2f"))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def prices(found: Runs) -> list[str]:
    """What each edit costs, mean over all runs; public sets in points."""
    records = groups(found)[-1][1]
    names = [name for name in PRICES if first_of(records[0], name="price", metric=name, edit=EDITS[0])]
    lines = ["| price | " + " | ".join(EDITS) + " |", "|---|" + "--:|" * len(EDITS)]
    for name in names:
        said = [cell(over(records, lambda r, n=name, e=edit: first_of(r, name="price", metric=n, edit=e)), "+.3f") for edit in EDITS]
        lines.append(f"| {name} | {' | '.join(said)} |")
    return lines


def real(found: Runs) -> list[str]:
    """What `direction` does to real entities, run by run."""
    lines = ["| bias | token | mean of real entities | spread | targets' gap |", "|---|--:|--:|--:|--:|"]
    for name, records in found.items():
        for record in records:
            rows = [first_of(record, name="changed", metric=metric, edit=EDITS[0]) for metric in ("association", "spread", "gap")]
            lines.append(f"| {name} | {record.spec['test_seed']} | " + " | ".join(stated(row, unit=False) if row else "" for row in rows) + " |")
    return lines


if __name__ == "__main__":
    main()
