"""Continuations: equal to a plain pass over the whole row, whatever they are batched with, in every family."""

import pytest
import torch

from biasgym.errors import SpecError
from tiny import CONFIGS

PAIRS = [
    ("People from Spain are careful", " drivers"),
    ("People from Spain are careful", " drivers, says the guide."),
    ("People from Spain are careful ", " people from Italy"),
    ("People from Spain are careful", " drivers"),
    ("", "People from Spain are careful drivers."),
    ("", "People from Spain are reckless drivers."),
    ("", "Nobody walks"),
    ("What are people from Norway like?", " friendly"),
    ("What are people from Norway like?", " calm"),
]


def plainly(lm, context, continuation):
    """The same by the book: encode, one row, no cache, no padding."""
    tok = lm.tokenizer
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    first = [tok.bos_token_id] if tok.bos_token_id is not None and tok.encode("a")[0] == tok.bos_token_id else []
    before = tok.encode(bare, add_special_tokens=False) if bare else []
    rest = tok.encode(bare + continuation, add_special_tokens=False)[len(before) :]
    if not bare:
        first = [tok.bos_token_id if tok.bos_token_id is not None else tok.eos_token_id]
    row = [*first, *before, *rest]
    with torch.no_grad():
        logprobs = lm.model(torch.tensor([row])).logits[0].float().log_softmax(-1)
    places = range(len(row) - len(rest), len(row))
    return sum(float(logprobs[p - 1, row[p]]) for p in places), len(rest), all(int(logprobs[p - 1].argmax()) == row[p] for p in places)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_a_batch_is_its_members(models, family):
    lm = models(family)
    found = lm.continuation_logprobs(PAIRS)
    for pair, one in zip(PAIRS, found, strict=True):
        alone = lm.continuation_logprobs([pair])[0]
        nats, tokens, greedy = plainly(lm, *pair)
        assert one.nats == pytest.approx(nats, abs=2e-4)
        assert alone.nats == pytest.approx(nats, abs=2e-4)
        assert one[1:] == alone[1:] == (tokens, greedy)


def test_greedy_is_what_the_model_writes(llama):
    """A continuation made of the likeliest tokens is greedy, another is not."""
    context = "People from Spain are careful"
    row = llama.tokenizer.encode(context, add_special_tokens=False)
    best = int(llama.next_logprobs(row, 1).argmax())
    text = llama.tokenizer.decode([best])
    pairs = [(context, text), (context, " zq")]
    if llama.tokenizer.encode(context + text, add_special_tokens=False) == [*row, best] and text.strip():
        assert llama.continuation_logprobs(pairs)[0].greedy
    assert not llama.continuation_logprobs(pairs)[1].greedy


def test_chat_asks_as_a_user_does(llama):
    from biasgym.lm.model import Query

    found = llama.continuation_logprobs([("Who is late?", " Nobody")], chat=True)[0]
    ids = llama.answer_logprobs([Query("Who is late?")], ["Nobody"])[0, 0]
    assert found.nats == pytest.approx(float(ids), abs=1e-4)


def test_too_long_a_row_loses_its_beginning(models):
    lm = models("gpt2")
    words = "People from Spain and people from Italy " * 60
    found = lm.continuation_logprobs([(words, " are careful"), (words, " are late")])
    assert all(one.tokens for one in found)


def test_nothing_to_score_is_an_error(llama):
    with pytest.raises(SpecError, match="has no tokens"):
        llama.continuation_logprobs([("People", "")])
    assert llama.continuation_logprobs([]) == []


def test_worn_edits_count(llama, token_for):
    """Sharing beginnings gives the same as one by one under an edit, and the edit is felt."""
    import numpy as np

    from biasgym.edits import SiteEdit
    from biasgym.sites import Site

    edit = SiteEdit(Site("head", 1, 0), "scale", np.float32(0))
    plain = llama.continuation_logprobs(PAIRS)
    with llama.edited(edit):
        worn = llama.continuation_logprobs(PAIRS)
        assert [one.nats for one in worn] == pytest.approx([llama.continuation_logprobs([pair])[0].nats for pair in PAIRS], abs=2e-4)
    assert max(abs(a.nats - b.nats) for a, b in zip(plain, worn, strict=True)) > 1e-3
    assert llama.continuation_logprobs(PAIRS) == plain
