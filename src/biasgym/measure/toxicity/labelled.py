"""Labelled sets that scorers learn from and are held against. Their texts are offensive: nothing here prints or quotes one."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from biasgym.datasets import Library, need_groups, need_unique
from biasgym.errors import DataError
from biasgym.measure.toxicity.ngrams import words_of

Part = Literal["train", "dev", "held-out"]
KINDS = ("hate speech", "offensive", "neither")
DAVIDSON = ("davidson_hate_speech", "labeled_data.csv.gz", ("", "class", "tweet"))
HATECHECK = ("hatecheck", "test_suite_cases.csv", ("functionality", "case_id", "test_case", "label_gold", "templ_id"))
PERSPECTIVE = ("realtoxicityprompts", "val.jsonl.gz", ("filename", "begin", "end", "prompt", "continuation"))
# HateCheck's 29 functionalities in the eleven classes of Röttger et al. 2021, by how their names begin.
CLASSES = {
    "derog": "derogation", "threat": "threats", "slur": "slurs", "profanity": "profanity", "ref": "reference", "negate": "negation",
    "phrase": "phrasing", "ident": "identity named without hate", "counter": "counter speech", "target": "abuse of others", "spell": "spelling",
}  # fmt: skip


@dataclass(frozen=True)
class Labelled:
    """One labelled text; texts of one `cluster` (template, or retweets) hang together."""

    text: str
    toxic: bool
    cluster: str
    kind: int = 0
    functionality: str = ""

    @property
    def group(self) -> str:
        """The class of its functionality; empty where the set has none."""
        return CLASSES[self.functionality.split("_")[0]] if self.functionality else ""


def davidson(sets: Library, part: Part) -> list[Labelled]:
    """Tweets of Davidson et al. 2017: 80 % to train on, 10 % dev, 10 % held out; the same words are never in two parts.

    Toxic is hate speech or offensive by the majority of its raters.
    """
    name, file, columns = DAVIDSON
    rows = sets.table(name, file, columns)
    where = f"{name}/{file}"
    need_unique(rows, lambda row: row[""], where=where)
    wrong = next((row for row in rows if row["class"] not in ("0", "1", "2")), None)
    if wrong:
        raise DataError(f"{where}: row {wrong['']} has the class {wrong['class']!r}; 0, 1 or 2 was expected")
    need_groups(rows, lambda row: row["class"], "012", where=where)
    found = []
    for row in rows:
        said = " ".join(words_of(row["tweet"]))
        if _part_of(said) == part:
            kind = int(row["class"])
            found.append(Labelled(row["tweet"], kind < 2, said, kind))
    return found


def _part_of(said: str) -> Part:
    place = hashlib.sha256(said.encode()).digest()[0]
    return "held-out" if place < 26 else "dev" if place < 52 else "train"


def hatecheck(sets: Library) -> list[Labelled]:
    """HateCheck's cases (Röttger et al. 2021): is a text hateful? A test set; nothing is ever fitted to it."""
    name, file, columns = HATECHECK
    rows = sets.table(name, file, columns)
    where = f"{name}/{file}"
    need_unique(rows, lambda row: row["case_id"], where=where)
    for row in rows:
        if row["label_gold"] not in ("hateful", "non-hateful") or row["functionality"].split("_")[0] not in CLASSES:
            raise DataError(f"{where}: case {row['case_id']} has the label {row['label_gold']!r} and the functionality {row['functionality']!r}")
    need_groups(rows, lambda row: CLASSES[row["functionality"].split("_")[0]], CLASSES.values(), where=where)
    return [Labelled(row["test_case"], row["label_gold"] == "hateful", row["templ_id"], functionality=row["functionality"]) for row in rows]


def perspective(sets: Library) -> list[Labelled]:
    """Prompts and human continuations of RealToxicityPrompts that Perspective scored; toxic is 0.5 and more, as in its paper.

    No person labelled these: agreement with the scorer that published figures rest on, in the prose that models continue.
    """
    found = []
    name, file, columns = PERSPECTIVE
    for number, row in enumerate(sets.objects(name, file, columns)):
        for side in ("prompt", "continuation"):
            value = toxicity_of(row, side, where=f"{name}/{file}, line {number + 1}")
            if not math.isnan(value):
                found.append(Labelled(row[side]["text"], value >= 0.5, str(number)))
    return found


def toxicity_of(row: dict[str, object], side: str, *, where: str) -> float:
    """Perspective's score of one side of a row; NaN where it gave none; DataError where there is no such entry."""
    about = row[side]
    if not isinstance(about, dict) or not {"text", "toxicity"} <= about.keys() or not isinstance(about["text"], str):
        raise DataError(f"{where}: `{side}` has no `text` and `toxicity`")
    value = about["toxicity"]
    return float(value) if isinstance(value, int | float) else math.nan


def texts_of(rows: Sequence[Labelled]) -> list[str]:
    """The texts alone."""
    return [row.text for row in rows]
