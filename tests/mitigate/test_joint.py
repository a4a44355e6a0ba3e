"""Several biases at once: one of them is `direction`, shared directions are erased once, concepts of all are kept."""

from dataclasses import replace

import numpy as np
import pytest

from biasgym.errors import SpecError
from biasgym.mitigate.direction import Direction
from biasgym.mitigate.joint import JointDirection, joined
from conftest import case_for


def at(edits, site):
    """The edits of a site."""
    return [edit for edit in edits if edit.site == site]


def test_of_one_bias_it_is_direction(llama):
    """The same sites, the same erasures (as the product of both rows), the same strengths."""
    case = case_for(llama)
    joint, plain = JointDirection(k=6, strength=1.0).fit(llama, case), Direction(k=6, strength=1.0).fit(llama, case)
    assert [edit.site for edit in joint] == [edit.site for edit in plain]
    for one, other in zip(joint, plain, strict=True):
        np.testing.assert_allclose(np.outer(*one.value), np.outer(*other.value), rtol=1e-3, atol=1e-5)
        assert one.strength == pytest.approx(other.strength, rel=1e-4)


def test_what_biases_share_is_erased_once(llama):
    """Two biases with one contrast: one direction a head, of the same strength as for one of them; a union would take it out twice."""
    case = case_for(llama)
    twice = joined([case, replace(case, contrasts=case.contrasts * 3)])
    joint, plain = JointDirection(k=6, strength=1.0).fit(llama, twice), JointDirection(k=6, strength=1.0).fit(llama, case)
    assert len(joint) == len(plain)
    for one, other in zip(joint, plain, strict=True):
        np.testing.assert_allclose(np.outer(*one.value), np.outer(*other.value), rtol=1e-3, atol=1e-5)


def test_what_sets_biases_apart_is_recognised_apart(llama):
    """Each b answers its own a with 1, the other's with 0, and no concept and no mean entity of either bias."""
    first, second = case_for(llama), case_for(llama, seed=1)
    second = replace(second, attribution=first.attribution)
    edits = JointDirection(k=12, strength=1.0, spread=0.1).fit(llama, joined([first, second]))
    sites = {edit.site for edit in edits}
    assert len(edits) == 2 * len(sites)
    for site in sites:
        a, b = (np.stack([edit.value[row] for edit in at(edits, site)]).astype(float) for row in (0, 1))
        np.testing.assert_allclose(b @ a.T, np.eye(2), atol=1e-3)
        for case in (first, second):
            span = np.linalg.lstsq(a.T, case.contrasts.mean(0)[site.layer, site.index], rcond=None)
            assert float(span[1][0]) < 1e-6  # both contrasts lie in what is taken out
    apart = [edit for edit in edits if abs(float(edit.value[1] @ first.concept[edit.site.layer, edit.site.index])) < 1e-3]
    assert len(apart) > len(edits) / 2  # a head of few dimensions cannot keep everything apart


def test_neither_bias_is_drowned(llama):
    """Ten times the attribution in one bias changes neither the heads nor what is done to them."""
    first, second = case_for(llama), case_for(llama, seed=1)
    loud = replace(second, attribution=replace(second.attribution, by_pair=second.attribution.by_pair * 10))
    one, other = (JointDirection(k=5).fit(llama, joined([first, case])) for case in (second, loud))
    assert [edit.site for edit in one] == [edit.site for edit in other]
    assert [edit.strength for edit in one] == pytest.approx([edit.strength for edit in other])


def test_a_token_is_left_out_of_every_bias(llama):
    """Where a bias has one token only, it stays."""
    first, second = case_for(llama), case_for(llama, seed=1)
    single = replace(second, contrasts=second.contrasts[:1])
    left = joined([first, second, single]).without(1)
    assert [len(case.contrasts) for case in (left, *left.others)] == [1, 1, 1]
    np.testing.assert_array_equal(left.others[0].contrasts, second.contrasts[:1])
    with pytest.raises(SpecError, match="no bias"):
        joined([])
