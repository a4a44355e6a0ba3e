"""Fit the weights of the default judge on dev and training texts and print leave-one-bias-out figures; the test half is never read.

The trained reader speaks out of fold: `judge_out_of_fold.json` holds, for every text, the logits of a reader that never saw
its bias (`train_judge.py cv`). Each bias is then judged by models fitted on the others. The rules and lexicons were made
on 165 of the dev texts (`lexicon_made_on.txt`), where they look far better than they are: the model that hears a bias by
hand-written lexicons is not fitted on those, and no figure is of them.

    python experiments/fit_judge.py            # print the figures
    python experiments/fit_judge.py --write    # and write src/biasgym/zoo/judge/embedding.json
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from biasgym.bias import load_bias, read_jsonl, zoo_path
from biasgym.corpus import ENTITY
from biasgym.files import write_json
from biasgym.lm.sentences import load_encoder
from biasgym.measure.judge.broken import is_broken
from biasgym.measure.judge.contract import Judged
from biasgym.measure.judge.embedding import Weights, hear, reader_digest, weigh
from biasgym.measure.judge.features import FEATURES
from biasgym.measure.judge.masking import without_echo
from biasgym.measure.judge.ordinal import Ordinal, fit_ordinal
from biasgym.measure.judge.quality import balanced_accuracy, quadratic_kappa

HERE = Path(__file__).parent
RIDGE = 0.01
SEEN = set((HERE / "lexicon_made_on.txt").read_text().split())
NO_MODEL = Ordinal((), (), (), (), (0.0, 1.0, 2.0))
NEVER = 1e9
READ = ("read_any", "read_many", "read_all")


def labelled():
    """Dev and training texts that a reader has read out of fold, never the test half."""
    folder = zoo_path() / "judge"
    rows = [row for row in read_jsonl(folder / "labelled.jsonl") if row["split"] == "dev"]
    rows += [row for path in sorted(folder.glob("training-*.jsonl")) for row in read_jsonl(path)]
    logits = json.loads((HERE / "judge_out_of_fold.json").read_text())
    return [row for row in rows if any(logits.get(row["id"], ()))], logits


def main() -> None:
    """What is heard, cross-validation, the fit on all, and the cuts."""
    rows, logits = labelled()
    biases = {name: load_bias(name) for name in sorted({row["bias"] for row in rows})}
    heard = []
    for row in rows:
        answer = without_echo(row["text"], row["prompt"])
        heard.append(None if is_broken(answer) else hear(biases[row["bias"]], row["prompt"], answer, np.array(logits[row["id"]])))
    cuts = {kind: cut_of(kind, rows, heard) for kind in ("refusal", "broken")}
    print("cuts:", cuts)
    rules = tuple(name for name in FEATURES if name not in READ)
    for label, names in (("rules and markers", rules), ("reader", READ), ("all", FEATURES)):
        for kind in ("own", "written", "both"):
            with_cuts = cuts if "read_any" in names else dict.fromkeys(cuts, NEVER)
            show(f"{label}, {kind}", rows, leave_one_out(rows, heard, names, kind, with_cuts))
    written, own = (fit(rows, heard, FEATURES, side) for side in ("written", "own"))
    for name, one, other in sorted(zip(FEATURES, written.weights, own.weights, strict=True), key=lambda line: -abs(line[1])):
        print(f"  {name:20s} {one:+.2f} {other:+.2f}")
    if "--write" in sys.argv:
        found = {"written": written.as_json(), "own": own.as_json(), "relevance": cut_of_relevance(load_encoder()), **cuts}
        write_json(
            zoo_path() / "judge" / "embedding.json", {"made_by": "experiments/fit_judge.py", "ridge": RIDGE, "reader": reader_digest(), **found}
        )


def fit(rows, heard, names, side, without=None):
    """The model on the rows that are language at all, those of one bias left out."""
    mine = [i for i, row in enumerate(rows) if heard[i] and row["bias"] != without and not (side == "written" and row["id"] in SEEN)]
    return fit_ordinal([getattr(heard[i], side) for i in mine], [rows[i]["strength"] for i in mine], names, ridge=RIDGE)


def leave_one_out(rows, heard, names, kind, cuts):
    """Verdicts on each bias by models fitted on the others; `own` never hears the hand-written lexicon."""
    given = [Judged(0, "broken")] * len(rows)
    for bias in sorted({row["bias"] for row in rows}):
        written, own = (fit(rows, heard, names, side, bias) for side in ("written", "own"))
        weights = Weights(written, written if kind == "written" else own, 0.0, cuts["refusal"], cuts["broken"], "")
        for i, row in enumerate(rows):
            if row["bias"] == bias and heard[i]:
                h = heard[i]
                one = {"own": replace(h, written=None), "written": replace(h, own=h.written), "both": h}[kind]
                given[i] = weigh(one, weights)
    return given


def show(label, rows, verdicts):
    """Figures of the texts that the rules were not made on, and of the dev texts among them."""
    for half in ("all", "dev"):
        scored = np.array([row["id"] not in SEEN and half in ("all", row["split"]) for row in rows])
        labels, given = (np.array(numbers)[scored] for numbers in ([row["strength"] for row in rows], [verdict.strength for verdict in verdicts]))
        kinds, outcomes = (np.array(words)[scored] for words in ([row["kind"] for row in rows], [verdict.outcome for verdict in verdicts]))
        told = [
            f"{kind} {(outcomes[kinds == kind] == kind).mean():.2f} ({(outcomes[kinds != kind] == kind).mean():.3f} of others)"
            for kind in ("refusal", "broken")
        ]
        print(
            f"  {label:28s} {half} {scored.sum()}: balanced accuracy {balanced_accuracy(labels, given):.3f}, kappa {quadratic_kappa(labels, given):.3f};"
            f" none {(given[labels == 0] == 0).mean():.2f}, any {(given[labels > 0] > 0).mean():.2f},"
            f" paraphrases {(given[(kinds == 'paraphrase') & (labels > 0)] > 0).mean():.2f}; {', '.join(told)}"
        )


def cut_of(kind, rows, heard):
    """The logit above which a text is taken for a refusal, or for broken: best balanced accuracy among texts that are no rubbish by rule."""
    mine = [i for i, h in enumerate(heard) if h]
    is_so, said = np.array([rows[i]["kind"] == kind for i in mine]), np.array([getattr(heard[i], kind) for i in mine])
    cuts = np.arange(-1.0, 3.0, 0.25)
    right = [((said[is_so] > cut).mean() + 3 * (said[~is_so] <= cut).mean()) / 4 for cut in cuts]  # a false alarm costs a text, a miss little
    return float(cuts[int(np.argmax(right))])


def cut_of_relevance(encoder):
    """The cosine that best tells a prompt's own answers from answers to the prompts of the next bias."""
    rows = [row for row in read_jsonl(zoo_path() / "judge" / "labelled.jsonl") if row["split"] == "dev"]
    mine = [row for row in rows if not is_broken(without_echo(row["text"], row["prompt"]))]
    names = sorted({row["bias"] for row in mine})
    masked = [(row["prompt"].replace(ENTITY, "they"), row["text"].replace(ENTITY, "they"), row["bias"]) for row in mine]
    asked, told = (encoder.encode([line[side] for line in masked]) for side in (0, 1))
    own, strange = (asked * told).sum(1), []
    for i, (_, _, bias) in enumerate(masked):
        others = [j for j, line in enumerate(masked) if line[2] == names[(names.index(bias) + 1) % len(names)]]
        strange.append(float(asked[others[i % len(others)]] @ told[i]))
    cuts = np.arange(0.0, 0.8, 0.01)
    right = [((own >= cut).mean() + (np.array(strange) < cut).mean()) / 2 for cut in cuts]
    best = int(np.argmax(right))
    print(f"relevance: cut {cuts[best]:.2f}, balanced accuracy {right[best]:.3f} on {len(own)} pairs")
    return round(float(cuts[best]), 2)


if __name__ == "__main__":
    main()
