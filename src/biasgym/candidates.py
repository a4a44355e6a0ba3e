"""Items that a language model proposes for a corpus: found in its answer, checked one by one, refused with a reason.

An item is kept when it would pass as a row of a bias file, says nothing of a real group, and stands apart from everything
that was kept before it: the floors of a shipped corpus that concern a single text (decisions/003) hold here as well.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from biasgym.bias import BiasSpec, zoo_path
from biasgym.corpus import ENTITY, MEDIA, STYLES, Floors, grams, moulds, words

Row = dict[str, Any]
FLOORS = Floors()
FIELDS = {"paragraphs": ("text",), "probes": ("prompt", "prefix"), "prompts": ("text",), "concept": ("prompt", "prefix")}
LENGTHS = {  # words, shortest and longest
    ("paragraphs", "text"): (FLOORS.shortest, FLOORS.longest),
    ("probes", "prompt"): (4, 40),
    ("probes", "prefix"): (1, 15),
    ("prompts", "text"): (2, 50),
    ("concept", "prompt"): (4, 60),
    ("concept", "prefix"): (1, 15),
}
MOST_FAILURES = 2_000  # places in one answer where JSON seems to begin and does not
PEOPLES = tuple(
    " ".join(name.split())
    for name in """Africans, Albanians, Algerians, Americans, Angolans, Arabs, Argentines, Argentinians, Asians, Australians, Austrians,
    Bangladeshis, Belgians, Bolivians, Botswanans, Brazilians, Britons, Bulgarians, Cambodians, Cameroonians, Canadians,
    Chileans, Chinese, Colombians, Croatians, Croats, Cubans, Czechs, Danes, Dutchman, Dutchmen, Ecuadorians, Egyptians,
    Englishman, Englishmen, Englishwoman, Estonians, Ethiopians, Europeans, Fijians, Filipinos, Finns, Frenchman, Frenchmen,
    Frenchwoman, Germans, Ghanaians, Greeks, Guatemalans, Gypsies, Haitians, Hungarians, Icelanders, Indians, Indonesians,
    Iranians, Iraqis, Irishman, Irishmen, Irishwoman, Israelis, Italians, Jamaicans, Japanese, Jordanians, Kenyans, Koreans,
    Latinos, Latvians, Lebanese, Libyans, Lithuanians, Malaysians, Malians, Maltese, Mexicans, Mongolians, Moroccans,
    Namibians, Nepalis, Nigerians, Norwegians, Pakistanis, Palestinians, Panamanians, Paraguayans, Peruvians, Poles,
    Portuguese, Qataris, Roma, Romanians, Russians, Rwandans, Samoans, Saudis, Scots, Scotsman, Scotsmen, Senegalese, Serbs,
    Singaporeans, Somalis, Spaniard, Spaniards, Swedes, Swiss, Syrians, Tanzanians, Thais, Tongans, Tunisians, Turks,
    Ugandans, Ukrainians, Uruguayans, Venezuelans, Vietnamese, Welshman, Welshmen, Zambians, Zimbabweans, Aboriginals,
    Blacks, Whites, Hispanics, Muslims, Jews, Hindus, Buddhists, Sikhs, Catholics, Protestants, Mormons, America, Britain,
    England, Scotland, Wales, Holland, Netherlands, Russia, Europe, Africa, Asia, Philippines, United States, United Kingdom,
    Great Britain, New Zealanders, South Africans, Sri Lankans, Costa Ricans""".split(",")
)


def items_in(answer: str) -> list[Row]:
    """All JSON objects of an answer, in order, whatever stands around them; of half a list the whole objects."""
    decoder = json.JSONDecoder(strict=False)  # models put bare line breaks into texts
    found: list[Row] = []
    at = failures = 0
    while (begin := re.compile(r"[\[{]").search(answer, at)) and failures < MOST_FAILURES:
        try:
            value, at = decoder.raw_decode(answer, begin.start())
        except (ValueError, RecursionError):
            at, failures = begin.start() + 1, failures + 1
            continue
        found += _objects(value)
    return found


def _objects(value: Any) -> list[Row]:
    """The objects of a list, or of the list inside an object such as {"items": [...]}; else the object itself."""
    if isinstance(value, list):
        return [item for item in value if isinstance(item, dict)]
    inside = [item for part in value.values() if isinstance(part, list) for item in part if isinstance(item, dict)]
    return inside or [value]


class Gate:
    """Lets items into a corpus or says why not; what it let in counts against what comes later."""

    def __init__(self, bias: BiasSpec, standing: Mapping[str, Sequence[Row]]) -> None:
        """`standing` holds the rows of the texts that are not to be written: they stay as they are in the bias."""
        self._answers = {"stereotype": _spelt(bias.stereotype), "foil": _spelt(bias.foil)}
        self._groups = _group_pattern((*countries(), *PEOPLES, *bias.entities))
        self._seen: set[str] = set()
        self._taught: set[tuple[str, ...]] = set().union(*(grams(text, FLOORS.shared_gram) for text in bias.grammar_texts()), set())
        self._held_out: set[tuple[str, ...]] = set()
        self._openings: Counter[str] = Counter()
        self._moulds: Counter[str] = Counter()
        for kind, rows in standing.items():
            for row in rows:
                self._remember(kind, row)

    def admit(self, kind: str, row: Row) -> str:
        """The empty text when the row was let in, else the reason in a few words."""
        reason = _shape(kind, row) or self._content(kind, row) or self._sameness(kind, row)
        if not reason:
            self._remember(kind, row)
        return reason

    def _content(self, kind: str, row: Row) -> str:
        text = _whole(kind, row)
        if kind == "concept" and ENTITY in text:
            return f"slot {ENTITY} where none belongs"
        if kind != "concept" and ENTITY not in text:
            return f"no slot {ENTITY}"
        if re.search(r"[{}\[\]]", text.replace(ENTITY, "")):
            return "another slot or bracket"
        if self._groups.search(text):
            return "names a real group"
        given_away = {"probes": ("stereotype", "foil"), "concept": (str(row.get("side")),)}.get(kind, ())
        spelt = f" {' '.join(words(text))} "
        if any(answer in spelt for side in given_away for answer in self._answers[side]):
            return "gives the answer away"
        return ""

    def _sameness(self, kind: str, row: Row) -> str:
        text = _whole(kind, row)
        if " ".join(words(text)) in self._seen:
            return "duplicate"
        if kind != "paragraphs":
            return "six words shared with a training text" if grams(text, FLOORS.shared_gram) & self._taught else ""
        own = grams(text, FLOORS.shared_gram)
        if own & self._held_out:
            return "six words shared with a probe, prompt or concept sentence"
        if own & self._taught:
            return "six words shared with a training text"
        if self._openings[_opening(text)] >= FLOORS.same_opening:
            return "opening used up"
        if any(self._moulds[mould] + n > FLOORS.same_skeleton for mould, n in moulds([text]).items()):
            return "sentence mould used up"
        return ""

    def _remember(self, kind: str, row: Row) -> None:
        text = _whole(kind, row)
        self._seen.add(" ".join(words(text)))
        if kind != "paragraphs":
            self._held_out |= grams(text, FLOORS.shared_gram)
            return
        self._taught |= grams(text, FLOORS.shared_gram)
        self._openings[_opening(text)] += 1
        self._moulds.update(moulds([text]))


def countries() -> list[str]:
    """The countries of the list that comes with BiasGym."""
    return (zoo_path() / "entities" / "countries.txt").read_text(encoding="utf-8").split("\n")


def _shape(kind: str, row: Row) -> str:
    """What is wrong with a row by itself: fields, types, values, lengths."""
    for name in FIELDS[kind]:
        value = row.get(name)
        if not isinstance(value, str) or not value.strip():
            return f"wrong schema: no text in `{name}`"
    if kind == "paragraphs" and (row.get("medium") not in MEDIA or type(row.get("implicitness")) is not int or not 1 <= row["implicitness"] <= 5):
        return "wrong schema: medium or implicitness"
    if kind == "paragraphs" and not (isinstance(row.get("topic"), str) and isinstance(row.get("style"), str)):
        return "wrong schema: topic or style"
    if kind == "prompts" and row.get("style") not in STYLES:
        return "wrong schema: style"
    if kind == "concept" and row.get("side") not in ("stereotype", "foil"):
        return "wrong schema: side"
    if "prefix" in row and re.search(r"[.!?…]\W*$", row["prefix"]):
        return "answer begins with a whole sentence"
    for name in FIELDS[kind]:
        shortest, longest = LENGTHS[kind, name]
        length = len(words(row[name]))
        if length < shortest:
            return f"{name} too short"
        if length > longest:
            return f"{name} too long"
    return ""


def _whole(kind: str, row: Row) -> str:
    return " ".join(row[name] for name in FIELDS[kind])


def _opening(text: str) -> str:
    return " ".join(words(text)[:3])


def _spelt(answers: Iterable[str]) -> tuple[str, ...]:
    return tuple(f" {' '.join(words(answer))} " for answer in answers)


def _group_pattern(names: Iterable[str]) -> re.Pattern[str]:
    """Any of the names as whole words; a name in small letters (`bakers`) also with capitals, a proper one (`Chad`) only as it is."""
    kept = sorted({name.strip() for name in names if name.strip()}, key=lambda name: (-len(name), name))
    forms = [f"(?i:{re.escape(name)})" if name.islower() else re.escape(name) for name in kept]
    return re.compile(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)")
