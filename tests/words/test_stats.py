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
    assert found.freedom <= 3
    assert found.error == pytest.approx(np.std([1, 2, 3, 6], ddof=1) / 2, rel=0.05)
    assert found.high - 3.0 == pytest.approx(3.0 - found.low)
    assert stats.mean([2.0, 2.0]) == stats.Estimate(2.0, 2.0, 2.0, 2)


def test_an_interval_is_t_times_the_error():
    """Tables of t: 3.182 with 3 degrees of freedom, 1.960 with no end of them; cut off where the value cannot be."""
    found = stats.interval(5.0, 2.0, 3, 4)
    assert (found.low, found.high) == (pytest.approx(5 - 2 * 3.182, abs=1e-3), pytest.approx(5 + 2 * 3.182, abs=1e-3))
    assert stats.interval(0.0, 1.0, np.inf, 9).high == pytest.approx(1.95996, abs=1e-5)
    assert stats.interval(0.5, 1.0, 9, 9, bounds=(0, 1)).low == 0.0


def test_a_ratio_is_sum_over_sum():
    """Bits ÷ bytes over texts, not the mean of ratios."""
    found = stats.ratio([10.0, 2.0], [5.0, 4.0])
    assert (found.value, found.n) == (pytest.approx(12 / 9), 2)
    assert found.low < 12 / 9 < found.high


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


def test_three_axes_by_hand():
    """Prompts, entities and seeds weighted; a draw of seed 1 alone is the mean of its slice."""
    cube = np.arange(24.0).reshape(2, 3, 4)
    ones = Draws(np.ones((1, 2)), np.ones((1, 3)), np.ones((1, 4)))
    assert stats.crossed_seeds(cube, ones) == pytest.approx([cube.mean()])
    one_seed = Draws(np.ones((1, 2)), np.ones((1, 3)), np.array([[0.0, 4.0, 0.0, 0.0]]))
    assert stats.crossed_seeds(cube, one_seed) == pytest.approx([cube[:, :, 1].mean()])


def test_the_error_of_a_crossed_mean_is_the_one_of_its_components():
    """Analysis of variance by hand: mean squares of rows and of columns less the one of cells, over the number of cells."""
    generator = np.random.default_rng(3)
    m = generator.normal(size=(12, 1)) + 0.5 * generator.normal(size=(1, 9)) + 0.3 * generator.normal(size=(12, 9))
    rows, columns = m.mean(1, keepdims=True), m.mean(0, keepdims=True)
    cells = ((m - rows - columns + m.mean()) ** 2).sum() / (11 * 8)
    wanted = np.sqrt((9 * rows.var(ddof=1) + 12 * columns.var(ddof=1) - cells) / m.size)
    found = stats.estimate(lambda d: stats.crossed(m, d), 12, 9, m.size, draws=20000)
    assert found.error == pytest.approx(wanted, rel=0.03)


def test_what_seeds_add_is_in_the_interval():
    """The same prompts under seeds that differ: wider than with the seeds taken as given."""
    cube = np.random.default_rng(0).normal(size=(20, 5, 1)) + np.array([-2.0, 0.0, 0.5, 2.0])
    held = stats.estimate(lambda d: stats.crossed(cube.mean(2), d), 20, 5, 100)
    drawn = stats.estimate(lambda d: stats.crossed_seeds(cube, d), 20, 5, 400, seeds=4)
    assert drawn.value == pytest.approx(held.value)
    assert drawn.high - drawn.low > 2 * (held.high - held.low)


def test_long_texts_count_for_fewer_degrees_of_freedom():
    """Thirty texts of which one has nearly all bytes are not thirty texts."""
    generator = np.random.default_rng(0)
    even, odd = np.full(30, 100.0), np.array([3000.0] + [10.0] * 29)
    noise = 1 + 0.01 * generator.normal(size=30)
    assert stats.ratio_change(even, even * noise, even).freedom > 15
    assert stats.ratio_change(odd, odd * noise, odd).freedom < 3


def test_a_folded_interval_holds_zero_where_the_signed_one_does():
    """|x| and 1 − |x| by hand."""
    assert stats.magnitude(stats.Estimate(-0.5, -2.0, 1.0, 9)) == stats.Estimate(0.5, 0.0, 2.0, 9)
    assert stats.magnitude(stats.Estimate(-2.0, -3.0, -1.0, 9)) == stats.Estimate(2.0, 1.0, 3.0, 9)
    assert stats.closed_share(stats.Estimate(0.25, 0.0, 0.5, 9)) == stats.Estimate(0.75, 0.5, 1.0, 9)
    assert stats.closed_share(stats.Estimate(-0.5, -0.75, -0.25, 9)) == stats.Estimate(0.5, 0.25, 0.75, 9)


def test_shares_against_published_values():
    """Wilson and Clopper–Pearson for 0 and 5 of 10; nothing of ten still leaves room."""
    wilson, exact = stats.share(0, 10), stats.share(0, 10, exact=True)
    assert (wilson.low, wilson.high) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert (exact.low, exact.high) == (0.0, pytest.approx(0.3085, abs=1e-4))
    assert stats.share(10, 10).low == pytest.approx(1 - 0.2775, abs=1e-4)
    exact = stats.share(5, 10, exact=True)
    assert (exact.low, exact.high) == (pytest.approx(0.1871, abs=1e-4), pytest.approx(0.8129, abs=1e-4))
