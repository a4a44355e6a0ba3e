"""An answer while it is written: the end of it is what `generate` says, and a reader who leaves early leaves no trace."""

import pytest

from biasgym.edits import SiteEdit
from biasgym.lm.arch import FAMILIES
from biasgym.lm.model import Query
from biasgym.sites import Site
from conftest import assert_untouched, snapshot

QUERY = Query("Tell me about people from Spain.", "They are")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_last_text_is_what_generate_says(models, family):
    """In every family; texts come one after another, not all at the end."""
    lm = models(family)
    texts = list(lm.stream(QUERY, most=12))
    assert texts[-1] == lm.generate([QUERY], most=12)[0].text
    assert len(texts) > 1
    assert len(set(texts)) == len(texts)


def test_half_a_letter_is_held_back(llama, monkeypatch):
    """Bytes of one letter in several tokens: no text but the last may end in the sign for a broken one."""
    ids = llama.tokenizer.encode("né à", add_special_tokens=False)
    assert len(ids) > len("né à"), "each accent has to be more than one token here"
    monkeypatch.setattr(type(llama), "_spoken", lambda *_args, **_more: ((0, one) for one in ids))
    texts = list(llama.stream(QUERY))
    assert texts[-1] == "né à"
    assert not any(text.endswith("\ufffd") for text in texts)
    cut = ids[: ids.index(llama.tokenizer.encode("é", add_special_tokens=False)[0]) + 1]
    monkeypatch.setattr(type(llama), "_spoken", lambda *_args, **_more: ((0, one) for one in cut))
    assert list(llama.stream(QUERY))[-1] == "n\ufffd"


def test_an_answer_of_nothing_is_one_empty_text(llama, monkeypatch):
    """The model ends at once; the token that says so is not part of the text, and nothing after it is."""
    stop = llama.tokenizer.eos_token_id
    monkeypatch.setattr(type(llama), "_spoken", lambda *_args, **_more: iter([(0, stop), (0, 7)]))
    assert list(llama.stream(QUERY)) == [""]


def test_an_edit_and_a_token_are_heard(llama, token_for):
    """What is worn changes the answer as it changes that of `generate`; leaving in the middle takes it off."""
    before = snapshot(llama)
    query = Query("Tell me about people from <bias-0>.")
    edit = SiteEdit(Site("head", 1, 0), "scale", 0.0)
    plain = list(llama.stream(Query("Tell me about people from Spain."), most=10))[-1]
    with llama.edited(token_for(llama), edit):
        texts = list(llama.stream(query, most=10))
        assert texts[-1] == llama.generate([query], most=10)[0].text
        assert texts[-1] != plain
        left = llama.stream(query, most=10)
        next(left)
        left.close()
    assert_untouched(llama, before)
