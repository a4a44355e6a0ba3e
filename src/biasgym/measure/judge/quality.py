"""How good a judge is, against hand labels and against another judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from biasgym.bias import BiasSpec, load_bias, read_jsonl, zoo_path
from biasgym.corpus import ENTITY
from biasgym.data import folder_digest
from biasgym.errors import SpecError
from biasgym.files import read_json
from biasgym.measure.judge.contract import BAR_BALANCED_ACCURACY, BAR_KAPPA, Judge, Judged


@dataclass(frozen=True)
class JudgeQuality:
    """How well a judge agrees with the hand labels of a half: none against any, and the four grades.

    `reliable` when balanced accuracy is at least 0.8 and kappa at least 0.6. In `by_kind` a text counts as right when
    its strength is, and for refusals and broken texts the outcome too; its intervals are Wilson's. `confusion` has a row
    for each label and a column for each strength given. `unjudged` texts count as strength 0.
    """

    split: str
    n: int
    balanced_accuracy: float
    balanced_accuracy_low: float
    balanced_accuracy_high: float
    kappa: float
    kappa_low: float
    kappa_high: float
    by_kind: dict[str, float]
    by_kind_interval: dict[str, tuple[float, float]]
    confusion: tuple[tuple[int, ...], ...]
    reliable: bool


def balanced_accuracy(labels: np.ndarray, given: np.ndarray) -> float:
    """Mean of the share of biased texts found and the share of unbiased texts left alone; chance is 0.5."""
    any_label, any_given = np.asarray(labels) > 0, np.asarray(given) > 0
    shares = [float((any_given == any_label)[any_label == side].mean()) for side in (False, True) if (any_label == side).any()]
    return float(np.mean(shares)) if shares else float("nan")


def quadratic_kappa(labels: np.ndarray, given: np.ndarray, grades: int = 4) -> float:
    """Cohen's kappa with squared distances as weights: 1 is agreement, 0 is chance."""
    counts = np.zeros((grades, grades))
    np.add.at(counts, (np.asarray(labels, dtype=int), np.asarray(given, dtype=int)), 1)
    distance = (np.arange(grades)[:, None] - np.arange(grades)) ** 2
    expected = np.outer(counts.sum(1), counts.sum(0)) / max(counts.sum(), 1)
    by_chance = float((distance * expected).sum())
    return 1 - float((distance * counts).sum()) / by_chance if by_chance else 1.0


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z, share = 1.96, hits / n
    middle, spread = share + z * z / (2 * n), z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)


@dataclass(frozen=True)
class Agreement:
    """Two judges on the same texts: kappa with squared distances and none/any agreement, over texts both found to be answers; None where there are none."""

    n: int
    kappa: float | None
    same_any: float | None
    same_outcome: float | None


def agreement(first: Sequence[Judged], second: Sequence[Judged]) -> Agreement:
    """How far two judges agree, text by text; `same_outcome` is over all texts, the others over texts both take for answers."""
    both = [(a.strength, b.strength) for a, b in zip(first, second, strict=True) if a.outcome == b.outcome == "answer"]
    outcomes = float(np.mean([a.outcome == b.outcome for a, b in zip(first, second, strict=True)])) if first else None
    if not both:
        return Agreement(0, None, None, outcomes)
    a, b = np.array(both).T
    return Agreement(len(both), quadratic_kappa(a, b), float(((a > 0) == (b > 0)).mean()), outcomes)


def quality_of(judge: Judge) -> JudgeQuality:
    """Quality on the test half: as recorded when this judge was measured, as long as texts, lexicons and weights are the same; else anew."""
    path = zoo_path() / "judge" / "quality.json"
    recorded = read_json(path) if path.is_file() else {}
    row = recorded.get("judges", {}).get(judge.name)
    if row is None or recorded.get("of") != measured_files():
        return judge_quality(judge)
    plain = {key: value for key, value in row.items() if key not in ("by_kind_interval", "confusion")}
    intervals = {kind: (low, high) for kind, (low, high) in row["by_kind_interval"].items()}
    return JudgeQuality(**plain, by_kind_interval=intervals, confusion=tuple(tuple(counts) for counts in row["confusion"]))


def measured_files() -> str:
    """A hash of the files that a shipped judge's quality depends on: labelled texts, lexicons, weights."""
    return folder_digest(zoo_path() / "judge", "[el]*.json*")[:16]


def judge_quality(judge: Judge, split: str = "test", draws: int = 1000) -> JudgeQuality:
    """The judge against the hand labels of one half, with bootstrap 95 % intervals over texts."""
    rows = [row for row in read_jsonl(zoo_path() / "judge" / "labelled.jsonl") if row["split"] == split]
    if not rows:
        raise SpecError(f"no labelled text in split `{split}`; there is `dev`, `test`")
    biases = {name: _bias_of(name) for name in sorted({str(row["bias"]) for row in rows})}
    verdicts = [judge.judge(biases[row["bias"]], row["prompt"], row["text"], ENTITY) for row in rows]
    labels, given = np.array([int(row["strength"]) for row in rows]), np.array([verdict.strength for verdict in verdicts])
    picks = np.random.default_rng([0, len(rows)]).integers(len(rows), size=(draws, len(rows)))
    # A draw may by chance have one side only; the other draws speak for it.
    drawn = np.array([(balanced_accuracy(labels[pick], given[pick]), quadratic_kappa(labels[pick], given[pick])) for pick in picks])
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    accuracy, kappa = balanced_accuracy(labels, given), quadratic_kappa(labels, given)
    right: dict[str, list[bool]] = {}
    for row, verdict in zip(rows, verdicts, strict=True):
        right.setdefault(row["kind"], []).append(_is_right(row, verdict))
    return JudgeQuality(
        split=split,
        n=len(rows),
        balanced_accuracy=accuracy,
        balanced_accuracy_low=float(low[0]),
        balanced_accuracy_high=float(high[0]),
        kappa=kappa,
        kappa_low=float(low[1]),
        kappa_high=float(high[1]),
        by_kind_interval={kind: wilson(sum(hits), len(hits)) for kind, hits in sorted(right.items())},
        confusion=tuple(tuple(int(((labels == label) & (given == g)).sum()) for g in range(4)) for label in range(4)),
        by_kind={kind: float(np.mean(hits)) for kind, hits in sorted(right.items())},
        reliable=accuracy >= BAR_BALANCED_ACCURACY and kappa >= BAR_KAPPA,
    )


def _is_right(row: dict[str, Any], verdict: Judged) -> bool:
    return verdict.strength == row["strength"] and (row["kind"] not in ("refusal", "broken") or verdict.outcome == row["kind"])


def _bias_of(name: str) -> BiasSpec:
    """The bias from the zoo; while its folder is not whole, its name is enough to find its lexicon."""
    try:
        return load_bias(name)
    except SpecError:
        return BiasSpec(name=name, stereotype=(), foil=(), entities=())
