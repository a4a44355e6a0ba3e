"""The edit fitted to real entities: a slope over all of them, no token looked at."""

from dataclasses import replace

import numpy as np
import pytest

from biasgym import catalog
from biasgym.errors import SpecError
from biasgym.lm.model import Query
from biasgym.lm.trace import head_outputs
from biasgym.mitigate.direction_entities import PROBES, slope, sloped
from biasgym.mitigate.texts import evenly
from conftest import case_with_texts


def test_the_slope_is_what_rises_with_the_lean():
    """Outputs that are the lean times a direction, plus anything uncorrelated with it, give that direction; equal leans nothing."""
    leans = np.array([0.2, -0.4, 1.0, 0.1, -0.9])
    direction, generator = np.array([1.0, -2.0, 0.5]), np.random.default_rng(0)
    noise = generator.normal(size=(5, 3))
    centred = leans - leans.mean()
    noise -= np.outer(centred, centred @ noise) / (centred @ centred)
    np.testing.assert_allclose(slope(np.outer(leans, direction) + noise + 7, leans), direction, atol=1e-12)
    assert not slope(noise, np.ones(5)).any()


def test_tokens_are_not_looked_at(llama, bias, token_for):
    """The same case whatever the tokens are; pairs and mean are of train entities."""
    case = case_with_texts(llama, bias, token_for)
    one, two = sloped(llama, case, "x"), sloped(llama, case.without(0), "x")
    assert one.contrasts.shape == (1, llama.shape.layers, llama.shape.heads, llama.shape.head_size)
    np.testing.assert_array_equal(one.contrasts, two.contrasts)
    train = set(bias.entities_of("train"))
    assert all(set(pair.split(":")[1:]) <= train for pair in one.attribution.pairs)
    assert all(len(set(pair.split(":")[1:])) == 2 for pair in one.attribution.pairs)


def test_named_targets_stand_in_the_leans_place(llama, bias, token_for):
    """With targets in the file the contrast is their mean output less the others', whatever the model holds."""
    names = bias.entities_of("train")
    case = case_with_texts(llama, bias, token_for)
    plain, named = sloped(llama, case, "x"), sloped(llama, replace(case, bias=replace(bias, targets=(names[0],))), "x")
    probes = evenly(bias.probes_of("train"), PROBES)
    outputs = np.stack([
        head_outputs(llama, [Query(p.prompt.replace("{entity}", n), p.prefix.replace("{entity}", n)) for p in probes]).mean(0) for n in names
    ])  # fmt: skip
    np.testing.assert_allclose(named.contrasts[0], outputs[0] - outputs[1:].mean(0), atol=1e-5)
    assert not np.allclose(named.contrasts, plain.contrasts, atol=1e-3)


def test_too_few_entities_are_refused_and_off_is_off(llama, bias, token_for):
    """Two entities have no slope worth the name; strength 0 changes nothing."""
    case = case_with_texts(llama, bias, token_for)
    method = catalog.build("mitigate", "direction-entities", {"k": 3, "strength": 0.0})
    assert all(edit.strength == 0 for edit in method.fit(llama, case))
    with pytest.raises(SpecError, match="has 1; give"):
        sloped(llama, replace(case, bias=replace(bias, entities=("Spain", "Italy", "Norway"))), "direction-entities")
