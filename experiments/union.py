"""Leave-one-bias-out: python experiments/union.py RUN RUN RUN… --runs DIR [--how joint,union,paper] [--trials N].

Each run in turn is left out: one edit is made of the others, tuned on their dev inside the first run's budget, and measured on
the test of all. `paper` is the union of the runs' silenced heads (their edit `zero`), `union` of their own first edits, `joint`
one edit fitted to the tokens of all. Every sign is shown: a share below 0 % is a gap that grew. Goes on where it stopped.
"""

import argparse
import sys
import time
from pathlib import Path

from biasgym.combining import Combined, combine, folders_of, sources
from biasgym.lm.load import Place
from biasgym.records import Finding
from biasgym.run import Session
from biasgym.store import RunStore

WAYS = {"joint": ("joint", None), "union": ("union", None), "paper": ("union", "zero")}


def main() -> None:
    """Print the tables as Markdown, one a way of combining."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="+", help="finished runs of one model, one a bias")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--how", default=",".join(WAYS))
    parser.add_argument("--trials", type=int)
    parser.add_argument("--only", type=int, help="leave out this run only (its place, from 0): a part of the work")
    asked = parser.parse_args()
    session = Session(RunStore(asked.runs), Place(offline=True))
    for way in asked.how.split(","):
        how, edit = WAYS[way]
        begun = time.monotonic()
        everything = sources(session, folders_of(session, asked.run), edit)
        rows = {}
        for number, left in enumerate(everything):
            if asked.only in (None, number):
                rows[left.name] = combine(session, [s for s in everything if s is not left], [left], how=how, trials=asked.trials)
        print_table(way, rows, [source.name for source in everything])
        sys.stdout.write(f"\n{time.monotonic() - begun:.0f} s\n")


def print_table(way: str, rows: dict[str, Combined], biases: list[str]) -> None:
    """One line a left-out bias: share of each bias's gap that is closed, the left-out one in brackets, and what the edit costs."""
    sys.stdout.write(f"\n### {way}\n\n| left out | " + " | ".join(biases) + " | bits per byte, % | KL, nats a token | picked | inside on dev |\n")
    sys.stdout.write("|---|" + "--:|" * (len(biases) + 2) + "---|---|\n")
    for left, found in rows.items():
        cells = []
        for bias in biases:
            row = one_of(found.findings[bias], "closed", "gap")
            cell = f"{row.value:+.0%} [{row.low:+.0%}, {row.high:+.0%}]"
            cells.append(f"**({cell})**" if bias == left else cell)
        first = found.findings[found.fitted[0]]
        bits, kl = one_of(first, "price", "bits-per-byte"), one_of(first, "price", "kl")
        cells += [f"{bits.value:+.2f} [{bits.low:+.2f}, {bits.high:+.2f}]", f"{kl.value:.4f} [{kl.low:.4f}, {kl.high:.4f}]"]
        settings = ", ".join(f"{key} {value}" for key, value in found.picked.settings.items())
        sys.stdout.write(f"| {left} | " + " | ".join(cells) + f" | {settings} | {'yes' if found.picked.inside else 'no'} |\n")
    moved = [
        f"{left}: {bias} {row.value:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
        for left, found in rows.items()
        for bias in biases
        if (row := one_of(found.findings[bias], "changed", "association")).low > 0 or row.high < 0
    ]
    sys.stdout.write("\nReal entities moved (nats, interval clear of 0), by who was left out: " + ("; ".join(moved) or "none") + "\n")


def one_of(rows: tuple[Finding, ...], name: str, metric: str) -> Finding:
    """The finding of a kind."""
    return next(row for row in rows if (row.name, row.metric) == (name, metric))


if __name__ == "__main__":
    main()
