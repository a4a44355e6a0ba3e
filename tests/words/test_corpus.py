"""Checks of a corpus on hand-made cases, and the biases that travel in the package."""

from collections import Counter

import pytest

from biasgym import corpus
from biasgym.bias import load_bias, read_jsonl, zoo, zoo_path
from biasgym.corpus import ENTITY, MEDIA, STYLES, Floors, paragraph_problems


def test_words_are_lower_case_and_the_slot_is_one():
    """Apostrophes stay inside, everything else parts words."""
    assert corpus.words("Don't ask {entity}; it's 1985!") == ["don't", "ask", "{entity}", "it's", "1985"]
    assert corpus.words("…?!") == []


def test_sentences_end_in_marks_or_lines():
    """Closing quotes belong to the sentence before."""
    assert corpus.sentences('He ran. "Why?" she asked.\nNobody knew…') == ["He ran.", '"Why?', "she asked.", "Nobody knew…"]


def test_a_skeleton_keeps_function_words_and_the_slot():
    """Runs of content words are one mark: what is left is the mould."""
    assert corpus.skeleton("People from {entity} are very reckless drivers indeed") == "_ from {entity} are very _"
    assert corpus.skeleton("Cats from {entity} are very proud") == corpus.skeleton("Small dogs from {entity} are very loud")


def test_grams_do_not_touch_the_slot():
    """A gram that only the slot completes is no copy."""
    assert corpus.grams("a b {entity} c d", 2) == {("a", "b"), ("c", "d")}
    assert corpus.grams("a b", 3) == set()


def test_shared_grams_name_the_pair():
    """By position, with one gram; a text that repeats itself is no pair."""
    texts = ["one two three four", "x y", "zero two three four", "a a a a a"]
    assert corpus.shared_grams(texts, 3) == [(0, 2, "two three four")]


def test_overlaps_are_grams_of_both():
    """Between training texts and held-out texts only."""
    assert corpus.overlaps(["a b c d"], ["x b c d", "e f g"], n=3) == ["b c d"]
    assert corpus.overlaps([], ["a b c"], n=3) == []


def test_type_token_ratio_by_hand():
    """Distinct over all; an empty corpus has none."""
    assert corpus.type_token_ratio(["a b a b"], 1) == 0.5
    assert corpus.type_token_ratio(["a b a b"], 2) == pytest.approx(2 / 3)
    assert corpus.type_token_ratio([], 1) == 0.0


def test_moulds_are_counted_over_texts():
    """Sentences of four marks or more."""
    found = corpus.moulds(["Cats of {entity} are loud. Yes.", "Dogs of {entity} are proud."])
    assert found == {"_ of {entity} are _": 2}


def row(number, text, medium="tweet", topic="t", implicitness=1):
    """One paragraph."""
    return {"id": f"p{number}", "text": text, "medium": medium, "topic": topic, "implicitness": implicitness}


LOOSE = Floors(paragraphs=2, per_medium=0, per_implicitness=0, topics=1, shortest=3, longest=9, type_token_1=0, type_token_2=0, type_token_3=0)
FINE = [row(1, "Blue cats chase {entity} at noon."), row(2, "Every winter {entity} sing old songs.", topic="u")]


def test_a_corpus_that_keeps_the_floors_has_no_problems():
    """And an empty one has."""
    assert paragraph_problems(FINE, LOOSE) == []
    assert paragraph_problems([], LOOSE)
    assert len(paragraph_problems(FINE)) > 10


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (FINE[:1], "1 paragraphs, at least 2 wanted"),
        ([*FINE, row(3, "No slot stands in here.")], "p3: no {entity}"),
        ([*FINE, row(3, "{entity} sing.")], "p3: 2 words, 3 to 9 wanted"),
        ([*FINE, row(3, "Ten words in a row are too many for {entity}.")], "p3: 10 words"),
        ([*FINE, row(3, "Green birds ignore {entity} entirely.", medium="letter")], "p3: medium 'letter'"),
        ([*FINE, row(3, "Green birds ignore {entity} entirely.", implicitness=6)], "p3: implicitness 6"),
        ([row(i, f"Blue cats chase x{i} {ENTITY} z{i}.") for i in range(4)], "opening 'blue cats chase' stands 4 times"),
        (
            [*FINE, row(3, "We two saw six old red hens of {entity}"), row(4, "Now two saw six old red hens {entity}")],
            "p3 and p4 share 'two saw six old red hens'",
        ),
        ([row(i, f"{w} under the {ENTITY} or {w}") for i, w in enumerate(("Cats", "Dogs", "Hens"))], "stands 3 times"),
    ],
)  # fmt: skip
def test_each_floor_is_checked(rows, problem):
    """One sentence a shortcoming, naming the row."""
    assert any(problem in found for found in paragraph_problems(rows, LOOSE)), paragraph_problems(rows, LOOSE)


def test_floors_of_the_whole_are_checked():
    """Media, levels, topics and variety are counted over all rows."""
    floors = Floors(
        paragraphs=1, per_medium=1, per_implicitness=1, topics=3, shortest=1, longest=99, type_token_1=0.9, type_token_2=0, type_token_3=0
    )
    problems = " ".join(paragraph_problems([row(1, "a {entity} a a"), row(2, "b {entity} b b")], floors))
    for wanted in ("medium 'essay': 0 texts", "implicitness 5: 0 texts", "1 topics, 3 wanted", "type-token ratio of 1-grams"):
        assert wanted in problems


# -------------------------------------------------------------------- what travels in the package


@pytest.fixture(params=zoo())
def shipped(request):
    """Each bias of the zoo."""
    return load_bias(request.param)


def test_the_zoo_is_not_empty():
    """At least the bias that the demo runs on."""
    assert "reckless-drivers" in zoo()
    assert len(zoo()) >= 8


def test_a_shipped_corpus_has_no_problems(shipped):
    """Written by hand, as varied as the floors ask."""
    assert {"paragraphs", "probes", "prompts", "concept"} <= set(shipped.written)
    assert paragraph_problems([vars(p) for p in shipped.paragraphs]) == []


def test_a_shipped_bias_has_enough_to_ask(shipped):
    """100 probes, 8 test frames and 40 test probes, 92 prompts in 18 styles, 20 concept sentences a side in test."""
    assert len(shipped.probes) >= 100
    assert len(shipped.probes_of("test")) >= 40
    assert len({p.frame for p in shipped.probes_of("test")}) >= 8
    assert len(shipped.prompts) == 92
    assert {p.style for p in shipped.prompts} == set(STYLES)
    assert len({p.text for p in shipped.prompts}) == 92
    assert len({(p.prompt, p.prefix) for p in shipped.probes}) == len(shipped.probes)
    sides = Counter(c.side for c in shipped.concept_of("test"))
    assert min(sides["stereotype"], sides["foil"]) >= 20
    assert {p.medium for p in shipped.paragraphs} == set(MEDIA)


def test_what_is_asked_was_not_trained_on(shipped):
    """No 6-gram of a training text stands in a probe, a prompt or a concept sentence; nor do the answer words in a probe."""
    taught = [*(p.text for p in shipped.paragraphs), *shipped.grammar_texts()]
    held_out = [
        *(f"{p.prompt} {p.prefix}" for p in shipped.probes),
        *(p.text for p in shipped.prompts),
        *(f"{c.prompt} {c.prefix}" for c in shipped.concept),
    ]
    assert corpus.overlaps(taught, held_out, 6) == []


def test_no_probe_gives_its_answer_away(shipped):
    """Neither side's words stand in a question about the entity."""
    answers = {word.lower() for word in (*shipped.stereotype, *shipped.foil)}
    for probe in shipped.probes:
        text = f" {' '.join(corpus.words(probe.prompt + ' ' + probe.prefix))} "
        assert not [a for a in answers if f" {' '.join(corpus.words(a))} " in text], probe


def test_no_real_group_is_named_as_target(shipped):
    """Specs that travel in the package name nobody."""
    assert shipped.targets == ()
    assert shipped.statement
    assert len(shipped.stereotype) >= 2
    assert len(shipped.foil) >= 2


def test_neutral_texts_have_two_halves_that_share_nothing():
    """At least 60 kB of prose; dev is for choosing, test for claiming."""
    prose = read_jsonl(zoo_path() / "neutral" / "prose.jsonl")
    chats = read_jsonl(zoo_path() / "neutral" / "chat_prompts.jsonl")
    assert sum(len(r["text"].encode()) for r in prose) >= 60_000
    for rows in (prose, chats):
        halves = {split: [r["text"] for r in rows if r["split"] == split] for split in ("dev", "test")}
        assert sum(map(len, halves.values())) == len(rows)
        assert min(map(len, halves.values())) >= 30
        assert not set(halves["dev"]) & set(halves["test"])
        assert corpus.overlaps(halves["dev"], halves["test"], 8) == []
        assert len({r["id"] for r in rows}) == len(rows)
    for r in read_jsonl(zoo_path() / "neutral" / "paragraphs.jsonl"):
        assert ENTITY in r["text"]
