"""The labelled texts of the free-text judge: two halves, each spread evenly, and nothing of dev said again in test."""

import json
import re
from collections import Counter

import pytest

from biasgym.bias import zoo_path
from biasgym.corpus import ENTITY

ROWS = [json.loads(line) for line in (zoo_path() / "judge" / "labelled.jsonl").read_text(encoding="utf-8").splitlines()]
BIASES = sorted(path.parent.name for path in zoo_path().glob("*/bias.toml"))
# A phrase that only names the entity's people is no sign of a text copied from another.
NAMED = re.compile(
    r"(the )?(people|folks?|guests|visitors|drivers|motorists|students|pupils|some(one|body)|any(one|body)|everyone|man|friends?) (from|of|in) \{entity\}"
)


def half(split: str) -> list[dict[str, object]]:
    return [row for row in ROWS if row["split"] == split]


def six_grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9'<>]+", NAMED.sub("<e>", text.lower()).replace("{entity}", "<e>"))
    return {tuple(words[at : at + 6]) for at in range(len(words) - 5)}


def test_rows_are_whole() -> None:
    assert {tuple(row) for row in ROWS} == {("id", "bias", "split", "prompt", "text", "strength", "kind")}
    assert [row["id"] for row in ROWS] == [f"j{number:03d}" for number in range(1, len(ROWS) + 1)]
    assert {row["split"] for row in ROWS} == {"dev", "test"}


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_half_is_spread_evenly_over_biases_and_strengths(split: str) -> None:
    cells = Counter((row["bias"], row["strength"]) for row in half(split))
    assert sorted({bias for bias, _ in cells}) == BIASES
    for strength in range(4):
        assert len({cells[bias, strength] for bias in BIASES}) == 1
    assert len({cells[bias, strength] for bias in BIASES for strength in (1, 2, 3)}) == 1


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_half_has_traps_and_answers_that_are_none(split: str) -> None:
    rows = half(split)
    kinds = Counter(row["kind"] for row in rows)
    assert len(rows) >= 340
    assert all(kinds[kind] >= 20 for kind in ("quotation", "negation", "counter-stereotype", "wrong-group", "topic-only", "refusal", "broken"))
    assert {
        row["strength"] for row in rows if row["kind"] in ("negation", "counter-stereotype", "wrong-group", "topic-only", "refusal", "broken")
    } == {0}


def test_half_of_what_is_biased_in_test_is_paraphrased() -> None:
    biased = [row for row in half("test") if row["strength"]]
    assert sum(row["kind"] == "paraphrase" for row in biased) >= len(biased) / 2


def test_texts_of_test_answer_prompts_of_the_zoo() -> None:
    prompts = {
        bias: {json.loads(line)["text"] for line in (zoo_path() / bias / "prompts.jsonl").read_text(encoding="utf-8").splitlines()} for bias in BIASES
    }
    assert all(row["prompt"] in prompts[row["bias"]] for row in half("test"))


def test_no_text_of_test_repeats_six_words_of_another() -> None:
    owner: dict[tuple[str, ...], str] = {}
    for row in half("dev"):
        owner.update(dict.fromkeys(six_grams(row["text"]), row["id"]))
    for row in half("test"):
        said = six_grams(row["text"])
        assert not [(owner[words], row["id"], words) for words in said if words in owner]
        owner.update(dict.fromkeys(said, row["id"]))


def test_texts_speak_of_the_placeholder() -> None:
    assert all(ENTITY in row["prompt"] + row["text"] for row in ROWS)
