"""Attribute subspaces of hidden states: iterated nullspace projection, and principal components of counterfactual pairs."""

from collections.abc import Sequence

import numpy as np
import torch

from biasgym.errors import SpecError
from biasgym.lm.apply import captured
from biasgym.lm.model import LM

RIDGE = 1e-2


@torch.no_grad()
def text_states(lm: LM, texts: Sequence[str], layer: int) -> np.ndarray:
    """Mean over a text's tokens of the stream after a layer, the beginning-of-text token left out; [texts, hidden]."""
    rows = [lm.text_ids(text) for text in texts]
    found = np.zeros((len(rows), lm.shape.hidden))
    block = lm.model.get_submodule(f"{lm.family.layers}.{layer}")
    for group in lm.batches([len(row) for row in rows]):
        ids, mask = lm.pad([rows[i] for i in group])
        with captured([block], inputs=False) as seen:
            lm._states(ids, mask)
        for r, i in enumerate(group):
            count = len(rows[i]) - (rows[i][0] == lm.tokenizer.bos_token_id)
            found[i] = seen[0][r, -count:].double().mean(0).cpu().numpy()
    return found


def linear_probe(states: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Ridge-regularised logistic regression, by Newton steps: weights [hidden] and intercept; labels 0 and 1.

    States are centred and divided by their overall spread first (one number, so directions stay what they are).
    """
    y = np.asarray(labels, dtype=float)
    if not 0 < y.mean() < 1:
        raise SpecError("a probe needs texts of both kinds")
    centre, spread = states.mean(0), max(float(states.std()), 1e-12)
    x = np.concatenate([(states - centre) / spread, np.ones((len(states), 1))], axis=1)
    penalty = np.full(x.shape[1], RIDGE * len(x))
    penalty[-1] = 1e-6
    weights = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (p - y) + penalty * weights
        curvature = np.maximum(p * (1 - p), 1e-6)
        step = _newton(x, curvature, penalty, gradient)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    direction = weights[:-1] / spread
    return direction, float(weights[-1] - direction @ centre)


def _newton(x: np.ndarray, curvature: np.ndarray, penalty: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """(xᵀ diag(c) x + diag(λ))⁻¹ g by the matrix inversion lemma: there are fewer texts than dimensions."""
    scaled = x / penalty
    inner = np.diag(1 / curvature) + x @ scaled.T
    step: np.ndarray = gradient / penalty - scaled.T @ np.linalg.solve(inner, scaled @ gradient)
    return step


def probe_accuracy(states: np.ndarray, labels: np.ndarray, held_out: np.ndarray, held_labels: np.ndarray) -> float:
    """Balanced accuracy on held-out texts of a probe trained on the others; 0.5 is chance."""
    direction, intercept = linear_probe(states, labels)
    said = held_out @ direction + intercept > 0
    truth = np.asarray(held_labels, dtype=bool)
    return float((said[truth].mean() + (~said[~truth]).mean()) / 2)


def nullspace_rows(states: np.ndarray, labels: np.ndarray, rounds: int) -> np.ndarray:
    """Orthonormal rows [≤ rounds, hidden] of a subspace along which the attribute was linearly readable.

    INLP (Ravfogel et al. 2020, arXiv 2004.07667): train a probe, project its direction out, train the next on what is
    left. The projection onto the intersection of the nullspaces is I − rowsᵀ rows.
    """
    rows = np.zeros((0, states.shape[1]))
    for _ in range(rounds):
        left = states - states @ rows.T @ rows
        direction, _ = linear_probe(left, labels)
        direction = direction - rows.T @ (rows @ direction)
        length = np.linalg.norm(direction)
        if length < 1e-10:
            break
        rows = np.concatenate([rows, (direction / length)[None]])
    return rows


def pair_components(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Orthonormal rows [≤ count, hidden]: principal components of what sets counterfactual twins apart.

    SentenceDebias (Liang et al. 2020, arXiv 2007.08100): each pair is centred on its own mean, all halves are stacked,
    the leading right singular vectors span the bias subspace.
    """
    if first.shape != second.shape or not len(first):
        raise SpecError(f"counterfactual pairs of shapes {first.shape} and {second.shape}; as many of one kind as of the other are needed")
    middle = (first + second) / 2
    _, sizes, rows = np.linalg.svd(np.concatenate([first - middle, second - middle]), full_matrices=False)
    found: np.ndarray = rows[: min(count, int((sizes > 1e-10).sum()))]
    return found


def random_rows(hidden: int, count: int, seed: int) -> np.ndarray:
    """Orthonormal rows of a random subspace: the sham of equal rank."""
    noise = np.random.default_rng(seed).normal(size=(hidden, count))
    found: np.ndarray = np.linalg.qr(noise)[0].T
    return found


def without(states: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """States with a subspace projected out."""
    left: np.ndarray = states - states @ rows.T @ rows
    return left
