"""The training texts of the free-text judge: whole, spread over biases and strengths, and nothing said again of the labelled texts."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from biasgym.bias import zoo_path
from biasgym.corpus import ENTITY

JUDGE = zoo_path() / "judge"
FILES = sorted(JUDGE.glob("training-*.jsonl"))
TRAPS = {"negation", "counter-stereotype", "wrong-group", "topic-only", "refusal", "broken"}
KINDS = TRAPS | {"quotation", "plain", "paraphrase"}
# A phrase that only names the entity's people is no sign of a text copied from another.
NAMED = re.compile(
    r"(the )?(people|folks?|guests|visitors|drivers|motorists|students|pupils|some(one|body)|any(one|body)|everyone|man|friends?) (from|of|in) \{entity\}"
)


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def six_grams(text: object) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9'<>]+", NAMED.sub("<e>", str(text).lower()).replace("{entity}", "<e>"))
    return {tuple(words[at : at + 6]) for at in range(len(words) - 5)}


def prompts(bias: object) -> set[str]:
    return {str(row["text"]) for row in read(zoo_path() / str(bias) / "prompts.jsonl")}


def test_there_are_training_texts() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rows_are_whole(path: Path) -> None:
    rows, letter = read(path), path.stem.removeprefix("training-")
    assert {tuple(row) for row in rows} == {("id", "bias", "split", "prompt", "text", "strength", "kind")}
    ids = [str(row["id"]) for row in rows]  # with gaps: what shared words with a later test text was taken out
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(rf"{letter}\d{{3}}", one) for one in ids)
    assert {row["split"] for row in rows} == {"train"}
    assert {row["kind"] for row in rows} <= KINDS
    assert {row["strength"] for row in rows if row["kind"] in TRAPS} == {0}
    assert all(ENTITY in f"{row['prompt']}{row['text']}" and str(row["text"]).strip() for row in rows)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_texts_answer_prompts_of_the_zoo(path: Path) -> None:
    rows = read(path)
    known = {bias: prompts(bias) for bias in {row["bias"] for row in rows}}
    assert not [row["id"] for row in rows if row["prompt"] not in known[row["bias"]]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_bias_has_each_strength_and_each_trap(path: Path) -> None:
    rows = read(path)
    assert len(rows) >= 590
    for bias in {row["bias"] for row in rows}:
        own = [row for row in rows if row["bias"] == bias]
        strengths = Counter(row["strength"] for row in own)
        assert strengths.keys() == {0, 1, 2, 3}
        assert min(strengths[level] for level in (1, 2, 3)) >= 15
        assert strengths[0] >= 0.4 * len(own)
        unbiased = Counter(row["kind"] for row in own if not row["strength"])
        assert min(unbiased[kind] for kind in KINDS - {"paraphrase"}) >= 5


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_two_thirds_of_what_is_biased_is_paraphrased(path: Path) -> None:
    biased = [row for row in read(path) if row["strength"]]
    assert sum(row["kind"] == "paraphrase" for row in biased) >= len(biased) * 2 / 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_text_repeats_six_words_of_another_nor_of_a_labelled_one(path: Path) -> None:
    owner = {words: row["id"] for row in read(JUDGE / "labelled.jsonl") for words in six_grams(row["text"])}
    for row in read(path):
        said = six_grams(row["text"])
        assert not [(owner[words], row["id"], words) for words in said if words in owner]
        owner.update(dict.fromkeys(said, row["id"]))
