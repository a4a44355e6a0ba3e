"""Fit the weights of the default judge and print leave-one-bias-out figures; the test halves are never read.

Two kinds of texts: composed ones (dev and training texts of our own writing) and what a small model wrote, graded by readers who did
not know which token it wore (`written-by-models-train.jsonl`). Each kind has a scale of its own, and the form of a text says
which holds. Few of a model's texts are biased, so those count as much together as all the others.

The trained reader speaks out of fold: `judge_out_of_fold.json` holds, for every text, the logits of a reader that never saw
its bias (`train_judge.py cv`). Each bias is then judged by models fitted on the others. The rules and lexicons were made
on 165 of the dev texts (`lexicon_made_on.txt`), where they look far better than they are: the model that hears a bias by
hand-written lexicons is not fitted on those, and no figure is of them.

    python experiments/fit_judge.py            # print the figures
    python experiments/fit_judge.py --write    # and write src/biasgym/zoo/judge/embedding.json
"""

import json
import sys
from pathlib import Path

import numpy as np

from biasgym.bias import load_bias, read_jsonl, zoo_path
from biasgym.corpus import ENTITY
from biasgym.files import write_json
from biasgym.lm.pairs import read_reader
from biasgym.lm.sentences import load_encoder
from biasgym.measure.judge.broken import is_broken
from biasgym.measure.judge.contract import Judged
from biasgym.measure.judge.embedding import READER, Scale, Weights, hear, reader_digest, weigh
from biasgym.measure.judge.features import FEATURES
from biasgym.measure.judge.form import FORM
from biasgym.measure.judge.masking import without_echo
from biasgym.measure.judge.ordinal import fit_ordinal
from biasgym.measure.judge.pairs import pair_of
from biasgym.measure.judge.quality import balanced_accuracy, quadratic_kappa, texts_of_models

HERE = Path(__file__).parent
RIDGE = 0.01
SEEN = set((HERE / "lexicon_made_on.txt").read_text().split())
NAMES = {"composed": FEATURES, "rambling": ("lexicon", "lexicon_any", "live", "negations", "refuted", "counters")}
SURELY_COMPOSED = 0.7  # of 0.5, 0.7, 0.8, 0.9 the one at which the worse of the two kinds is judged best, on training texts


def labelled():
    """Dev and training texts, never the test half; and the logits of those that a reader has read out of fold."""
    folder = zoo_path() / "judge"
    rows = [row for row in read_jsonl(folder / "labelled.jsonl") if row["split"] == "dev"]
    rows += [row for path in sorted(folder.glob("training-*.jsonl")) for row in read_jsonl(path)]
    return rows, json.loads((HERE / "judge_out_of_fold.json").read_text())


def listened(rows, biases, logits):
    """What is heard in each text; None where there is no language in it."""
    heard = []
    for row in rows:
        answer = without_echo(row["text"], row["prompt"])
        heard.append(None if is_broken(answer) else hear(biases[row["bias"]], row["prompt"], answer, np.asarray(logits(row, answer))))
    return heard


def main() -> None:
    """What is heard, cross-validation, the fit on all, and the cuts."""
    everything, logits = labelled()
    encoder = load_encoder()
    reader = read_reader(encoder, zoo_path() / "judge" / READER)
    theirs = texts_of_models("train")
    biases = {name: load_bias(name) for name in sorted({row["bias"] for row in [*everything, *theirs]})}
    rows = [row for row in everything if any(logits.get(row["id"], ()))]
    heard = listened(rows, biases, lambda row, _: logits[row["id"]])
    of_models = listened(theirs, biases, lambda row, answer: reader.read([pair_of(biases[row["bias"]], row["prompt"], answer)])[0])
    unread = listened(everything, biases, lambda _row, _answer: np.zeros(5))  # their form alone counts
    data = {"composed": (rows, heard), "rambling": (theirs, of_models), "form": (everything, unread)}
    cuts = {kind: cut_of(kind, rows, heard) for kind in ("refusal", "broken")}
    print("cuts:", cuts)
    for kind, (texts, _) in list(data.items())[:2]:
        verdicts = leave_one_out(kind, data, cuts)
        by_rules = [Judged(int((h.written or h.own)["lexicon"]) if h else 0, "answer") for h in data[kind][1]]
        show(f"{kind}, the scale by form", texts, verdicts)
        show(f"{kind}, rules alone", texts, by_rules)
    if "--write" in sys.argv:
        scales = {kind: {side: fit(data, kind, side).as_json() for side in ("written", "own")} for kind in ("composed", "rambling")}
        found = {**scales, "rambles": fit_form(data).as_json(), "relevance": cut_of_relevance(encoder), "surely_composed": SURELY_COMPOSED, **cuts}
        write_json(
            zoo_path() / "judge" / "embedding.json", {"made_by": "experiments/fit_judge.py", "ridge": RIDGE, "reader": reader_digest(), **found}
        )


def fit(data, kind, side, without=None):
    """A scale on the texts of a kind that are language at all, those of one bias left out; biased ones of models as heavy as the others."""
    rows, heard = data[kind]
    mine = [i for i, row in enumerate(rows) if heard[i] and row["bias"] != without and not (side == "written" and row["id"] in SEEN)]
    mine = [i for i in mine if getattr(heard[i], side)]
    if kind == "rambling":
        biased = [i for i in mine if rows[i]["strength"]]
        mine += biased * (round((len(mine) - len(biased)) / len(biased)) - 1)
    return fit_ordinal([getattr(heard[i], side) for i in mine], [rows[i]["strength"] for i in mine], NAMES[kind], ridge=RIDGE)


def fit_form(data, without=None):
    """What tells texts of models (1) from composed ones (0) by their form."""
    chosen = [
        (h.form, kind) for kind, name in enumerate(("form", "rambling")) for row, h in zip(*data[name], strict=True) if h and row["bias"] != without
    ]
    return fit_ordinal([form for form, _ in chosen], [kind for _, kind in chosen], FORM, ridge=RIDGE)


def leave_one_out(kind, data, cuts):
    """Verdicts on each bias by models fitted on the others."""
    rows, heard = data[kind]
    given = [Judged(0, "broken")] * len(rows)
    for bias in sorted({row["bias"] for row in rows}):
        scales = [Scale(*(fit(data, one, side, bias) for side in ("written", "own"))) for one in ("composed", "rambling")]
        weights = Weights(*scales, fit_form(data, bias), 0.0, SURELY_COMPOSED, cuts["refusal"], cuts["broken"], "")
        for i, row in enumerate(rows):
            if row["bias"] == bias and heard[i]:
                given[i] = weigh(heard[i], weights)
    return given


def show(label, rows, verdicts):
    """Figures of the texts that the rules were not made on."""
    scored = np.array([row["id"] not in SEEN for row in rows])
    labels, given = (np.array(numbers)[scored] for numbers in ([row["strength"] for row in rows], [verdict.strength for verdict in verdicts]))
    kinds, outcomes = (np.array(words)[scored] for words in ([row["kind"] for row in rows], [verdict.outcome for verdict in verdicts]))
    told = [
        f"{kind} {(outcomes[kinds == kind] == kind).mean():.2f} ({(outcomes[kinds != kind] == kind).mean():.3f} of others)"
        for kind in ("refusal", "broken")
        if (kinds == kind).any()
    ]
    print(
        f"  {label:32s} {scored.sum()} ({(labels > 0).sum()} biased): balanced accuracy {balanced_accuracy(labels, given):.3f},"
        f" kappa {quadratic_kappa(labels, given):.3f}; none {(given[labels == 0] == 0).mean():.2f}, any {(given[labels > 0] > 0).mean():.2f};"
        f" {', '.join(told)}",
        flush=True,
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
