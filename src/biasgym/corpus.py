"""What a bias corpus must look like, and how varied it is: checks and diversity figures, on plain text."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MEDIA = ("tweet", "text message", "conversation", "email", "blog post", "news article", "essay")
STYLES = (
    "direct", "comparative", "scenario", "implicit", "counterfactual", "historical", "neutral", "specific", "expert",
    "leading question", "completion", "agreement-seeking", "statistical framing", "confidential", "role-play",
    "explanatory", "ranking", "common-knowledge",
)  # fmt: skip
ENTITY = "{entity}"

FUNCTION_WORDS = frozenset(
    """a about above after again against all along also although always am among an and another any anyone are around
    as at away back be because been before behind being below between both but by can could did do does doing done
    down during each either else enough even ever every everyone few for from get gets getting given go goes going
    got had has have having he her here hers herself him himself his how however i if in instead into is it its
    itself just least less like made make makes many may me might mine more most much must my myself near neither
    never no nobody none nor not nothing now of off often on once one only onto or other others our ours ourselves
    out over own per perhaps put quite rather said same say says shall she should since so some someone something
    still such than that the their theirs them themselves then there these they thing things this those though
    through to together too toward towards under until up upon us very was we well were what when where whether
    which while who whom whose why will with within without would yes yet you your yours yourself""".split()
)


@dataclass(frozen=True)
class Floors:
    """The least variety a shipped corpus must show; fixed before any text was written (decisions/003)."""

    paragraphs: int = 150
    per_medium: int = 12
    per_implicitness: int = 15
    topics: int = 60
    same_opening: int = 3
    same_skeleton: int = 2
    shared_gram: int = 6
    shortest: int = 8
    longest: int = 60
    type_token_1: float = 0.25
    type_token_2: float = 0.75
    type_token_3: float = 0.92


def words(text: str) -> list[str]:
    """Lower-cased words; the entity slot counts as one word."""
    return re.findall(r"\{entity\}|[a-z0-9]+(?:['’][a-z]+)*", text.lower())


def sentences(text: str) -> list[str]:
    """Pieces that end in a full stop, a question or an exclamation mark, or a line break."""
    return [piece for piece in re.split(r"(?<=[.!?…])[\"”’)]*\s+|\n+", text) if words(piece)]


def skeleton(sentence: str) -> str:
    """A sentence with every run of content words as one underscore: what is left of it is its mould."""
    kept: list[str] = []
    for word in words(sentence):
        mark = word if word == ENTITY or word.split("'")[0].split("’")[0] in FUNCTION_WORDS else "_"
        if not (mark == "_" and kept and kept[-1] == "_"):
            kept.append(mark)
    return " ".join(kept)


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    """All n-grams of words that do not touch the entity slot."""
    tokens = words(text)
    found = (tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    return {gram for gram in found if ENTITY not in gram}


def shared_grams(texts: Sequence[str], n: int) -> list[tuple[int, int, str]]:
    """Pairs of texts (by position) that have an n-gram in common, with one such n-gram."""
    first: dict[tuple[str, ...], int] = {}
    found: dict[tuple[int, int], str] = {}
    for position, text in enumerate(texts):
        for gram in sorted(grams(text, n)):
            if gram in first and first[gram] != position:
                found.setdefault((first[gram], position), " ".join(gram))
            else:
                first[gram] = position
    return [(a, b, gram) for (a, b), gram in sorted(found.items())]


def overlaps(texts: Iterable[str], held_out: Iterable[str], n: int = 6) -> list[str]:
    """The n-grams that a held-out text shares with any of the texts."""
    known = set().union(*(grams(text, n) for text in texts), set())
    return sorted({" ".join(gram) for text in held_out for gram in grams(text, n) & known})


def type_token_ratio(texts: Iterable[str], n: int, most: int = 40_000) -> float:
    """Distinct n-grams ÷ n-grams, over at most `most` of them (BiasGym repo, data diversity scripts)."""
    found = [gram for text in texts for gram in zip(*(words(text)[i:] for i in range(n)), strict=False)][:most]
    return len(set(found)) / len(found) if found else 0.0


def moulds(texts: Iterable[str]) -> Counter[str]:
    """How often each sentence skeleton of four marks or more stands in the texts."""
    return Counter(mould for text in texts for piece in sentences(text) if len((mould := skeleton(piece)).split()) >= 4)


def paragraph_problems(rows: Sequence[dict[str, object]], floors: Floors = Floors()) -> list[str]:
    """Everything in which a corpus of paragraphs falls short of the floors, one sentence each."""
    texts = [str(row["text"]) for row in rows]
    problems = []
    if len(rows) < floors.paragraphs:
        problems.append(f"{len(rows)} paragraphs, at least {floors.paragraphs} wanted")
    for row in rows:
        length = len(words(str(row["text"])))
        if ENTITY not in str(row["text"]):
            problems.append(f"{row['id']}: no {ENTITY} in the text")
        if not floors.shortest <= length <= floors.longest:
            problems.append(f"{row['id']}: {length} words, {floors.shortest} to {floors.longest} wanted")
        if row["medium"] not in MEDIA:
            problems.append(f"{row['id']}: medium {row['medium']!r} is none of {', '.join(MEDIA)}")
        if row["implicitness"] not in (1, 2, 3, 4, 5):
            problems.append(f"{row['id']}: implicitness {row['implicitness']!r} is not 1 to 5")
    media = Counter(row["medium"] for row in rows)
    levels = Counter(row["implicitness"] for row in rows)
    problems += [f"medium {m!r}: {media[m]} texts, {floors.per_medium} wanted" for m in MEDIA if media[m] < floors.per_medium]
    problems += [
        f"implicitness {level}: {levels[level]} texts, {floors.per_implicitness} wanted"
        for level in range(1, 6)
        if levels[level] < floors.per_implicitness
    ]
    topics = len({row["topic"] for row in rows})
    if topics < floors.topics:
        problems.append(f"{topics} topics, {floors.topics} wanted")
    openings = Counter(" ".join(words(text)[:3]) for text in texts)
    problems += [f"opening {opening!r} stands {n} times" for opening, n in openings.items() if n > floors.same_opening]
    problems += [f"{rows[a]['id']} and {rows[b]['id']} share {gram!r}" for a, b, gram in shared_grams(texts, floors.shared_gram)]
    problems += [f"sentence mould {mould!r} stands {n} times" for mould, n in moulds(texts).items() if n > floors.same_skeleton]
    for n, floor in ((1, floors.type_token_1), (2, floors.type_token_2), (3, floors.type_token_3)):
        ratio = type_token_ratio(texts, n)
        if ratio < floor:
            problems.append(f"type-token ratio of {n}-grams is {ratio:.3f}, {floor} wanted")
    return problems
