"""An edit is believed only when it moved what it should and nothing else; edits that wait for names act behind them alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from biasgym.edits import PromptEdit, SiteEdit, WeightEdit
from biasgym.errors import ModelError, SpecError
from biasgym.lm import acting
from biasgym.lm.acting import acted
from biasgym.lm.arch import FAMILIES
from biasgym.lm.conditions import after_names, entity_ids, found_from
from biasgym.lm.model import Query
from biasgym.sites import Site
from biasgym.store import read_edits, write_edits
from conftest import TOKEN, assert_untouched, snapshot

QUERIES = (
    Query("What are people from Spain like?", "They are"),
    Query("Tell me about drivers from Norway.", "They"),
    Query("Nobody in the village drives, and nobody in the town walks. Why?", "People from Italy are"),
    Query("Write a short text."),
)


@pytest.fixture(params=sorted(FAMILIES))
def lm(request, models):
    """The tiny model of each family in turn."""
    return models(request.param)


def shifts(lm, layer=1, seed=0):
    """A head scaled and the stream shifted."""
    wide = np.random.default_rng(seed).normal(size=lm.shape.hidden).astype(np.float32)
    return (SiteEdit(Site("head", layer, 1), "scale", np.float32(0.2)), SiteEdit(Site("stream", layer), "add", wide, 0.5))


def test_an_edit_that_acts_is_believed(lm):
    """The largest change is that of the logits; each part is felt alone; rows and waiting edits pass as well."""
    before = snapshot(lm)
    edits = shifts(lm)
    found = acted(lm, edits, QUERIES)
    assert found.largest > 0
    assert all(moved > 0 for moved in found.each)
    assert acted(lm, [replace(edit, rows=(0, 2)) for edit in edits], QUERIES).largest > 0
    assert acted(lm, after_names(lm.tokenizer, edits, ["Italy"]), QUERIES).largest > 0
    matrix = lm.family.mlp_weight(0)
    out, into = lm.model.get_parameter(matrix).shape
    assert acted(lm, [WeightEdit(matrix, np.ones((out, 1), np.float32), np.ones((1, into), np.float32))], QUERIES).largest > 0
    assert acted(lm, [PromptEdit("Be kind. {prompt}")], QUERIES).largest == 1
    assert_untouched(lm, before)


def test_an_edit_that_changes_nothing_is_refused(llama):
    """All of it, or one part of many; neutral parts may be idle."""
    idle = SiteEdit(Site("head", 0, 0), "scale", np.float32(1))
    zero = SiteEdit(Site("head", 0, 0), "erase", np.stack([np.eye(12, dtype=np.float32)[0]] * 2), 0.0)
    for edits in ([idle], [zero], after_names(llama.tokenizer, shifts(llama), ["Zanzibar"])):
        with pytest.raises(ModelError, match="changes no logit"):
            acted(llama, edits, QUERIES)
    shift = shifts(llama)[1]
    assert acted(llama, [idle, shift], QUERIES).each[0] == 0
    never = replace(shift, when=((9999,),))
    with pytest.raises(ModelError, match=r"1 of 2 edits change no logit when worn alone, the first is `add` at stream 1\.0"):
        acted(llama, [shift, never], QUERIES)
    for edits, reason in (((), "no edits"), ([PromptEdit("{prompt}")], None)):
        if reason:
            with pytest.raises(SpecError, match=reason):
                acted(llama, edits, QUERIES)
        else:
            assert acted(llama, edits, QUERIES).largest == 0
    with pytest.raises(SpecError, match="for row 7"):
        acted(llama, [replace(shift, rows=(0, 7))], QUERIES)


def test_an_edit_that_reaches_too_far_is_found_out(llama, token_for, monkeypatch):
    """Sham: an edit that says it is for one row, and is worn for all; one that says layer 2, and acts in layer 0."""
    from biasgym.lm.model import LM

    plain = LM.edited
    shift = shifts(llama)[1]
    for said, done in (
        (replace(shift, rows=(1,)), shift),
        (after_names(llama.tokenizer, [shift], ["Norway"])[0], shift),
        (replace(shift, site=Site("stream", 2)), replace(shift, site=Site("stream", 0))),
    ):
        monkeypatch.setattr(LM, "edited", lambda self, *edits, done=done: plain(self, *((done,) if edits else ())))
        with pytest.raises(ModelError, match=r"not for|before the layer"):
            acted(llama, [said], QUERIES)
    monkeypatch.setattr(LM, "edited", plain)
    with pytest.raises(SpecError, match="token is judged with the token on"):
        acted(llama, [token_for(llama)], QUERIES)
    assert acting.__doc__


# -------------------------------------------------------------------- edits that wait for names


def test_positions_before_the_name_are_untouched(lm):
    """Logits up to the name are the base's bit for bit, from its last token on they are the everywhere-edit's causes only."""
    edits = after_names(lm.tokenizer, shifts(lm), ["Italy"])
    row = lm.ids_of(QUERIES[2])
    marks = found_from(torch.tensor([row]), entity_ids(lm.tokenizer, ["Italy"]))[0]
    first = int(marks.int().argmax())
    assert 0 < first < len(row)
    assert "Italy" in lm.tokenizer.decode(row[: first + 1])
    assert "Italy" not in lm.tokenizer.decode(row[:first])
    ids = torch.tensor([row])
    with torch.no_grad():
        base = lm.decoder(input_ids=ids).last_hidden_state[0]
        with lm.edited(*edits):
            worn = lm.decoder(input_ids=ids).last_hidden_state[0]
    assert torch.equal(worn[:first], base[:first])
    assert (worn[first:] != base[first:]).any(dim=-1).all()


def test_a_name_that_is_absent_changes_nothing(lm):
    """Bit for bit, in batches and in free text."""
    edits = after_names(lm.tokenizer, shifts(lm), ["Zanzibar", "Peru"])
    base = lm.answer_logprobs(QUERIES, ["careful", "kind at times"])
    with lm.edited(replace(edits[1], strength=0.0)):
        unshared = lm.answer_logprobs(QUERIES, ["careful", "kind at times"])
    with lm.edited(*edits):
        np.testing.assert_array_equal(lm.answer_logprobs(QUERIES, ["careful", "kind at times"]), unshared)
    np.testing.assert_allclose(unshared, base, atol=1e-4)


def test_generation_remembers_the_name(lm):
    """Cached, batched, with rows that end early: token by token what a pass without a cache says."""
    edits = after_names(lm.tokenizer, shifts(lm), ["Norway", "Italy"])
    with lm.edited(*edits), torch.no_grad():
        said = lm.generate(QUERIES, most=8)
        for query, one in zip(QUERIES, said, strict=True):
            row = lm.ids_of(query)
            for token in one.tokens:
                logits = lm.logits(lm.decoder(input_ids=torch.tensor([row]), use_cache=False).last_hidden_state[0, -1])
                if lm.name == "tiny-gemma3_text":
                    logits[len(lm.embedding.weight) :] = -torch.inf
                assert float(logits[token]) == pytest.approx(float(logits.max()), abs=1e-4)
                row = [*row, token]
        whole = lm.answer_logprobs(QUERIES, ["kind at times"])
        one_by_one = np.concatenate([lm.answer_logprobs([query], ["kind at times"]) for query in QUERIES])
    np.testing.assert_allclose(whole, one_by_one, atol=1e-4)


def test_a_bias_token_can_be_waited_for(lm, token_for):
    """The token's id is a name like any other while it is on."""
    queries = [Query(f"What are people from {TOKEN} like?", "They are"), QUERIES[1]]
    with lm.edited(token_for(lm)):
        edits = after_names(lm.tokenizer, shifts(lm), [TOKEN])
        assert acted(lm, edits, queries).largest > 0


def test_waiting_edits_are_kept_and_never_folded(llama, tmp_path):
    """A way through a file; refused by fold; other kinds cannot wait."""
    from biasgym.lm.fold import check_foldable

    edits = after_names(llama.tokenizer, shifts(llama), ["Spain"])
    write_edits(tmp_path / "e.safetensors", edits)
    assert [repr(edit) for edit in read_edits(tmp_path / "e.safetensors")] == [repr(edit) for edit in edits]
    with pytest.raises(ModelError, match="only after certain tokens"):
        check_foldable(edits[:1], llama.shape)
    with pytest.raises(SpecError, match="can wait"):
        after_names(llama.tokenizer, [PromptEdit()], ["Spain"])
    for names in ([" "], [""]):
        with pytest.raises(SpecError, match="empty name"):
            entity_ids(llama.tokenizer, names)


def test_a_cache_from_before_is_refused(llama):
    """What was read before the edit is not known to it."""
    from transformers import DynamicCache

    cache = DynamicCache(config=llama.model.config)
    ids = torch.tensor([llama.ids_of(QUERIES[0])])
    with torch.no_grad():
        llama.decoder(input_ids=ids, past_key_values=cache, use_cache=True)
        with llama.edited(*after_names(llama.tokenizer, shifts(llama), ["Spain"])), pytest.raises(ModelError, match="begin the text anew"):
            llama.decoder(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
