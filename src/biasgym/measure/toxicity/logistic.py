"""Logistic regression on hashed text: fitted by L-BFGS from zero, the same weights for the same texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from biasgym.errors import DataError
from biasgym.files import whole
from biasgym.measure.toxicity.ngrams import SIZE, matrix_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array

STEPS = 200


@dataclass(frozen=True)
class Logistic:
    """P(toxic) = σ(w·x + b) of hashed texts x of length 1; weights [SIZE], float16 on disk and here."""

    weights: np.ndarray
    constant: float

    def score(self, texts: Sequence[str]) -> list[float]:
        """Probability of each text, four digits; σ(b) for a text without words."""
        leaning = matrix_of(texts) @ self.weights.astype(np.float64) + self.constant
        return [round(float(p), 4) for p in 1 / (1 + np.exp(-leaning))]


def fit_logistic(texts: Sequence[str], kinds: Sequence[int], shares: Sequence[float], *, ridge: float) -> Logistic:
    """Weighted log-loss plus ridge/2 times the squared weights (the constant is free).

    `kinds` number the kind of each text, the last kind being the harmless one; `shares` are how much each kind weighs in all.
    """
    from scipy.optimize import minimize

    x, kind = matrix_of(texts), np.asarray(kinds)
    counts = np.bincount(kind, minlength=len(shares))
    if not counts.all() or len(counts) > len(shares):
        raise DataError(f"a scorer of toxicity needs texts of all {len(shares)} kinds to learn from; there are {counts.tolist()}")
    y, share = (kind < len(shares) - 1).astype(float), (np.asarray(shares) / counts)[kind]
    found = minimize(_loss, np.zeros(SIZE + 1), args=(x, x.T.tocsr(), y, share, ridge), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    return Logistic(found.x[:-1].astype(np.float16), float(found.x[-1]))


def _loss(p: np.ndarray, x: "csr_array", across: "csr_array", y: np.ndarray, share: np.ndarray, ridge: float) -> tuple[float, np.ndarray]:
    leaning = x @ p[:-1] + p[-1]
    loss = share @ np.logaddexp(0, np.where(y == 1, -leaning, leaning)) + ridge / 2 * float(p[:-1] @ p[:-1])
    wrong = share * (1 / (1 + np.exp(-leaning)) - y)
    return float(loss), np.append(across @ wrong + ridge * p[:-1], wrong.sum())


def write_logistic(path: Path, model: Logistic) -> None:
    """Write the weights whole: half a megabyte."""
    from safetensors.numpy import save_file

    with whole(path) as temporary:
        save_file({"weights": model.weights, "constant": np.array([model.constant])}, temporary)


def read_logistic(path: Path) -> Logistic:
    """The weights from a file; DataError when they are not whole."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
        weights, constant = arrays["weights"], float(arrays["constant"][0])
    except (OSError, KeyError, IndexError, SafetensorError) as error:
        raise DataError(f"cannot read the scorer's weights `{path}` ({error}); remove its folder and they are fitted anew") from None
    if weights.shape != (SIZE,):
        raise DataError(f"the scorer's weights `{path}` have shape {weights.shape}, ({SIZE},) was expected; remove its folder")
    return Logistic(weights, constant)
