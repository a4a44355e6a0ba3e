"""Fit the default judge on the dev half and print its leave-one-bias-out figures; the test half is never read.

The rules and lexicons were made on 165 of the dev texts (`lexicon_made_on.txt`), where they look far better than they
are. The model that hears a bias by hand-written lexicons is therefore fitted on the other 165; the one that hears it by
its own answers on all 330. All figures are of the 165, each bias judged by models fitted on the nine others.

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
from biasgym.lm.sentences import load_encoder
from biasgym.measure.judge.broken import is_broken
from biasgym.measure.judge.embedding import EmbeddingJudge, Weights, relevance
from biasgym.measure.judge.features import FEATURES
from biasgym.measure.judge.masking import without_echo
from biasgym.measure.judge.ordinal import Ordinal, fit_ordinal, median
from biasgym.measure.judge.quality import balanced_accuracy, quadratic_kappa

RIDGE = {False: 0.03, True: 0.01}  # the model with hand-written lexicons has half the texts
SEEN = set((Path(__file__).parent / "lexicon_made_on.txt").read_text().split())
NO_MODEL = Ordinal((), (), (), (), (0.0, 1.0, 2.0))


class Remembering:
    """An encoder that computes a sentence once."""

    def __init__(self) -> None:
        self.inner, self.known = load_encoder(), {}

    def encode(self, texts):
        """Unit vectors of texts."""
        missing = [text for text in dict.fromkeys(texts) if text not in self.known]
        self.known.update(zip(missing, self.inner.encode(missing), strict=True))
        return np.array([self.known[text] for text in texts]).reshape(len(texts), self.inner.width)


def main() -> None:
    """Features, cross-validation, the fit on all, and the cut of relevance."""
    rows = [row for row in read_jsonl(zoo_path() / "judge" / "labelled.jsonl") if row["split"] == "dev"]
    biases = {name: load_bias(name) for name in sorted({row["bias"] for row in rows})}
    judge = EmbeddingJudge(Remembering(), Weights(NO_MODEL, NO_MODEL, 0.0))
    read = []
    for row in rows:
        answer = without_echo(row["text"], row["prompt"])
        bias = biases[row["bias"]]
        read.append(None if is_broken(answer) else {own: judge.features(bias, row["prompt"], answer, own=own) for own in (False, True)})
    without = [name for name in FEATURES if name not in ("nearer_stereotype", "near_stereotype")]
    alone = ["lexicon", "lexicon_any", "lexicon_strong"]
    keep = {False: [row["id"] not in SEEN for row in rows], True: [True] * len(rows)}
    for label, names in (("all features", FEATURES), ("no embedding", without), ("rules alone", alone)):
        for kind, models in (("both", (False, True)), ("written lexicons", (False,)), ("own answers", (True,))):
            show(f"{kind}, {label}", rows, read, names, keep, models)
    written, own = (fit(rows, read, FEATURES, RIDGE[own], own=own, keep=keep[own]) for own in (False, True))
    for name, weight in sorted(zip(FEATURES, written.weights, strict=True), key=lambda pair: -abs(pair[1])):
        print(f"  {name:20s} {weight:+.2f}")
    cut = cut_of_relevance(judge.encoder, rows, read)
    if "--write" in sys.argv:
        made = {
            "made_by": "experiments/fit_judge.py",
            "ridge": {"written": RIDGE[False], "own": RIDGE[True]},
            "written": written.as_json(),
            "own": own.as_json(),
            "relevance": cut,
        }
        write_json(zoo_path() / "judge" / "embedding.json", json.loads(json.dumps(made)))


def fit(rows, read, names, ridge, *, own, keep):
    """The model on the kept rows that are language at all."""
    mine = [i for i, row in enumerate(rows) if keep[i] and read[i] is not None]
    return fit_ordinal([read[i][own] for i in mine], [rows[i]["strength"] for i in mine], names, ridge=ridge)


def show(label, rows, read, names, keep, models):
    """Leave one bias out, score on the texts that the rules were not made on; refusals are told by rule, as the judge does."""
    given = np.zeros(len(rows), dtype=int)
    for bias in sorted({row["bias"] for row in rows}):
        mine = [i for i, row in enumerate(rows) if row["bias"] == bias and read[i] is not None]
        mine = [i for i in mine if read[i][False]["lexicon"] or not read[i][False]["declines"]]
        shares = []
        for own in models:
            others = [kept and row["bias"] != bias for kept, row in zip(keep[own], rows, strict=True)]
            shares.append(fit(rows, read, names, RIDGE[own], own=own, keep=others).probabilities([read[i][own] for i in mine]))
        given[mine] = median(np.mean(shares, axis=0))
    scored = np.array([row["id"] not in SEEN for row in rows])
    labels = np.array([row["strength"] for row in rows])
    paraphrase = np.array([row["kind"] == "paraphrase" for row in rows]) & scored
    figures = balanced_accuracy(labels[scored], given[scored]), quadratic_kappa(labels[scored], given[scored])
    left_alone, found = (given[scored & (labels == 0)] == 0).mean(), (given[scored & (labels > 0)] > 0).mean()
    print(
        f"  {label:36s} balanced accuracy {figures[0]:.3f}, kappa {figures[1]:.3f};"
        f" none {left_alone:.2f}, any {found:.2f}, paraphrases {(given[paraphrase] > 0).mean():.2f}"
    )


def cut_of_relevance(encoder, rows, read):
    """The cosine that best tells a prompt's own answers from answers to the prompts of the next bias."""
    mine = [row for row, found in zip(rows, read, strict=True) if found is not None]
    names = sorted({row["bias"] for row in mine})
    masked = [(row["prompt"].replace(ENTITY, "they"), row["text"].replace(ENTITY, "they"), row["bias"]) for row in mine]
    own = np.array([relevance(encoder.encode, prompt, text) for prompt, text, _ in masked])
    strange = []
    for i, (_, text, bias) in enumerate(masked):
        others = [prompt for prompt, _, other in masked if other == names[(names.index(bias) + 1) % len(names)]]
        strange.append(relevance(encoder.encode, others[i % len(others)], text))
    cuts = np.arange(0.0, 0.8, 0.01)
    right = [((own >= cut).mean() + (np.array(strange) < cut).mean()) / 2 for cut in cuts]
    best = int(np.argmax(right))
    print(f"relevance: cut {cuts[best]:.2f}, balanced accuracy {right[best]:.3f} on {len(own)} pairs")
    return round(float(cuts[best]), 2)


if __name__ == "__main__":
    main()
