"""Projection of what is linearly readable: a probe on held-out text falls to chance, under random directions it does not."""

from dataclasses import replace

import numpy as np
import pytest

from biasgym.edits import SiteEdit
from biasgym.errors import ModelError, SpecError
from biasgym.lm.fold import check_foldable
from biasgym.lm.model import Query
from biasgym.lm.subspace import (
    linear_probe,
    nullspace_rows,
    pair_components,
    probe_accuracy,
    random_rows,
    text_states,
    without,
)  # fmt: skip
from biasgym.mitigate.inlp_projection import InlpProjection, kept_templates
from biasgym.mitigate.texts import groups, moulds, sentences, twins
from conftest import assert_untouched, case_for, case_with_texts, snapshot


def clouds(count=200, size=30, directions=2, seed=0):
    """Two classes that differ along a few directions, with noise everywhere."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(9).normal(size=(size, directions)))[0].T
    labels = generator.integers(2, size=count)
    shift = np.outer(labels * 2 - 1, np.arange(1, directions + 1)) @ basis
    return generator.normal(size=(count, size)) + 2 * shift, labels, basis


def test_a_probe_is_the_logistic_optimum():
    """The gradient of the penalised loss is zero there, and held-out points are told apart."""
    x, y, _ = clouds()
    direction, intercept = linear_probe(x, y)
    p = 1 / (1 + np.exp(-(x @ direction + intercept)))
    spread = x.std()
    gradient = ((x - x.mean(0)) / spread).T @ (p - y) + 0.01 * len(x) * direction * spread
    assert np.abs(gradient).max() < 1e-5
    held, labels, _ = clouds(seed=1)
    assert probe_accuracy(x, y, held, labels) > 0.95
    with pytest.raises(SpecError, match="both kinds"):
        linear_probe(x, np.ones(len(x)))


def test_iterated_nullspaces_by_hand():
    """Rows are orthonormal; one class axis is found and emptied; on fresh points nothing is left, under random rows all is."""
    x, y, basis = clouds()
    rows = nullspace_rows(x, y, 6)
    np.testing.assert_allclose(rows @ rows.T, np.eye(6), atol=1e-9)
    assert np.linalg.norm(rows @ basis.T) > 0.95 * 1.0
    held, labels, _ = clouds(400, seed=1)
    assert abs(probe_accuracy(without(x, rows), y, without(held, rows), labels) - 0.5) < 0.1
    sham = random_rows(30, 6, 0)
    np.testing.assert_allclose(sham @ sham.T, np.eye(6), atol=1e-9)
    assert probe_accuracy(without(x, sham), y, without(held, sham), labels) > 0.9
    assert nullspace_rows(x, y, 0).shape == (0, 30)


def test_the_components_of_pairs_by_hand():
    """Pairs that differ along one axis, in either order: that axis comes first, whatever their means are."""
    generator = np.random.default_rng(0)
    middle, axis = generator.normal(size=(40, 8)) * 5, np.eye(8)[2]
    size = generator.uniform(1, 2, size=(40, 1)) * generator.choice([-1, 1], size=(40, 1))
    rows = pair_components(middle + size * axis, middle - size * axis, 3)
    assert rows.shape == (1, 8)
    assert abs(float(rows[0] @ axis)) == pytest.approx(1)
    with pytest.raises(SpecError, match="pairs"):
        pair_components(middle, middle[:3], 1)


def test_states_are_means_over_a_texts_tokens(llama):
    """Of the stream after the layer, whatever stands beside the text in its batch."""
    import torch

    texts = ["People from Spain are careful.", "Nobody in the village drives, and nobody walks."]
    found = text_states(llama, texts, 1)
    seen = []
    handle = llama.model.get_submodule("model.layers.1").register_forward_hook(
        lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    for text in texts:
        with torch.no_grad():
            llama._decoder(input_ids=torch.tensor([llama.text_ids(text)]))
    handle.remove()
    for row, states in zip(found, seen, strict=True):
        np.testing.assert_allclose(row, states.reshape(-1, states.shape[-1]).mean(0), atol=1e-4)


@pytest.mark.parametrize("how", ["inlp", "sentence-debias"])
def test_a_probe_on_held_out_text_falls_to_chance(llama, bias, token_for, how):
    """Fitted on some templates, probed on others, with the edit worn; random directions of equal rank leave it readable."""
    tokens = tuple(replace(token, vector=token.vector * 40) for token in case_with_texts(llama, bias, token_for).tokens)
    case = replace(case_for(llama), bias=bias, tokens=tokens)  # tokens that stand out, so that there is something to read
    (edit,) = InlpProjection(rounds=8, depth=0.0, texts=120, how=how).fit(llama, case)
    layer = edit.site.layer
    names = groups(case, "inlp-projection")
    parts = {part: twins(bias, *names, 120, 1, templates=kept_templates(bias, part)) for part in ("train", "test")}

    def readable(*worn):
        with llama.edited(*case.tokens, *worn):
            found = {part: [text_states(llama, [pair[i] for pair in pairs], layer) for i in (0, 1)] for part, pairs in parts.items()}
        data = {part: (np.concatenate(both), np.repeat([1, 0], [len(both[0]), len(both[1])])) for part, both in found.items()}
        return probe_accuracy(*data["train"], *data["test"])

    sham = SiteEdit(edit.site, "project", random_rows(llama.shape.hidden, len(edit.value), 0).astype(np.float32))
    assert readable() > 0.75
    assert readable(sham) > 0.75
    assert readable(edit) < 0.6


def test_templates_of_the_probe_are_not_those_of_the_fit(bias):
    """Cut by hash; together they are all."""
    train, test = (kept_templates(bias, part) for part in ("train", "test"))
    assert train
    assert test
    assert not set(train) & set(test)
    assert sorted(train + test) == sorted(moulds(bias))


def test_twins_differ_in_the_name_alone(bias):
    """And every name and side gets its share of sentences."""
    pairs = twins(bias, ["Aland", "Bland"], ["Spain", "Italy"], 20, 0)
    assert len(pairs) == 20
    for a, b in pairs:
        name = "Aland" if "Aland" in a else "Bland"
        assert a.replace(name, "X") == b.replace("Spain", "X").replace("Italy", "X")
    made = sentences(bias, ["Aland", "Bland"], ("stereotype", "foil"), 20, 0)
    shares = [sum((one.name, one.side) == key for one in made) for key in dict.fromkeys((one.name, one.side) for one in made)]
    assert shares == [5, 5, 5, 5]


def test_off_is_off_and_it_does_not_fold(llama, bias, token_for):
    """Strength 0, no rounds; the stream between layers is no matrix; groups are needed."""
    case = case_with_texts(llama, bias, token_for)
    query = Query("What are people from Spain like?", "They are")
    before, base = snapshot(llama), llama.answer_logprobs([query], ["kind", "late"])
    edits = InlpProjection(texts=12).fit(llama, case)
    with llama.edited(*edits):
        assert np.abs(llama.answer_logprobs([query], ["kind", "late"]) - base).max() > 1e-4
    for none in (InlpProjection(texts=12, strength=0.0).fit(llama, case), InlpProjection(rounds=0).fit(llama, case)):
        with llama.edited(*none):
            np.testing.assert_array_equal(llama.answer_logprobs([query], ["kind", "late"]), base)
    assert_untouched(llama, before)
    with pytest.raises(ModelError, match="not a change of one matrix"):
        check_foldable(edits, llama.shape)
    with pytest.raises(SpecError, match="one group only"):
        InlpProjection().fit(llama, replace(case, tokens=()))
    with pytest.raises(SpecError, match="reads the bias's texts"):
        InlpProjection().fit(llama, case_for(llama))
