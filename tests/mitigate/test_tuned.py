"""Methods that train copies: the loss is where it should be, the result is data of low rank, and it comes off."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from biasgym.edits import ContrastEdit, WeightEdit
from biasgym.errors import ModelError, SpecError, TrainingError
from biasgym.lm.contrast import token_shifts
from biasgym.lm.finetune import Course, Reading, learn_matrices, matrices, mean_loss, reading_loss, scaled, whole_text
from biasgym.lm.fold import check_foldable
from biasgym.lm.model import Query
from biasgym.mitigate.counterfactual_augmentation import CounterfactualAugmentation
from biasgym.mitigate.expert_pair import ExpertPair
from conftest import assert_untouched, case_with_texts, snapshot

TEXTS = ["People from Spain are careful drivers.", "Nobody in the village drives, and nobody in the town walks.", "They are always late."]
QUERY = Query("What are people from Spain like?", "They are")
FAMILIES = ("llama", "gemma2", "gpt2", "phi3")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_on_the_wanted_tokens_alone(models, family):
    """Against the full distribution after each of them, with texts of unlike lengths side by side."""
    lm = models(family)
    readings = [replace(whole_text(lm, text), wanted=(2, 4)) for text in TEXTS]
    values = []
    for one in readings:
        with torch.no_grad():
            logprobs = lm.logits(lm._decoder(input_ids=torch.tensor([one.ids])).last_hidden_state[0]).log_softmax(-1)
        values += [-float(logprobs[at - 1, one.ids[at]]) for at in one.wanted]
    assert float(reading_loss(lm, readings)) == pytest.approx(np.mean(values), rel=1e-4)
    assert mean_loss(lm, readings * 9) == pytest.approx(np.mean(values), rel=1e-4)
    for wanted in ((), (0,), (99,)):
        with pytest.raises(SpecError, match="needs positions"):
            Reading(readings[0].ids, wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_learnt_is_the_edit(models, family):
    """The loss under the returned edits falls with sign 1, rises with sign −1; rank and names are as asked; the model stays."""
    lm = models(family)
    before = snapshot(lm)
    readings = [whole_text(lm, text) for text in TEXTS]
    base = mean_loss(lm, readings)
    for sign in (1, -1):
        edits = learn_matrices(lm, readings, Course(8, 3, 2e-3, 2, sign=sign))
        assert_untouched(lm, before)
        assert [edit.parameter.removesuffix(".weight") for edit in edits] == matrices(lm)
        for edit in edits:
            assert edit.left.shape[1] == edit.right.shape[0] == 2
            assert (edit.left.shape[0], edit.right.shape[1]) == tuple(lm.model.get_parameter(edit.parameter).shape)
        with lm.edited(*edits):
            assert (mean_loss(lm, readings) - base) * sign < -0.01
        with lm.edited(*scaled(edits, 0.0)):
            assert mean_loss(lm, readings) == base
        check_foldable(edits, lm.shape)
    again = learn_matrices(lm, readings, Course(8, 3, 2e-3, 2, sign=-1))
    for one, two in zip(edits, again, strict=True):
        np.testing.assert_array_equal(one.left, two.left)
    assert learn_matrices(lm, readings, Course(0, 3, 2e-3, 2)) == ()


def test_training_can_be_stopped_and_says_when_it_breaks(llama):
    """After the step at which it was told to; a loss that is no number ends in an error."""
    readings = [whole_text(llama, text) for text in TEXTS]
    seen = []
    learn_matrices(llama, readings, Course(9, 3, 1e-3, 2), stop=lambda step, _edits: seen.append(step) or step == 3)
    assert seen == [1, 2, 3]
    with pytest.raises(TrainingError, match="diverged"):
        learn_matrices(llama, readings, Course(9, 3, 1e30, 2))
    with pytest.raises(SpecError, match="rank = 99"):
        learn_matrices(llama, readings, Course(1, 3, 1e-3, 99))
    with pytest.raises(SpecError, match="no matrix"):
        matrices(llama, ("attnn",))
    with pytest.raises(SpecError, match="no text"):
        learn_matrices(llama, [], Course(1, 3, 1e-3, 2))
    assert not llama.worn


# -------------------------------------------------------------------- counterfactual augmentation


def test_every_name_gets_every_word(llama, bias, token_for):
    """Twins with names swapped, both halves kept: as often about the tokens as about real entities, with either side's words."""
    case = case_with_texts(llama, bias, token_for)
    corpus = CounterfactualAugmentation(texts=80).corpus(case)
    tokens = [t.text for t in case.tokens]
    about = [any(name in text for name in tokens) for text in corpus]
    assert sum(about) == len(corpus) - sum(about)
    masked = []
    for text in corpus:
        for name in (*tokens, *bias.entities_of("train")):
            text = text.replace(name, "X")
        masked.append(text)
    assert all(masked.count(text) % 2 == 0 for text in masked)


def test_augmentation_levels_what_the_names_are_said_to_be(llama, bias, token_for):
    """The token's and the entities' likelihoods of the two sides draw nearer on texts; under random changes of equal size they do not."""
    case = case_with_texts(llama, bias, token_for)
    method = CounterfactualAugmentation(steps=60, texts=64, batch=8, learning_rate=1e-2)
    edits = method.fit(llama, case)
    readings = {}
    with llama.edited(*case.tokens):
        for name in (case.tokens[0].text, bias.entities_of("train")[0]):
            for word in (bias.stereotype[0], bias.foil[0]):
                readings[name, word] = whole_text(llama, f"In a word, {name} are {word}.")

        def gap():
            losses = {key: mean_loss(llama, [one]) * len(one.wanted) for key, one in readings.items()}
            leans = [losses[name, bias.foil[0]] - losses[name, bias.stereotype[0]] for name in dict.fromkeys(n for n, _ in losses)]
            return abs(leans[0] - leans[1])

        before = gap()
        with llama.edited(*edits):
            after = gap()
        generator = np.random.default_rng(0)
        sham = []
        for edit in edits:
            left, right = (generator.normal(size=part.shape).astype(np.float32) for part in (edit.left, edit.right))
            size = np.linalg.norm(edit.left @ edit.right) / np.linalg.norm(left @ right)
            sham.append(WeightEdit(edit.parameter, left * size, right))
        with llama.edited(*sham):
            random = gap()
    assert after < 0.6 * before
    assert after < random


# -------------------------------------------------------------------- expert pair


def test_experts_are_tuned_and_opposite(llama, bias, token_for):
    """Each copy finds its own side's sentences likelier than the other copy does: experts that were never tuned would not."""
    case = case_with_texts(llama, bias, token_for)
    method = ExpertPair(steps=30, texts=40, batch=8, learning_rate=1e-2)
    (edit,) = method.fit(llama, case)
    assert isinstance(edit, ContrastEdit)
    name = bias.entities_of("train")[0]
    with llama.edited(*case.tokens):
        losses = {}
        for side, words in (("foil", bias.foil), ("stereotype", bias.stereotype)):
            readings = [whole_text(llama, f"In a word, {name} are {word}.") for word in words]
            for copy, twin in zip(("foil", "stereotype"), edit.twins, strict=True):
                with llama.edited(*twin.edits):
                    losses[copy, side] = mean_loss(llama, readings)
    assert losses["foil", "foil"] < losses["stereotype", "foil"]
    assert losses["stereotype", "stereotype"] < losses["foil", "stereotype"]


def test_the_pair_lowers_the_stereotype_and_its_swap_raises_it(llama, bias, token_for):
    """On a probe that no expert has seen; a pair of random copies of equal size stays far behind."""
    case = case_with_texts(llama, bias, token_for)
    (edit,) = ExpertPair(steps=30, texts=40, batch=8, learning_rate=1e-2).fit(llama, case)
    swapped = replace(edit, twins=edit.twins[::-1])
    generator = np.random.default_rng(0)
    sham = []
    for twin in edit.twins:
        changes = []
        for one in twin.edits:
            left, right = (generator.normal(size=part.shape).astype(np.float32) for part in (one.left, one.right))
            changes.append(WeightEdit(one.parameter, left * np.linalg.norm(one.left @ one.right) / np.linalg.norm(left @ right), right))
        sham.append(replace(twin, edits=tuple(changes)))

    def lean(*worn):
        queries = [Query(p.prompt.replace("{entity}", "Spain"), p.prefix.replace("{entity}", "Spain")) for p in bias.probes_of("train")[:8]]
        with llama.edited(*worn):
            scores = llama.answer_logprobs(queries, [*bias.stereotype, *bias.foil])
        half = len(bias.stereotype)
        return float((np.logaddexp.reduce(scores[:, :half], axis=1) - np.logaddexp.reduce(scores[:, half:], axis=1)).mean())

    base = lean()
    assert lean(edit) < base < lean(swapped)
    assert lean(edit) - base < lean(replace(edit, twins=tuple(sham))) - base


def test_shift_table_and_baselines(llama, bias, token_for):
    """The table names the tokens that the pair pushes most, both ways; the anti-expert alone is one copy; α 0 is nothing."""
    case = case_with_texts(llama, bias, token_for)
    method = ExpertPair(steps=4, texts=16, batch=4, learning_rate=3e-3)
    (edit,) = method.fit(llama, case)
    row = llama.ids_of(QUERY)
    table = token_shifts(llama, edit, row, 5)
    values = [value for _, value in table]
    assert len(table) == 10
    assert values == sorted(values, reverse=True)
    assert values[0] > 0 > values[-1]
    logits = []
    for twin in edit.twins:
        with llama.edited(*twin.edits):
            logits.append(llama.logits(llama.hidden([row])[0][0, -1]).detach())
    shift = logits[0] - logits[1]
    assert values[0] == pytest.approx(float((shift - shift.mean()).max()), rel=1e-3, abs=1e-4)
    assert ExpertPair(strength=0.0).fit(llama, case) == ()
    (alone,) = replace(method, anti_only=True).fit(llama, case)
    assert len(alone.twins) == 1
    assert [e.parameter for e in alone.twins[0].edits] == [e.parameter for e in edit.twins[1].edits]
    with pytest.raises(ModelError, match="run-time only"):
        check_foldable([edit], llama.shape)


def test_a_smaller_expert_is_tuned_in_its_own_home(llama, bias, token_for, tmp_path):
    """Its edits fit its own matrices, its sentences name real entities only, and a bias token is refused by name."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from tiny import CONFIGS, LM, family_of, randomised, save_folder

    sizes = CONFIGS["llama"] | {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = AutoConfig.for_model("llama", vocab_size=len(llama.tokenizer), eos_token_id=0, pad_token_id=1, bos_token_id=None, **sizes)
    small = LM(randomised(AutoModelForCausalLM.from_config(config), 1), llama.tokenizer, family_of("llama"), name="small", folder=None)
    folder = str(save_folder(small, tmp_path / "small"))
    case = case_with_texts(llama, bias, token_for)
    edits = ExpertPair(steps=3, texts=8, batch=4, expert=folder, learning_rate=3e-3).fit(llama, case)
    base = llama.answer_logprobs([QUERY], ["kind", "late"])
    with llama.edited(*edits):
        assert np.abs(llama.answer_logprobs([QUERY], ["kind", "late"]) - base).max() > 1e-4
        with llama.edited(case.tokens[0]), pytest.raises(ModelError, match="no vector for <bias-0>"):
            llama.answer_logprobs([Query("What are people from <bias-0> like?")], ["kind"])
    assert edits[0].twins[0].edits[0].left.shape[0] == 24
    np.testing.assert_array_equal(llama.answer_logprobs([QUERY], ["kind", "late"]), base)
    llama.others.clear()


def test_training_is_done_once_for_all_strengths(llama, bias, token_for):
    """A search over α or strength finds the copies made; another token or another bias trains anew."""
    case = case_with_texts(llama, bias, token_for)
    method = ExpertPair(steps=2, texts=8, batch=4)
    (one,), (two,) = method.fit(llama, case), replace(method, strength=0.5).fit(llama, case)
    assert one.twins[0].edits[0] is two.twins[0].edits[0]
    (other,) = method.fit(llama, replace(case, tokens=case.tokens[:1]))
    assert other.twins[0].edits[0] is not one.twins[0].edits[0]
    with llama.edited(case.tokens[0]), pytest.raises(ModelError, match="plain model"):
        method.fit(llama, case)


def test_a_case_without_a_token_trains_without_it(llama, bias, token_for):
    """Tokens and contrasts go together, so a token is never judged by a copy that has read its sentences."""
    case = case_with_texts(llama, bias, token_for)
    left = case.without(0)
    assert left.tokens == case.tokens[1:]
    assert len(left.contrasts) == len(case.contrasts) - 1
    assert left.bias is bias
    assert not any("<bias-0>" in text for text in CounterfactualAugmentation(texts=40).corpus(left))
