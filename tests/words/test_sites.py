"""Places, attributions and edits as data: what is refused, what is neutral, how places are ranked."""

import numpy as np
import pytest

from biasgym.edits import EDIT_KINDS, ContrastEdit, PromptEdit, SiteEdit, TokenEdit, Twin, WeightEdit, worn_digest
from biasgym.errors import BiasGymError, SpecError, unknown
from biasgym.sites import Attribution, Site

HEAD = Site("head", 1, 2)
NAN = np.array([1.0, np.nan])


def test_sites_are_ordered_and_equal_by_value():
    """By unit, layer and index."""
    assert Site("head", 0, 1) == Site("head", 0, 1)
    assert sorted([Site("head", 1, 0), Site("head", 0, 5)])[0].layer == 0


def test_an_attribution_ranks_by_its_mean():
    """The most bias-carrying first, negative last, ties by position."""
    values = np.array([[[0.0, 3.0], [-1.0, 0.0]], [[2.0, 1.0], [-1.0, 0.0]]])
    found = Attribution("x", "head", values)
    np.testing.assert_array_equal(found.values, [[1.0, 2.0], [-1.0, 0.0]])
    assert found.ranked() == [Site("head", 0, 1), Site("head", 0, 0), Site("head", 1, 1), Site("head", 1, 0)]
    assert found.top(2) == found.ranked()[:2]
    assert found.top(0) == []
    ties = Attribution("x", "head", np.zeros((1, 2, 2)))
    assert ties.ranked() == [Site("head", layer, index) for layer in range(2) for index in range(2)]


@pytest.mark.parametrize("k", [-1, 5])
def test_more_places_than_there_are_are_refused(k):
    """With how many there are."""
    with pytest.raises(SpecError, match="the model has 4 heads; choose k from 0 to 4"):
        Attribution("x", "head", np.zeros((1, 2, 2))).top(k)


@pytest.mark.parametrize("values", [np.zeros((2, 2)), np.zeros((0, 2, 2)), np.full((1, 1, 1), np.nan), np.full((1, 1, 1), np.inf)])
def test_an_attribution_without_numbers_is_refused(values):
    """Wrong shape, no pairs, not finite."""
    with pytest.raises(SpecError):
        Attribution("x", "head", values)


REFUSED = {
    "token without text": lambda: TokenEdit("", np.zeros(3)),
    "token with spaces": lambda: TokenEdit(" x", np.zeros(3)),
    "token of two rows": lambda: TokenEdit("x", np.zeros((2, 3))),
    "token not finite": lambda: TokenEdit("x", NAN),
    "output not finite": lambda: TokenEdit("x", np.zeros(2), NAN),
    "prompt without slot": lambda: PromptEdit("Be kind."),
    "prompt with two slots": lambda: PromptEdit("{prompt} {prompt}"),
    "prompt with an empty turn": lambda: PromptEdit(then=("  ",)),
    "prompt without room to answer": lambda: PromptEdit(then=("And?",), most=0),
    "unknown contrast": lambda: ContrastEdit("shifts", (Twin(),), 1.0),
    "contrast with nobody": lambda: ContrastEdit("decay", (), 1.0),
    "shift of three": lambda: ContrastEdit("shift", (Twin(),) * 3, 1.0),
    "contrast not finite": lambda: ContrastEdit("shift", (Twin(),), float("nan")),
    "decay that grows": lambda: ContrastEdit("decay", (Twin(),), -1.0),
    "floor above one": lambda: ContrastEdit("decay", (Twin(),), 1.0, 2.0),
    "unknown operation": lambda: SiteEdit(HEAD, "scales", np.float32(1)),
    "value not finite": lambda: SiteEdit(HEAD, "add", NAN),
    "strength not finite": lambda: SiteEdit(HEAD, "add", np.zeros(2), float("inf")),
    "direction not of unit length": lambda: SiteEdit(HEAD, "project", np.array([1.0, 1.0])),
    "directions not orthogonal": lambda: SiteEdit(HEAD, "project", np.array([[1.0, 0.0], [0.8, 0.6]])),
    "erasure of one row": lambda: SiteEdit(HEAD, "erase", np.ones(2)),
    "erasure that does not recognise": lambda: SiteEdit(HEAD, "erase", np.eye(2)),
    "weight with nothing": lambda: WeightEdit("w"),
    "weight with half": lambda: WeightEdit("w", left=np.zeros((2, 1))),
    "weight with the other half": lambda: WeightEdit("w", right=np.zeros((1, 2))),
    "weight with both": lambda: WeightEdit("w", np.zeros((2, 1)), np.zeros((1, 2)), np.zeros((2, 2))),
    "weight with one and a half": lambda: WeightEdit("w", left=np.zeros((2, 1)), dense=np.zeros((2, 2))),
    "weight that does not fit": lambda: WeightEdit("w", np.zeros((2, 3)), np.zeros((1, 2))),
    "weight not finite": lambda: WeightEdit("w", dense=np.full((2, 2), np.nan)),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_an_edit_that_makes_no_sense_is_refused(case):
    """When it is made, not when it is put on."""
    with pytest.raises(SpecError):
        REFUSED[case]()


def test_edits_that_make_sense_are_made():
    """Every kind, with what is optional left out."""
    made = (
        TokenEdit("<x>", np.zeros(3)),
        PromptEdit(),
        SiteEdit(HEAD, "project", np.eye(3)[:2]),
        WeightEdit("w", np.zeros((2, 0)), np.zeros((0, 2))),
        ContrastEdit("decay", (Twin("Rude: "),), 50.0),
    )
    assert {type(edit) for edit in made} == set(EDIT_KINDS)
    for edit in made:
        with pytest.raises(AttributeError):
            edit.anything = 1


def test_an_unknown_name_gets_the_nearest_or_all():
    """The sentence that every refusal ends in."""
    assert unknown("fruit", "aple", ["apple", "pear"]) == "unknown fruit `aple`; did you mean `apple`?"
    assert unknown("fruit", "zzz", ["pear", "apple"]) == "unknown fruit `zzz`; there is `apple`, `pear`"
    assert unknown("fruit", "zzz", []) == "unknown fruit `zzz`; there is none"
    assert issubclass(SpecError, BiasGymError)


def test_a_digest_sees_what_twins_wear():
    """Also numbers in the middle of a large array, which `repr` leaves out."""
    big = np.zeros((60, 60), np.float32)
    other = big.copy()
    other[30, 30] = 1
    digests = {worn_digest([ContrastEdit("shift", (Twin(edits=(WeightEdit("w", dense=array),)),), 1.0)]) for array in (big, other)}
    assert len(digests) == 2
    assert worn_digest([ContrastEdit("decay", (Twin("a"), Twin("b")), 1.0)]) != worn_digest([ContrastEdit("decay", (Twin("b"), Twin("a")), 1.0)])
