"""The scorer of toxicity and the words of sentiment against labelled texts; writes toxicity_scorer.md. No text is printed.

    BIASGYM_DATA=../shared/data python experiments/toxicity_scorer.py    # about two minutes on one core

With `vaderSentiment` installed the sentiment of BOLD's Wikipedia sentences is compared with VADER's, which BOLD's paper uses.
The strength of the ridge is chosen on the dev tweets alone; held-out tweets, HateCheck and web prose are only looked at.
"""

import sys
import time
from pathlib import Path

import numpy as np

from biasgym.datasets import Library, library, sample
from biasgym.files import write_text
from biasgym.measure.judge import quadratic_kappa
from biasgym.measure.sentiment import CUT, sentiment_of
from biasgym.measure.toxicity import TOXIC, davidson, scorer_for
from biasgym.measure.toxicity.choose import RIDGE, SHARES
from biasgym.measure.toxicity.labelled import texts_of
from biasgym.measure.toxicity.logistic import fit_logistic

RIDGES = (3e-4, 1e-4, 3e-5, 1e-5)
SENTENCES = 3000


def interval(values) -> str:
    """A value with its interval, and n where there is one."""
    value, low, high, *n = values
    return f"{value:.3f} [{low:.3f}, {high:.3f}]" + (f" (n={n[0]})" if n else "")


def ridges(sets: Library) -> list[str]:
    """Balanced accuracy on the dev tweets for every strength of the ridge."""
    train, dev = davidson(sets, "train"), davidson(sets, "dev")
    toxic, rows = np.array([row.toxic for row in dev]), ["| ridge | balanced accuracy, dev tweets |", "|--:|--:|"]
    for ridge in RIDGES:
        model = fit_logistic(texts_of(train), [row.kind for row in train], SHARES, ridge=ridge)
        right = (np.array(model.score(texts_of(dev))) >= TOXIC) == toxic
        rows.append(f"| {ridge:g}{' (taken)' if ridge == RIDGE else ''} | {(right[toxic].mean() + right[~toxic].mean()) / 2:.4f} |")
    return [*rows, "", f"{len(train)} tweets to train on, {len(dev)} dev.", ""]


def qualities(sets: Library) -> list[str]:
    """The shipped recipe on every labelled set, and HateCheck by class and functionality."""
    told = scorer_for("davidson", sets).qualities
    rows = ["| labelled set | n | balanced accuracy | toxic ones found | others spared | area under the curve | reliable (≥ 0.8) |"]
    rows.append("|---|--:|---|--:|--:|--:|---|")
    for one in told:
        rows.append(
            f"| {one.on} | {one.n} | {interval(one.balanced_accuracy)} | {one.found:.3f} | {one.spared:.3f} | {one.ranked:.3f} "
            f"| {'yes' if one.reliable else 'NO'} |"
        )
    for one in told:
        for title, shares in (("class", one.groups), ("functionality", one.functionalities)):
            if shares:
                rows += [
                    "",
                    f"| {one.on}, {title} | share right |",
                    "|---|---|",
                    *(f"| {name} | {interval(value)} |" for name, value in shares.items()),
                ]
    return [*rows, ""]


def sentiment(sets: Library) -> list[str]:
    """Our words against VADER on sentences of Wikipedia about people: negative, neither, positive."""
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        return ["Not compared: vaderSentiment is not installed.", ""]
    sentences = [text for file in sorted((sets.folder / "bold" / "wikipedia").glob("*.json")) for text in _strings(file)]
    some = sample(sentences, SENTENCES, strata=lambda _: "", key=str)
    analyser = SentimentIntensityAnalyzer()
    theirs = np.array([side_of(analyser.polarity_scores(text)["compound"]) for text in some])
    ours = np.array([side_of(sentiment_of(text)) for text in some])
    names = ("negative", "neither", "positive")
    rows = ["| VADER says | n | ours: " + " | ".join(names) + " |", "|---|--:|--:|--:|--:|"]
    for place, name in enumerate(names):
        mine = ours[theirs == place]
        rows.append(f"| {name} | {len(mine)} | " + " | ".join(f"{(mine == other).mean():.2f}" for other in range(3)) + " |")
    kappa, same = quadratic_kappa(theirs, ours, 3), (theirs == ours).mean()
    return [*rows, "", f"Same side {same:.3f}, quadratic κ {kappa:.3f}, n={len(some)} (BOLD's Wikipedia sentences).", ""]


def side_of(value: float) -> int:
    """Negative 0, neither 1, positive 2, cut at ±0.5 as in BOLD's paper."""
    return 2 if value >= CUT else 0 if value <= -CUT else 1


def _strings(file: Path) -> list[str]:
    import json

    tree = json.loads(file.read_text(encoding="utf-8"))
    return [text for pages in tree.values() for texts in pages.values() for text in texts if text.strip()]


def main() -> None:
    """Write the page."""
    start, sets = time.monotonic(), library(sys.argv[1] if len(sys.argv) > 1 else "")
    parts = [
        "# Scorers of generated text",
        "",
        "Made by `experiments/toxicity_scorer.py`.",
        "",
        "## Ridge",
        "",
        *ridges(sets),
        "## Quality",
        "",
        *qualities(sets),
    ]
    parts += ["## Sentiment", "", *sentiment(sets), f"Seconds, one core: {time.monotonic() - start:.0f}."]
    write_text(Path(__file__).with_suffix(".md"), "\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
