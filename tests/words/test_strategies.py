"""Searches: the front they leave, the same seed the same way, a killed one goes on, a good one finds more than chance."""

import sys
from itertools import product

import numpy as np
import pytest

from biasgym.errors import SpecError
from biasgym.fronts import hypervolume, nondominated
from biasgym.strategies import STRATEGIES, Outcome, best_of, key_of, walk

SPACE = {"k": (5, 10, 20, 30, 45, 60), "strength": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "order": ("effect", "effect-per-cost")}
START = {"k": 30, "strength": 1.25, "order": "effect", "most": 2.5}
OPTUNA = ("tpe", "nsga2", "gp")


def outcome(settings):
    """A made-up model: more heads and more strength leave less and cost more; one order is better than the other."""
    ease = 1.3 if settings["order"] == "effect-per-cost" else 1.0
    reach = np.log(settings["k"]) * settings["strength"] * ease
    left, price = abs(4.6 - reach) / 3, settings["k"] * settings["strength"] ** 2 / 60
    return Outcome(float(left), float(price), price <= 1)


def walked(name, *, total=12, seed=0, known=None, stop=None):
    """What a search tries, with outcomes taken from `known` where they are there; stopped after `stop` new ones."""
    known = {} if known is None else known
    steps = walk(name, SPACE, START, total, seed)
    settings, tried = next(steps), []
    while True:
        if key_of(settings) not in known:
            if stop is not None and len(known) >= stop:
                return tried
            known[key_of(settings)] = outcome(settings)
        tried.append((settings, known[key_of(settings)]))
        try:
            settings = steps.send(known[key_of(settings)])
        except StopIteration:
            return tried


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_trial_is_a_new_point_of_the_space(name):
    """As many as were allowed, none twice, all candidates, what is not searched left as it was."""
    tried = walked(name, total=16)
    keys = [key_of(settings) for settings, _ in tried]
    assert len(keys) == len(set(keys)) == 16
    for settings, _ in tried:
        assert settings["most"] == 2.5
        assert all(settings[name] in values for name, values in SPACE.items())


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "random"])
def test_the_methods_own_setting_comes_first(name):
    """So a search is never worse than no search."""
    assert walked(name, total=4)[0][0] == START


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_killed_search_goes_on_to_the_same_end(name):
    """With the outcomes of the first half on disk; and once more from the beginning with the same seed."""
    whole = walked(name, seed=3)
    known = {}
    walked(name, seed=3, known=known, stop=6)
    assert len(known) == 6
    assert walked(name, seed=3, known=known) == whole
    assert walked(name, seed=3) == whole
    if name != "ladder":
        assert walked(name, seed=4) != whole


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_small_space_is_tried_whole_and_no_further(name):
    """Fewer points than trials: each once, where a sampler finds them all; nothing to search is one trial."""
    space = {"k": (1, 2), "strength": (0.5, 1.0)}
    steps = walk(name, space, {"k": 1, "strength": 0.5}, 30, 0)
    settings, tried = next(steps), []
    while settings is not None:
        tried.append(key_of(settings))
        try:
            settings = steps.send(Outcome(settings["k"], settings["strength"], True))
        except StopIteration:
            settings = None
    assert len(tried) == len(set(tried)) == 4
    assert list(walk(name, {}, START, 9, 0)) == [START]


@pytest.mark.parametrize("name", ["ladder", "tpe", "gp"])
def test_searching_beats_random_points_on_average(name):
    """What the best point inside the budget leaves, at equal trials, on a smooth made-up model."""

    def left(search, seed):
        found = best_of(walked(search, seed=seed))
        return outcome(found).left

    random = np.mean([left("random", seed) for seed in range(200)])
    assert np.mean([left(name, seed) for seed in range(1 if name == "ladder" else 5)]) < random


def test_the_best_is_inside_and_the_cheapest_where_none_is():
    """Whatever it leaves; ties by order."""
    inside, cheap, dear = Outcome(1.0, 0.9, True), Outcome(0.1, 1.1, False), Outcome(0.0, 3.0, False)
    tried = [({"k": number}, one) for number, one in enumerate((dear, cheap, inside, inside))]
    assert best_of(tried) == {"k": 2}
    assert best_of(tried[:2]) == {"k": 1}


def test_an_unknown_search_and_a_missing_optuna_are_said(monkeypatch):
    """By the nearest name; by what to install."""
    with pytest.raises(SpecError, match="did you mean `ladder`"):
        walk("lader", SPACE, START, 3, 0)
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr("biasgym.strategies.find_spec", lambda name: None)
    for name in OPTUNA:
        with pytest.raises(SpecError, match=r"biasgym\[search\]"):
            walk(name, SPACE, START, 3, 0)
    assert len(walked("ladder", total=3)) == 3


def test_the_front_is_what_nothing_else_beats():
    """Against the definition, on random points with ties."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        points = [tuple(row) for row in generator.integers(0, 6, size=(12, 2)).tolist()]
        found = {points[i] for i in nondominated(points)}
        beaten = {a for a, b in product(points, points) if b != a and b[0] <= a[0] and b[1] <= a[1]}
        assert found == set(points) - beaten
        assert len(nondominated(points)) == len(found)


def test_hypervolume_is_the_area_that_is_beaten():
    """Against a count of cells; points beyond the reference add nothing."""
    generator = np.random.default_rng(1)
    for _ in range(20):
        points = [tuple(row) for row in generator.integers(0, 12, size=(6, 2)).tolist()]
        cells = sum(any(p[0] <= x and p[1] <= y for p in points) for x in range(10) for y in range(10))
        assert hypervolume(points, (10, 10)) == cells
    assert hypervolume([], (1, 1)) == 0
