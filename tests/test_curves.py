"""Proof by intervention: on a toy where the carriers are known, and through the model on dev."""

import numpy as np
import pytest

from biasgym.curves import Effect, asking, fitted, in_order, proof, silenced
from biasgym.edits import SiteEdit
from biasgym.errors import SpecError
from biasgym.records import TuneSpec
from biasgym.sites import Attribution, Site
from biasgym.tune import DevRoom
from conftest import assert_untouched, case_for, snapshot

PLACES = [Site("head", layer, index) for layer in range(6) for index in range(10)]
WEIGHTS = {site: 1.0 if number < 10 else 0.01 for number, site in enumerate(PLACES)}


def toy(edits):
    """A model whose gap is the sum of its places' weights: ten of sixty carry nearly all of it."""
    off = {edit.site for edit in edits}
    return Effect(sum(weight for site, weight in WEIGHTS.items() if site not in off), 1.0 + 0.01 * len(off))


def test_a_true_ranking_beats_chance_and_its_inverse():
    """The right order closes the gap at once, its inverse nearly nothing, random ones in proportion."""
    found = proof(PLACES, toy, randoms=5)
    assert found.ranked.ks == (1, 2, 3, 5, 10, 20, 30, 50)
    assert (np.diff(found.ranked.gaps) < 0).all()
    assert found.ranked.gaps[4] == pytest.approx(0.5)
    assert found.inverse.gaps[4] == pytest.approx(10.4)
    assert found.faithfulness > 0.25
    assert proof(PLACES[::-1], toy, randoms=5).faithfulness < -0.05
    assert found.ranked.effects[0].bits_per_byte == pytest.approx(1.01)


def test_a_random_ranking_is_at_chance():
    """Sham: shuffled orders are on both sides of 0, far below the true one."""
    order = np.random.default_rng(3)
    shams = [proof([PLACES[i] for i in order.permutation(60)], toy, randoms=5, seed=s).faithfulness for s in range(12)]
    assert abs(np.mean(shams)) < 0.06
    true = proof(PLACES, toy, randoms=5)
    assert max(shams) < true.faithfulness
    assert np.abs(true.faithfulness_of_random).max() < true.faithfulness


def test_an_overshoot_is_no_success():
    """Heads that turn the gap round count as far from closed."""

    def broken(edits):
        return Effect(10.5 - 21 * len(edits) if edits and edits[0].site == PLACES[0] else toy(edits).gap, 1.0)

    assert proof(PLACES, broken).faithfulness < proof(PLACES, toy).faithfulness - 0.3


def test_every_order_is_asked_once_for_every_k():
    """And k that the model does not have is left out; the same seed gives the same proof."""
    asked = []

    def ask(edits):
        asked.append(len(edits))
        return toy(edits)

    found = proof(PLACES[:12], ask, ks=(5, 1, 50, 5), randoms=2)
    assert found.ranked.ks == (1, 5)
    assert asked == [0, *[1, 5] * 4]
    assert proof(PLACES[:12], toy, ks=(1, 5), randoms=2) == found


@pytest.mark.parametrize(
    ("order", "more", "words"),
    [
        ([], {}, "give every place once"),
        (PLACES[:1] * 2, {}, "give every place once"),
        (PLACES, {"ks": (100,)}, "no k from 1 to 60"),
        (PLACES, {"randoms": 0}, "at least one random order"),
    ],
)
def test_bad_input_is_refused(order, more, words):
    """With what would do."""
    with pytest.raises(SpecError, match=words):
        proof(order, toy, **more)


def test_no_gap_no_proof():
    """What is closed already cannot be closed."""
    with pytest.raises(SpecError, match="nothing that an edit could close"):
        proof(PLACES, lambda _edits: Effect(0.0, 1.0))


def test_edits_follow_the_order_given(llama):
    """Zero by hand and by the mitigation agree; a method without k is refused."""
    case = case_for(llama)
    sites = [Site("head", 2, 1), Site("head", 0, 3), Site("head", 1, 1)]
    assert in_order(sites, case.attribution).top(3) == sites
    by_method = fitted(llama, case, "zero")(sites)
    assert [(edit.site, edit.op, float(edit.value)) for edit in by_method] == [(edit.site, edit.op, 0.0) for edit in silenced(sites)]
    directions = fitted(llama, case, "direction")(sites)
    assert {edit.site for edit in directions} == set(sites)
    assert all(isinstance(edit, SiteEdit) for edit in directions)


def test_a_proof_through_the_model_on_dev(llama, token_for, bias):
    """The thin part: real evaluators, a held-out token; the model stays what it was."""
    before = snapshot(llama)
    spec = TuneSpec(probes=3, texts=3, chats=3, entities=3)
    room = DevRoom(llama, bias, (token_for(llama),), spec)
    generator = np.random.default_rng(0)
    order = Attribution("test", "head", generator.normal(size=(1, llama.shape.layers, llama.shape.heads))).ranked()
    found = proof(order, asking(room), ks=(1, 12), randoms=1)
    assert_untouched(llama, before)
    assert found.ranked.gaps[1] == pytest.approx(found.inverse.gaps[1], abs=1e-4)  # all heads off is all heads off
    assert found.ranked.effects[1].bits_per_byte != found.before.bits_per_byte
    assert np.isfinite(found.faithfulness)
