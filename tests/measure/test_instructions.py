"""Checkers of instructions on texts that keep and break them, languages, numbers in words, and a user's own text."""

import pytest

from biasgym import catalog
from biasgym.errors import DataError, SpecError
from biasgym.measure import Scope
from biasgym.measure.gsm8k import exact_number, last_number
from biasgym.measure.instructions import CHECKERS, follows, follows_loosely, sentences
from biasgym.measure.languages import is_english, language_of
from biasgym.measure.text import pieces
from biasgym.records import Answer, MeasureSpec

# kind, settings, a text that keeps it, a text that breaks it
CASES = [
    ("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": 2}, "I said STOP now", "He said STOP now"),
    ("change_case:capital_word_frequency", {"capital_relation": "less than", "capital_frequency": 1}, "he said stop", "he said STOP"),
    ("change_case:english_capital", {}, "ALL OF THIS IS LOUD", "Not all of this is"),
    ("change_case:english_lowercase", {}, "all of this is low", "Not all of this is"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. Here it is.", "Here: say it."),
    ("combination:two_responses", {}, "one\n******\ntwo", "one ****** one"),
    ("combination:two_responses", {}, "one******two", "one***two"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] of [town]", "[name] of the town"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. Write.", "Bye. Write."),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP. P. S. Write.", "Bye.\nP.S. Write."),
    ("detectable_format:constrained_response", {}, "My answer is no. Sorry.", "No."),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2}, "SECTION 1\na\nSECTION 2\nb", "SECTION 1\na SECTION"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n- two", "* one\n- two\n* three"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and *two*", "*one* and * *"),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<A title>"),
    ("detectable_format:title", {}, "<<A title>>", "<< >>"),
    ("keywords:existence", {"keywords": ["dog", "day"]}, "A Dog's day", "A dog"),
    ("keywords:forbidden_words", {"forbidden_words": ["damn"]}, "A goddamned dog", "Damn it"),
    ("keywords:frequency", {"relation": "at least", "keyword": "knot", "frequency": 2}, "Knot by knot", "a knot"),
    ("keywords:frequency", {"relation": "less than", "keyword": "knot", "frequency": 2}, "a knot", "Knot by knot"),
    ("keywords:letter_frequency", {"let_relation": "less than", "letter": "J", "let_frequency": 2}, "jam", "Jam jar"),
    ("language:response_language", {"language": "de"}, "Das ist nicht der Weg, den wir mit der Bahn fahren", "That is not the way"),
    ("length_constraints:nth_paragraph_first_word", {"first_word": "it", "num_paragraphs": 2, "nth_paragraph": 2}, "One.\n\nIt, two.", "It.\n\nTwo."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n***\nTwo.", "One.\n\nTwo."),
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3}, "One, Dr. Who. Two!", "One. Two! Three?"),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, "one two three", "one two"),
    ("punctuation:no_comma", {}, "one; two", "one, two"),
    ("startend:end_checker", {"end_phrase": "So what is next?"}, 'Well. so what is next?"', "So what is next? Nothing."),
    ("startend:quotation", {}, ' "all of it" ', '"some" of it'),
]


@pytest.mark.parametrize(("kind", "settings", "kept", "broken"), CASES)
def test_an_instruction_is_kept_and_broken(kind, settings, kept, broken):
    assert follows(kind, kept, settings)
    assert not follows(kind, broken, settings)
    assert not follows(kind, " \n", settings), "saying nothing keeps nothing"


def test_every_checker_has_a_case():
    assert {kind for kind, *_ in CASES} == set(CHECKERS)
    with pytest.raises(DataError, match="did you mean `startend:quotation`"):
        follows("startend:quotes", "x", {})
    with pytest.raises(DataError, match="unknown relation"):
        follows("length_constraints:number_words", "x", {"relation": "about", "num_words": 3})


def test_loosely_forgives_first_and_last_lines_and_asterisks():
    text = 'Sure, here it is:\n"All *of* it"\nHope, that helps'
    assert not follows("startend:quotation", text, {})
    assert follows_loosely("startend:quotation", text, {})
    assert follows_loosely("punctuation:no_comma", text, {})
    assert not follows_loosely("punctuation:no_comma", "a\nb, c\nd", {})


def test_sentences():
    assert sentences('He met Dr. Who at 5.30 p.m. in town. "Why?" she said. Nobody knew') == [
        "He met Dr. Who at 5.30 p.m. in town.",
        '"Why?"',
        "she said.",
        "Nobody knew",
    ]
    assert sentences("") == []


LANGUAGES = {
    "hi": "यह एक किताब है और वह घर में है", "mr": "हे एक पुस्तक आहे आणि ते घरी आहे", "ne": "यो एउटा किताब हो र त्यो घर मा छ", "ko": "이것은 책입니다", "kn": "ಇದು ಪುಸ್ತಕ",
    "vi": "Đây là một cuốn sách và tôi không có nó", "sw": "Hiki ni kitabu cha watu wa kijiji na ni cha zamani sana", "de": "Das ist ein Buch und ich habe es nicht",
    "pa": "ਇਹ ਇੱਕ ਕਿਤਾਬ ਹੈ", "fa": "این یک کتاب است که در خانه است", "ru": "Это книга, и она не в доме, но он был там", "bg": "Това е книга и тя не е в къщата, те са",
    "pt": "Este é um livro que não está em casa para você", "gu": "આ એક પુસ્તક છે", "te": "ఇది ఒక పుస్తకం", "it": "Questo è un libro che non è della casa", "ta": "இது ஒரு புத்தகம்",
    "ar": "هذا الكتاب في البيت على الطاولة", "fi": "Tämä on kirja ja se ei ole talossa", "ur": "یہ کتاب گھر میں ہے اور وہ نہیں ہے", "th": "นี่คือหนังสือ", "bn": "এটি একটি বই",
    "en": "This is a book and it is not in the house",
}  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_of_the_set_is_told(language):
    assert language_of(LANGUAGES[language]) == language
    assert is_english(LANGUAGES[language]) == (language == "en")


def test_numbers_in_words():
    assert exact_number("so it is\n#### 1,200.") == "1200"
    assert exact_number("#### -3") == "-3"
    assert exact_number("it is 7") is None
    assert last_number("from 3 it is $1,200.50 in all.") == "1200.50"
    assert last_number("none") is None


def answers(metric, rows):
    return [Answer(metric=metric, item=str(n), group="all", entity="", token="none", edit="none", seed=0, said=said) for n, said in enumerate(rows)]


def values(metric, rows):
    built = catalog.build("measure", metric)
    return {f.name: float(f.of(f.columns.sum(0)[None])[0]) for f in built.figures(built.grade(answers(metric, rows)))}


def test_gsm8k_by_hand():
    said = [("#### 4", "4"), ("It is 4.", "4"), ("#### 5 and then 4", "4"), ("", "4")]
    found = values("gsm8k", [{"text": text, "gold": gold, "ended": True} for text, gold in said])
    assert found == {"exact_match": 0.25, "last_number": 0.75}


def test_ifeval_by_hand():
    """Two kept of three; strictly one prompt of two, loosely as well."""
    rows = [
        {"text": "no commas", "asked": [["punctuation:no_comma", {}]], "ended": True},
        {"text": "one, box", "asked": [["punctuation:no_comma", {}], ["keywords:existence", {"keywords": ["box"]}]], "ended": True},
    ]
    found = values("ifeval", rows)
    assert found["prompt_strict"] == found["prompt_loose"] == 0.5
    assert found["instruction_strict"] == pytest.approx(2 / 3)


def test_a_users_own_text(tmp_path, llama):
    path = tmp_path / "mine.txt"
    path.write_text("A first one.\nStill the first.\n\n \n" + "word " * 900 + "\n\nLast.")
    metric = catalog.build("measure", "text", {"path": str(path), "split": "all"})
    scope = Scope(None, "test", (), (), None, MeasureSpec())
    items = metric.items(scope)
    assert len(items) == 5
    assert [len(items[0].payload["text"]), len(items[-1].payload["text"])] == [29, 5]
    assert sum(len(piece.split()) for piece in pieces(path.read_text())) == 907
    (one,) = metric.figures(metric.grade(answers("text", metric.ask(llama, [items[0], items[-1]]))))
    assert 1 < float(one.of(one.columns.sum(0)[None])[0]) < 20
    with pytest.raises(DataError, match="cannot be read"):
        catalog.build("measure", "text", {"path": str(tmp_path / "none.txt")}).items(scope)
    path.write_text("\n \n")
    with pytest.raises(DataError, match="no words"):
        metric.items(scope)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        metric.items(scope)


def test_shots_in_range(made_up_sets):
    scope = Scope(None, "test", (), (), None, MeasureSpec())
    with pytest.raises(SpecError, match="0 to 8"):
        catalog.build("measure", "gsm8k", {"shots": 9}).items(scope)
    assert catalog.build("measure", "gsm8k", {"shots": 2, "split": "all"}).items(scope)[0].payload["prompt"].count("Question:") == 3
