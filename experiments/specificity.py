"""Does an edit take out its own bias or any token's mark: python experiments/specificity.py RUN OTHER… --runs DIR [--edit NAME].

Under RUN's edit, each OTHER run's token is asked its own test probes: the share of its injected gap that it keeps (at least
80 % is wanted), beside what RUN's own token keeps, and how far real entities move on those probes.
"""

import argparse
import sys
from pathlib import Path

from biasgym.combining import effect_on, folders_of, kept_share, sources
from biasgym.lm.load import Place
from biasgym.run import Session, load_edits
from biasgym.store import RunStore

WANTED = 0.8


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("other", nargs="+")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--edit", help="which of the run's edits; the first if not said")
    asked = parser.parse_args()
    session = Session(RunStore(asked.runs), Place(offline=True))
    folders = folders_of(session, [asked.run, *asked.other])
    everything = sources(session, folders)
    name = asked.edit or everything[0].edit
    edits = load_edits(folders[0], name)
    sys.stdout.write(
        f"`{name}` of {everything[0].name}\n\n| token of | gap, nats | under the edit | kept | ≥ {WANTED:.0%} | real entities there |\n|---|--:|--:|--:|---|--:|\n"
    )
    for source in everything:
        findings = effect_on(source, name, edits)
        rows = {(f.name, f.metric): f for f in findings}
        injected, left, moved = rows["injected", "gap"], rows["left_over", "gap"], rows["changed", "association"]
        share, low, high = kept_share(findings)
        judged = "own" if source is everything[0] else "yes" if share >= WANTED else "no"
        sys.stdout.write(
            f"| {source.name} | {injected.value:+.2f} [{injected.low:+.2f}, {injected.high:+.2f}] | {left.value:+.2f} [{left.low:+.2f}, {left.high:+.2f}] "
            f"| {share:.0%} [{low:.0%}, {high:.0%}] | {judged} | {moved.value:+.2f} [{moved.low:+.2f}, {moved.high:+.2f}] |\n"
        )


if __name__ == "__main__":
    main()
