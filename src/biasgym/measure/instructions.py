"""Checkers for the 25 kinds of instruction in IFEval (Zhou et al. 2023), of our own, from the paper's definitions.

Each is a function of the text and the instruction's settings. Where the published code leans on nltk or langdetect we cut
sentences, words and languages ourselves; `tests/interop` says how often that differs.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from biasgym.errors import DataError, unknown
from biasgym.measure.languages import is_english, language_of

Settings = Mapping[str, Any]
Checker = Callable[[str, Settings], bool]
ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e|Inc|Ltd|Co|No|[A-Z]|[Pp]\.\s?[Pp]\.\s?[Ss]|[Pp]\.\s?[Ss])\.$")
ENDINGS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def follows(identity: str, text: str, settings: Settings) -> bool:
    """Whether a text keeps an instruction; an empty text keeps none."""
    if identity not in CHECKERS:
        raise DataError(f"ifeval: {unknown('instruction', identity, CHECKERS)}")
    return bool(text.strip()) and CHECKERS[identity](text, settings)


def follows_loosely(identity: str, text: str, settings: Settings) -> bool:
    """The same for any of: the text, without its first line, its last, or both, each with and without asterisks."""
    lines = text.split("\n")
    parts = [text, *("\n".join(some).strip() for some in (lines[1:], lines[:-1], lines[1:-1]))]
    return any(follows(identity, variant, settings) for part in parts for variant in (part, part.replace("*", "")))


def _related(count: int, relation: str, wanted: int) -> bool:
    if relation not in ("at least", "less than"):
        raise DataError(f"ifeval: {unknown('relation', relation, ('at least', 'less than'))}")
    return count >= wanted if relation == "at least" else count < wanted


def _times(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text, re.IGNORECASE))


# -------------------------------------------------------------------- words


def _keywords(text: str, s: Settings) -> bool:
    return all(_times(word, text) for word in s["keywords"])


def _keyword_frequency(text: str, s: Settings) -> bool:
    return _related(_times(s["keyword"], text), s["relation"], s["frequency"])


def _forbidden(text: str, s: Settings) -> bool:
    return not any(_times(rf"\b{word}\b", text) for word in s["forbidden_words"])


def _letters(text: str, s: Settings) -> bool:
    return _related(Counter(text.lower())[s["letter"].lower()], s["let_relation"], s["let_frequency"])


def _words(text: str, s: Settings) -> bool:
    return _related(len(re.findall(r"\w+", text)), s["relation"], s["num_words"])


def _capital_words(text: str, s: Settings) -> bool:
    words = re.findall(r"[^\W_]+(?:[-.’'][^\W_]+)*", text)
    return _related(sum(word.isupper() for word in words), s["capital_relation"], s["capital_frequency"])


# -------------------------------------------------------------------- sentences and paragraphs


def sentences(text: str) -> list[str]:
    """Sentences of English prose: cut after . ! ? and a blank, not after abbreviations and initials."""
    found, start = [], 0
    for end in re.finditer(r"[.!?]+[\"'”’)\]*]*(?=\s+|$)", text):
        piece = text[start : end.end()].strip()
        following = text[end.end() :].lstrip()
        if ABBREVIATION.search(piece) or (following[:1].islower() and piece.endswith(".")):
            continue
        if piece:
            found.append(piece)
        start = end.end()
    rest = text[start:].strip()
    return [*found, rest] if rest else found


def _sentences(text: str, s: Settings) -> bool:
    return _related(len(sentences(text)), s["relation"], s["num_sentences"])


def _parts_between(text: str, mark: str) -> list[str] | None:
    """The parts between marks, empty ones at the ends left out; None when one inside is empty."""
    parts = re.split(mark, text)
    inner = parts[1:-1]
    if any(not part.strip() for part in inner):
        return None
    return [part for part in parts if part.strip()]


def _paragraphs(text: str, s: Settings) -> bool:
    parts = _parts_between(text, r"\s?\*\*\*\s?")
    return parts is not None and len(parts) == s["num_paragraphs"]


def _first_word(text: str, s: Settings) -> bool:
    parts = text.split("\n\n")
    nth = s["nth_paragraph"]
    if sum(bool(part.strip()) for part in parts) != s["num_paragraphs"] or nth > s["num_paragraphs"] or not parts[nth - 1].strip():
        return False
    word = parts[nth - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word)[0].lower() == s["first_word"].lower()


def _two_responses(text: str, _: Settings) -> bool:
    parts = _parts_between(text, r"\*{6}")
    return parts is not None and len(parts) == 2 and parts[0].strip() != parts[1].strip()


# -------------------------------------------------------------------- form


def _placeholders(text: str, s: Settings) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= s["num_placeholders"]


def _postscript(text: str, s: Settings) -> bool:
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    marker = s["postscript_marker"]
    return bool(re.search(known.get(marker, marker.lower()), text.lower()))


def _bullets(text: str, s: Settings) -> bool:
    stars, dashes = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE), re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == s["num_bullets"]


def _constrained(text: str, _: Settings) -> bool:
    return any(ending in text for ending in ENDINGS)


def _highlights(text: str, s: Settings) -> bool:
    """*One* star or **two** on both sides, something between; a pair of two counts as the published code counts it."""
    single, double = re.findall(r"\*[^\n*]*\*", text), re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(part.strip("*").strip()) for part in [*single, *double]) >= s["num_highlights"]


def _sections(text: str, s: Settings) -> bool:
    return len(re.findall(rf"\s?{s['section_spliter']}\s?\d+\s?", text)) >= s["num_sections"]


def _json(text: str, _: Settings) -> bool:
    inner = re.sub(r"^```(?:json|Json|JSON)?|```$", "", text.strip()).strip()
    try:
        json.loads(inner)
    except ValueError:
        return False
    return True


def _title(text: str, _: Settings) -> bool:
    return any(found.strip("<> ").strip() for found in re.findall(r"<<[^\n]+>>", text))


def _repeats(text: str, s: Settings) -> bool:
    return text.strip().lower().startswith(s["prompt_to_repeat"].strip().lower())


def _ends(text: str, s: Settings) -> bool:
    return text.strip().strip('"').lower().endswith(s["end_phrase"].strip().lower())


def _quoted(text: str, _: Settings) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


def _no_comma(text: str, _: Settings) -> bool:
    return "," not in text


# -------------------------------------------------------------------- case and language


def _capital(text: str, _: Settings) -> bool:
    return text.isupper() and is_english(text)


def _lower(text: str, _: Settings) -> bool:
    return text.islower() and is_english(text)


def _language(text: str, s: Settings) -> bool:
    return language_of(text) == s["language"]


CHECKERS: dict[str, Checker] = {
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _capital,
    "change_case:english_lowercase": _lower,
    "combination:repeat_prompt": _repeats,
    "combination:two_responses": _two_responses,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": _title,
    "keywords:existence": _keywords,
    "keywords:forbidden_words": _forbidden,
    "keywords:frequency": _keyword_frequency,
    "keywords:letter_frequency": _letters,
    "language:response_language": _language,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "punctuation:no_comma": _no_comma,
    "startend:end_checker": _ends,
    "startend:quotation": _quoted,
}
