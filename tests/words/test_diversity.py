"""Diversity figures: worked out by hand where that can be done, and lower where texts repeat themselves."""

import math
from itertools import combinations

import pytest

from biasgym import diversity as d
from biasgym.bias import load_bias
from biasgym.diversity import Graph, diversity, semantic, syntactic


def test_semantic_by_hand():
    """Right angles give ½, the same direction 0, opposite ones 1; a zero vector counts as a right angle."""
    assert semantic([{"x": 1.0}, {"y": 3.0}]) == pytest.approx(0.5)
    assert semantic([{"x": 1.0}, {"x": 3.0}]) == pytest.approx(0.0)
    assert semantic([{"x": 1.0}, {"x": -2.0}]) == pytest.approx(1.0)
    assert semantic([{}, {"x": 1.0}]) == pytest.approx(0.5)
    assert semantic([{"x": 1.0}, {"x": 1.0}, {"x": 1.0, "y": 1.0}]) == pytest.approx((0 + 2 * (1 - math.sqrt(0.5)) / 2) / 3)


def test_the_fast_sum_is_the_mean_over_pairs():
    """Against the definition, pair by pair."""
    texts = ["a red house", "a red boat sails", "boats and houses burn", "nothing at all", "red red red"]
    vectors = d.content_words(texts)

    def cosine(a, b):
        size = math.hypot(*a.values()) * math.hypot(*b.values())
        return sum(value * b.get(key, 0) for key, value in a.items()) / size if size else 0.0

    pairs = [(1 - cosine(a, b)) / 2 for a, b in combinations(vectors, 2)]
    assert semantic(vectors) == pytest.approx(sum(pairs) / len(pairs))


def test_syntactic_by_hand():
    """Two single vertices with one label are alike, with two labels unlike; order of vertices does not matter."""
    one, other = Graph(("n",), ()), Graph(("v",), ())
    assert syntactic([one, one]) == pytest.approx(0.0)
    assert syntactic([one, other]) == pytest.approx(1.0)
    path, turned = Graph(("n", "v", "n"), ((0, 1), (1, 2))), Graph(("v", "n", "n"), ((1, 0), (0, 2)))
    assert syntactic([path, turned]) == pytest.approx(0.0)
    pair = Graph(("n", "v"), ((0, 1),))
    # one round: {n: 1, v: 1, (n|v): 1, (v|n): 1} against {n: 1}
    assert syntactic([pair, one], rounds=1) == pytest.approx(1 - 1 / math.sqrt(4 * 2))


def test_refining_tells_neighbours_apart():
    """The same labels, wired differently."""
    path = Graph(("a", "b", "c"), ((0, 1), (1, 2)))
    other = Graph(("a", "b", "c"), ((0, 2), (2, 1)))
    assert syntactic([path, other], rounds=0) == pytest.approx(0.0)
    assert syntactic([path, other], rounds=2) > 0.4


def test_words_of_a_class_are_alike():
    """Content words count by their ending, function words by themselves."""
    a, b, c = (d.word_class_chain(s) for s in ("the dog barked", "the cat jumped", "a dog is barking"))
    assert a == b
    assert a != c


def test_repetition_lowers_every_figure():
    """A corpus against one that says two texts over and over; and none of it has no diversity."""
    texts = [p.text for p in load_bias("always-late").paragraphs][:100]
    varied, dull = diversity(texts), diversity(texts[:2] * 50)
    assert varied.lexical > dull.lexical + 0.2
    assert varied.semantic > dull.semantic + 0.05
    assert varied.syntactic > dull.syntactic + 0.05
    assert diversity([]) == diversity(["Only one."]).__class__(0.0, 0.0, 0.0)


def test_large_corpora_are_sampled_the_same_way_every_time(monkeypatch):
    """Above the limit a seeded sample, below it everything."""
    monkeypatch.setattr(d, "MOST_SEMANTIC", 20)
    texts = [p.text for p in load_bias("always-late").paragraphs]
    assert diversity(texts) == diversity(texts)
