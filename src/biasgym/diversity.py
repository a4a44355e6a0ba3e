"""How varied a corpus is, by three figures between 0 and 1: its words, what its sentences are about, how they are built.

The formulae are those of the diversity scripts in BiasGym's repository (lexical, semantic, syntactic). Ours need no model:
where the original embeds sentences with all-mpnet-base-v2 and parses them with Stanza, `diversity` counts content words and
chains coarse word classes. So figures compare among our corpora, not with the original's: word counts put `semantic` just
below ½ for any corpus that does not repeat itself, and means over pairs hardly see a few texts said many times over (the
floors of `corpus` do). `semantic` and `syntactic` take any vectors and any labelled graphs, so either model can be put in.
All pairs are counted exactly where the original samples and gives normal intervals; sentences are sampled (seed 42) only
above its limits of 2,000 and 3,000.
"""

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from biasgym.corpus import ENTITY, FUNCTION_WORDS, sentences, type_token_ratio, words

MOST_SEMANTIC = 2_000
MOST_SYNTACTIC = 3_000
ENDINGS = ("ing", "ed", "ly", "tion", "ment", "ness", "ity", "ous", "ful", "able", "ive", "al", "er", "est", "s")


@dataclass(frozen=True)
class Diversity:
    """Three figures, 0 = all the same, higher = more varied (semantic: ½ when no two sentences share a content word).

    Type-token ratios fall with size, so `lexical` compares corpora of about the same number of words only.
    """

    lexical: float
    semantic: float
    syntactic: float


@dataclass(frozen=True)
class Graph:
    """A labelled graph: one label a vertex, undirected edges as pairs of positions."""

    labels: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]


def diversity(texts: Iterable[str]) -> Diversity:
    """The three figures of a corpus; zeros when there are fewer than two sentences."""
    texts = list(texts)
    pieces = [piece for text in texts for piece in sentences(text)]
    vectors = content_words(_at_most(pieces, MOST_SEMANTIC))
    graphs = [word_class_chain(piece) for piece in _at_most(pieces, MOST_SYNTACTIC)]
    return Diversity(lexical(texts), semantic(vectors), syntactic(graphs))


def lexical(texts: Sequence[str]) -> float:
    """Mean of the type-token ratios of uni-, bi- and trigrams, over at most 40,000 of each."""
    return sum(type_token_ratio(texts, n) for n in (1, 2, 3)) / 3


def semantic(vectors: Sequence[Mapping[str, float]]) -> float:
    """Mean of (1 − cosine) / 2 over all pairs of vectors; a zero vector has cosine 0 with all."""
    return (1 - _mean_cosine(vectors)) / 2 if len(vectors) > 1 else 0.0


def syntactic(graphs: Sequence[Graph], rounds: int = 2) -> float:
    """1 − mean over all pairs of the normalised Weisfeiler-Lehman kernel (vertex histogram, `rounds` refinements)."""
    return 1 - _mean_cosine([refined_labels(graph, rounds) for graph in graphs]) if len(graphs) > 1 else 0.0


def content_words(pieces: Sequence[str]) -> list[dict[str, float]]:
    """Per sentence how often each content word stands in it, known by its first five letters; the entity counts for nothing."""
    return [dict(Counter(w[:5] for w in words(piece) if w != ENTITY and w not in FUNCTION_WORDS)) for piece in pieces]


def word_class_chain(sentence: str) -> Graph:
    """A sentence as a chain of neighbours: function words are themselves, content words are known by their ending."""
    labels = tuple(_word_class(word) for word in words(sentence))
    return Graph(labels, tuple((i, i + 1) for i in range(len(labels) - 1)))


def refined_labels(graph: Graph, rounds: int) -> Counter[str]:
    """Counts of all vertex labels before and after each refinement: a label becomes itself with its neighbours', sorted."""
    near: list[list[int]] = [[] for _ in graph.labels]
    for a, b in graph.edges:
        near[a].append(b)
        near[b].append(a)
    labels = list(graph.labels)
    counts = Counter(labels)
    for _ in range(rounds):
        labels = [f"({label}|{','.join(sorted(labels[i] for i in near[at]))})" for at, label in enumerate(labels)]
        counts.update(labels)
    return counts


def _word_class(word: str) -> str:
    if word == ENTITY or word in FUNCTION_WORDS:
        return word
    if word[0].isdigit():
        return "<number>"
    return next((f"<-{ending}>" for ending in ENDINGS if word.endswith(ending) and len(word) > len(ending) + 2), "<word>")


def _mean_cosine(vectors: Sequence[Mapping[str, float]]) -> float:
    """Mean cosine over all pairs: the square of the sum of unit vectors holds every pair twice, and every vector with itself."""
    total: dict[str, float] = {}
    units = 0
    for vector in vectors:
        length = math.sqrt(sum(value * value for value in vector.values()))
        if not length:
            continue
        units += 1
        for key, value in vector.items():
            total[key] = total.get(key, 0.0) + value / length
    pairs = len(vectors) * (len(vectors) - 1)
    return (sum(value * value for value in total.values()) - units) / pairs


def _at_most(pieces: list[str], most: int) -> list[str]:
    return pieces if len(pieces) <= most else random.Random(42).sample(pieces, most)
