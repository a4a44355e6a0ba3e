"""How far a ranking of places stays the same over seeds, prompts and entities, and how far chance would take it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biasgym.errors import SpecError
from biasgym.stats import Estimate

DRAWS = 500


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two lists of values, ties by their mean rank; 0 where one of them is constant."""
    x, y = _ranks(np.ravel(a)), _ranks(np.ravel(b))
    if x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    middle: np.ndarray = (last - (counts - 1) / 2)[inverse]
    return middle


def jaccard(a: Sequence[int], b: Sequence[int]) -> float:
    """Shared ÷ all of two sets of places; 1 where both are empty."""
    one, two = set(a), set(b)
    return len(one & two) / len(one | two) if one | two else 1.0


def top(values: np.ndarray, k: int) -> np.ndarray:
    """Flat indices of the k largest values, ties by position."""
    return np.argsort(-np.ravel(values), kind="stable")[:k]


@dataclass(frozen=True)
class Labels:
    """Whose score each pair is: the seed of its token, its probe, and the real entity that it was compared with."""

    seeds: tuple[str, ...]
    prompts: tuple[str, ...]
    entities: tuple[str, ...]


@dataclass(frozen=True)
class Agreement:
    """Mean Jaccard of the top k between groups of pairs, beside what random rankings give (mean and 97.5 % point).

    `pairs_of_groups` says how many comparisons it is the mean of; `above_chance` whether it is over that point.
    """

    between: str
    value: float
    chance: float
    chance_high: float
    pairs_of_groups: int

    @property
    def above_chance(self) -> bool:
        """Whether the agreement is more than random rankings reach in 39 of 40 draws."""
        return self.value > self.chance_high


@dataclass(frozen=True)
class Stability:
    """Of one attribution: how often each place is in the top k, [layers, index], with intervals, and agreements.

    `frequency` is over bootstrap draws of seeds × prompts × entities; `low` and `high` are the 95 % Wilson interval of it
    for as many independent pieces of evidence as there are different (seed, prompt) in the data, not as there are draws.
    `chance` is k ÷ number of places, what a random ranking gives.
    """

    k: int
    frequency: np.ndarray
    low: np.ndarray
    high: np.ndarray
    chance: float
    agreements: tuple[Agreement, ...]

    def of(self, layer: int, index: int) -> Estimate:
        """The selection frequency of one place."""
        place = (layer, index)
        return Estimate(float(self.frequency[place]), float(self.low[place]), float(self.high[place]), self.frequency.size)


def stability(by_pair: np.ndarray, labels: Labels, k: int, *, draws: int = DRAWS, seed: int = 0) -> Stability:
    """How stable the top k of scores [pairs, layers, index] is.

    A bootstrap draw resamples seeds, prompts and entities, each with replacement and crossed: a pair's weight is the
    product of how often its seed, its prompt and its entity were drawn. A draw that leaves no pair is drawn again.
    Agreement is the mean Jaccard of the groups' own top k: between seeds, between halves of the prompts (random, as
    often as there are draws ÷ 10) and between halves of the entities. Its baseline: the places shuffled in every group.
    """
    flat = _checked(by_pair, labels, k)
    generator = np.random.default_rng([seed, k, len(flat)])
    counts = np.zeros(flat.shape[1])
    columns = [np.unique(np.array(names), return_inverse=True) for names in (labels.seeds, labels.prompts, labels.entities)]
    for _ in range(draws):
        weights = _weights(generator, columns, len(flat))
        counts[top(weights @ flat, k)] += 1
    frequency = counts / draws
    evidence = len(set(zip(labels.seeds, labels.prompts, strict=True)))
    low, high = _wilson(frequency, evidence)
    shape = by_pair.shape[1:]
    agreements = tuple(_agreements(flat, labels, k, generator, draws))
    return Stability(k, frequency.reshape(shape), low.reshape(shape), high.reshape(shape), k / flat.shape[1], agreements)


def _checked(by_pair: np.ndarray, labels: Labels, k: int) -> np.ndarray:
    if by_pair.ndim != 3 or not len(by_pair):
        raise SpecError(f"scores of shape [pairs, layers, index] are needed, found {by_pair.shape}")
    flat = by_pair.reshape(len(by_pair), -1).astype(float)
    for name in ("seeds", "prompts", "entities"):
        if len(getattr(labels, name)) != len(flat):
            raise SpecError(f"{len(getattr(labels, name))} {name} name {len(flat)} pairs; one a pair is needed")
    if not 1 <= k <= flat.shape[1]:
        raise SpecError(f"k = {k} was asked, there are {flat.shape[1]} places; choose k from 1 to {flat.shape[1]}")
    return flat


def _weights(generator: np.random.Generator, columns: Sequence[tuple[np.ndarray, np.ndarray]], pairs: int) -> np.ndarray:
    while True:
        weights = np.ones(pairs)
        for names, inverse in columns:
            drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)))
            weights = weights * drawn[inverse]
        if weights.sum():
            return weights / weights.sum()


def _wilson(share: np.ndarray, n: int, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return np.minimum(centre - half, share), np.maximum(centre + half, share)


def _agreements(flat: np.ndarray, labels: Labels, k: int, generator: np.random.Generator, draws: int) -> list[Agreement]:
    found = []
    seeds = sorted(set(labels.seeds))
    if len(seeds) > 1:
        groups = [[i for i, one in enumerate(labels.seeds) if one == name] for name in seeds]
        found.append(_agreement("seeds", [groups], flat, k, generator))
    for between, names in (("prompt halves", labels.prompts), ("entity halves", labels.entities)):
        different = sorted(set(names))
        if len(different) > 1:
            found.append(_agreement(between, [_halves(generator, different, names) for _ in range(max(2, draws // 10))], flat, k, generator))
    return found


def _halves(generator: np.random.Generator, different: Sequence[str], names: Sequence[str]) -> list[list[int]]:
    order = [different[i] for i in generator.permutation(len(different))]
    first = set(order[: len(order) // 2])
    return [[i for i, name in enumerate(names) if (name in first) == side] for side in (True, False)]


def _agreement(between: str, splits: Sequence[Sequence[Sequence[int]]], flat: np.ndarray, k: int, generator: np.random.Generator) -> Agreement:
    """Mean Jaccard over the pairs of groups of every split; chance has the same number of groups, drawn anew each time."""
    values = []
    for groups in splits:
        tops = [top(flat[list(group)].mean(0), k) for group in groups]
        values += [jaccard(a.tolist(), b.tolist()) for i, a in enumerate(tops) for b in tops[i + 1 :]]
    groups_a_split = len(splits[0])
    chance = [random_jaccard(groups_a_split, flat.shape[1], k, generator) for _ in range(DRAWS)]
    return Agreement(between, float(np.mean(values)), float(np.mean(chance)), float(np.quantile(chance, 0.975)), len(values))


def random_jaccard(rankings: int, places: int, k: int, generator: np.random.Generator) -> float:
    """Mean Jaccard of the top k between random rankings of the same places."""
    tops = [generator.permutation(places)[:k].tolist() for _ in range(rankings)]
    return float(np.mean([jaccard(a, b) for i, a in enumerate(tops) for b in tops[i + 1 :]]))


def paper_overlap(by_seed: np.ndarray, k: int) -> list[tuple[int, int]]:
    """The original's rule (BiasGym v4 §3): places with a positive mean score in every run, by their mean over runs.

    `by_seed` [runs, layers, index], one run a token. At most k places (layer, index), the strongest first; fewer where
    fewer are positive in all runs. Which of "overlap of top lists" and "positive everywhere" the paper means is not
    said; we take the latter, which is its definition of a biased head.
    """
    if by_seed.ndim != 3 or not len(by_seed):
        raise SpecError(f"scores of shape [runs, layers, index] are needed, found {by_seed.shape}")
    everywhere = (by_seed > 0).all(0)
    mean = np.where(everywhere, by_seed.mean(0), -np.inf)
    chosen = top(mean, min(k, int(everywhere.sum())))
    layers, indices = np.unravel_index(chosen, mean.shape)
    return [(int(layer), int(index)) for layer, index in zip(layers, indices, strict=True)]
