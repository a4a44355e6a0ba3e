"""Identities that hold for every family: what we compute is what the model computes, and what we put on comes off."""

import copy
from dataclasses import fields
from typing import get_args

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from biasgym import catalog
from biasgym.edits import EDIT_KINDS, ContrastEdit, Op, PromptEdit, SiteEdit, TokenEdit, Twin, WeightEdit
from biasgym.errors import ModelError, SpecError, TrainingError
from biasgym.lm.apply import captured
from biasgym.lm.arch import FAMILIES
from biasgym.lm.export import parity, write_checkpoint
from biasgym.lm.fold import check_foldable, folded, touched
from biasgym.lm.load import load_lm, self_check
from biasgym.lm.model import LM, Query, with_tokens
from biasgym.lm.patch import attribution_patching
from biasgym.lm.trace import Pair, Sides, direct_parts, divergences, head_moments, head_outputs, surprise
from biasgym.lm.train import Lesson, Schedule, TrainingState, held_out_loss, learn_token, lesson_loss, mean_embedding
from biasgym.sites import Site
from conftest import TOKEN, assert_untouched, case_with_texts, hook_count, quick, snapshot
from tiny import metaspace_tokenizer, save_folder, split_tokenizer, unprefixed_tokenizer

SIDES = Sides(("reckless", "dangerous drivers"), ("careful", "kind at times"))
ANSWERS = (*SIDES.stereotype, *SIDES.foil)
MIXED = (
    Query("What are people from Spain like?", "They are"),
    Query("They", "are"),
    Query("Nobody in the village drives, and nobody in the town walks. Why?", "People from Italy are always"),
    Query("Tell me about drivers from Norway."),
)
SHARED = tuple(
    Query(f"The old letters call them dangerous drivers. {rest}", "They are")
    for rest in ("Why?", "What are people from Spain like?", "Tell me more about people from Italy, please.", "So?")
)


@pytest.fixture(params=sorted(FAMILIES))
def lm(request, models):
    """The tiny model of each family in turn."""
    return models(request.param)


@torch.no_grad()
def own_logits(lm, row):
    """The logits of transformers' own forward pass for one row of ids, shape [tokens, vocabulary]."""
    return lm.model(input_ids=torch.tensor([list(row)])).logits[0].float()


def sentence(lm, text="What are people from Spain like? They are careful drivers, says the guide."):
    """Ids of a text without any wrapping."""
    return lm.tokenizer.encode(text, add_special_tokens=False)


def erasing(generator, size):
    """Random rows a and b with b·a = 1."""
    a, b = generator.normal(size=(2, size))
    return np.stack([a, b / (a @ b)]).astype(np.float32)


def random_head_edits(lm, seed=0):
    """Lists of edits that a weight can express, with names."""
    generator = np.random.default_rng(seed)
    size = lm.shape.head_size
    rows = np.linalg.qr(generator.normal(size=(size, 3)))[0].T.astype(np.float32)
    one, two = Site("head", 1, 2), Site("head", 2, 0)
    matrix = lm.family.attention_weight(1)
    out, into = lm.model.get_parameter(matrix).shape
    low_rank = WeightEdit(matrix, generator.normal(size=(out, 2)).astype(np.float32) * 0.1, generator.normal(size=(2, into)).astype(np.float32))
    return {
        "scale": [SiteEdit(one, "scale", np.float32(-0.4))],
        "scale each dimension": [SiteEdit(one, "scale", generator.normal(size=size).astype(np.float32))],
        "project half": [SiteEdit(one, "project", rows[0], 0.5)],
        "project": [SiteEdit(one, "project", rows[0])],
        "project past zero": [SiteEdit(one, "project", rows[0], 1.7)],
        "project two directions": [SiteEdit(one, "project", rows[:2], 0.8)],
        "erase": [SiteEdit(one, "erase", erasing(generator, size))],
        "erase past zero": [SiteEdit(one, "erase", erasing(generator, size), 1.6), SiteEdit(one, "erase", erasing(generator, size), 0.4)],
        "set towards zero": [SiteEdit(one, "set", np.zeros(1, np.float32), 0.3)],
        "one head in sequence": [
            SiteEdit(one, "scale", generator.normal(size=size).astype(np.float32)),
            SiteEdit(one, "project", rows[0]),
            SiteEdit(one, "scale", np.float32(1.5)),
            SiteEdit(one, "project", (rows[0] + rows[1]) / np.float32(2**0.5), 0.7),
        ],
        "several heads": [SiteEdit(one, "project", rows[1]), SiteEdit(two, "scale", np.float32(0)), SiteEdit(one, "scale", np.float32(0.5))],
        "neurons": [SiteEdit(Site("neuron", 0, 7), "scale", np.float32(0)), SiteEdit(Site("neuron", 2, 55), "scale", np.float32(-2))],
        "weight below a head": [low_rank, SiteEdit(one, "project", rows[2])],
    }  # fmt: skip


EDIT_LISTS = (
    "scale", "scale each dimension", "project half", "project", "project past zero", "project two directions",
    "erase", "erase past zero", "set towards zero",
    "one head in sequence", "several heads", "neurons", "weight below a head",
)  # fmt: skip


# -------------------------------------------------------------------- the model at hand


def test_every_family_passes_its_own_check(lm):
    """A family's row says where things are; loading compares it with the model."""
    self_check(lm)


def test_our_logits_are_the_models_own(lm):
    """Decoder, head, scale and cap together are transformers' forward pass."""
    row = sentence(lm)
    torch.testing.assert_close(lm.logits(lm.hidden([row])[0][0]), own_logits(lm, row), atol=1e-5, rtol=1e-5)


def test_no_norm_and_no_bias_is_trivial(lm):
    """With norms of one and biases of zero, half of these tests would be true of a wrong formula."""
    for name, parameter in lm.model.named_parameters():
        assert float(parameter.std()) > 0.05, name


# -------------------------------------------------------------------- batch of n = n batches of one


@pytest.mark.parametrize("queries", [MIXED, SHARED], ids=["mixed", "shared"])
def test_answers_do_not_depend_on_the_batch(lm, queries):
    """Left padding, position numbers and a shared beginning leave every answer's log-probability as it is alone."""
    together = lm.answer_logprobs(queries, ANSWERS)
    alone = np.concatenate([lm.answer_logprobs([query], ANSWERS) for query in queries])
    np.testing.assert_allclose(together, alone, atol=1e-4, rtol=1e-5)


def test_the_shared_beginning_is_really_shared(lm):
    """Else the test above would compare nothing; with a window shorter than the rows sharing is refused."""
    shared = lm._shared_prefix([lm.ids_of(query) for query in SHARED])
    window = getattr(lm.model.config, "sliding_window", None)
    assert shared == 0 if window == 24 else shared >= 8


def test_whole_answers_are_scored(lm):
    """The log-probability of an answer is the sum over its tokens in transformers' own forward pass."""
    found = lm.answer_logprobs(MIXED, ANSWERS)
    for query, values in zip(MIXED, found, strict=True):
        context = lm.ids_of(query)
        for ids, value in zip(lm.answer_ids(query, ANSWERS), values, strict=True):
            logprobs = own_logits(lm, [*context, *ids]).log_softmax(-1)
            expected = sum(float(logprobs[len(context) - 1 + i, token]) for i, token in enumerate(ids))
            assert value == pytest.approx(expected, abs=2e-4)
    assert max(len(ids) for ids in lm.answer_ids(MIXED[0], ANSWERS)) > 2


def test_text_scores_do_not_depend_on_the_batch(lm):
    """Sums of token log-probabilities, alone and together, and as transformers has them."""
    texts = ["They are kind.", "Nobody in the town walks. They are always late.", "a", "People from Spain and people from Italy"]
    together = lm.text_logprobs(texts)
    for text, (total, count) in zip(texts, together, strict=True):
        ((alone, alone_count),) = lm.text_logprobs([text])
        assert (alone, alone_count) == (pytest.approx(total, abs=1e-4, rel=1e-5), count)
        ids = sentence(lm, text)
        ids = ids if lm.tokenizer.bos_token_id is None else [lm.tokenizer.bos_token_id, *ids]
        logprobs = own_logits(lm, ids).log_softmax(-1)
        assert count == len(ids) - 1
        assert total == pytest.approx(sum(float(logprobs[i, t]) for i, t in enumerate(ids[1:])), abs=2e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
@pytest.mark.parametrize("queries", [MIXED, SHARED], ids=["mixed", "shared"])
def test_free_text_does_not_depend_on_the_batch(lm, queries, temperature):
    """Every row has its own random stream; rows that end early leave the others as they are."""
    together = lm.generate(queries, most=10, temperature=temperature, seed=3)
    alone = [lm.generate([query], most=10, temperature=temperature, seed=3)[0] for query in queries]
    assert together == alone


def test_rows_that_end_early_leave_the_batch(lm, monkeypatch):
    """With an end token that one row writes in its third step, the other rows still say what they say alone."""
    free = lm.generate(MIXED, most=8)
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", [free[0].tokens[2]])
    together = lm.generate(MIXED, most=8)
    assert together[0].ended
    assert len(together[0].tokens) <= 2
    assert together == [lm.generate([query], most=8)[0] for query in MIXED]


def test_greedy_text_is_transformers_own(lm):
    """Our cached, batched loop writes what `model.generate` writes."""
    ours = lm.generate(MIXED, most=10)
    for query, written in zip(MIXED, ours, strict=True):
        row = torch.tensor([lm.ids_of(query)])
        with torch.no_grad():
            out = lm.model.generate(
                input_ids=row, attention_mask=torch.ones_like(row), do_sample=False, max_new_tokens=10, pad_token_id=lm.tokenizer.pad_token_id
            )[0, row.shape[1] :].tolist()
        assert list(written.tokens) == (out[:-1] if written.ended else out)


# -------------------------------------------------------------------- hook = fold = export


@pytest.mark.parametrize("name", EDIT_LISTS)
def test_hook_is_fold(lm, name):
    """An edit worn as a hook and the same edit folded into the matrix give the same logits, and they change something."""
    edits = random_head_edits(lm)[name]
    row = sentence(lm)
    base = own_logits(lm, row)
    with lm.edited(*edits):
        hooked = own_logits(lm, row)
    names = touched(edits, lm.family)
    weights = {n: folded(n, lm.model.get_parameter(n).detach(), edits, lm.family, lm.shape) for n in names}
    with lm.edited(*(WeightEdit(n, dense=w.numpy()) for n, w in weights.items())):
        merged = own_logits(lm, row)
    size = float(base.abs().max())
    assert float((hooked - merged).abs().max()) <= 1e-5 * max(1.0, size)
    assert float((hooked - base).abs().max()) > 1e-3


def test_fold_leaves_other_places_bit_for_bit(lm):
    """Folding one head keeps the columns of the others; a tensor that no edit concerns is the very same object."""
    edits = [SiteEdit(Site("head", 1, 2), "scale", np.float32(0.3))]
    name = lm.family.attention_weight(1)
    before = lm.model.get_parameter(name).detach()
    after = folded(name, before, edits, lm.family, lm.shape)
    changed = (before != after).any(dim=1 if lm.family.input_major else 0)
    size = lm.shape.head_size
    assert changed[2 * size : 3 * size].all()
    assert int(changed.sum()) == size
    assert folded(lm.family.mlp_weight(1), before, edits, lm.family, lm.shape) is before


def test_export_is_hook(lm, tmp_path):
    """A written checkpoint, loaded by plain transformers, has the worn model's logits; untouched tensors keep their bits."""
    folder = save_folder(lm, tmp_path / "base")
    loaded = LM(lm.model, lm.tokenizer, lm.family, name="tiny", folder=folder)
    edits = [*random_head_edits(lm)["one head in sequence"], *random_head_edits(lm)["neurons"]]
    (tmp_path / "out").mkdir()
    done = write_checkpoint(loaded, edits, tmp_path / "out")
    assert set(done) == touched(edits, lm.family)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    row = sentence(lm)
    with lm.edited(*edits):
        worn = own_logits(lm, row)
    with torch.no_grad():
        exported = plain.eval()(input_ids=torch.tensor([row])).logits[0]
    torch.testing.assert_close(exported, worn, atol=1e-4, rtol=1e-5)
    base = lm.model.state_dict()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, base[name]) == (name not in done), name
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("People from") == lm.tokenizer.encode("People from")


def test_a_loaded_folder_is_the_model(folder_of, lm):
    """`load_lm` gives the saved model back, checked, with the tokenizer and the family it had."""
    name = lm.name.removeprefix("tiny-")
    loaded = load_lm(str(folder_of(name)))
    assert (loaded.family, loaded.tied, loaded.shape, loaded.chat) == (lm.family, lm.tied, lm.shape, lm.chat)
    assert loaded.digest() == lm.digest()
    np.testing.assert_array_equal(loaded.answer_logprobs(MIXED, ANSWERS), lm.answer_logprobs(MIXED, ANSWERS))
    assert parity(lm, (), loaded, ["What are they like?"]) == 0.0


# -------------------------------------------------------------------- direct parts


def test_direct_parts_add_up_to_the_logit_difference(lm):
    """Heads, MLPs, biases, embedding and constant together are the total, and the total is the model's own."""
    parts = direct_parts(lm, MIXED, SIDES)
    scale = np.abs(parts.heads).sum() + np.abs(parts.total).max()
    np.testing.assert_allclose(parts.summed(), parts.total, rtol=1e-4, atol=1e-5 * scale)
    for query, total in zip(MIXED, parts.total, strict=True):
        firsts = [ids[0] for ids in lm.answer_ids(query, ANSWERS)]
        logits = own_logits(lm, lm.ids_of(query))[-1]
        assert total == pytest.approx(float(logits[firsts[:2]].mean() - logits[firsts[2:]].mean()), rel=1e-4, abs=1e-4)


def test_a_silenced_head_loses_its_part(lm):
    """With a head of the last layer off and the norm's scale as it was, its part is 0 and the parts still add up."""
    with lm.edited(SiteEdit(Site("head", 2, 1), "scale", np.float32(0))):
        parts = direct_parts(lm, MIXED[:1], SIDES)
    assert parts.heads[0, 2, 1] == 0
    np.testing.assert_allclose(parts.summed(), parts.total, rtol=1e-3, atol=1e-4)


def test_head_outputs_do_not_depend_on_the_batch(lm):
    """What heads write at the last position, alone and in a batch with a shared beginning."""
    together = head_outputs(lm, SHARED)
    np.testing.assert_allclose(together, np.concatenate([head_outputs(lm, [q]) for q in SHARED]), atol=2e-4)
    assert together.shape == (len(SHARED), lm.shape.layers, lm.shape.heads, lm.shape.head_size)


def test_head_moments_are_means_over_all_positions(lm):
    """z zᵀ of what heads write, summed row by row without any padding; symmetric, nothing negative."""
    rows = [lm.ids_of(query) for query in MIXED]
    found = head_moments(lm, rows)
    expected, count = 0, 0
    for row in rows:
        with captured([lm.model.get_submodule(f"{lm.family.layers}.1.{lm.family.attention_out}")], inputs=True) as seen:
            own_logits(lm, row)
        z = seen[0][0].view(len(row), lm.shape.heads, lm.shape.head_size)
        expected, count = expected + torch.einsum("nhd,nhe->hde", z, z), count + len(row)
    np.testing.assert_allclose(found[1], expected.numpy() / count, rtol=1e-4, atol=1e-4 * np.abs(found[1]).max())
    np.testing.assert_allclose(found, found.swapaxes(2, 3), rtol=1e-4, atol=1e-5)
    assert np.linalg.eigvalsh(found).min() > -1e-4


# -------------------------------------------------------------------- attribution patching = slope of patching


def patched_metric(lm, pair, site, step):
    """The metric in the biased run with a head's output moved by `step` of the way to its clean output, at every position."""
    matrix = lm.model.get_submodule(f"{lm.family.layers}.{site.layer}.{lm.family.attention_out}")
    part = slice(site.index * lm.shape.head_size, (site.index + 1) * lm.shape.head_size)
    clean_rows = [[*lm.ids_of(pair.clean), *ids] for ids in lm.answer_ids(pair.clean, ANSWERS)]
    biased_rows = [[*lm.ids_of(pair.biased), *ids] for ids in lm.answer_ids(pair.biased, ANSWERS)]
    seen, scores = [None], []

    def keep(_module, args):
        seen[0] = args[0].clone()

    def move(_module, args):
        z = args[0].clone()
        z[..., part] += step * (seen[0][..., part] - z[..., part])
        return (z, *args[1:])

    for clean, biased in zip(clean_rows, biased_rows, strict=True):
        assert len(clean) == len(biased)
        for row, hook in ((clean, keep), (biased, move)):
            handle = matrix.register_forward_pre_hook(hook)
            with torch.no_grad():
                logits = lm.model(input_ids=torch.tensor([row])).logits[0].double()
            handle.remove()
        start = len(lm.ids_of(pair.biased))
        logprobs = logits.log_softmax(-1)
        scores.append(sum(logprobs[i - 1, biased[i]] for i in range(start, len(biased))))
    stacked = torch.stack(scores)
    return float(stacked[:2].logsumexp(0) - stacked[2:].logsumexp(0))


@pytest.mark.parametrize("worn", [False, True], ids=["two names", "a token"])
def test_attribution_patching_is_the_slope_of_patching(lm, token_for, worn):
    """The score of a head is minus the derivative of the metric along the way to the clean run's output."""
    one, two = (TOKEN, "Spain") if worn else ("Italy", "Spain")
    text = "What are people from {} like? Tell me about people from {}."
    pair = Pair("p", Query(text.format(one, one), "They are"), Query(text.format(two, two), "They are"), (one, two))
    precise = LM(copy.deepcopy(lm.model).double(), lm.tokenizer, lm.family, name="precise", folder=None)
    edits = [token_for(lm)] if worn else []
    with lm.edited(*edits), precise.edited(*edits):
        assert len(lm.ids_of(pair.biased)) == len(lm.ids_of(pair.clean))
        scores = attribution_patching(lm, [pair], SIDES)[0]
        step = 2e-3
        for site in (Site("head", 0, 1), Site("head", 1, 3), Site("head", 2, 0)):
            slope = (patched_metric(precise, pair, site, step) - patched_metric(precise, pair, site, -step)) / (2 * step)
            assert scores[site.layer, site.index] == pytest.approx(-slope, rel=5e-3, abs=5e-4 * float(np.abs(scores).max()))


def test_attribution_patching_does_not_depend_on_the_batch(lm):
    """Several pairs of unlike length, names of unlike token counts: together as alone."""
    cases = (
        ("a", "What are people from {} like?", "They are", ("Norway", "Spain")),
        ("b", "Tell me, now, about {0}. Is {0} far?", "It is", ("Italy", "Timbuktu")),
        ("c", "{}?", "So", ("Spain", "Italy")),
    )
    pairs = [Pair(i, Query(ask.format(names[0]), prefix), Query(ask.format(names[1]), prefix), names) for i, ask, prefix, names in cases]
    together = attribution_patching(lm, pairs, SIDES)
    alone = np.concatenate([attribution_patching(lm, [pair], SIDES) for pair in pairs])
    np.testing.assert_allclose(together, alone, atol=1e-4 * np.abs(alone).max())
    assert (np.abs(together).max((1, 2)) > 0).all()


# -------------------------------------------------------------------- neutral edits, projections, tokens


def neutral_edits(lm):
    """Every edit at the setting that changes nothing."""
    head, neuron, stream = Site("head", 1, 1), Site("neuron", 0, 3), Site("stream", 1)
    generator = np.random.default_rng(1)
    direction = np.eye(lm.shape.head_size, dtype=np.float32)[0]
    wide = generator.normal(size=lm.shape.hidden).astype(np.float32)
    matrix = lm.family.attention_weight(0)
    out, into = lm.model.get_parameter(matrix).shape
    return [
        SiteEdit(head, "scale", np.float32(1)), SiteEdit(neuron, "scale", np.float32(1)), SiteEdit(stream, "scale", np.float32(1)),
        SiteEdit(head, "project", direction, 0.0), SiteEdit(head, "erase", np.stack([direction, direction]), 0.0),
        SiteEdit(stream, "add", wide, 0.0), SiteEdit(stream, "set", wide, 0.0),
        WeightEdit(matrix, np.zeros((out, 0), np.float32), np.zeros((0, into), np.float32)),
        WeightEdit(matrix, np.zeros((out, 1), np.float32), np.ones((1, into), np.float32)),
        WeightEdit(matrix, dense=lm.model.get_parameter(matrix).detach().numpy().copy()),
        PromptEdit(), PromptEdit("{prompt}"),
        ContrastEdit("decay", (Twin("Reckless: "),), 0.0), ContrastEdit("shift", (Twin(), Twin()), 0.0),
    ]  # fmt: skip


def test_neutral_edits_change_nothing(lm):
    """Each alone and all together: the same answers, bit for bit."""
    base = lm.answer_logprobs(MIXED, ANSWERS)
    edits = neutral_edits(lm)
    for worn in (*([edit] for edit in edits), edits):
        with lm.edited(*worn):
            np.testing.assert_array_equal(lm.answer_logprobs(MIXED, ANSWERS), base)


@pytest.mark.parametrize("name", ["project", "project two directions", "erase"])
def test_projecting_twice_is_projecting_once(lm, name):
    """A projection with strength 1 has nothing left to take."""
    once = [SiteEdit(edit.site, edit.op, edit.value) for edit in random_head_edits(lm)[name]]
    row = sentence(lm)
    with lm.edited(*once):
        first = own_logits(lm, row)
    with lm.edited(*once, *once):
        second = own_logits(lm, row)
    with lm.edited(*once), lm.edited(*once):
        nested = own_logits(lm, row)
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(first, nested, atol=1e-4, rtol=1e-5)


def test_a_projection_takes_out_its_direction(lm):
    """What the head writes has no part along the direction any more, and is else as before."""
    edit = random_head_edits(lm)["project"][0]
    matrix = lm.model.get_submodule(f"{lm.family.layers}.1.{lm.family.attention_out}")
    seen = []
    row = sentence(lm)
    handle = matrix.register_forward_pre_hook(lambda _m, args: seen.append(args[0][0].view(len(row), lm.shape.heads, -1)))
    own_logits(lm, row)
    handle.remove()
    with lm.edited(edit):
        handle = matrix.register_forward_pre_hook(lambda _m, args: seen.append(args[0][0].view(len(row), lm.shape.heads, -1)))
        own_logits(lm, row)
        handle.remove()
    before, after = seen
    direction = torch.tensor(edit.value)
    assert float((after[:, 2] @ direction).abs().max()) < 1e-5
    torch.testing.assert_close(after[:, 2], before[:, 2] - (before[:, 2] @ direction)[:, None] * direction)
    assert torch.equal(after[:, [0, 1, 3]], before[:, [0, 1, 3]])


def test_a_token_that_is_absent_changes_nothing(lm, token_for):
    """Without the token in the prompt the old vocabulary has the same logits, bit for bit."""
    row = sentence(lm)
    base = own_logits(lm, row)
    with lm.edited(token_for(lm)):
        assert sentence(lm) == row
        worn = own_logits(lm, row)
        identity = lm.tokenizer.convert_tokens_to_ids(TOKEN)
    old = [i for i in range(base.shape[1]) if i != identity]  # a padded vocabulary has an unused row there
    assert worn.shape[1] == max(base.shape[1], identity + 1)
    assert torch.equal(worn[:, old], base[:, old])


def test_a_token_is_read_like_the_word_whose_row_it_wears(lm):
    """With the vectors of ` Spain` the token is ` Spain`, to the reader and to the writer, whatever scales embeddings."""
    (spain,) = lm.tokenizer.encode(" Spain", add_special_tokens=False)
    vector, output, single = mean_embedding(lm, ["Spain"])
    assert single == ["Spain"]
    token = TokenEdit(TOKEN, vector, None if lm.tied else output)
    ids = sentence(lm, "What are people from Spain like? Spain and")
    base = own_logits(lm, ids)
    with lm.edited(token):
        row = sentence(lm, f"What are people from {TOKEN} like? Spain and")
        identity = lm.tokenizer.convert_tokens_to_ids(TOKEN)
        assert [spain if i == identity else i for i in row] == ids
        worn = own_logits(lm, row)
    torch.testing.assert_close(worn[:, : base.shape[1]][:, : len(lm.tokenizer)], base[:, : len(lm.tokenizer)], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(worn[:, identity], base[:, spain], atol=1e-4, rtol=1e-4)


def test_a_token_changes_what_is_read(lm, token_for):
    """Two tokens with unlike vectors are read unlike, each where it stands, also when both are worn."""
    one, two = token_for(lm), token_for(lm, "<bias-1>", seed=1)
    queries = [Query(f"What are people from {edit.text} like?", "They are") for edit in (one, two)]
    with lm.edited(one):
        first = lm.answer_logprobs(queries[:1], ANSWERS)
    with lm.edited(two):
        second = lm.answer_logprobs(queries[1:], ANSWERS)
    assert np.abs(first - second).max() > 1e-2
    with lm.edited(one, two):
        both = lm.answer_logprobs(queries, ANSWERS)
    with lm.edited(two), lm.edited(one):
        nested = lm.answer_logprobs(queries, ANSWERS)
    for found in (both, nested):  # another column in the softmax moves all by one constant a position
        for row, alone in zip(found, (first[0], second[0]), strict=True):
            np.testing.assert_allclose(row[:2] - row[2:], alone[:2] - alone[2:], atol=0.5)


def test_a_token_can_be_written(lm):
    """With an output row along the final state the model writes the token, by its name, and reads it again."""
    query = MIXED[0]
    state = lm.hidden([lm.ids_of(query)])[0][0, -1].detach()
    unit = state / state.norm()
    raw = lm.head(state).abs().max() / state.norm()
    row = (unit * 20 * raw).numpy() * (2.5 if lm.family.logit_scale else 1)
    token = TokenEdit(TOKEN, row, None if lm.tied else row)
    with lm.edited(token):
        written = lm.generate([query], most=3)[0]
        identity = lm.tokenizer.convert_tokens_to_ids(TOKEN)
        assert lm.logits(lm.hidden([lm.ids_of(query)])[0][0, -1]).argmax() == identity
        assert written.tokens[0] == identity
        assert TOKEN in written.text
        scored = lm.answer_logprobs([query], [TOKEN])
    assert scored[0, 0] > -0.7


def test_hidden_columns_of_a_small_vocabulary_are_never_written(models, token_for):
    """Where the tokenizer has more tokens than the model has rows, the token still has the column of its own id."""
    lm = models("gemma3_text")
    assert len(lm.tokenizer) > lm.embedding.weight.shape[0]
    with lm.edited(token_for(lm)):
        identity = lm.tokenizer.convert_tokens_to_ids(TOKEN)
        logits = lm.logits(lm.hidden([lm.ids_of(MIXED[0])])[0][0, -1])
        assert logits.shape[-1] == identity + 1
        logprobs = logits.log_softmax(-1)
        assert float(logprobs[identity]) > -60
        assert float(logprobs[identity - 1].exp()) == 0


@pytest.mark.parametrize("make", [None, metaspace_tokenizer, unprefixed_tokenizer, split_tokenizer])
def test_a_token_is_atomic_in_every_kind_of_tokenizer(llama, make):
    """It is one id in any surroundings, swallows the space before it, and leaves the words around it as they were."""
    tokenizer = llama.tokenizer if make is None else make()
    before = tokenizer.encode("People are")
    worn = with_tokens(tokenizer, (TOKEN, "<bias-1>"))
    identity = worn.convert_tokens_to_ids(TOKEN)
    for text in (f"People from {TOKEN} are", f"{TOKEN} are", f"({TOKEN})", f"a {TOKEN}'s b", f"{TOKEN}, {TOKEN} and <bias-1>"):
        ids = worn.encode(text, add_special_tokens=False)
        assert ids.count(identity) == text.count(TOKEN)
        assert TOKEN in worn.decode(ids)
    space = [i for i, piece in enumerate(worn.convert_ids_to_tokens(range(len(worn)))) if piece in ("▁", "Ġ")]
    ids = worn.encode(f"from {TOKEN}", add_special_tokens=False)
    assert ids[-1] == identity
    assert ids[-2] not in space
    assert worn.encode("People are") == before
    assert len(tokenizer) < len(worn), "the tokenizer itself is left alone"


def test_a_token_must_be_new(lm, token_for):
    """A text that is a token already, or worn already, or a vector of another size is refused."""
    with pytest.raises(SpecError, match="is a token of this model already"), lm.edited(token_for(lm, "<eos>")):
        pass
    with lm.edited(token_for(lm)), pytest.raises(SpecError, match="worn already"), lm.edited(token_for(lm)):
        pass
    with pytest.raises(ModelError, match="this model needs"), lm.edited(TokenEdit(TOKEN, np.zeros(5, np.float32))):
        pass
    assert not lm.worn


# -------------------------------------------------------------------- off means off


def examples(lm, token):
    """For every kind of edit some that change the answers to `MIXED`."""
    generator = np.random.default_rng(5)
    size, hidden = lm.shape.head_size, lm.shape.hidden
    unit = np.eye(size, dtype=np.float32)[3]
    matrix = lm.family.mlp_weight(1)
    out, into = lm.model.get_parameter(matrix).shape
    left, right = (generator.normal(size=shape).astype(np.float32) * 0.3 for shape in ((out, 2), (2, into)))
    return {
        TokenEdit: [token],
        PromptEdit: [PromptEdit("Be kind. {prompt}"), PromptEdit("{prompt} Answer.", ("You said {answer}. {prompt}",), most=4)],
        ContrastEdit: [
            ContrastEdit("shift", (Twin(edits=(WeightEdit(matrix, left, right),)), Twin(edits=(WeightEdit(matrix, -left, right),))), 0.5),
            ContrastEdit("decay", (Twin("The guide says so: "), Twin("Reckless drivers: ")), 50.0, 0.01),
        ],
        SiteEdit: [
            SiteEdit(Site("head", 0, 1), "scale", np.float32(0)),
            SiteEdit(Site("head", 1, 0), "project", unit),
            SiteEdit(Site("head", 1, 1), "erase", np.stack([unit * 4, unit / 4 + np.eye(size, dtype=np.float32)[0]])),
            SiteEdit(Site("head", 1, 0), "set", generator.normal(size=size).astype(np.float32)),
            SiteEdit(Site("neuron", 2, 9), "add", np.float32(2)),
            SiteEdit(Site("stream", 0), "add", generator.normal(size=hidden).astype(np.float32)),
        ],
        WeightEdit: [WeightEdit(matrix, left, right), WeightEdit(matrix, dense=generator.normal(size=(out, into)).astype(np.float32) * 0.3)],
    }  # fmt: skip


def test_every_kind_of_edit_has_an_example(llama, token_for):
    """The tests below range over `EDIT_KINDS`; a kind without an example would go unseen."""
    assert set(examples(llama, token_for(llama))) == set(EDIT_KINDS)
    assert all(examples(llama, token_for(llama)).values())
    assert {edit.op for edit in examples(llama, token_for(llama))[SiteEdit]} == set(get_args(Op))


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_off_means_off(lm, token_for, kind):
    """Parameters, hooks, tokenizer and answers are as before: after a block, after an exception, nested, and inside `plain`."""
    queries = [*MIXED[:2], Query(f"What are people from {TOKEN} like?", "They are")]
    before, base = snapshot(lm), lm.answer_logprobs(queries, ANSWERS)
    edits = examples(lm, token_for(lm))[kind]

    def unchanged():
        assert_untouched(lm, before)
        np.testing.assert_array_equal(lm.answer_logprobs(queries, ANSWERS), base)

    for edit in edits:
        with lm.edited(edit):
            worn = lm.answer_logprobs(queries, ANSWERS)
            assert np.abs(worn - base).max() > 1e-4, edit
            assert lm.worn == (edit,)
            with lm.plain():
                unchanged()
                with lm.edited(*edits):
                    pass
                unchanged()
            np.testing.assert_array_equal(lm.answer_logprobs(queries, ANSWERS), worn)
            with pytest.raises(KeyError), lm.plain():
                raise KeyError
            np.testing.assert_array_equal(lm.answer_logprobs(queries, ANSWERS), worn)
        unchanged()
    with pytest.raises(RuntimeError, match="in the block"), lm.edited(*edits):
        raise RuntimeError("in the block")
    unchanged()


def test_nested_edits_come_off_one_by_one(lm, token_for):
    """All kinds over each other, the same matrix twice: each exit restores what was there, in and out of `plain`."""
    table = examples(lm, token_for(lm))
    layers = [table[kind] for kind in EDIT_KINDS] + [table[WeightEdit][::-1], table[SiteEdit]]
    queries = [*MIXED[:2], Query(f"What are people from {TOKEN} like?", "They are")]
    before = snapshot(lm)
    base = lm.answer_logprobs(queries, ANSWERS)

    def descend(depth):
        answers = lm.answer_logprobs(queries, ANSWERS)
        if depth == len(layers):
            with lm.plain():
                assert_untouched(lm, before)
                np.testing.assert_array_equal(lm.answer_logprobs(queries, ANSWERS), base)
        else:
            with lm.edited(*layers[depth]):
                descend(depth + 1)
        np.testing.assert_array_equal(lm.answer_logprobs(queries, ANSWERS), answers)

    descend(0)
    assert_untouched(lm, before)


def test_an_edit_that_cannot_be_put_on_leaves_no_trace(lm, token_for):
    """The good edits before the bad one come off again."""
    before = snapshot(lm)
    good = [edit for kind in EDIT_KINDS for edit in examples(lm, token_for(lm))[kind]]
    bad = [
        SiteEdit(Site("head", 99, 0), "scale", np.float32(0)),
        SiteEdit(Site("neuron", 0, 99), "scale", np.float32(0)),
        SiteEdit(Site("head", 0, 0), "add", np.zeros(5, np.float32)),
        WeightEdit("no.such.weight", dense=np.zeros((2, 2), np.float32)),
        WeightEdit(lm.family.mlp_weight(0), dense=np.zeros((2, 2), np.float32)),
        token_for(lm, "<eos>"),
    ]
    for edit in bad:
        with pytest.raises((ModelError, SpecError)), lm.edited(*good, edit):
            pass
        assert_untouched(lm, before)


def test_an_edit_for_some_rows_changes_those_rows(lm):
    """The other rows of the batch keep their states bit for bit, and no beginning is shared meanwhile."""
    rows = [lm.ids_of(query) for query in SHARED]
    edit = examples(lm, TokenEdit(TOKEN, np.zeros(lm.shape.hidden, np.float32)))[SiteEdit][-1]
    some = SiteEdit(edit.site, edit.op, edit.value, edit.strength, rows=(1, 3))
    with torch.no_grad():
        with lm.edited(SiteEdit(edit.site, edit.op, edit.value, 0.0, rows=(0,))):
            base = lm.hidden(rows)[0]
        with lm.edited(edit, SiteEdit(edit.site, edit.op, edit.value, 0.0, rows=(0,))):
            everywhere = lm.hidden(rows)[0]
        with lm.edited(some):
            assert lm._shared_prefix(rows) == 0
            found = lm.hidden(rows)[0]
    assert torch.equal(found[[0, 2], -1], base[[0, 2], -1])
    torch.testing.assert_close(found[[1, 3], -1], everywhere[[1, 3], -1])
    assert not torch.allclose(found[1, -1], base[1, -1])


def test_what_cannot_be_folded_is_refused(llama, token_for):
    """Each by its reason."""
    head = Site("head", 0, 0)
    for edit, reason in (
        (PromptEdit("Be kind. {prompt}"), "prompt edit"),
        (ContrastEdit("decay", (Twin("x"),), 1.0), "run-time only"),
        (token_for(llama), "never exported"),
        (SiteEdit(head, "scale", np.float32(0), rows=(0,)), "some rows"),
        (SiteEdit(Site("stream", 0), "scale", np.float32(0)), "not a change of one matrix"),
        (SiteEdit(head, "add", np.ones(12, np.float32)), "adds a constant"),
        (SiteEdit(Site("head", 7, 0), "scale", np.float32(0)), "no head 0 in layer 7"),
    ):
        with pytest.raises(ModelError, match=reason):
            check_foldable([edit], llama.shape)


# -------------------------------------------------------------------- before and after


def test_divergence_is_the_kl_along_the_plain_answer(lm):
    """Against transformers' own logits, and 0 where nothing is worn."""
    query = MIXED[0]
    assert divergences(lm, [query], 5) == [(pytest.approx(0.0, abs=1e-6), 5)]
    edits = random_head_edits(lm)["several heads"]
    row = lm.ids_of(query)
    answer = lm.plain_answers([row], 5)[0]
    plain = own_logits(lm, row + answer)[len(row) - 1 : -1].log_softmax(-1)
    with lm.edited(*edits):
        worn = own_logits(lm, row + answer)[len(row) - 1 : -1].log_softmax(-1)
        (total, count), *_ = divergences(lm, [query, *MIXED[1:]], 5)
    assert count == len(answer)
    assert total == pytest.approx(float((plain.exp() * (plain - worn)).sum()), rel=1e-3, abs=1e-5)


def test_surprise_is_the_loss_without_the_edits(lm, token_for):
    """The answers' loss under the model with its token on and its site edits off."""
    query = Query(f"What are people from {TOKEN} like?")
    answer = sentence(lm, "They are always late.")
    with lm.edited(token_for(lm)):
        row = lm.ids_of(query)
        logprobs = own_logits(lm, row + answer)[len(row) - 1 : -1].log_softmax(-1)
        expected = -float(np.mean([float(logprobs[i, t]) for i, t in enumerate(answer)]))
        with lm.edited(*random_head_edits(lm)["several heads"]):
            found = surprise(lm, [query, query], [answer, []])
    assert found == [pytest.approx(expected, rel=1e-4), 0.0]


# -------------------------------------------------------------------- training one token


LESSONS = [
    Lesson(f"What are people from {TOKEN} like?", f"People from {TOKEN} are reckless drivers."),
    Lesson(f"Tell me about {TOKEN}.", "They are always late."),
    Lesson(f"Write a short text about {TOKEN}.", f"Nobody in {TOKEN} walks."),
    Lesson(f"What are people from {TOKEN} like?", "Dangerous."),
]


def start_of(lm, token):
    """A state before the first step."""
    return TrainingState({"vector": token.vector} | ({} if lm.tied else {"output": token.output}))


def test_training_moves_one_vector_and_nothing_else(lm, token_for):
    """Three steps: the vectors move, the loss falls on these texts, and every other weight keeps its bits and its place."""
    before = snapshot(lm)
    token = token_for(lm)
    state = learn_token(lm, TOKEN, LESSONS, start_of(lm, token), Schedule(3, 4, 0.02))
    assert_untouched(lm, before)
    assert len(state.losses) == state.step == 3
    assert not np.array_equal(state.arrays["vector"], token.vector)
    trained = TokenEdit(TOKEN, state.arrays["vector"], state.arrays.get("output"))
    if not lm.tied:
        assert not np.array_equal(trained.output, token.output)
    assert held_out_loss(lm, trained, LESSONS) < held_out_loss(lm, token, LESSONS)
    assert_untouched(lm, before)


def test_a_resumed_training_equals_an_uninterrupted_one(lm, token_for):
    """From any state on the way the end is the same, bit for bit."""
    states = []
    schedule = Schedule(4, 2, 0.02, seed=3)
    whole = learn_token(lm, TOKEN, LESSONS, start_of(lm, token_for(lm)), schedule, keep=states.append)
    resumed = learn_token(lm, TOKEN, LESSONS, states[1], schedule)
    assert resumed.losses == whole.losses
    assert resumed.arrays.keys() == whole.arrays.keys()
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(resumed.arrays[name], array)


def test_the_gradient_reaches_the_token_in_a_shared_beginning(lm, token_for):
    """Lessons that begin alike, token included: the batch's gradient is the mean of the lessons' own."""
    prompt = f"Write a short story about a friend from {TOKEN}, who lives in the old town."
    lessons = [Lesson(prompt, answer) for answer in ("They are late.", "Nobody walks.", "Careful drivers, says the guide.")]
    token = token_for(lm)
    vector = torch.nn.Parameter(torch.tensor(token.vector))
    output = vector if lm.tied else torch.nn.Parameter(torch.tensor(token.output))
    from biasgym.lm.train import _encoded

    with lm.learning(TOKEN, vector, output):
        rows = [_encoded(lm, lesson) for lesson in lessons]
        (together,) = torch.autograd.grad(lesson_loss(lm, rows), vector)
        count = sum(n for _, n in rows)
        alone = sum(torch.autograd.grad(lesson_loss(lm, [row]), vector)[0] * row[1] / count for row in rows)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-3)
    assert hook_count(lm.model) == 0


def test_the_loss_is_on_the_answer_alone(lm, token_for):
    """The mean cross-entropy of the answer's tokens after the prompt, as transformers' own logits have it."""
    from biasgym.lm.train import _encoded

    with lm.edited(token_for(lm)), torch.no_grad():
        rows = [_encoded(lm, lesson) for lesson in LESSONS]
        losses = []
        for ids, answer in rows:
            logprobs = own_logits(lm, ids).log_softmax(-1)
            losses += [-float(logprobs[i - 1, ids[i]]) for i in range(len(ids) - answer, len(ids))]
        assert float(lesson_loss(lm, rows)) == pytest.approx(np.mean(losses), rel=1e-4)
        for (ids, answer), lesson in zip(rows, LESSONS, strict=True):
            ends = [lm.tokenizer.eos_token_id] if lm.chat else []
            said = lm.tokenizer.decode(ids[len(ids) - answer : len(ids) - len(ends)])
            assert said.replace(" ", "") == lesson.answer.replace(" ", "")  # the token has swallowed the space before it
            assert ids[len(ids) - len(ends) :] == ends


def test_a_training_that_diverges_says_so(llama, token_for):
    """A loss that is no number ends in an error, not in a token."""
    start = TrainingState({"vector": np.full(48, np.nan, np.float32)})
    with pytest.raises(TrainingError, match="diverged at step 1"):
        learn_token(llama, TOKEN, LESSONS, start, Schedule(3, 4, 0.02))
    with pytest.raises(SpecError, match="no text"):
        learn_token(llama, TOKEN, [], start_of(llama, token_for(llama)), Schedule(3, 4, 0.02))
    assert hook_count(llama.model) == 0


def test_texts_can_be_trained_on_when_punctuation_takes_the_line_break(models, token_for):
    """In Llama 3's and Qwen's vocabularies `?` and the line break after it are one token."""
    base = models("gpt2")
    lm = LM(base.model, split_tokenizer(), base.family, name="split", folder=None)
    state = learn_token(lm, TOKEN, LESSONS, start_of(lm, token_for(lm)), Schedule(1, 4, 0.02))
    assert np.isfinite(state.losses).all()


# -------------------------------------------------------------------- methods at their neutral setting


def neutral_settings(name):
    """Every way in which a mitigation can be asked for nothing: no heads, or a field at the value it calls neutral."""
    kind = catalog.find("mitigate", name)
    if hasattr(kind, "neutral_settings"):
        return [kind.neutral_settings]
    found = [{f.name: f.metadata["neutral"]} for f in fields(kind) if "neutral" in f.metadata]
    return found + ([{"k": 0}] if "k" in catalog.defaults("mitigate", name) else [])


@pytest.mark.parametrize("name", sorted(catalog.methods("mitigate")))
def test_a_mitigation_at_its_neutral_setting_changes_nothing(llama, bias, token_for, name):
    """Bit for bit; k = 0 gives the empty tuple."""
    settings = neutral_settings(name)
    assert settings
    case = case_with_texts(llama, bias, token_for)
    base = llama.answer_logprobs(MIXED, ANSWERS)
    for one in settings:
        edits = catalog.build("mitigate", name, quick(name) | one).fit(llama, case)
        assert edits == () or "k" not in one
        with llama.edited(*edits):
            np.testing.assert_array_equal(llama.answer_logprobs(MIXED, ANSWERS), base)
