"""Stability: planted places are found stable, noise is at its baseline."""

import numpy as np
import pytest

from biasgym.errors import SpecError
from biasgym.stability import Labels, jaccard, paper_overlap, random_jaccard, spearman, stability, top

SHAPE = (6, 5)
SEEDS, PROMPTS, ENTITIES = 3, 8, 4


def labels():
    """A crossed design: every seed with every prompt, entities in turn."""
    cells = [(s, p, (s * PROMPTS + p) % ENTITIES) for s in range(SEEDS) for p in range(PROMPTS)]
    return Labels(*(tuple(str(cell[i]) for cell in cells) for i in range(3)))


def noise(seed=0):
    """Scores without any signal."""
    return np.random.default_rng(seed).normal(size=(SEEDS * PROMPTS, *SHAPE))


def test_planted_places_are_always_chosen():
    """Three strong places: in every draw's top 3, no other one ever; all agreements are 1."""
    scores = noise()
    planted = [(0, 1), (3, 2), (5, 4)]
    for layer, index in planted:
        scores[:, layer, index] += 20
    found = stability(scores, labels(), 3, draws=100)
    assert {tuple(map(int, place)) for place in np.argwhere(found.frequency == 1)} == set(planted)
    assert found.frequency.sum() == pytest.approx(3)
    assert [a.between for a in found.agreements] == ["seeds", "prompt halves", "entity halves"]
    for agreement in found.agreements:
        assert agreement.value == 1
        assert agreement.above_chance
    one = found.of(3, 2)
    assert one.value == 1
    assert 0.8 < one.low < 1 == one.high


def test_noise_agrees_as_chance_does():
    """Over many noisy data sets the agreement is the baseline's, and rarely above its 97.5 % point."""
    values, above, chance = [], 0, 0.0
    for seed in range(40):
        agreement = stability(noise(seed), labels(), 5, draws=10, seed=seed).agreements[0]
        values.append(agreement.value)
        above += agreement.above_chance
        chance = agreement.chance
    assert np.mean(values) == pytest.approx(chance, abs=0.04)
    assert above <= 5
    assert chance == pytest.approx(np.mean([random_jaccard(2, 30, 5, np.random.default_rng(i)) for i in range(400)]), abs=0.02)


def test_what_holds_for_one_seed_only_is_not_stable_between_seeds():
    """A place planted anew for every seed: halves of the prompts agree, seeds do not."""
    scores = noise() * 0.1
    for row, seed in enumerate(labels().seeds):
        scores[row, int(seed), :3] += 10
    between = {a.between: a for a in stability(scores, labels(), 3, draws=50).agreements}
    assert between["seeds"].value == 0
    assert not between["seeds"].above_chance
    within = {a.between: a for a in stability(scores, labels(), 9, draws=50).agreements}
    assert within["prompt halves"].value > 0.9


def test_frequency_has_its_interval_and_its_chance():
    """Between 0 and 1, low ≤ value ≤ high, wider for less evidence; the same seed the same numbers."""
    one, two = (stability(noise(), labels(), 5, draws=60) for _ in range(2))
    np.testing.assert_array_equal(one.frequency, two.frequency)
    assert (one.low <= one.frequency).all()
    assert (one.frequency <= one.high).all()
    assert one.low.min() >= 0
    assert one.high.max() <= 1
    assert one.chance == pytest.approx(5 / 30)
    few = Labels(*(names[:4] for names in (labels().seeds, labels().prompts, labels().entities)))
    assert (stability(noise()[:4], few, 5, draws=60).high - stability(noise()[:4], few, 5, draws=60).low).mean() > (one.high - one.low).mean()


def test_one_seed_has_no_agreement_between_seeds():
    """What cannot be compared is left out."""
    alone = Labels(("0",) * 4, ("a", "b", "c", "d"), ("x",) * 4)
    assert [a.between for a in stability(noise()[:4], alone, 3, draws=20).agreements] == ["prompt halves"]


@pytest.mark.parametrize(("change", "words"), [("k", "choose k from 1 to 30"), ("labels", "one a pair"), ("shape", "shape")])
def test_bad_input_is_refused(change, words):
    """With what was asked and what would do."""
    scores = noise()[0] if change == "shape" else noise()
    wrong = Labels(("0",), ("a",), ("x",)) if change == "labels" else labels()
    with pytest.raises(SpecError, match=words):
        stability(scores, wrong, 31 if change == "k" else 3)


def test_the_papers_overlap_is_positive_in_every_run():
    """By mean score, at most k, and never one that is negative somewhere."""
    runs = np.full((3, 2, 3), -1.0)
    runs[:, 0, 0] = (1, 2, 3)
    runs[:, 1, 2] = (5, 5, 5)
    runs[:, 1, 0] = (100, 100, -0.1)
    assert paper_overlap(runs, 30) == [(1, 2), (0, 0)]
    assert paper_overlap(runs, 1) == [(1, 2)]
    assert paper_overlap(-np.abs(runs), 5) == []


def test_spearman_is_about_ranks():
    """1 under any rising change, −1 turned round, ties shared, 0 for a constant."""
    a = np.array([3.0, 1, 2, 5, 4])
    assert spearman(a, np.exp(a)) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)
    assert spearman([1, 1, 2], [1, 2, 3]) == pytest.approx(0.866, abs=1e-3)
    assert spearman(a, np.ones(5)) == 0


def test_jaccard_and_top():
    """Sets by hand; ties by position."""
    assert jaccard([1, 2, 3], [2, 3, 4]) == 0.5
    assert jaccard([], []) == 1
    assert top(np.array([[1.0, 3], [3, 2]]), 3).tolist() == [1, 2, 3]
