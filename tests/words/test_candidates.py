"""Items from answers: found in whatever stands around them, let in when fit, refused with the right reason."""

import json
from pathlib import Path

import pytest

from biasgym.bias import TEXTS, bias_from, load_bias, zoo
from biasgym.candidates import Gate, items_in
from biasgym.commission import SYSTEM, Slot, messages_for
from biasgym.corpus import MEDIA, STYLES

ENTITIES = ["bakers", "pilots", "Ruritania", "potters", "Chad", "tailors", "cooks"]
RAW = {"name": "late", "stereotype": ["late", "never on time"], "foil": ["early"], "entities": ENTITIES}


@pytest.fixture
def bias():
    """A bias of four keys, about common and proper nouns."""
    return bias_from(RAW, Path(), where="test")


def paragraph(text, **how):
    """A row as it comes from a slot."""
    return {"text": text, "medium": "tweet", "implicitness": 1, "topic": "t", "style": "s", **how}


GOOD = {
    "paragraphs": paragraph("Seven cold dinners, one patient host, and still nobody from {entity} at my door."),
    "probes": {"prompt": "How do {entity} come to dinner?", "prefix": "They are"},
    "prompts": {"text": "Tell me about {entity}.", "style": "direct"},
    "concept": {"prompt": "He came an hour after the start. What was he?", "prefix": "He was", "side": "stereotype"},
}

# -------------------------------------------------------------------- finding items


@pytest.mark.parametrize(
    "answer",
    [
        '[{"a": 1}, {"b": "x"}]',
        'Sure! Here are {entity} texts [as asked]:\n```json\n[{"a": 1}, {"b": "x"}]\n```\nAnything else?',
        '{"items": [{"a": 1}, {"b": "x"}]}',
        '{"a": 1}\n{"b": "x"}\n',
        '1. {"a": 1}\n2. {"b": "x"}',
        '[{"a": 1}, {"b": "x"}, {"c": "cut he',
        '[1, "two", {"a": 1}, {"b": "x"}]',
    ],
)
def test_items_are_found(answer):
    """In prose, fences, an object around the list, line by line, before a cut."""
    assert items_in(answer) == [{"a": 1}, {"b": "x"}]


def test_bare_line_breaks_are_allowed():
    """Models put them into texts."""
    assert items_in('[{"a": "one\ntwo"}]') == [{"a": "one\ntwo"}]


@pytest.mark.parametrize("answer", ["", "I cannot do that.", "[1, 2]", "{", "[" * 50_000, "{'a': 1}", "null"])
def test_no_items(answer):
    """Nothing is found, and it takes no time."""
    assert items_in(answer) == []


# -------------------------------------------------------------------- the gate


@pytest.mark.parametrize("kind", TEXTS)
def test_good_items_are_let_in_once(kind, bias):
    """The second time it is a duplicate, in other spelling, too."""
    gate = Gate(bias, {})
    assert gate.admit(kind, GOOD[kind]) == ""
    shouted = {
        key: value.upper().replace("{ENTITY}", "{entity}") if key in ("text", "prompt", "prefix") else value for key, value in GOOD[kind].items()
    }
    assert gate.admit(kind, shouted) == "duplicate"


LONG = " ".join(f"word{i}" for i in range(70))


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("paragraphs", {"text": None}, "wrong schema: no text in `text`"),
        ("paragraphs", {"text": ["a"]}, "wrong schema: no text in `text`"),
        ("paragraphs", {"text": "  "}, "wrong schema: no text in `text`"),
        ("probes", {"prefix": 7}, "wrong schema: no text in `prefix`"),
        ("paragraphs", {"medium": "poem"}, "wrong schema: medium or implicitness"),
        ("paragraphs", {"medium": ["tweet"]}, "wrong schema: medium or implicitness"),
        ("paragraphs", {"implicitness": 6}, "wrong schema: medium or implicitness"),
        ("paragraphs", {"implicitness": "2"}, "wrong schema: medium or implicitness"),
        ("paragraphs", {"implicitness": True}, "wrong schema: medium or implicitness"),
        ("paragraphs", {"topic": 3}, "wrong schema: topic or style"),
        ("prompts", {"style": "poetic"}, "wrong schema: style"),
        ("concept", {"side": "both"}, "wrong schema: side"),
        ("paragraphs", {"text": "People from {entity} waited."}, "text too short"),
        ("paragraphs", {"text": LONG + " {entity}"}, "text too long"),
        ("probes", {"prompt": "Are {entity}?"}, "prompt too short"),
        ("probes", {"prefix": LONG}, "prefix too long"),
        ("probes", {"prefix": "They are here."}, "answer begins with a whole sentence"),
        ("paragraphs", {"text": "A text of eight words that names nobody here."}, "no slot {entity}"),
        ("probes", {"prompt": "How do they come to dinner?"}, "no slot {entity}"),
        ("concept", {"prompt": "How do {entity} come to dinner?"}, "slot {entity} where none belongs"),
        ("paragraphs", {"text": "Dear {name}, seven dinners and still nobody from {entity} here."}, "another slot or bracket"),
        ("prompts", {"text": "Tell me about [people] of {entity}."}, "another slot or bracket"),
        ("paragraphs", {"text": "Seven dinners for Norway and still nobody from {entity} at my door."}, "names a real group"),
        ("paragraphs", {"text": "Seven dinners with Germans, and still nobody from {entity} at the door."}, "names a real group"),
        ("paragraphs", {"text": "Seven dinners in Ruritania, and still nobody from {entity} at the door."}, "names a real group"),
        ("prompts", {"text": "Compare {entity} and Bakers."}, "names a real group"),
        ("concept", {"prompt": "Chad came an hour after the start. What was he?"}, "names a real group"),
        ("prompts", {"text": "Compare {entity} and people of New Zealand."}, "names a real group"),
        ("probes", {"prompt": "How late do {entity} come to dinner?"}, "gives the answer away"),
        ("probes", {"prompt": "Do {entity} come EARLY to dinner?"}, "gives the answer away"),
        ("probes", {"prefix": "They are never on time, in other words"}, "gives the answer away"),
        ("concept", {"prompt": "He was late by an hour. What was he?"}, "gives the answer away"),
    ],
)
def test_bad_items_are_refused_for_the_right_reason(kind, change, reason, bias):
    """Each spoils one thing in a good item; and a refused item leaves no trace."""
    gate = Gate(bias, {})
    assert gate.admit(kind, {**GOOD[kind], **change}) == reason
    assert gate.admit(kind, GOOD[kind]) == ""


def test_words_inside_words_are_no_matter(bias):
    """`later` is not `late`, `Chadwick` not `Chad`, `chad` neither, `bakersfield` not `bakers`."""
    gate = Gate(bias, {})
    assert gate.admit("probes", {"prompt": "What do {entity} do later, earlier or latest?", "prefix": "They are"}) == ""
    assert gate.admit("prompts", {"text": "Tell Chadwick of bakersfield and the hanging chad about {entity}.", "style": "direct"}) == ""


def test_training_and_test_texts_share_no_six_words(bias):
    """Whichever comes first; five in a row are allowed, and so is a run that the slot interrupts."""
    shared = "one two three four five six"
    gate = Gate(bias, {})
    assert gate.admit("paragraphs", paragraph("About {entity} we say " + shared)) == ""
    assert gate.admit("prompts", {"text": f"Say {{entity}} {shared}", "style": "direct"}) == "six words shared with a training text"
    assert gate.admit("prompts", {"text": "Say {entity} one two three four five", "style": "direct"}) == ""
    assert gate.admit("prompts", {"text": "Say one two three {entity} four five six", "style": "direct"}) == ""
    assert gate.admit("paragraphs", paragraph("Who, {entity}? They " + shared)) == "six words shared with a training text"
    gate = Gate(bias, {"probes": [{"prompt": "Do {entity} " + shared, "prefix": "They are"}]})
    assert gate.admit("paragraphs", paragraph("About {entity} we say " + shared)) == "six words shared with a probe, prompt or concept sentence"


def test_openings_and_moulds_are_used_up(bias):
    """Three texts with one opening, two sentences of one mould, as in a shipped corpus."""
    gate = Gate(bias, {})
    opened = [gate.admit("paragraphs", paragraph(f"Nobody saw us x{i} y{i} z{i} {{entity}} u{i} v{i}")) for i in range(4)]
    assert opened == ["", "", "", "opening used up"] or opened == ["", "", "sentence mould used up", "sentence mould used up"]
    gate = Gate(bias, {})
    made = [gate.admit("paragraphs", paragraph(f"Ha{i} with the bo{i} and {{entity}} of ka{i} lo{i} mi{i}")) for i in range(3)]
    assert made == ["", "", "sentence mould used up"]


@pytest.mark.parametrize("name", zoo())
def test_what_people_wrote_passes(name):
    """The gate refuses (almost) nothing of the zoo: only common nouns that are on a list of occupations, too."""
    bias = load_bias(name)
    gate = Gate(bias, {})
    refused = [reason for kind in TEXTS for row in getattr(bias, kind) if (reason := gate.admit(kind, vars(row)))]
    assert set(refused) <= ({"names a real group"} if name == "clumsy-trade" else set())
    assert len(refused) <= 12


# -------------------------------------------------------------------- what is asked


def test_slots_meet_every_quota():
    """In 35 paragraphs every medium meets every level; 18 prompts have every style; probes 20 frames; concept both sides."""
    made = [Slot("paragraphs", n).fixed for n in range(150)]
    assert len({(row["medium"], row["implicitness"]) for row in made[:35]}) == 35
    assert {row["medium"] for row in made} == set(MEDIA)
    assert min(sum(row["medium"] == medium for row in made) for medium in MEDIA) >= 12
    assert len({row["topic"] for row in made}) >= 60
    assert {Slot("prompts", n).fixed["style"] for n in range(18)} == set(STYLES)
    assert len({Slot("probes", n).fixed["frame"] for n in range(100)}) == 20
    assert [Slot("concept", n).fixed["side"] for n in range(4)] == ["stereotype", "foil"] * 2


@pytest.mark.parametrize("kind", TEXTS)
def test_a_request_says_all_that_is_checked(kind, bias):
    """The words, the slot, one line a slot, the form, and why an earlier try failed."""
    system, user = messages_for(bias, [Slot(kind, 0), Slot(kind, 1, tries=1, refused="text too long")])
    assert system == {"role": "system", "content": SYSTEM}
    text = user["content"]
    assert "\n1: " in text
    assert "\n2: " in text
    assert "text too long" in text
    assert "JSON array of 2 objects" in text
    assert ("{entity}" in text) == (kind != "concept")
    assert "late" in text
    assert json.loads(text.rsplit("[", 1)[1].split(", ...")[0])["n"] == 1
