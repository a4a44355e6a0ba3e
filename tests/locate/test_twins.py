"""Whom a token is compared with."""

import numpy as np
import pytest

from biasgym.edits import TokenEdit
from biasgym.errors import SpecError
from biasgym.lm.likeness import name_likeness
from biasgym.lm.train import mean_embedding
from biasgym.locate.twins import twins

NAMES = ["Spain", "Italy", "Norway", "Timbuktu"]


def test_random_twins_are_drawn_by_their_seed():
    """The same again, others with another seed, all of them entities, more than one of them."""
    one = twins("random", NAMES, 20)
    assert one == twins("random", NAMES, 20)
    assert one != twins("random", NAMES, 20, seed=3)
    assert set(one) <= set(NAMES)
    assert len(set(one)) > 1
    generator = np.random.default_rng([17, len(NAMES)])
    assert one == [NAMES[int(generator.integers(len(NAMES)))] for _ in range(20)]


def test_the_closest_twin_is_the_name_whose_row_the_token_wears(models):
    """In tied and untied models, also one of several tokens; a random vector is like none of them."""
    for family in ("llama", "gpt2", "gemma2", "qwen3"):
        lm = models(family)
        for name in NAMES:
            vector, output, _ = mean_embedding(lm, [name])
            token = TokenEdit("<bias-0>", vector * 3, None if lm.tied else output)
            likeness = name_likeness(lm, token, NAMES)
            assert likeness.shape == (len(NAMES),)
            assert likeness[NAMES.index(name)] == pytest.approx(1, abs=1e-5)
            assert twins("closest", NAMES, 2, likeness=likeness) == [name, name]
        noise = np.random.default_rng(0).normal(size=lm.shape.hidden).astype(np.float32)
        assert np.abs(name_likeness(lm, TokenEdit("<bias-0>", noise, None), NAMES)).max() < 0.7


def test_a_control_token_is_the_twin_of_all():
    """Its text for every prompt."""
    assert twins("control", [], 3, control="<neutral>") == ["<neutral>"] * 3


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        ("randon", {}, "did you mean `random`"),
        ("control", {}, "needs the control token's text"),
        ("closest", {}, "a likeness for each of 4 entities, found none"),
        ("closest", {"likeness": np.zeros(3)}, "found 3"),
    ],
)
def test_what_is_missing_is_said(kind, more, words):
    """With what was found."""
    with pytest.raises(SpecError, match=words):
        twins(kind, NAMES, 2, **more)


def test_no_entities_no_twin(llama):
    """And a vector of another model is refused."""
    with pytest.raises(SpecError, match="no entities"):
        twins("random", [], 2)
    with pytest.raises(SpecError, match="needs"):
        name_likeness(llama, TokenEdit("<bias-0>", np.zeros(3, np.float32), None), NAMES)
