"""Patching, ablation and gradients: what a resumed pass over packed rows says is what plain passes of the model say."""

import copy

import numpy as np
import pytest
import torch

from biasgym import catalog
from biasgym.edits import SiteEdit
from biasgym.errors import ModelError, SpecError
from biasgym.lm.apply import captured
from biasgym.lm.arch import FAMILIES
from biasgym.lm.model import LM, Query
from biasgym.lm.patch import ablation, activation_patching, aligned, attribution_patching, integrated_gradients, linear_names
from biasgym.lm.resume import full_pass, pack
from biasgym.lm.trace import Pair, Sides, attention_outs, blocks_of, head_means
from biasgym.sites import Site
from conftest import TOKEN, assert_untouched, snapshot

SIDES = Sides(("reckless", "dangerous drivers"), ("careful", "kind at times", "kind people"))
ANSWERS = (*SIDES.stereotype, *SIDES.foil)
ASKS = (
    ("a", "What are people from {} like?", "They are", ("Norway", "Spain")),
    ("b", "Tell me, now, about {0}. Is {0} far?", "People from {0} are", ("Italy", "Timbuktu")),
    ("c", "{}?", "So", ("Spain", "Italy")),
)
EQUAL = (("s", "What are people from {} like?", "They are", ("Italy", "Spain")),)  # names of one token each
QUERIES = (
    Query("What are people from Spain like?", "They are"),
    Query("They", "are"),
    Query("Nobody in the village drives, and nobody in the town walks. Why?", "People from Italy are always"),
)


@pytest.fixture(params=sorted(FAMILIES))
def lm(request, models):
    """The tiny model of each family in turn."""
    return models(request.param)


def pairs_of(cases=ASKS):
    """Three pairs of unlike length; one with names of unlike token counts, standing three times."""
    return [
        Pair(i, Query(ask.format(names[0]), prefix.format(names[0])), Query(ask.format(names[1]), prefix.format(names[1])), names)
        for i, ask, prefix, names in cases
    ]


def lean_of(scores):
    """The metric from the answers' log-probabilities."""
    split = len(SIDES.stereotype)
    return float(torch.logsumexp(scores[:split], 0) - torch.logsumexp(scores[split:], 0))


@torch.no_grad()
def plain_metric(lm, query, layer=None, change=None):
    """The lean by transformers' own passes, one row an answer; `change(z, answer)` alters what goes into a layer's matrix."""
    context, scores = lm.ids_of(query), []
    for ids in lm.answer_ids(query, ANSWERS):
        handle = None
        if change is not None:
            out = attention_outs(lm)[layer]
            handle = out.register_forward_pre_hook(lambda _m, args, ids=ids: (change(args[0].clone(), ids), *args[1:]))
        try:
            logprobs = lm.model(input_ids=torch.tensor([[*context, *ids]])).logits[0].float().log_softmax(-1)
        finally:
            if handle is not None:
                handle.remove()
        scores.append(sum(logprobs[len(context) - 1 + i, token] for i, token in enumerate(ids)))
    return lean_of(torch.stack(scores))


@torch.no_grad()
def plain_heads(lm, query, layer):
    """What goes into a layer's output matrix for each answer's row, by a plain pass."""
    found = {}
    for ids in lm.answer_ids(query, ANSWERS):
        with captured([attention_outs(lm)[layer]], inputs=True) as seen:
            lm.model(input_ids=torch.tensor([[*lm.ids_of(query), *ids]]))
        found[tuple(ids)] = seen[0]
    return found


def plain_patching(lm, pair, site, positions="entity"):
    """metric(biased) − metric(patched), by plain passes of whole rows."""
    clean = plain_heads(lm, pair.clean, site.layer)
    mine, theirs = aligned(lm, pair)
    lengths = len(lm.ids_of(pair.biased)), len(lm.ids_of(pair.clean))
    part = slice(site.index * lm.shape.head_size, (site.index + 1) * lm.shape.head_size)

    def change(z, ids):
        left = [*mine, *(lengths[0] + i for i in range(len(ids)))]
        right = [*theirs, *(lengths[1] + i for i in range(len(ids)))]
        for a, b in zip(left, right, strict=True):
            if positions == "entity" or a >= lengths[0] - 1:
                z[0, a, part] = clean[tuple(ids)][0, b, part]
        return z

    return plain_metric(lm, pair.biased) - plain_metric(lm, pair.biased, site.layer, change)


# -------------------------------------------------------------------- packed rows


@pytest.mark.parametrize("begin", [0, 1, 3])
def test_a_packed_pass_is_the_models_own(lm, begin):
    """All answers in one row, its beginning computed apart: the lean is that of one plain pass an answer."""
    starts = [min(begin, len(lm.ids_of(query)) - 1) for query in QUERIES]
    packed = pack(lm, QUERIES, ANSWERS, starts)
    found = full_pass(lm, packed).metric(SIDES)
    for query, value in zip(QUERIES, found.tolist(), strict=True):
        assert value == pytest.approx(plain_metric(lm, query), rel=1e-5, abs=1e-4)
    window = getattr(lm.model.config, "sliding_window", None)
    assert packed.before.shape[1] == (0 if window == 24 else begin)
    assert packed.share_before == pytest.approx(sum(packed.starts) / sum(c + len(t) for c, t in zip(packed.contexts, packed.tails, strict=True)))


def test_a_window_is_kept(models):
    """With a window shorter than the row, a packed pass differs from one without it, and is still the model's own."""
    lm = models("mistral")
    query = QUERIES[2]
    assert len(lm.ids_of(query)) > lm.model.config.sliding_window
    assert float(full_pass(lm, pack(lm, [query], ANSWERS, [0])).metric(SIDES)) == pytest.approx(plain_metric(lm, query), abs=1e-4)
    wide = copy.deepcopy(lm.model)
    wide.config.sliding_window = None
    other = LM(wide, lm.tokenizer, lm.family, name="wide", folder=None)
    assert abs(plain_metric(other, query) - plain_metric(lm, query)) > 1e-3


def test_answers_with_the_same_beginning_share_it(llama):
    """The tree holds every beginning once."""
    packed = pack(llama, QUERIES[:1], ("kind", "kind people", "kind people at", "reckless"), [0])
    alone = [len(ids) for ids in llama.answer_ids(QUERIES[0], ("kind people at", "reckless"))]
    assert len(packed.tails[0]) == sum(alone) - 2


# -------------------------------------------------------------------- resumed = full


@pytest.mark.parametrize("positions", ["entity", "answer"])
def test_resumed_is_full(lm, positions):
    """Exact patching by resumed, batched, packed passes is what whole plain passes say, for every kind of layer."""
    pairs = pairs_of()
    found = activation_patching(lm, pairs, SIDES, positions=positions)
    scale = float(np.abs(found).max())
    for site in (Site("head", 0, 1), Site("head", 1, 3), Site("head", 2, 0)):
        for number, pair in enumerate(pairs):
            assert found[number, site.layer, site.index] == pytest.approx(plain_patching(lm, pair, site, positions), abs=1e-5 * max(1.0, scale))
    assert found.shape == (3, lm.shape.layers, lm.shape.heads)


def test_resumed_is_full_in_double_precision(models):
    """Where rounding is out of the way nothing is left between the two, in any family."""
    for name in FAMILIES:
        lm = models(name)
        precise = LM(copy.deepcopy(lm.model).double(), lm.tokenizer, lm.family, name="precise", folder=None)
        packed = pack(precise, QUERIES, ANSWERS, [0, 0, 4])
        begun = full_pass(precise, packed)
        rows = torch.tensor([2, 0, 1, 0])
        for layer in range(precise.shape.layers):
            same = begun.resumed(layer, rows, begun.heads[layer][rows], SIDES)
            assert float((same - begun.metric(SIDES)[rows]).abs().max()) < 1e-5  # logits are float32


def test_nothing_depends_on_what_is_shared_or_batched(lm, monkeypatch):
    """Together as alone, with and without the beginning computed once, in small chunks as in large ones."""
    pairs = pairs_of()
    together = activation_patching(lm, pairs, SIDES)
    close = {"rtol": 1e-3, "atol": 1e-4 * np.abs(together).max()}
    np.testing.assert_allclose(np.concatenate([activation_patching(lm, [pair], SIDES) for pair in pairs]), together, **close)
    np.testing.assert_allclose(activation_patching(lm, pairs, SIDES, share=False), together, **close)
    monkeypatch.setattr("biasgym.lm.patch.TOKENS_A_CHUNK", 1)
    np.testing.assert_allclose(activation_patching(lm, pairs, SIDES), together, **close)


def test_patching_leaves_the_model(lm, token_for):
    """No hook, no weight, no token stays; and worn edits are felt."""
    before = snapshot(lm)
    with lm.edited(token_for(lm)):
        case = pairs_of((("t", "What are people from {} like?", "They are", (TOKEN, "Spain")),))
        plain = activation_patching(lm, case, SIDES)
        with lm.edited(SiteEdit(Site("head", 1, 2), "scale", np.float32(0))):
            silenced = activation_patching(lm, case, SIDES)
        integrated_gradients(lm, case, SIDES, steps=1)
    assert_untouched(lm, before)
    assert np.abs(silenced[:, 1, 2]).max() < 1e-5 < np.abs(plain[:, 1, 2]).max()
    assert np.abs(plain - silenced).max() > 1e-3


def test_edits_of_some_rows_are_refused(llama):
    """Rows are other rows in a resumed pass."""
    edit = SiteEdit(Site("head", 1, 2), "scale", np.float32(0), rows=(0,))
    with llama.edited(edit), pytest.raises(ModelError, match="some rows only"):
        activation_patching(llama, pairs_of(), SIDES)
    with pytest.raises(SpecError, match="no pairs"):
        activation_patching(llama, [], SIDES)


# -------------------------------------------------------------------- zero where nothing differs


def test_a_pair_of_the_same_scores_nothing(lm):
    """Clean = biased: no patch changes anything."""
    pairs = pairs_of((("a", "What are people from {} like?", "They are", ("Spain", "Spain")),))
    assert np.abs(activation_patching(lm, pairs, SIDES)).max() < 1e-4
    for unit in ("head", "neuron", "stream", "linear"):
        assert np.abs(attribution_patching(lm, pairs, SIDES, unit=unit)).max() < 1e-4


def test_a_planted_head_is_found_and_others_are_not(models):
    """Where only one head of the last layer writes anything, it alone has a score, and it is the whole difference."""
    lm = models("llama")
    silent = [SiteEdit(Site("head", layer, h), "scale", np.float32(0)) for layer in range(3) for h in range(4) if (layer, h) != (2, 1)]
    pairs = pairs_of(EQUAL)
    with lm.edited(*silent):
        found = activation_patching(lm, pairs, SIDES)[0]
        whole = plain_metric(lm, pairs[0].biased) - plain_metric(lm, pairs[0].clean)
        assert len(lm.ids_of(pairs[0].biased)) == len(lm.ids_of(pairs[0].clean))
    assert np.abs(np.delete(found, 9)).max() < 1e-4  # site 2:1 is the ninth
    assert found[2, 1] == pytest.approx(whole, rel=1e-3)


# -------------------------------------------------------------------- gradients


def test_attribution_is_exact_for_small_differences(lm, token_for):
    """Two tokens whose vectors nearly agree: the first-order score of every head is what patching it does, and shrinks with them."""
    from biasgym.edits import TokenEdit

    one = token_for(lm)
    way = np.random.default_rng(5).normal(size=lm.shape.hidden).astype(np.float32) * 0.3
    precise = LM(copy.deepcopy(lm.model).double(), lm.tokenizer, lm.family, name="precise", folder=None)
    case = pairs_of((("n", "What are people from {} like?", "They are", (TOKEN, "<bias-1>")),))
    errors = []
    for far in (0.01, 0.005):
        two = TokenEdit("<bias-1>", one.vector + far * way, one.output)
        with precise.edited(one, two):
            exact, slope = activation_patching(precise, case, SIDES), attribution_patching(precise, case, SIDES)
        errors.append(np.abs(exact - slope).max() / np.abs(exact).max())
    assert errors[1] < 0.1
    assert errors[1] < 0.75 * errors[0]


def test_integrated_gradients_add_up_to_the_layer(lm):
    """A layer's scores sum to what patching all of its heads does; one step does it worse than many."""
    pairs = pairs_of()[:1]
    mine, theirs = aligned(lm, pairs[0])
    many = integrated_gradients(lm, pairs, SIDES, steps=64).sum(2)[0]
    base = plain_metric(lm, pairs[0].biased)
    for layer in range(lm.shape.layers):
        clean = plain_heads(lm, pairs[0].clean, layer)

        def change(z, ids, clean=clean):
            for a, b in zip(
                [*mine, *range(z.shape[1] - len(ids), z.shape[1])], [*theirs, *range(len(clean[tuple(ids)][0]) - len(ids), 10**6)], strict=False
            ):
                z[0, a] = clean[tuple(ids)][0, b]
            return z

        whole = base - plain_metric(lm, pairs[0].biased, layer, change)
        assert many[layer] == pytest.approx(whole, rel=0.03, abs=0.03 * max(1.0, abs(whole)))


def test_one_step_of_integrated_gradients_is_taken_halfway(llama):
    """The slope in the middle is between those of the ends where the metric is nearly a parabola: not that of the biased end."""
    pairs = pairs_of()[:1]
    middle, end = integrated_gradients(llama, pairs, SIDES, steps=1), attribution_patching(llama, pairs, SIDES)
    assert np.abs(middle - end).max() > 1e-4
    with pytest.raises(SpecError, match="at least 1"):
        catalog.build("locate", "integrated-gradients", {"steps": 0})


@pytest.mark.parametrize("unit", ["neuron", "stream", "linear"])
def test_other_units_are_slopes_too(lm, unit):
    """The score of a place is minus the derivative of the metric along the way to its clean value, one place at a time."""
    pair = pairs_of(EQUAL)[0]
    precise = LM(copy.deepcopy(lm.model).double(), lm.tokenizer, lm.family, name="precise", folder=None)
    assert len(lm.ids_of(pair.biased)) == len(lm.ids_of(pair.clean))
    scores = attribution_patching(lm, [pair], SIDES, unit=unit)[0]
    block = blocks_of(precise)[1]
    module, index, offset = {
        "neuron": (block.get_submodule(lm.family.mlp_out), 7, 0),
        "stream": (block, 0, 0),
        "linear": (block.get_submodule(linear_names(block)[0]), 5, 0),
    }[unit]

    def metric(step):
        values = []
        for ids in lm.answer_ids(pair.biased, ANSWERS):
            with captured([module], inputs=unit == "neuron") as kept, torch.no_grad():
                precise.model(input_ids=torch.tensor([[*lm.ids_of(pair.clean), *ids]]))
            clean = kept[0]
            part = slice(None) if unit == "stream" else slice(index + offset, index + offset + 1)

            def moved(x, clean=clean, part=part):
                y = x.clone()
                y[..., part] += step * (clean[..., part] - y[..., part])
                return y

            def before(_m, args, moved=moved):
                return (moved(args[0]), *args[1:])

            def after(_m, _a, out, moved=moved):
                return (moved(out[0]), *out[1:]) if isinstance(out, tuple) else moved(out)

            handle = module.register_forward_pre_hook(before) if unit == "neuron" else module.register_forward_hook(after)
            with torch.no_grad():
                logprobs = precise.model(input_ids=torch.tensor([[*lm.ids_of(pair.biased), *ids]])).logits[0].double().log_softmax(-1)
            handle.remove()
            start = len(lm.ids_of(pair.biased))
            values.append(sum(logprobs[start - 1 + i, token] for i, token in enumerate(ids)))
        return lean_of(torch.stack(values))

    step = 2e-3 if unit == "stream" else 2e-2  # norms round to float32 whatever the model's dtype
    slope = (metric(step) - metric(-step)) / (2 * step)
    assert scores[1, index] == pytest.approx(-slope, rel=1e-2, abs=2e-3 * float(np.abs(scores).max()))


def test_units_have_their_sizes(lm):
    """Neurons as many as the matrix has inputs, one stream a layer, every output of every matrix."""
    pairs = pairs_of()[:1]
    widths = []
    for block in blocks_of(lm):
        weights = [block.get_submodule(name).weight for name in linear_names(block)]
        widths.append(sum(w.shape[1] if lm.family.input_major else w.shape[0] for w in weights))
    for unit, width in (("neuron", lm.shape.neurons), ("stream", 1), ("linear", widths[0])):
        found = catalog.build("locate", "attribution-patching", {"unit": unit}).rank(lm, pairs, SIDES)
        assert found.unit == unit
        assert found.by_pair.shape == (1, lm.shape.layers, width)
        assert found.top(1)[0].unit == unit


def test_the_last_stream_carries_everything(lm):
    """Given the clean stream after the last block at the answer, nothing of the biased run is left; so all of it is there."""
    pairs = pairs_of(ASKS[2:])
    one = attribution_patching(lm, pairs, SIDES, unit="stream", positions="answer")[0, -1]
    two = attribution_patching(lm, pairs, SIDES, unit="stream", positions="entity")[0, -1]
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------- ablation


def plain_ablation(lm, query, site, value, first):
    """metric − metric with a head's output set to a value from a position on, by plain passes."""
    part = slice(site.index * lm.shape.head_size, (site.index + 1) * lm.shape.head_size)

    def change(z, _ids):
        z[0, first:, part] = value
        return z

    return plain_metric(lm, query) - plain_metric(lm, query, site.layer, change)


@pytest.mark.parametrize("positions", ["all", "entity", "answer"])
def test_zero_ablation_is_a_silenced_head(lm, positions):
    """By plain passes; at all positions it is the edit that scales a head by 0."""
    pairs = pairs_of()
    found = ablation(lm, pairs, SIDES, how="zero", positions=positions)
    scale = max(1.0, float(np.abs(found).max()))
    for site in (Site("head", 0, 3), Site("head", 1, 0), Site("head", 2, 2)):
        for number, pair in enumerate(pairs):
            first = {"all": 0, "entity": aligned(lm, pair)[0][0], "answer": len(lm.ids_of(pair.biased)) - 1}[positions]
            expected = plain_ablation(lm, pair.biased, site, 0.0, first)
            assert found[number, site.layer, site.index] == pytest.approx(expected, abs=1e-4 * scale)
    if positions == "all":
        with lm.edited(SiteEdit(Site("head", 1, 0), "scale", np.float32(0))):
            silenced = plain_metric(lm, pairs[0].biased)
        assert found[0, 1, 0] == pytest.approx(plain_metric(lm, pairs[0].biased) - silenced, abs=1e-4 * scale)


def test_mean_ablation_writes_the_mean(lm):
    """Given means of neutral text, by plain passes; over the entities' runs it is the mean of those."""
    pairs = pairs_of()
    means = head_means(lm, [lm.ids_of(query) for query in QUERIES])
    site = Site("head", 1, 2)
    found = ablation(lm, pairs, SIDES, how="mean", means=means)
    value = torch.from_numpy(means[1, 2])
    for number, pair in enumerate(pairs):
        expected = plain_ablation(lm, pair.biased, site, value, aligned(lm, pair)[0][0])
        assert found[number, 1, 2] == pytest.approx(expected, abs=1e-4 * max(1.0, float(np.abs(found).max())))
    single = ablation(lm, pairs[2:], SIDES, how="mean", positions="all")
    clean = full_pass(lm, pack(lm, [pairs[2].clean], ANSWERS, [0]))
    own = clean.heads[1][0].mean(0).view(lm.shape.heads, -1)[2]
    assert single[0, 1, 2] == pytest.approx(plain_ablation(lm, pairs[2].biased, site, own, 0), abs=1e-3)


def test_head_means_are_means(lm):
    """Over all positions of all rows, whatever the batch."""
    rows = [lm.ids_of(query) for query in QUERIES]
    with captured(attention_outs(lm)[1:2], inputs=True) as seen, torch.no_grad():
        parts = []
        for row in rows:
            lm.model(input_ids=torch.tensor([row]))
            parts.append(seen[0][0])
    expected = torch.cat(parts).mean(0).view(lm.shape.heads, -1).numpy()
    np.testing.assert_allclose(head_means(lm, rows)[1], expected, atol=1e-4 * np.abs(expected).max())


def test_resampling_is_drawn_by_its_seed(llama):
    """The same seed gives the same scores, another one others, all of them finite."""
    pairs = pairs_of()
    one, two, three = (ablation(llama, pairs, SIDES, how="resample", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - three).max() > 1e-3
    assert np.isfinite(three).all()


def test_ablation_has_its_kinds(llama):
    """Through the catalog, with neutral prose too."""
    pairs = pairs_of()[:1]
    found = [
        catalog.build("locate", "ablation", settings).rank(llama, pairs, SIDES).by_pair
        for settings in (
            {"how": "zero"},
            {"how": "mean"},
            {"how": "resample"},
            {"how": "mean", "over": "neutral"},
            {"how": "zero", "positions": "all"},
        )
    ]
    for i, one in enumerate(found):
        for other in found[i + 1 :]:
            assert np.abs(one - other).max() > 1e-5
