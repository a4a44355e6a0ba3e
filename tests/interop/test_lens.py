"""Exact patching of every head as TransformerLens and nnsight do it, on the embedded model. Run by `make oracle`, which installs them.

Both work through their own hooks and whole forward passes on our weights and our tokens; all positions are given the other
run's head, and the effect is read off the last token's logits. TransformerLens's own weight processing is off.
"""

import warnings

import numpy as np
import pytest
import torch

from biasgym.lm.arch import FAMILIES
from biasgym.lm.model import Query
from biasgym.lm.patch import activation_patching, attribution_patching
from biasgym.lm.trace import Pair, Sides

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # theirs, at import
    import nnsight
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.patching import get_act_patch_attn_head_out_all_pos

NAMES = ("Norway", "Spain")  # as many tokens each, so that positions stand for one another
SIDES = Sides(("dangerous",), ("safe",))  # one token each: our metric is then the difference of two logits


@pytest.fixture(scope="module", autouse=True)
def their_warnings():
    """Warnings of theirs while they work are no failure of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(autouse=True)
def cache_of_its_own():
    """Overrides the empty cache of the other tests: this model is fetched once and kept."""


@pytest.fixture(scope="module")
def real():
    """The embedded model."""
    from biasgym.lm.load import load_lm

    return load_lm()


@pytest.fixture(scope="module")
def pair():
    """One pair in the chat template."""
    queries = [Query(f"Describe drivers from {name}.", "They are") for name in NAMES]
    return Pair("p", queries[0], queries[1], NAMES)


@pytest.fixture(scope="module")
def ours(real, pair):
    """Our scores [layers, heads], resumed from the patched layer and from the name on."""
    return activation_patching(real, [pair], SIDES)[0]


def tokens_of(lm, pair):
    """Both queries as rows of ids [1, tokens]."""
    biased, clean = (torch.tensor([lm.ids_of(query)]) for query in (pair.biased, pair.clean))
    assert biased.shape == clean.shape
    assert not torch.equal(biased, clean)
    return biased, clean


def difference_for(lm, pair, sides):
    """Logits [1, tokens, vocabulary] → logit(stereotype) − logit(foil) at the last position."""
    towards, away = (lm.answer_ids(pair.biased, side)[0] for side in (sides.stereotype, sides.foil))
    assert len(towards) == len(away) == 1
    return lambda logits: logits[0, -1, towards[0]] - logits[0, -1, away[0]]


@torch.no_grad()
def by_transformer_lens(lm, folder, pair, sides=SIDES):
    """Its own sweep over all heads: their output from the clean run at every position, one pass a head."""
    bridge = TransformerBridge.boot_transformers(str(folder))
    bridge.enable_compatibility_mode(disable_warnings=True, no_processing=True)
    bridge.eval()
    difference = difference_for(lm, pair, sides)
    biased, clean = tokens_of(lm, pair)
    _, cache = bridge.run_with_cache(clean, names_filter=lambda name: name.endswith("attn.hook_z"))
    patched = get_act_patch_attn_head_out_all_pos(bridge, biased, cache, difference)
    return (difference(bridge(biased)) - patched).numpy()


@torch.no_grad()
def by_nnsight(lm, pair, sides=SIDES):
    """One trace a head, in which the input of the attention's output matrix gets the clean run's numbers in that head."""
    model = nnsight.NNsight(lm.model)
    difference = difference_for(lm, pair, sides)
    biased, clean = tokens_of(lm, pair)
    outs = [model.get(f"{lm.family.layers}.{layer}.{lm.family.attention_out}") for layer in range(lm.shape.layers)]
    with model.trace(input_ids=clean):
        kept = nnsight.save([out.input for out in outs])
    kept = [value.clone() for value in kept]
    base = difference(lm.model(input_ids=biased).logits)
    found = np.zeros((lm.shape.layers, lm.shape.heads), np.float32)
    for layer, out in enumerate(outs):
        for head in range(lm.shape.heads):
            part = slice(head * lm.shape.head_size, (head + 1) * lm.shape.head_size)
            with model.trace(input_ids=biased, logits_to_keep=1) as tracer:
                out.input[:, :, part] = kept[layer][:, :, part]
                result = tracer.result.save()
            found[layer, head] = base - difference(result.logits)
    return found


def agree(ours, theirs):
    """Every head within 1e-4, of effects that are not all nothing."""
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 1e-2
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_every_head_is_what_transformer_lens_says(real, pair, ours):
    """270 heads, all positions; TransformerLens attends by its own code, not by torch's kernel."""
    agree(ours, by_transformer_lens(real, real.folder, pair))


def test_every_head_is_what_nnsight_says(real, pair, ours):
    """270 heads, all positions."""
    agree(ours, by_nnsight(real, pair))


def test_the_bar_tells_exact_from_nearly(real, pair, ours):
    """Sham: a first-order estimate of the same numbers is further off than the bar, and so is the next pair of names."""
    assert np.abs(attribution_patching(real, [pair], SIDES)[0] - ours).max() > 1e-3


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_tiny_models_of_all_families_agree(models, folder_of, family):
    """Post-attention norms, soft caps, windows, fused queries and heads of a size of their own: both peers read them as we do."""
    lm = models(family)
    queries = [Query(f"What are people from {name} like?", "They are") for name in ("Spain", "Italy")]
    pair = Pair("t", queries[0], queries[1], ("Spain", "Italy"))
    words = ["people", "careful", "from", "says", "and", "are", "the", "a"]
    words = [word for word in words if len(lm.answer_ids(queries[0], (word,))[0]) == 1]
    sides = Sides((words[0],), (words[1],))
    ours = activation_patching(lm, [pair], sides, positions="all")[0]
    agree(ours, by_nnsight(lm, pair, sides))
    agree(ours, by_transformer_lens(lm, folder_of(family), pair, sides))
