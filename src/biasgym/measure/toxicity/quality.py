"""A scorer against labelled texts: balanced accuracy with its interval, by functionality, kept beside the scorer's weights."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from biasgym.clustered import figure_estimate
from biasgym.datasets import Library, sample
from biasgym.errors import DataError
from biasgym.files import read_json, write_json
from biasgym.measure import Figure
from biasgym.measure.judge.quality import wilson
from biasgym.measure.toxicity.contract import BAR, TOXIC, Interval, Scorer, ScorerQuality, quality_from
from biasgym.measure.toxicity.labelled import Labelled, davidson, hatecheck, perspective, texts_of

DRAWS = 1000
MOST = 4000  # texts of one set


@dataclass(frozen=True)
class Held:
    """One labelled set that scorers are held against: its key, its words in a sentence, and how it is read."""

    key: str
    on: str
    read: Callable[[Library], list[Labelled]]


SETS = (
    Held("davidson", "held-out tweets (Davidson)", lambda sets: davidson(sets, "held-out")),
    Held("hatecheck", "HateCheck", hatecheck),
    Held("perspective", "web prose (Perspective's label)", perspective),
)


def qualities_of(scorer: Scorer, sets: Library, folder: Path) -> list[ScorerQuality]:
    """Quality on every labelled set that is there; worked out once and kept in the folder, one file a set."""
    found = []
    for held in SETS:
        path = folder / f"quality-{held.key}.json"
        if not path.is_file():
            try:
                rows = held.read(sets)
            except DataError:  # a set that is not there, or another version: the scorer is told without it
                continue
            write_json(path, asdict(quality_of(scorer, rows, held.on)))
        found.append(quality_from(read_json(path)))
    return found


def quality_of(scorer: Scorer, rows: Sequence[Labelled], on: str) -> ScorerQuality:
    """How a scorer does on labelled texts, at most 4,000 of them, stratified by functionality and label."""
    some = sample(rows, MOST, strata=lambda r: f"{r.functionality}/{r.toxic}", key=lambda r: r.text)
    toxic, scores = np.array([row.toxic for row in some]), np.array(scorer.score(texts_of(some)))
    right = (scores >= TOXIC) == toxic
    names, groups = ([getattr(row, what) for row in some] for what in ("functionality", "group"))
    value = _balanced(toxic, right, [row.cluster for row in some])
    return ScorerQuality(
        scorer=scorer.name, on=on, n=len(some), balanced_accuracy=value, found=_share(right[toxic]), spared=_share(right[~toxic]),
        ranked=ranked(toxic, scores), reliable=value[0] >= BAR, groups=_right_by(groups, right), functionalities=_right_by(names, right),
    )  # fmt: skip


def _balanced(toxic: np.ndarray, right: np.ndarray, clusters: Sequence[str]) -> Interval:
    columns = np.stack([right & toxic, toxic, right & ~toxic, ~toxic], axis=1).astype(float)

    def mean_of_both(sums: np.ndarray) -> np.ndarray:
        made: np.ndarray = (sums[:, 0] / sums[:, 1] + sums[:, 2] / sums[:, 3]) / 2
        return made

    figure = Figure("balanced_accuracy", "all", columns, mean_of_both, tuple(clusters), 1.0, "up")
    found = figure_estimate(figure, DRAWS, bounds=(0.0, 1.0))
    if found is None:
        raise DataError("a scorer can be held only against texts of both kinds, of two clusters at least")
    return round(found.value, 4), round(found.low, 4), round(found.high, 4)


def ranked(toxic: np.ndarray, scores: np.ndarray) -> float:
    """Probability that a toxic text scores above another one; ties count half."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[places]
    positive, negative = int(toxic.sum()), int((~toxic).sum())
    return round(float((ranks[toxic].sum() - positive * (positive + 1) / 2) / (positive * negative)), 4)


def _share(right: np.ndarray) -> float:
    return round(float(right.mean()), 4)


def _right_by(names: Sequence[str], right: np.ndarray) -> dict[str, tuple[float, float, float, int]]:
    found = {}
    for name in sorted({name for name in names if name}):
        mine = right[[one == name for one in names]]
        low, high = wilson(int(mine.sum()), len(mine))
        found[name] = (_share(mine), round(low, 4), round(high, 4), len(mine))
    return found
