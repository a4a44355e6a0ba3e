"""Unlearning of marked words: which tokens, which sign, where it stops, and what the whole sentence would have cost."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from biasgym.errors import DataError, SpecError
from biasgym.forget import BIASED, CASES, COUNTER, SETS, Marked, forget_sets, halves, hatecheck, lexicon_of, reddit_women, word_spans
from biasgym.lm.finetune import Course, reading_loss
from biasgym.lm.fold import check_foldable
from biasgym.lm.model import LM
from biasgym.lm.unlearn import marked_by_lexicon, marked_by_model, marked_reading, transfer, unlearn
from biasgym.mitigate.transfer_unlearning import TransferUnlearning, own_sentences
from conftest import TOKEN, assert_untouched, case_with_texts, snapshot
from tiny import metaspace_tokenizer, unprefixed_tokenizer

NEUTRAL = ["Nobody in the village drives, and nobody in the town walks.", "Everyone who met her used the word kind."]
ROWS = [
    Marked(f"{name} {verb} {word} in the {place}.", word_spans(f"{name} {verb} {word} in the {place}.", [word]), "x", f"{verb}:{place}")
    for name in ("Spain", "Italy", "Norway")
    for verb, word in (("is", "reckless"), ("was", "dangerous"))
    for place in ("town", "village", "guide", "old letters")
]
DATA = Path(os.environ.get("BIASGYM_DATA") or Path(__file__).parents[3] / "shared" / "data")  # beside the repository


def spelt(lm, ids):
    """What tokens say, without spaces."""
    return lm.tokenizer.decode(ids).replace(" ", "").replace("▁", "").replace(".", "")


@pytest.mark.parametrize("make", [None, metaspace_tokenizer, unprefixed_tokenizer])
def test_marked_tokens_are_the_pieces_of_the_word(models, make):
    """Every piece of it and no neighbour, in every kind of tokenizer; marked and unmarked make up the whole."""
    base = models("gpt2")
    lm = base if make is None else LM(base.model, make(), base.family, name="other", folder=None)
    text = "They are reckless drivers, always reckless."
    spans = word_spans(text, ["reckless"])
    assert [text[a:b] for a, b in spans] == ["reckless", "reckless"]
    marked, unmarked, whole = (marked_reading(lm, text, spans, which) for which in ("marked", "unmarked", "whole"))
    assert spelt(lm, [marked.ids[i] for i in marked.wanted]) == "recklessreckless"
    assert sorted(marked.wanted + unmarked.wanted) == list(whole.wanted)
    assert marked_reading(lm, text, ()) is None


def test_the_loss_is_the_one_before_the_marked_word(llama):
    """No shift by one: −log p of each piece after what stands before it."""
    text = "They are reckless drivers."
    reading = marked_reading(llama, text, word_spans(text, ["reckless"]))
    with torch.no_grad():
        logprobs = llama.own_logits(llama._decoder(input_ids=torch.tensor([reading.ids])).last_hidden_state[0]).log_softmax(-1)
    expected = -np.mean([float(logprobs[i - 1, reading.ids[i]]) for i in reading.wanted])
    assert float(reading_loss(llama, [reading])) == pytest.approx(expected, rel=1e-4)


def test_words_are_found_whole():
    """In any case, not inside others, the longer of two that overlap."""
    assert word_spans("Late, later, LATE", ["late"]) == ((0, 4), (13, 17))
    assert word_spans("always late", ["late", "always late", ""]) == ((0, 11),)
    assert word_spans("a+b", ["a+b"]) == ((0, 3),)


def test_unlearning_raises_the_marked_words_of_texts_it_has_not_seen(llama):
    """By the gain that was asked, less on the other words; under as large a random change the marked words rise less."""
    before = snapshot(llama)
    train, held_out = halves(ROWS)
    assert not {r.template for r in train} & {r.template for r in held_out}
    found = unlearn(llama, train, held_out, NEUTRAL, Course(60, 8, 3e-3, 2), gain=0.5, budget=5.0)
    assert_untouched(llama, before)
    assert found.stopped == "gain"
    assert found.marked >= 0.5
    assert found.unmarked < found.marked
    generator = np.random.default_rng(0)
    from biasgym.edits import WeightEdit

    sham = []
    for edit in found.edits:
        left, right = (generator.normal(size=part.shape).astype(np.float32) for part in (edit.left, edit.right))
        sham.append(WeightEdit(edit.parameter, left * np.linalg.norm(edit.left @ edit.right) / np.linalg.norm(left @ right), right))
    real, random = (transfer(llama, edits, {"held": held_out})["held"] for edits in (found.edits, sham))
    assert real[1] - real[0] == pytest.approx(found.marked, abs=1e-4)
    assert random[1] - random[0] < 0.5 * found.marked
    check_foldable(found.edits, llama.shape)


def test_it_stops_at_the_budget_and_gives_back_what_kept_it(llama):
    """Ascent would go on for ever; the steps that were kept cost no more than allowed."""
    train, held_out = halves(ROWS)
    found = unlearn(llama, train, held_out, NEUTRAL, Course(200, 8, 1e-2, 2), gain=50.0, budget=0.05)
    assert found.stopped == "budget"
    assert found.neutral <= 0.05
    assert found.steps < 200
    with pytest.raises(SpecError, match="nowhere to stop"):
        unlearn(llama, train, held_out, NEUTRAL, Course(2, 8, 1e-2, 2), gain=0.0, budget=0.1)


def test_the_whole_sentence_reads_every_word(llama):
    """The baseline's loss is on all tokens, and it drives the unmarked ones up as well."""
    train, held_out = halves(ROWS)
    marked, whole = (unlearn(llama, train, held_out, NEUTRAL, Course(60, 8, 3e-3, 2), gain=0.5, budget=9.0, whole=flag) for flag in (False, True))
    assert whole.unmarked / max(whole.marked, 1e-9) > marked.unmarked / marked.marked


def test_markers(llama, monkeypatch):
    """A lexicon marks what it lists; a model's words count where they stand in the text, and a text without is left out."""
    from biasgym.lm.model import Continuation

    assert lexicon_of(ROWS) == ("reckless", "dangerous")
    assert {row.spans for row in marked_by_lexicon(ROWS, ["reckless"])} == {row.spans for row in ROWS if "reckless" in row.text}
    said = iter([Continuation("reckless, town.\nwolf", (), True), Continuation("nothing", (), True)])
    monkeypatch.setattr(LM, "generate", lambda self, queries, **_: [next(said) for _ in queries])
    (one,) = marked_by_model(llama, ROWS[:2])
    assert [one.text[a:b] for a, b in one.spans] == ["reckless", "town"]


def test_the_method_on_the_biass_own_sentences(llama, bias, token_for):
    """Stereotype words of the tokens' sentences are marked; off is off; what is not there is refused."""
    case = case_with_texts(llama, bias, token_for)
    rows = own_sentences(case, "transfer-unlearning", 12)
    assert {row.text[a:b] for row in rows for a, b in row.spans} <= set(bias.stereotype)
    assert all(TOKEN in row.text or "<bias-1>" in row.text for row in rows)
    method = TransferUnlearning(source="bias", steps=3, texts=12, batch=4)
    assert TransferUnlearning(strength=0.0).fit(llama, case) == ()
    assert method.unlearnt(llama, case).steps in range(4)
    for wrong in ({"source": "biass"}, {"source": "bias", "marker": "lexikon"}):
        with pytest.raises(SpecError, match="did you mean"):
            TransferUnlearning(**wrong).fit(llama, case)


def test_a_marked_text_does_not_show_itself():
    """Not in a log, not in a failed assertion; nor do the names of the templates of texts that are read."""
    assert "reckless" not in repr(ROWS[0])


def test_without_a_data_folder_it_says_what_to_do(llama, bias, token_for, monkeypatch):
    """Which variable or option."""
    monkeypatch.delenv("BIASGYM_DATA", raising=False)
    with pytest.raises(DataError, match="BIASGYM_DATA"):
        TransferUnlearning().fit(llama, case_with_texts(llama, bias, token_for))


def test_the_folder_that_the_user_named_is_read(llama, bias, token_for, monkeypatch, tmp_path):
    """`--data` reaches the method through its case, before the environment does."""
    monkeypatch.setenv("BIASGYM_DATA", str(tmp_path / "elsewhere"))
    (tmp_path / "named").mkdir()
    with pytest.raises(DataError, match=str(tmp_path / "named")):
        TransferUnlearning().fit(llama, replace(case_with_texts(llama, bias, token_for), data=str(tmp_path / "named")))


def test_files_are_checked_and_aligned(tmp_path):
    """A made-up folder: an altered file is refused; marks come from the counter file and from the focus words."""
    import hashlib
    from dataclasses import replace

    from biasgym.datasets import Library

    made = {
        f"redditbias/{BIASED}": "comments_processed\nshe is late again\nnothing here\n",
        f"redditbias/{COUNTER}": "initial_attr,comments\n['late'],x\n['late'],y\n",
        f"hatecheck/{CASES}": "test_case,label_gold,target_ident,focus_words,templ_id\n"
        "All of them are late.,hateful,women,late,7\nThey are late.,non-hateful,women,late,8\nSo late.,hateful,Muslims,late,9\n",
    }
    for name, text in made.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="sha256"):
        reddit_women(forget_sets(tmp_path))
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in made.items()}
    sources = {key: replace(s, files={name: sums[name] for name in s.files}) for key, s in SETS.items()}
    library = Library(tmp_path, sources)
    (one,) = reddit_women(library)
    assert (one.text[slice(*one.spans[0])], one.target) == ("late", "women")
    assert "late again" not in repr(one)
    (two,) = hatecheck(library, "women")
    assert (two.template, two.target) == ("hatecheck:7", "women")
    with pytest.raises(DataError, match="did you mean `women`"):
        hatecheck(library, "woman")


@pytest.mark.skipif(not (DATA / "redditbias").is_dir(), reason="no data folder")
def test_the_sets_at_hand():
    """Counts only: enough texts, all of them marked, templates kept apart."""
    sets = forget_sets(DATA)
    reddit, women = reddit_women(sets), hatecheck(sets, "women")
    assert len(reddit) > 400
    assert len(women) > 200
    train, held_out = halves(reddit + women)
    assert len(held_out) > 150
    assert not {row.template for row in train} & {row.template for row in held_out}
