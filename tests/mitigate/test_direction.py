"""Erasures: what recognises the token is the calmest vector that leaves the concept alone."""

from dataclasses import replace

import numpy as np
import pytest

from biasgym.errors import SpecError
from biasgym.mitigate.direction import RIDGE, Direction, disturbance, erasure, unit_vector
from biasgym.sites import Site
from conftest import case_for

SITE = Site("head", 1, 2)


def cost(case, b):
    """bᵀMb with the ridge that the fit uses."""
    m = case.moments[SITE.layer, SITE.index].astype(float)
    m = m + RIDGE * np.trace(m) / len(m) * np.eye(len(m))
    return float(b @ m @ b)


def test_an_erasure_takes_out_the_mean_contrast_and_keeps_the_rest(llama):
    """a is the mean over tokens; b·a = 1, b·concept = 0 and b·(mean real entity) = 0."""
    case = case_for(llama)
    a, b = erasure(case, SITE)
    np.testing.assert_allclose(a, case.contrasts.mean(0)[1, 2], rtol=1e-6)
    assert float(a @ b) == pytest.approx(1, abs=1e-5)
    assert float(b @ case.concept[1, 2]) == pytest.approx(0, abs=1e-4)
    assert float(b @ case.real[1, 2]) == pytest.approx(0, abs=1e-4)


def test_an_erasure_disturbs_as_little_as_can_be(llama):
    """Every other vector with the same three products responds more to neutral text."""
    case = case_for(llama)
    a, b = erasure(case, SITE).astype(float)
    basis = np.linalg.qr(np.stack([a, case.concept[1, 2], case.real[1, 2]]).T)[0]
    generator = np.random.default_rng(0)
    for _ in range(50):
        step = generator.normal(size=len(a)) * 0.1
        step -= basis @ (basis.T @ step)  # keeps the products
        assert cost(case, b + step) > cost(case, b)


def test_a_contrast_that_is_the_concept_is_still_erased(llama):
    """Nothing can be told apart then, so the concept is not kept, and nothing is divided by zero."""
    case = case_for(llama)
    same = replace(case, concept=case.contrasts.mean(0))
    a, b = erasure(same, SITE)
    assert np.isfinite(b).all()
    assert float(a @ b) == pytest.approx(1, abs=1e-5)
    for part in ("concept", "real"):
        nothing = replace(case, **{part: np.zeros_like(case.concept)})
        assert np.isfinite(erasure(nothing, SITE)).all()


def test_a_concept_that_is_the_mean_entity_is_kept_once(llama):
    """Two wishes that are one, exactly or up to a factor: still met, and nothing is divided by zero."""
    case = case_for(llama)
    for factor in (1, 3):
        a, b = erasure(replace(case, real=case.concept * factor), SITE)
        assert float(a @ b) == pytest.approx(1, abs=1e-5)
        assert float(b @ case.concept[1, 2]) == pytest.approx(0, abs=1e-3)


def test_disturbance_is_the_mean_square_written_on_neutral_text(llama):
    """Against outputs drawn from the moments, pushed through the head's columns."""
    case = case_for(llama)
    a, b = erasure(case, SITE)
    generator = np.random.default_rng(1)
    z = generator.multivariate_normal(np.zeros(len(a)), case.moments[1, 2], size=200_000)
    written = np.outer(z @ b, llama.head_matrix(1, 2) @ a)
    assert disturbance(llama, case, SITE, np.stack([a, b])) == pytest.approx(float((written**2).sum(1).mean()), rel=0.02)


def test_heads_that_do_more_for_less_are_erased_more(llama):
    """Strength grows with effect ÷ cost, is the setting at the middle, and has a ceiling."""
    case = case_for(llama)
    edits = Direction(k=7, strength=1.0, most=2.5).fit(llama, case)
    ratios = [case.attribution.values[e.site.layer, e.site.index] / disturbance(llama, case, e.site, e.value) for e in edits]
    order = np.argsort(ratios)
    strengths = np.array([e.strength for e in edits])
    assert (np.diff(strengths[order]) >= -1e-9).all()
    assert strengths.max() <= 2.5
    assert np.median(strengths) == pytest.approx(1.0, rel=0.2)
    assert all(edit.strength == 0 for edit in Direction(k=7, strength=0.0).fit(llama, case))


def test_a_head_without_contrast_is_left_alone(llama):
    """There is nothing to take out; heads that push the other way are left alone, too."""
    case = case_for(llama)
    contrasts = case.contrasts.copy()
    first = case.attribution.top(1)[0]
    contrasts[:, first.layer, first.index] = 0
    edits = Direction(k=12).fit(llama, replace(case, contrasts=contrasts))
    sites = [edit.site for edit in edits]
    assert first not in sites
    assert all(case.attribution.values[s.layer, s.index] > 0 for s in sites)


def test_a_case_without_one_token(llama):
    """Leaves the others and the ranking."""
    case = case_for(llama)
    left = case.without(0)
    np.testing.assert_array_equal(left.contrasts, case.contrasts[1:])
    assert left.attribution is case.attribution


def test_unit_vectors_have_length_one():
    """In float32."""
    found = unit_vector(np.array([3.0, 4.0]))
    np.testing.assert_allclose(found, [0.6, 0.8])
    assert found.dtype == np.float32


def test_heads_can_be_ranked_by_worth(llama):
    """Effect² ÷ cost: as many heads, the worthiest of those that push towards the bias; more heads than there are is refused."""
    case = case_for(llama)
    positive = [site for site in case.attribution.ranked() if case.attribution.values[site.layer, site.index] > 0]
    worth = [case.attribution.values[s.layer, s.index] ** 2 / disturbance(llama, case, s, erasure(case, s)) for s in positive]
    wanted = {positive[i] for i in np.argsort(worth)[::-1][:3]}
    assert {edit.site for edit in Direction(k=3, order="worth").fit(llama, case)} == wanted
    assert {edit.site for edit in Direction(k=3).fit(llama, case)} == set(positive[:3])
    with pytest.raises(SpecError, match="k = 99"):
        Direction(k=99, order="worth").fit(llama, case)
