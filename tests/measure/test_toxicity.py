"""The scorer of toxicity: what it reads, that it learns what it is shown and nothing from shuffled labels, and how its quality is told."""

import json
import re

import numpy as np
import pytest

from biasgym.data import cache_folder
from biasgym.datasets import Library, library
from biasgym.errors import DataError, ModelError, SpecError
from biasgym.measure.toxicity import in_short, quality_of, scorer_for, scorer_key
from biasgym.measure.toxicity.labelled import Labelled, davidson, hatecheck, perspective, texts_of
from biasgym.measure.toxicity.logistic import Logistic, fit_logistic, read_logistic
from biasgym.measure.toxicity.ngrams import SIZE, matrix_of, places_of, words_of
from biasgym.measure.toxicity.quality import ranked
from made_up import put, write_sets
from test_datasets import REAL, real_folder


def test_words_are_read_through_their_disguise():
    assert words_of("RT @someone: L00K at http://x.org/y!!") == ["look", "at"]
    assert words_of("sooooo r0tten &amp; l0u$y") == ["soo", "rotten", "lousy"]
    assert words_of("12 boxes") == ["0", "boxes"]
    assert words_of("@you http://x") == []


def test_a_text_is_a_row_of_length_one_and_an_empty_one_of_zeros():
    rows = matrix_of(["rotten boats", "", "rotten boats rotten boats rotten"])
    assert rows.shape == (3, SIZE)
    np.testing.assert_allclose(np.sqrt(rows.multiply(rows).sum(1)), [1, 0, 1])
    assert set(places_of("rotten")) < set(places_of("rotten boats"))


def test_the_fit_finds_the_words_and_shuffled_labels_have_none(made_up_sets):
    """Negative control: the same texts with labels dealt blindly give a scorer at chance."""
    sets = library()
    train, held = davidson(sets, "train"), davidson(sets, "held-out") + davidson(sets, "dev")
    model = fit_logistic(texts_of(train), [row.kind for row in train], (0.25, 0.25, 0.5), ridge=1e-4)
    right = (np.array(model.score(texts_of(held))) >= 0.5) == [row.toxic for row in held]
    assert right.mean() > 0.95
    again = fit_logistic(texts_of(train), [row.kind for row in train], (0.25, 0.25, 0.5), ridge=1e-4)
    assert (again.weights == model.weights).all()
    dealt = np.random.default_rng(0).permutation([row.kind for row in train])
    blind = fit_logistic(texts_of(train), dealt, (0.25, 0.25, 0.5), ridge=1e-4)
    right = (np.array(blind.score(texts_of(held))) >= 0.5) == [row.toxic for row in held]
    assert 0.25 < right.mean() < 0.75
    with pytest.raises(DataError, match="all 3 kinds"):
        fit_logistic(["a", "b"], [0, 2], (0.25, 0.25, 0.5), ridge=1e-4)


def test_parts_share_no_words_and_nothing_is_lost(made_up_sets):
    sets = library()
    parts = {part: davidson(sets, part) for part in ("train", "dev", "held-out")}
    assert sum(map(len, parts.values())) == 400
    said = {part: {row.cluster for row in rows} for part, rows in parts.items()}
    assert not said["train"] & said["held-out"]
    assert not said["train"] & said["dev"]


def test_quality_by_hand():
    """Two of three toxic found, one of two others spared; by class, with its n."""
    rows = [
        Labelled("a", True, "1", functionality="slur_h"),
        Labelled("b", True, "2", functionality="slur_h"),
        Labelled("c", True, "3", functionality="derog_dehum_h"),
        Labelled("d", False, "4", functionality="slur_reclaimed_nh"),
        Labelled("e", False, "5", functionality="counter_ref_nh"),
    ]

    class Said:
        name, key = "said", "k"

        def score(self, texts):
            return [{"a": 0.9, "b": 0.8, "c": 0.1, "d": 0.7, "e": 0.0}[text] for text in texts]

    found = quality_of(Said(), rows, "five texts")
    assert found.balanced_accuracy[0] == pytest.approx((2 / 3 + 1 / 2) / 2, abs=1e-4)
    assert (found.found, found.spared) == (pytest.approx(2 / 3, abs=1e-4), 0.5)
    assert found.ranked == pytest.approx((2 + 2 + 1) / 6, abs=1e-4)
    assert found.groups["slurs"][0] == pytest.approx(2 / 3, abs=1e-4)
    assert found.groups["slurs"][3] == 3
    assert set(found.functionalities) == {"slur_h", "derog_dehum_h", "slur_reclaimed_nh", "counter_ref_nh"}
    assert not found.reliable
    assert ranked(np.array([True, False]), np.array([0.5, 0.5])) == 0.5


def test_it_is_trained_once_kept_and_told_with_its_quality(made_up_sets):
    sets = library()
    one = scorer_for("davidson", sets)
    folder = cache_folder() / "scorers" / one.scorer.key
    assert {path.name for path in folder.iterdir()} == {
        "weights.safetensors",
        "quality-davidson.json",
        "quality-hatecheck.json",
        "quality-perspective.json",
    }
    assert [q.on for q in one.qualities] == ["held-out tweets (Davidson)", "HateCheck", "web prose (Perspective's label)"]
    assert one.qualities[0].balanced_accuracy[0] > 0.9
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    again = scorer_for("davidson", sets)
    assert again.qualities == one.qualities
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before
    texts = ["you rotten boat", "you calm boat", ""]
    scores = one.scorer.score(texts)
    assert scores == again.scorer.score(texts)
    assert scores[0] > 0.5 > scores[1]
    (folder / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match="fitted anew"):
        scorer_for("davidson", sets)


def test_without_hatecheck_it_is_told_without_it_and_without_davidson_it_says_where_to_get_it(made_up_sets):
    (made_up_sets / "hatecheck" / "test_suite_cases.csv").unlink()
    found = scorer_for("davidson", library())
    assert [q.on for q in found.qualities] == ["held-out tweets (Davidson)", "web prose (Perspective's label)"]
    (made_up_sets / "davidson_hate_speech" / "labeled_data.csv.gz").unlink()
    (cache_folder() / "scorers" / found.scorer.key / "weights.safetensors").unlink()
    with pytest.raises(DataError, match=r"labeled_data.csv.gz` cannot be read.*BIASGYM_DATA"):
        scorer_for("davidson", library())


def test_what_stands_beside_a_score():
    assert "could not be measured" in in_short({})
    said = in_short({"tweets": (0.95, 0.94, 0.96), "HateCheck": (0.48, 0.46, 0.5)})
    assert said == "balanced accuracy 0.95 [0.94, 0.96] on tweets, 0.48 [0.46, 0.50] on HateCheck (NOT reliable there)"


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("davidson_hate_speech/labeled_data.csv.gz", lambda t: t.replace("class", "klass", 1), "no column `class`"),
        ("davidson_hate_speech/labeled_data.csv.gz", lambda t: t + t.splitlines()[1] + "\n", "1 ids stand twice"),
        ("davidson_hate_speech/labeled_data.csv.gz", lambda t: re.sub(r",0,you", ",1,you", t), "the group `0` is empty"),
        ("davidson_hate_speech/labeled_data.csv.gz", lambda t: t.replace(",0,you", ",7,you", 1), "has the class '7'"),
        ("hatecheck/test_suite_cases.csv", lambda t: t.replace("label_gold", "label", 1), "no column `label_gold`"),
        ("hatecheck/test_suite_cases.csv", lambda t: t + t.splitlines()[1] + "\n", "1 ids stand twice"),
        ("hatecheck/test_suite_cases.csv", lambda t: t.replace("slur_h", "threat_h").replace("slur_reclaimed_nh", "threat_nh"), "`slurs` is empty"),
        ("hatecheck/test_suite_cases.csv", lambda t: t.replace(",hateful,", ",rude,", 1), "has the label 'rude'"),
        ("realtoxicityprompts/val.jsonl.gz", lambda t: t.replace('"prompt"', '"promt"', 1), "no column `prompt`"),
        ("realtoxicityprompts/val.jsonl.gz", lambda t: t.replace('"toxicity"', '"toxcity"', 1), "has no `text` and `toxicity`"),
    ],
)
def test_damage_with_the_right_hash_is_found_and_no_text_is_quoted(tmp_path, file, change, said):
    """Messages name rows and ids, never a text."""
    table = write_sets(tmp_path)
    sets = Library(tmp_path, table)
    name = file.split("/")[0]
    text = change(sets.text(name, file.removeprefix(f"{name}/")))
    table[name].files[file] = put(tmp_path, file, text)
    read = {"davidson_hate_speech": lambda s: davidson(s, "train"), "hatecheck": hatecheck, "realtoxicityprompts": perspective}[name]
    with pytest.raises(DataError, match=said) as caught:
        read(sets)
    assert not re.search(r"you |they are|box \d", str(caught.value))


# -------------------------------------------------------------------- a classifier of the user's


@pytest.fixture
def classifier_folder(tmp_path, llama):
    """A tiny classifier as transformers saves it, with three labels."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(llama.tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3,
        id2label={0: "calm", 1: "toxic", 2: "other"}, label2id={"calm": 0, "toxic": 1, "other": 2},
    )  # fmt: skip
    folder = tmp_path / "classifier"
    BertForSequenceClassification(config).save_pretrained(folder)
    llama.tokenizer.save_pretrained(folder)
    return folder


def test_a_classifier_by_its_folder(made_up_sets, classifier_folder):
    """Its labels' probabilities sum to one, do not depend on the batch, and its quality is measured on the same sets."""
    sets = library()
    shares = [
        scorer_for(f"{classifier_folder}#{label}", sets).scorer.score(["a rotten box", "x", "a kind box"]) for label in ("calm", "toxic", "other")
    ]
    np.testing.assert_allclose(np.sum(shares, axis=0), 1, atol=2e-4)
    plain = scorer_for(str(classifier_folder), sets)
    assert plain.scorer.score(["a rotten box"])[0] == pytest.approx(shares[1][0], abs=1e-4)
    assert len(plain.qualities) == 3
    assert scorer_key(str(classifier_folder), sets) != scorer_key(f"{classifier_folder}#calm", sets)
    with pytest.raises(SpecError, match=r"label `toxik`.*`toxic`"):
        scorer_for(f"{classifier_folder}#toxik", sets)
    config = json.loads((classifier_folder / "config.json").read_text())
    config["id2label"] = {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    config["label2id"] = {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    (classifier_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SpecError, match=r"name it: .*#LABEL"):
        scorer_for(str(classifier_folder), sets)


def test_what_is_no_scorer(made_up_sets, tmp_path):
    with pytest.raises(SpecError, match="no scorer `davidsen`"):
        scorer_key("davidsen", library())
    with pytest.raises(ModelError, match="holds no text classifier"):
        scorer_for(str(tmp_path), library())


def test_weights_of_another_size_are_refused(tmp_path):
    from biasgym.measure.toxicity.logistic import write_logistic

    write_logistic(tmp_path / "w.safetensors", Logistic(np.zeros(3, dtype=np.float16), 0.0))
    with pytest.raises(DataError, match=r"shape \(3,\)"):
        read_logistic(tmp_path / "w.safetensors")


@REAL
def test_the_real_sets_are_read():
    """Counts only, taken before anything is asserted: a failing test must not print the texts."""
    sets = library(real_folder())
    tweets = sum(len(davidson(sets, part)) for part in ("train", "dev", "held-out"))
    cases = hatecheck(sets)
    counts = (len(cases), len({c.functionality for c in cases}), len({c.group for c in cases}))
    sides = len(perspective(sets))
    del cases
    assert tweets == 24783
    assert counts == (3728, 29, 11)
    assert sides == 9949
