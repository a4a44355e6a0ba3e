"""Intervals cover and tests keep their level: the settings of experiments/calibration.py with few trials and wide margins."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from biasgym import stats

PLACE = Path(__file__).parents[2] / "experiments" / "calibration.py"


@pytest.fixture(scope="module")
def calibration():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("calibration", PLACE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["calibration"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["calibration"]


@pytest.mark.parametrize(
    "name", ["mean of 40 prompts, skewed (gamma 2)", "8 clusters of 5", "strength 0–3, n = 24", "ratio change, 63 texts", "ICAT, SS 60"]
)
def test_intervals_cover(calibration, name):
    """93 to 97 %, give or take two standard errors of 500 trials."""
    assert 0.91 <= calibration.coverage(calibration.COVERAGE[name], 500, 300) <= 0.99


@pytest.mark.parametrize("name", ["crossed 40 × 20, components 0.7 / 0.5 / 1", "crossed 40 × 20, cells only", "gap closed, 70 %"])
def test_crossed_intervals_cover(calibration, name):
    """Also where prompts and entities both vary, and where neither does."""
    assert 0.90 <= calibration.coverage(calibration.COVERAGE[name], 250, 300) <= 0.995


def test_percentiles_of_eight_clusters_would_not_cover(calibration):
    """The negative control: what the interval is calibrated against is really wrong, and is seen to be."""
    g, hits = np.random.default_rng(0), 0
    for _ in range(500):
        values = g.normal(size=8)
        low, high = np.quantile(stats.weighted(values, stats.draw(8, 0, draws=300).prompts), [0.025, 0.975])
        hits += low <= 0 <= high
    assert hits / 500 < 0.92


def test_an_edit_that_does_nothing_is_seldom_called_a_change(calibration):
    """At most 6 %, give or take two standard errors; and a real one is found."""
    for name in ("strength, 24 texts", "CrowS-Pairs, 100 pairs of 40 templates"):
        assert calibration.rejected(calibration.NO_OP[name], 500, 300)[0] <= 0.08
    assert calibration.rejected(calibration.EFFECT["association, −0.2 nats"], 60, 300)[0] > 0.85


def test_a_sham_put_forward_as_the_claim_seldom_passes(calibration):
    """5 % from 19 draws on; of five draws one in six passes, so five prove little."""
    assert calibration.sham_claims(2000, 20) <= 0.06
    assert 0.12 <= calibration.sham_claims(2000, 5) <= 0.21
