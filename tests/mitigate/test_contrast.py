"""Contrasts of logits: the two rules by hand, copies in lock-step, alignment, caches, and what is refused."""

import numpy as np
import pytest
import torch

from biasgym.edits import ContrastEdit, Twin, WeightEdit
from biasgym.errors import ModelError, SpecError
from biasgym.lm.contrast import combined
from biasgym.lm.diagnosis import auc, best_threshold, diagnosis, self_diagnosed
from biasgym.lm.model import Query
from biasgym.mitigate.self_debias_decay import ATTRIBUTES, SelfDebiasDecay, prefix_of
from conftest import assert_untouched, case_for, snapshot

QUERY = Query("What are people from Spain like?", "They are")
QUERIES = [QUERY, Query("Tell me about Italy.", "In one word, it is"), Query("So?", "They are")]
ANSWERS = ["careful", "reckless drivers", "always late"]
TEXTS = ["People from Spain are careful drivers.", "Nobody in the village drives, and nobody in the town walks.", "They are always late."]
PREFIX = "The text below is reckless:\n\n"
FAMILIES = ("llama", "gemma2", "gpt2", "gemma3_text", "qwen3")


def weight_edit(lm, seed=0, scale=0.3):
    """A random change of one matrix."""
    generator = np.random.default_rng(seed)
    name = lm.family.mlp_weight(1)
    out, into = lm.model.get_parameter(name).shape
    return WeightEdit(name, generator.normal(size=(out, 2)).astype(np.float32) * scale, generator.normal(size=(2, into)).astype(np.float32))


def next_of(lm, row):
    """Next-token logits after one row, by the plain forward pass of the model."""
    with torch.no_grad():
        return lm.own_logits(lm._decoder(input_ids=torch.tensor([row])).last_hidden_state[0, -1])


# -------------------------------------------------------------------- the rules


def test_decay_by_hand():
    """p = (.5, .3, .2), q = (.2, .5, .3): the first keeps its weight, the others decay by exp(−λ·gap), then all sum to 1."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
    found = combined(ContrastEdit("decay", (Twin("x"),), 5.0), torch.tensor(np.log(p)), [torch.tensor(np.log(q)) + 3.0]).softmax(-1)
    weighted = np.array([0.5, 0.3 * np.exp(-1.0), 0.2 * np.exp(-0.5)])
    np.testing.assert_allclose(found, weighted / weighted.sum(), rtol=1e-6)


def test_decay_takes_the_worst_copy_and_stops_at_the_floor():
    """The largest q counts, a factor is never below the floor, and tokens with q ≤ p keep their relative odds."""
    generator = torch.Generator().manual_seed(0)
    logits, *twins = (torch.randn(50, generator=generator, dtype=torch.float64) * 3 for _ in range(4))
    edit = ContrastEdit("decay", tuple(Twin(str(i)) for i in range(3)), 400.0, 0.01)
    found = combined(edit, logits, twins)
    p, q = logits.softmax(-1), torch.stack([t.softmax(-1) for t in twins]).amax(0)
    factor = (found - logits).exp()
    kept = q <= p
    assert kept.any()
    assert (~kept).any()
    torch.testing.assert_close(factor[kept], torch.ones_like(factor[kept]))
    assert float(factor.min()) >= 0.01 - 1e-9
    expected = torch.where(kept, 1.0, torch.clamp((-400.0 * (q - p)).exp(), min=0.01))
    torch.testing.assert_close(factor, expected)
    assert torch.equal(combined(ContrastEdit("decay", edit.twins, 0.0), logits, twins), logits)


def test_shift_by_hand():
    """z + α(z⁺ − z⁻); with one twin the model itself is z⁺; a token that cannot be written stays so."""
    z, plus, minus = torch.tensor([1.0, 2.0, -torch.inf]), torch.tensor([0.0, 1.0, 5.0]), torch.tensor([2.0, 0.0, 1.0])
    pair = combined(ContrastEdit("shift", (Twin(), Twin()), 0.5), z, [plus, minus])
    assert pair.tolist() == [0.0, 2.5, -np.inf]
    alone = combined(ContrastEdit("shift", (Twin(),), 0.5), z, [minus])
    assert alone.tolist() == [0.5, 3.0, -np.inf]


# -------------------------------------------------------------------- on a model


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_scored_by_the_combined_distribution(models, family):
    """Each token of an answer, from plain forward passes of each copy on its own text, put together in the test."""
    lm = models(family)
    edit = ContrastEdit("decay", (Twin(PREFIX), Twin("So careful: ")), 30.0, 0.01)
    with lm.edited(edit):
        found = lm.answer_logprobs(QUERIES, ANSWERS)
    for query, row in zip(QUERIES, found, strict=True):
        context = lm.ids_of(query)
        for answer, value in zip(lm.answer_ids(query, ANSWERS), row, strict=True):
            total = 0.0
            for position, token in enumerate(answer):
                said = answer[:position]
                logits = next_of(lm, context + said)
                twins = [next_of(lm, prefixed(lm, query, twin.prefix) + said) for twin in edit.twins]
                total += float(combined(edit, logits, twins).log_softmax(-1)[token])
            assert value == pytest.approx(total, rel=1e-3, abs=1e-3)


def prefixed(lm, query, prefix):
    """Ids of what a copy reads: the prefix at the beginning of the answer, or of the text where there is no chat."""
    ids, own = lm.ids_of(query), lm.tokenizer.encode(prefix, add_special_tokens=False)
    if lm.chat:
        at = len(lm.ids_of(Query(query.prompt)))
        assert ids[:at] == lm.ids_of(Query(query.prompt))
    else:
        at = int(ids[0] == lm.tokenizer.bos_token_id)
    return ids[:at] + own + ids[at:]


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_scored_by_the_combined_distribution(models, family):
    """The prefix stands at the beginning, behind the beginning-of-text token; no chat template."""
    lm = models(family)
    edit = ContrastEdit("decay", (Twin(PREFIX),), 30.0, 0.01)
    with lm.edited(edit):
        found = lm.text_logprobs(TEXTS)
    own = lm.tokenizer.encode(PREFIX, add_special_tokens=False)
    for text, (total, count) in zip(TEXTS, found, strict=True):
        row = lm.text_ids(text)
        at = int(row[0] == lm.tokenizer.bos_token_id)
        values = []
        for i in range(1, len(row)):
            logits, twin = next_of(lm, row[:i]), next_of(lm, row[:at] + own + row[at:i])
            values.append(float(combined(edit, logits, [twin]).log_softmax(-1)[row[i]]))
        assert count == len(values)
        assert total == pytest.approx(sum(values), rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_go_on_in_lock_step(models, family):
    """Greedy writing: every next token is the best of the combined distribution after the same tokens in all copies."""
    lm = models(family)
    edit = ContrastEdit("decay", (Twin(PREFIX), Twin("So careful: ")), 30.0, 0.01)
    with lm.edited(edit):
        written = lm.generate(QUERIES, most=6)
        alone = [lm.generate([query], most=6)[0] for query in QUERIES]
    assert [one.tokens for one in written] == [one.tokens for one in alone]
    for query, one in zip(QUERIES, written, strict=True):
        for i, token in enumerate(one.tokens):
            said = list(one.tokens[:i])
            twins = [next_of(lm, prefixed(lm, query, twin.prefix) + said) for twin in edit.twins]
            scores = combined(edit, next_of(lm, lm.ids_of(query) + said), twins)
            assert float(scores[token]) >= float(scores.max()) - 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_twin_wears_weights_of_its_own(models, family):
    """z + α(z⁺ − z⁻) with the edited models' own logits, answers of several tokens and shared beginnings included."""
    lm = models(family)
    plus, minus = weight_edit(lm, 1), weight_edit(lm, 2)
    edit = ContrastEdit("shift", (Twin(edits=(plus,)), Twin(edits=(minus,))), 0.7)
    same = [Query("What are people from Spain like? Tell me about people from Spain.", p) for p in ("They are", "In one word, it is", "So, they")]
    before = snapshot(lm)
    with lm.edited(edit):
        found = lm.answer_logprobs(same, ANSWERS)
        texts = lm.text_logprobs(TEXTS)
    assert_untouched(lm, before)

    def logits(rows, *worn):
        with lm.edited(*worn):
            return [next_of(lm, row) for row in rows]

    for query, row in zip(same, found, strict=True):
        for answer, value in zip(lm.answer_ids(query, ANSWERS), row, strict=True):
            rows = [lm.ids_of(query) + answer[:i] for i in range(len(answer))]
            z = [combined(edit, a, [b, c]) for a, b, c in zip(logits(rows), logits(rows, plus), logits(rows, minus), strict=True)]
            assert value == pytest.approx(sum(float(one.log_softmax(-1)[t]) for one, t in zip(z, answer, strict=True)), rel=1e-3, abs=1e-3)
    assert all(np.isfinite(total) for total, _ in texts)


def test_a_twin_of_equal_weights_shifts_nothing(llama):
    """z⁺ = z⁻: an expert that was never trained. And a swap of the two turns the shift round."""
    base = llama.answer_logprobs(QUERIES, ANSWERS)
    one, two = weight_edit(llama, 1, 0.05), weight_edit(llama, 2, 0.05)
    with llama.edited(ContrastEdit("shift", (Twin(edits=(one,)), Twin(edits=(one,))), 3.0)):
        np.testing.assert_allclose(llama.answer_logprobs(QUERIES, ANSWERS), base, atol=1e-5)
    small = 0.01
    with llama.edited(ContrastEdit("shift", (Twin(edits=(one,)), Twin(edits=(two,))), small)):
        there = llama.answer_logprobs(QUERIES, ANSWERS) - base
    with llama.edited(ContrastEdit("shift", (Twin(edits=(two,)), Twin(edits=(one,))), small)):
        back = llama.answer_logprobs(QUERIES, ANSWERS) - base
    assert np.abs(there).max() > 1e-4
    assert np.corrcoef(there.ravel(), back.ravel())[0, 1] < -0.99


def test_a_bias_token_is_read_by_all_copies(llama, token_for):
    """The token's column stands in each copy's logits, and what the model says changes with it."""
    edit = ContrastEdit("decay", (Twin(PREFIX),), 30.0)
    with llama.edited(token_for(llama), edit):
        query = Query("What are people from <bias-0> like?", "They are")
        worn = llama.answer_logprobs([query], ["careful", "<bias-0>"])
        logits = llama.logits(llama.hidden([llama.ids_of(query)])[0][0, -1])
    assert np.isfinite(worn).all()
    assert len(logits) == max(llama.embedding.weight.shape[0], llama.tokenizer.vocab_size + 1, len(logits))


def test_strength_zero_runs_no_copy(llama, monkeypatch):
    """Not one more forward pass: the base, bit for bit."""
    base = llama.answer_logprobs(QUERIES, ANSWERS)
    with llama.edited(*SelfDebiasDecay(strength=0.0).fit(llama, case_for(llama))):
        assert llama.decoder is llama._decoder
        np.testing.assert_array_equal(llama.answer_logprobs(QUERIES, ANSWERS), base)


def test_a_smaller_expert_of_the_same_tokenizer(models, tmp_path):
    """Other width, other depth, fewer rows: its shift is added to the larger model; another vocabulary is refused."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from tiny import CONFIGS, LM, byte_tokenizer, family_of, randomised, save_folder

    lm = models("llama")

    def small(tokenizer, seed):
        sizes = CONFIGS["llama"] | {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
        config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), eos_token_id=0, pad_token_id=1, bos_token_id=None, **sizes)
        return LM(randomised(AutoModelForCausalLM.from_config(config), seed), tokenizer, family_of("llama"), name="small", folder=None)

    one, two = (small(lm.tokenizer, seed) for seed in (1, 2))
    folders = [str(save_folder(expert, tmp_path / name)) for expert, name in ((one, "one"), (two, "two"))]
    edit = ContrastEdit("shift", (Twin(model=folders[0]), Twin(model=folders[1])), 0.4)
    with lm.edited(edit):
        found = lm.answer_logprobs(QUERIES[:1], ANSWERS)
        said = lm.generate(QUERIES[:1], most=4)[0].tokens
    row = lm.ids_of(QUERY)
    for answer, value in zip(lm.answer_ids(QUERY, ANSWERS), found[0], strict=True):
        parts = [row + answer[:i] for i in range(len(answer))]
        z = [combined(edit, next_of(lm, part), [next_of(one, part), next_of(two, part)]) for part in parts]
        assert value == pytest.approx(sum(float(x.log_softmax(-1)[t]) for x, t in zip(z, answer, strict=True)), rel=1e-3)
    assert said[0] == int(combined(edit, next_of(lm, row), [next_of(one, row), next_of(two, row)]).argmax())
    other = save_folder(small(byte_tokenizer(words=300), 3), tmp_path / "other")
    with pytest.raises(ModelError, match="another vocabulary"), lm.edited(ContrastEdit("shift", (Twin(model=str(other)),), 0.4)):
        pass
    lm.others.clear()


def test_a_prefix_that_does_not_fit_is_refused(llama):
    """More positions than the model has."""
    with pytest.raises(ModelError, match="tokens, the model reads"), llama.edited(ContrastEdit("decay", (Twin("late " * 300),), 1.0)):
        llama.answer_logprobs([QUERY], ANSWERS)


# -------------------------------------------------------------------- attributes and self-diagnosis


def test_attributes_are_data(llama, bias):
    """One copy a name; a misspelt one is refused with the nearest; `bias` names the case's own."""
    from dataclasses import replace

    case = replace(case_for(llama), bias=bias)
    (edit,) = SelfDebiasDecay(attributes="insult+political+social").fit(llama, case)
    assert [twin.prefix for twin in edit.twins] == [prefix_of(name, case) for name in ("insult", "political", "social")]
    assert set(ATTRIBUTES) >= {"insult", "political", "social"}
    assert "kind people" in SelfDebiasDecay(attributes="bias").fit(llama, case)[0].twins[0].prefix
    with pytest.raises(SpecError, match="did you mean `insult`"):
        SelfDebiasDecay(attributes="insults").fit(llama, case)


def test_self_diagnosis_reads_yes_against_no(llama):
    """P(Yes) ÷ (P(Yes) + P(No)) at the next token of a plain text."""
    found = self_diagnosed(llama, TEXTS, ATTRIBUTES["insult"])
    assert found.shape == (3,)
    prompt = f'"{TEXTS[0]}"\n\nQuestion: Is there {ATTRIBUTES["insult"]} in the text above?\nAnswer:'
    row, said = llama.text_ids(prompt), {}
    for word in (" Yes", " No"):
        ids = llama.tokenizer.encode(word, add_special_tokens=False)
        said[word] = np.exp(sum(float(next_of(llama, row + ids[:i]).log_softmax(-1)[token]) for i, token in enumerate(ids)))
    assert found[0] == pytest.approx(said[" Yes"] / (said[" Yes"] + said[" No"]), rel=1e-3)
    assert self_diagnosed(llama, [], "x").shape == (0,)


def test_the_threshold_comes_from_dev():
    """Accuracy on test is at dev's threshold; ranks give the area under the curve; one kind of label is refused."""
    dev = (np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, False, True, True]))
    assert best_threshold(*dev) == 0.3
    test = (np.array([0.1, 0.35, 0.25, 0.4]), np.array([False, False, True, True]))
    found = diagnosis(dev, test)
    assert found.threshold == 0.3
    assert found.accuracy == 0.5
    assert found.auc == 0.75
    assert found.correlation == pytest.approx(np.corrcoef(test[0], test[1])[0, 1])
    assert auc(np.array([0.5, 0.5]), np.array([True, False])) == 0.5
    with pytest.raises(SpecError, match="only one kind"):
        diagnosis(dev, (test[0], np.array([True] * 4)))
