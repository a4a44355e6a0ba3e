"""Measure the shipped judges on a half of the labelled texts, and on texts that a model wrote; only figures are printed, never a text.

The test half is for a judge that will not be changed any more:

    python experiments/judge_quality.py dev              # what can be seen while a judge is being made
    python experiments/judge_quality.py test --write     # once; writes src/biasgym/zoo/judge/quality.json
"""

import sys
import time
from dataclasses import asdict

from biasgym.bias import load_bias, read_jsonl, zoo_path
from biasgym.corpus import ENTITY
from biasgym.files import write_json
from biasgym.measure.judge import agreement, judge_for, judge_quality
from biasgym.measure.judge.quality import measured_files


class Remembering:
    """A judge that reads a text once."""

    def __init__(self, judge) -> None:
        self.inner, self.name, self.said = judge, judge.name, {}

    def judge(self, bias, prompt, text, entity):
        """The verdict, as it was the first time."""
        key = bias.name, prompt, text
        if key not in self.said:
            self.said[key] = self.inner.judge(bias, prompt, text, entity)
        return self.said[key]


def main() -> None:
    """Both judges on the half named, their agreement, and the seconds a text."""
    split = sys.argv[1]
    judges = {name: Remembering(judge_for(name)) for name in ("lexicon", "lexicon+embedding")}
    found = {}
    for name, judge in judges.items():
        start = time.monotonic()
        found[name] = judge_quality(judge, split)
        q = found[name]
        print(
            f"{name} on {split}, n={q.n}: balanced accuracy {q.balanced_accuracy:.3f} [{q.balanced_accuracy_low:.3f}, {q.balanced_accuracy_high:.3f}],"
            f" kappa {q.kappa:.3f} [{q.kappa_low:.3f}, {q.kappa_high:.3f}], reliable {q.reliable}; {(time.monotonic() - start) / q.n:.4f} s a text"
        )
        there = q.on_models
        print(
            f"  on {there['n']} texts that a model wrote: balanced accuracy {there['balanced_accuracy']:.3f} [{there['balanced_accuracy_low']:.3f}, "
            f"{there['balanced_accuracy_high']:.3f}], kappa {there['kappa']:.3f} [{there['kappa_low']:.3f}, {there['kappa_high']:.3f}]"
        )
        print("  right by kind:", ", ".join(f"{kind} {share:.2f}" for kind, share in q.by_kind.items()))
        print("  confusion (rows labels, columns given):", q.confusion)
    rows = [row for row in read_jsonl(zoo_path() / "judge" / "labelled.jsonl") if row["split"] == split]
    biases = {row["bias"]: load_bias(row["bias"]) for row in rows}
    said = [[judge.judge(biases[row["bias"]], row["prompt"], row["text"], ENTITY) for row in rows] for judge in judges.values()]
    print("agreement of the two:", agreement(*said))
    if "--write" in sys.argv:
        write_json(zoo_path() / "judge" / "quality.json", {"of": measured_files(), "judges": {name: asdict(q) for name, q in found.items()}})


if __name__ == "__main__":
    main()
