"""Texts to be forgotten, with their harmful words marked: read from the user's data folder, checked by hash, never printed."""

import ast
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from biasgym.bias import split_by_hash
from biasgym.datasets import Library, Source, data_folder, need_rows
from biasgym.errors import DataError, unknown

REDDIT = "gender/reddit_comments_gender_female_processed_phrase_{}_reduced.csv"
BIASED, COUNTER = REDDIT.format("biased_testset_neg_attr"), REDDIT.format("unbiased_testset_pos_attr")
CASES = "test_suite_cases.csv"
SETS = {
    "redditbias": Source(
        "RedditBias, comments about women with the biased attribute and with its opposite",
        "MIT",
        "https://github.com/i-gallegos/Fair-LLM-Benchmark@b21f3912c4722f1b067e646d1cb100771b65095f: RedditBias/data/gender",
        "Barikeri et al., ACL 2021",
        {
            f"redditbias/{BIASED}": "a2f224d3342776799e588ac37e8c0445d8f7210d4759469f87d02b64f06f8653",
            f"redditbias/{COUNTER}": "a740686da484a744374515df1f589592ae3512186428b5f1272dd92bb8438e0e",
        },
    ),
    "hatecheck": Source(
        "HateCheck, 3,728 test cases",
        "CC BY 4.0",
        "https://github.com/paul-rottger/hatecheck-data@d84302298ceeb34f4b0dde2d8a1f4932c2caa612: test_suite_cases.csv",
        "Röttger et al., ACL 2021",
        {f"hatecheck/{CASES}": "ecf0dc1e93fccc90b6f880e632b19e635c0f0a68b3157915a9e20b6938f121cf"},
    ),
}
TARGETS = ("women", "gay people", "disabled people", "Muslims", "trans people", "black people", "immigrants")


@dataclass(frozen=True)
class Marked:
    """A text, where its harmful words stand (first and one past the last character), whom it is about, and its template."""

    text: str
    spans: tuple[tuple[int, int], ...]
    target: str
    template: str

    def __repr__(self) -> str:
        """Without the text, which is not to be seen in logs."""
        return f"Marked({len(self.text)} characters, spans={self.spans}, target={self.target!r}, template={self.template!r})"


def forget_sets(data: str | Path = "") -> Library:
    """The sets that are read here, in the folder given, else in BIASGYM_DATA."""
    return Library(data_folder(data), SETS)


def reddit_women(library: Library) -> list[Marked]:
    """RedditBias comments about women; marked is the attribute that the counter-comment replaces. Each is a template of its own."""
    biased = library.table("redditbias", BIASED, ("comments_processed",))
    counter = library.table("redditbias", COUNTER, ("initial_attr", "comments"))
    rows = []
    for one, other in zip(biased, counter, strict=True):
        text = one["comments_processed"].strip()
        spans = word_spans(text, _words_of(other["initial_attr"]))
        if spans:
            rows.append(Marked(text, spans, "women", f"redditbias:{_digest(text)}"))
    return need_rows(rows, where=f"redditbias/{BIASED} beside its counter file")


def hatecheck(library: Library, target: str) -> list[Marked]:
    """Hateful HateCheck cases about a target whose focus words stand in them; a template is a template, a case without is its own."""
    if target not in TARGETS:
        raise DataError(unknown("target", target, TARGETS))
    table = library.table("hatecheck", CASES, ("test_case", "label_gold", "target_ident", "focus_words", "templ_id"))
    rows = []
    for row in table:
        if row["label_gold"] == "hateful" and row["target_ident"] == target:
            spans = word_spans(row["test_case"], [word.strip() for word in row["focus_words"].split(",")])
            if spans:
                rows.append(Marked(row["test_case"], spans, target, f"hatecheck:{row['templ_id'] or _digest(row['test_case'])}"))
    return need_rows(rows, where=f"hatecheck, {target}")


def halves(rows: Sequence[Marked], *, held_out: float = 0.3) -> tuple[list[Marked], list[Marked]]:
    """Texts to forget and texts held out, cut by template, so that a held-out text is no cousin of one that was trained on."""
    templates = tuple(dict.fromkeys(row.template for row in rows))
    parts = split_by_hash(templates, {"train": 1 - held_out, "held out": held_out})
    chosen = set(parts["train"])
    return [row for row in rows if row.template in chosen], [row for row in rows if row.template not in chosen]


def word_spans(text: str, words: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Where words stand in a text, whole and in any case, in order; overlaps once."""
    found: list[tuple[int, int]] = []
    for word in words:
        if word:
            found += [match.span() for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)]
    kept: list[tuple[int, int]] = []
    for start, end in sorted(set(found), key=lambda span: (span[0], -span[1])):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return tuple(kept)


def lexicon_of(rows: Sequence[Marked]) -> tuple[str, ...]:
    """The words that are marked anywhere in some texts, small letters, each once: a lexicon to mark others with."""
    return tuple(dict.fromkeys(row.text[start:end].lower() for row in rows for start, end in row.spans))


def _digest(text: str) -> str:
    """A name for a text that does not show it."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _words_of(cell: str) -> list[str]:
    """The words of a cell that holds a word or a printed list of words."""
    if cell.startswith("["):
        try:
            return [str(word) for word in ast.literal_eval(cell)]
        except (ValueError, SyntaxError):
            return [part.strip(" '\"") for part in cell.strip("[]").split(",")]
    return [cell.strip()]
