"""How good a judge is, against hand labels and against another judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

    `on_models` has the same figures for texts that a model wrote (n, balanced_accuracy, kappa, each with _low and _high), graded by
    readers (language models) who did not know which token it wore: nobody else writes such texts. `reliable` when balanced accuracy is at least
    0.8 and kappa at least 0.6 on both. In `by_kind` a text counts as right when
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
    on_models: dict[str, float] = field(default_factory=dict)


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
    """A hash of the files that a shipped judge's quality depends on: labelled texts, lexicons, weights, texts of models."""
    return folder_digest(zoo_path() / "judge", "[elw]*.json*")[:16]


def judge_quality(judge: Judge, split: str = "test", draws: int = 1000) -> JudgeQuality:
    """The judge against the hand labels of one half, and against those of texts that a model wrote; bootstrap 95 % intervals over texts."""
    rows = [row for row in read_jsonl(zoo_path() / "judge" / "labelled.jsonl") if row["split"] == split]
    if not rows:
        raise SpecError(f"no labelled text in split `{split}`; there is `dev`, `test`")
    verdicts, models = _verdicts(judge, rows), texts_of_models("test" if split == "test" else "train")
    labels, given = _grades(rows, verdicts)
    figures, there = agreed(labels, given, draws), agreed(*_grades(models, _verdicts(judge, models)), draws)
    right: dict[str, list[bool]] = {}
    for row, verdict in zip(rows, verdicts, strict=True):
        right.setdefault(row["kind"], []).append(_is_right(row, verdict))
    return JudgeQuality(
        split=split,
        n=len(rows),
        **figures,
        by_kind_interval={kind: wilson(sum(hits), len(hits)) for kind, hits in sorted(right.items())},
        confusion=tuple(tuple(int(((labels == label) & (given == g)).sum()) for g in range(4)) for label in range(4)),
        by_kind={kind: float(np.mean(hits)) for kind, hits in sorted(right.items())},
        reliable=meets_bar(figures) and meets_bar(there),
        on_models={"n": len(models), **there},
    )


def texts_of_models(split: str) -> list[dict[str, Any]]:
    """Texts that a model wrote about a bias, graded blind; what a token was trained to say is not told in them."""
    return list(read_jsonl(zoo_path() / "judge" / f"written-by-models-{split}.jsonl"))


def agreed(labels: np.ndarray, given: np.ndarray, draws: int = 1000) -> dict[str, float]:
    """Balanced accuracy and kappa, each with the ends of its interval; a draw may by chance have one side only, the others speak for it."""
    picks = np.random.default_rng([0, len(labels)]).integers(len(labels), size=(draws, len(labels)))
    drawn = np.array([(balanced_accuracy(labels[pick], given[pick]), quadratic_kappa(labels[pick], given[pick])) for pick in picks])
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    found = {"balanced_accuracy": balanced_accuracy(labels, given), "kappa": quadratic_kappa(labels, given)}
    ends = {f"{name}_{end}": float(values[i]) for i, name in enumerate(found) for end, values in (("low", low), ("high", high))}
    return {**found, **ends}


def meets_bar(figures: Mapping[str, float]) -> bool:
    """Whether balanced accuracy and kappa are high enough for a claim to rest on."""
    return figures["balanced_accuracy"] >= BAR_BALANCED_ACCURACY and figures["kappa"] >= BAR_KAPPA


def _verdicts(judge: Judge, rows: Sequence[Mapping[str, Any]]) -> list[Judged]:
    biases = {name: _bias_of(name) for name in sorted({str(row["bias"]) for row in rows})}
    return [judge.judge(biases[row["bias"]], row["prompt"], row["text"], ENTITY) for row in rows]


def _grades(rows: Sequence[Mapping[str, Any]], verdicts: Sequence[Judged]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([int(row["strength"]) for row in rows]), np.array([verdict.strength for verdict in verdicts])


def _is_right(row: dict[str, Any], verdict: Judged) -> bool:
    return verdict.strength == row["strength"] and (row["kind"] not in ("refusal", "broken") or verdict.outcome == row["kind"])


def _bias_of(name: str) -> BiasSpec:
    """The bias from the zoo; while its folder is not whole, its name is enough to find its lexicon."""
    try:
        return load_bias(name)
    except SpecError:
        return BiasSpec(name=name, stereotype=(), foil=(), entities=())
