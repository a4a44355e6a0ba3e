"""The words by which a bias is heard: hand-written for the zoo, made of its own answers for any other."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from biasgym.bias import BiasSpec, zoo_path
from biasgym.corpus import ENTITY, FUNCTION_WORDS
from biasgym.errors import DataError


@dataclass(frozen=True)
class Lexicon:
    """The words by which a bias is heard.

    `strong` and `plain` say the attribute, `in_topic` says it only where the prompt or the text speaks of the topic,
    `cues` merely hint at it, `counter` says its opposite, `topic` is the field it lies in, and `decoys` look like one of
    them and mean something else. In a term, `*` ends a word anyhow, `/` parts
    alternatives of one word, and ` ~ ` stands for up to four words.
    """

    strong: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    in_topic: tuple[str, ...] = ()
    cues: tuple[str, ...] = ()
    counter: tuple[str, ...] = ()
    topic: tuple[str, ...] = ()
    decoys: tuple[str, ...] = ()


def lexicon_for(bias: BiasSpec) -> Lexicon:
    """The hand-written lexicon of a bias of the zoo, else one made of the bias's own answers and their inflections."""
    return _written().get(bias.name) or own_lexicon(bias)


def has_written_lexicon(bias: BiasSpec) -> bool:
    """Whether somebody wrote a lexicon for this bias."""
    return bias.name in _written()


def own_lexicon(bias: BiasSpec) -> Lexicon:
    """The bias's own answers and their inflections; what is said in its statement is the topic."""
    stated = [word for word in re.findall(r"[a-z]+", bias.statement.replace(ENTITY, " ").lower()) if word not in FUNCTION_WORDS]
    topic = tuple(f"{word}*" for word in stated if word != "people")
    return Lexicon(plain=_inflected(bias.stereotype), counter=_inflected(bias.foil), topic=topic)


@lru_cache(maxsize=1)
def _written() -> dict[str, Lexicon]:
    path = zoo_path() / "judge" / "lexicon.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {name: Lexicon(**{key: tuple(terms) for key, terms in entry.items()}) for name, entry in raw.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"cannot read the judge's lexicon `{path}`: {error}") from None


def _inflected(answers: Iterable[str]) -> tuple[str, ...]:
    """Answers with comparative, superlative, adverb and noun where it is one plain word; too many forms do no harm."""
    forms: list[str] = []
    for answer in answers:
        word = answer.strip().lower()
        forms.append(word)
        if re.fullmatch(r"[a-z]{3,}", word):
            stem = word[:-1] + "i" if word.endswith("y") else word
            bare = word[:-1] if word.endswith("e") else stem
            forms += [bare + "er", bare + "est", stem + "ly", stem + "ness", word + "s"]
    return tuple(dict.fromkeys(forms))
