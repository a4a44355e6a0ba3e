"""Means, ratios, spreads and their intervals: values computed by hand, coverage by simulation."""

import numpy as np
import pytest

from biasgym import stats
from biasgym.stats import Draws


def equal(prompts, entities=0):
    """One draw in which everything counts once."""
    return Draws(np.ones((1, prompts)), np.ones((1, entities)))


def test_draws_resample_with_replacement():
    """Counts add up to the size; the same seed gives the same draws, another seed others."""
    one = stats.draw(5, 3, draws=50)
    assert (one.prompts.sum(1) == 5).all()
    assert (one.entities.sum(1) == 3).all()
    assert np.array_equal(one.prompts, stats.draw(5, 3, draws=50).prompts)
    assert not np.array_equal(one.prompts, stats.draw(5, 3, draws=50, seed=1).prompts)
    assert stats.draw(5, 0, draws=4).entities.shape == (4, 0)


def test_a_mean_by_hand():
    """Value, n, and an interval that holds the value; a constant has no width."""
    found = stats.mean([1.0, 2.0, 3.0, 6.0])
    assert (found.value, found.n) == (3.0, 4)
    assert 1.0 <= found.low < 3.0 < found.high <= 6.0
    assert stats.mean([2.0, 2.0]) == stats.Estimate(2.0, 2.0, 2.0, 2)


def test_an_interval_holds_its_value():
    """Also when all draws lie to one side."""
    assert stats.interval(5.0, np.array([1.0, 2.0]), 2).high == 5.0
    assert stats.interval(0.0, np.array([1.0, 2.0]), 2).low == 0.0


def test_quantiles_are_those_of_95_percent():
    """Of the numbers 0 to 1000 the interval is 25 to 975."""
    found = stats.interval(500.0, np.arange(1001.0), 1001)
    assert (found.low, found.high) == (pytest.approx(25.0), pytest.approx(975.0))


def test_a_ratio_is_sum_over_sum():
    """Bits ÷ bytes over texts, not the mean of ratios."""
    found = stats.ratio([10.0, 2.0], [5.0, 4.0])
    assert (found.value, found.n) == (pytest.approx(12 / 9), 2)
    assert 0.5 - 1e-12 <= found.low <= found.high <= 2.0 + 1e-12


def test_a_change_of_ratio_is_paired_and_in_percent():
    """The denominator falls out; the same relative change everywhere has no width."""
    found = stats.ratio_change([10.0, 20.0, 5.0], [11.0, 22.0, 5.5], [1.0, 1.0, 1.0])
    assert found.value == pytest.approx(10.0)
    assert (found.low, found.high) == (pytest.approx(10.0), pytest.approx(10.0))
    assert stats.ratio_change([10.0, 30.0], [20.0, 30.0], [1.0, 1.0]).value == pytest.approx(25.0)


def test_crossed_means_by_hand():
    """Both sides weighted: prompt 0 twice, entity 1 twice."""
    matrix = np.array([[1.0, 2.0, 0.0], [3.0, 5.0, 1.0]])
    assert stats.crossed(matrix, equal(2, 3)) == pytest.approx([2.0])
    assert stats.crossed(matrix, Draws(np.array([[2.0, 0.0]]), np.array([[0.0, 3.0, 0.0]]))) == pytest.approx([2.0])


def test_spread_by_hand():
    """Standard deviation over entities of their means over prompts."""
    matrix = np.array([[0.0, 2.0, 4.0], [2.0, 4.0, 6.0]])
    assert stats.spread_of(matrix, equal(2, 3)) == pytest.approx([np.sqrt(8 / 3)])
    assert stats.spread_of(matrix, Draws(np.ones((1, 2)), np.array([[3.0, 0.0, 0.0]]))) == pytest.approx([0.0])


def test_weighted_means_by_hand():
    """Weights need not add up to one."""
    assert stats.weighted(np.array([1.0, 4.0]), np.array([[2.0, 1.0], [0.0, 5.0]])) == pytest.approx([2.0, 4.0])


def test_estimate_takes_any_statistic():
    """Its value at equal weights, its interval over draws."""
    matrix = np.arange(12.0).reshape(4, 3)
    found = stats.estimate(lambda d: stats.crossed(matrix, d), 4, 3, matrix.size)
    assert (found.value, found.n) == (pytest.approx(matrix.mean()), 12)
    assert found.low < found.value < found.high


def test_a_pair_is_narrower_than_its_parts():
    """The difference of two arms that share their items is known better than either."""
    generator = np.random.default_rng(0)
    items = generator.normal(size=40) * 3
    before, after = items, items - 0.5 + 0.1 * generator.normal(size=40)
    paired = stats.mean(before - after)
    assert paired.low > 0
    assert paired.high - paired.low < 0.2 * (stats.mean(before).high - stats.mean(before).low)


@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_the_interval_of_a_mean_covers_as_often_as_it_says(shape):
    """93 to 97 % of 95 % intervals hold the true mean (n = 100; percentile intervals are a little narrow for small n)."""
    generator = np.random.default_rng(7)
    trials, hits = 2000, 0
    for trial in range(trials):
        values = generator.normal(size=100) if shape == "normal" else generator.gamma(4.0, size=100) - 4.0
        found = stats.mean(values, draws=400, seed=trial)
        hits += found.low <= 0 <= found.high
    assert 0.93 <= hits / trials <= 0.97


def test_the_interval_of_a_crossed_mean_covers_when_both_sides_vary():
    """Prompts and entities both carry noise; resampling one of them alone would cover far too seldom."""
    generator = np.random.default_rng(11)
    trials, hits, narrow = 500, 0, 0
    for trial in range(trials):
        matrix = generator.normal(size=(40, 1)) + generator.normal(size=(1, 30)) + generator.normal(size=(40, 30))
        found = stats.estimate(lambda d, m=matrix: stats.crossed(m, d), 40, 30, matrix.size, draws=400, seed=trial)
        hits += found.low <= 0 <= found.high
        alone = stats.mean(matrix.mean(1), draws=400, seed=trial)
        narrow += alone.low <= 0 <= alone.high
    assert 0.92 <= hits / trials <= 0.99
    assert narrow / trials < 0.9
