"""Tests of claims by hand: Holm, sign flips, what could be seen, equivalence, shams, seeds, groups, and figures by cluster."""

import math
from dataclasses import replace

import numpy as np
import pytest

from biasgym import claims, seeds, stats
from biasgym.clustered import figure_change, figure_estimate
from biasgym.errors import SpecError
from biasgym.measure import Figure
from biasgym.stats import Estimate


def test_holm_by_hand():
    """Smallest times n, next times n − 1, never smaller than the one before, never above one; in the order given."""
    assert claims.holm([0.04, 0.01, 0.03]) == pytest.approx((0.06, 0.03, 0.06))
    assert claims.holm([0.9, 0.8]) == (1.0, 1.0)
    assert claims.holm([]) == ()
    with pytest.raises(SpecError, match="no p-value"):
        claims.holm([math.nan])


def test_p_is_below_5_percent_exactly_where_the_interval_leaves_out_zero():
    """The two never contradict each other; a row from disk, without degrees of freedom, too."""
    generator = np.random.default_rng(1)
    for n in (4, 12, 40):
        for _ in range(20):
            e = stats.mean(generator.normal(size=n) + 0.5, draws=200)
            assert (claims.p_value(e) < 0.05) == (not e.low <= 0 <= e.high)
    assert claims.p_value(Estimate(1.96, 0.0, 3.92, 9)) == pytest.approx(0.05, abs=1e-6)
    assert claims.p_value(Estimate(0.0, 0.0, 0.0, 9)) == 1.0
    assert claims.p_value(Estimate(1.0, 1.0, 1.0, 5)) == 2**-4


def test_sign_flips_by_hand():
    """Five differences of one sign: two of 32 sign patterns are as large. Two clusters can never say much."""
    assert claims.sign_flip([1, 2, 3, 4, 5]) == pytest.approx(2 / 32)
    assert claims.sign_flip([1, 2, 3, 4, 5, 6], clusters=list("aaabbb")) == pytest.approx(0.5)
    assert claims.sign_flip([1, -1]) == 1.0
    assert claims.sign_flip(np.ones(30)) == pytest.approx(1 / 10000)
    with pytest.raises(SpecError, match="finite"):
        claims.sign_flip([1.0, math.nan])


def test_effects_by_hand():
    """Plain units, standardised, and what could have been seen: no effect found is not the same as none there."""
    before = np.array([0.0, 1.0, 2.0, 3.0])
    effect = claims.paired_effect(before, before + np.array([1.0, 2.0, 3.0, 2.0]))
    assert effect.change.value == 2.0
    assert effect.dz == pytest.approx(2 / np.std([1, 2, 3, 2], ddof=1))
    assert claims.paired_effect(before, before + 1).dz is None
    assert claims.paired_effect(before, before + 1).detectable is None
    assert claims.minimum_detectable(Estimate(0.0, -1.96, 1.96, 9)) == pytest.approx(1.96 + 0.8416, abs=1e-3)
    with pytest.raises(SpecError, match="equally long"):
        claims.paired_effect([1.0], [1.0, 2.0])


def test_equivalence_needs_the_whole_interval_and_some_width():
    """Near zero with a wide interval is not "no change"; no width at all is no evidence."""
    assert claims.equivalent(Estimate(0.0, -0.1, 0.1, 9), 0.2)
    assert not claims.equivalent(Estimate(0.0, -0.3, 0.1, 9), 0.2)
    assert not claims.equivalent(Estimate(0.0, 0.0, 0.0, 9), 0.2)


def test_the_sham_limit_by_hand():
    """Of 1 to 20 the 20th, of 1 to 39 the 38th; below 19 draws the maximum, which proves less."""
    assert claims.beats_shams(Estimate(20.5, 20.1, 21, 9), range(1, 21)) == claims.ShamTest(20.0, "95th percentile", 20, "more", 1 / 21)
    assert claims.beats_shams(Estimate(38.5, 37, 40, 9), range(1, 40)) == claims.ShamTest(38.0, "95th percentile", 39, "unsure", 2 / 40)
    few = claims.beats_shams(Estimate(3.0, 2.9, 3.1, 9), [1.0, 3.0])
    assert (few.how, few.answer, few.p) == ("maximum", "same", 2 / 3)
    with pytest.raises(SpecError, match="at least one"):
        claims.beats_shams(Estimate(1, 1, 1, 1), [])


def test_seeds_widen_and_one_seed_says_nothing_about_others():
    """Three seeds far apart have a wide interval however sure each is of itself."""
    sure = [Estimate(v, v - 0.02, v + 0.02, 40, 0.01, 39) for v in (0.0, 1.0, 2.0)]
    found = seeds.seed_mean(sure)
    assert found.value == 1.0
    assert found.high - 1.0 == pytest.approx(4.30 / math.sqrt(3), rel=0.02)
    assert seeds.seed_mean(sure[:1]) == sure[0]
    with pytest.raises(SpecError, match="standard error"):
        seeds.seed_mean([Estimate(1, 0, 2, 4)])


def test_the_worst_group_pays_for_having_been_picked():
    """Furthest from the ideal on either side, its interval wider than alone."""
    groups = {"a": Estimate(1.0, 0.5, 1.5, 9, 0.25), "b": Estimate(-2.0, -2.5, -1.5, 9, 0.25)}
    name, e = seeds.worst_group(groups)
    assert name == "b"
    assert e.low < -2.5
    assert e.high > -1.5
    assert seeds.worst_group({"a": groups["a"]}) == ("a", groups["a"])


def test_over_correction_needs_the_whole_interval_on_the_other_side():
    """Past zero by its value alone is not told as a fact."""
    before = Estimate(2.0, 1.5, 2.5, 9)
    ends = {"yes": (-0.5, -0.8, -0.2), "no": (0.5, 0.2, 0.8), "unsure": (-0.5, -1.2, 0.2)}
    assert {seeds.over_correction(before, Estimate(*e, 9)) for e in ends.values()} == set(ends)
    assert all(seeds.over_correction(before, Estimate(*e, 9)) == word for word, e in ends.items())
    assert seeds.over_correction(Estimate(0.1, -1, 1, 9), before) == "no bias before"


# -------------------------------------------------------------------- figures by cluster


def mean_figure(values, clusters, name="mean"):
    """A mean; items of NaN count nothing."""
    values = np.asarray(values, dtype=float)
    columns = np.stack([np.nan_to_num(values), np.isfinite(values)], axis=1).astype(float)
    return Figure(name, "all", columns, lambda sums: sums[:, 0] / sums[:, 1], tuple(clusters), 0.0, "ideal")


def test_clusters_are_drawn_whole():
    """Twenty items that are five different ones: as uncertain as five."""
    values = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], 4)
    together = figure_estimate(mean_figure(values, np.repeat(list("abcde"), 4)))
    alone = figure_estimate(mean_figure(values, map(str, range(20))))
    five = stats.mean([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (together.value, together.n) == (3.0, 20)
    assert together.error == pytest.approx(five.error, rel=0.05)
    assert together.error > 1.8 * alone.error


def test_items_without_an_answer_and_figures_without_a_value():
    """They add no cluster, no n and no width; a group nobody is in has no figure."""
    whole = figure_estimate(mean_figure([1.0, 2.0, 4.0], "abc"))
    holes = figure_estimate(mean_figure([1.0, math.nan, 2.0, 4.0, math.nan], "axbcx"))
    assert holes == whole
    assert figure_estimate(mean_figure([math.nan, math.nan], "ab")) is None
    assert figure_estimate(mean_figure([1.0, 2.0], "aa")) is None
    rare = replace(mean_figure([1.0, 2.0, 3.0], "abc"), of=lambda sums: np.where(sums[:, 0] >= 6, sums[:, 0], np.nan))
    found = figure_estimate(rare)
    assert found is None or math.isfinite(found.low)


def test_a_change_of_figures_is_paired():
    """Items that differ much and change alike: narrow. Other items: refused."""
    generator = np.random.default_rng(0)
    values, clusters = 5 * generator.normal(size=40), [str(i % 10) for i in range(40)]
    before, after = mean_figure(values, clusters), mean_figure(values - 1 + 0.1 * generator.normal(size=40), clusters)
    change = figure_change(before, after)
    assert change.value == pytest.approx(-1.0, abs=0.1)
    assert change.error < 0.1 * figure_estimate(before).error
    with pytest.raises(SpecError, match="same items"):
        figure_change(before, mean_figure(values, [*clusters[:-1], "other"]))
