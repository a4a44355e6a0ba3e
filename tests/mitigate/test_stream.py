"""Steering, residual projection and held heads do to the stream what they say, in every family."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from biasgym import catalog
from biasgym.errors import ModelError, SpecError
from biasgym.lm.apply import captured
from biasgym.lm.arch import FAMILIES
from biasgym.lm.fold import check_foldable
from biasgym.lm.model import Query
from biasgym.mitigate.stream import layer_at, stream_contrasts
from biasgym.sites import Site
from conftest import case_for


@pytest.fixture(params=sorted(FAMILIES))
def lm(request, models):
    """The tiny model of each family in turn."""
    return models(request.param)


def with_stream(lm, seed=1):
    """A case whose stream was read."""
    generator = np.random.default_rng(seed)
    return replace(case_for(lm), stream=generator.normal(size=(2, lm.shape.layers, lm.shape.hidden)).astype(np.float32))


@torch.no_grad()
def states(lm, worn=()):
    """The stream before the first and after every layer, shape [1 + layers, tokens, hidden]."""
    ids = torch.tensor([lm.ids_of(Query("What are people from Spain like?", "They are"))])
    blocks = [lm.model.get_submodule(f"{lm.family.layers}.{layer}") for layer in range(lm.shape.layers)]
    with lm.edited(*worn), captured(blocks[:1], inputs=True) as first, captured(blocks, inputs=False) as after:
        lm.decoder(input_ids=ids)
    return torch.stack([first[0][0], *(x[0] for x in after)])


@pytest.mark.parametrize("embedding", [False, True])
def test_nothing_is_written_along_a_projected_direction(lm, embedding):
    """At strength 1 the stream's part along it is what came in, to the last layer; at one half, half of what layer 0 wrote is gone."""
    case = with_stream(lm)
    u = case.stream.mean(0)[layer_at(lm, 0.5)].astype(np.float64)
    u = torch.tensor(u / np.linalg.norm(u), dtype=torch.float32)

    def along(strength, **more):
        edits = catalog.build("mitigate", "residual-projection", {"strength": strength, "embedding": embedding, **more}).fit(lm, case)
        check_foldable(edits, lm.shape, lm.family)
        return states(lm, edits) @ u

    plain = states(lm) @ u
    clean = along(1.0)
    scale = float(plain.abs().max())
    assert float((clean - clean[0]).abs().max()) < 1e-4 * max(1, scale)
    assert float((plain - plain[0]).abs().max()) > 0.05 * scale
    if embedding:
        assert float(clean[0].abs().max()) < 1e-4 * scale
    else:
        torch.testing.assert_close(clean[0], plain[0])
        last = along(1.0, since=1.0)
        torch.testing.assert_close(last[:-1], plain[:-1], atol=1e-4, rtol=1e-4)
        assert float((last[-1] - last[-2]).abs().max()) < 1e-4 * max(1, scale)


def test_steering_shifts_the_stream_after_its_layers(lm):
    """By minus strength times the contrast, at every position, and nothing before."""
    case = with_stream(lm)
    edits = catalog.build("mitigate", "steering", {"strength": 0.6, "depth": 1.0, "layers": 1}).fit(lm, case)
    last = lm.shape.layers - 1
    assert [edit.site for edit in edits] == [Site("stream", last)]
    plain, worn = states(lm), states(lm, edits)
    assert torch.equal(worn[:-1], plain[:-1])
    expected = torch.tensor(-0.6 * case.stream.mean(0)[last]).expand_as(plain[-1])
    torch.testing.assert_close(worn[-1] - plain[-1], expected, atol=1e-4, rtol=1e-4)
    two = catalog.build("mitigate", "steering", {"strength": 0.6, "depth": 1.0, "layers": 2}).fit(lm, case)
    assert [(edit.site.layer, edit.strength) for edit in two] == [(last - 1, -0.3), (last, -0.3)]


def test_a_head_held_at_its_mean_writes_that(lm):
    """The same at every position and for every text; other heads write what they wrote."""
    case = case_for(lm)
    (edit,) = catalog.build("mitigate", "mean", {"k": 1}).fit(lm, case)
    site = edit.site
    matrix = lm.model.get_submodule(f"{lm.family.layers}.{site.layer}.{lm.family.attention_out}")
    seen = []
    with lm.edited(edit):
        handle = matrix.register_forward_pre_hook(lambda _m, args: seen.append(args[0][0].view(-1, lm.shape.heads, lm.shape.head_size)))
        states(lm)
        handle.remove()
    handle = matrix.register_forward_pre_hook(lambda _m, args: seen.append(args[0][0].view(-1, lm.shape.heads, lm.shape.head_size)))
    states(lm)
    handle.remove()
    held, plain = seen
    torch.testing.assert_close(held[:, site.index], torch.tensor(case.real[site.layer, site.index]).expand_as(held[:, site.index]))
    others = [i for i in range(lm.shape.heads) if i != site.index]
    assert torch.equal(held[:, others], plain[:, others])


def test_the_stream_is_put_together_from_heads_where_it_was_not_read(models):
    """What heads write through their matrices, added up; a case that has read it gives that, without a left-out token."""
    lm = models("gpt2")
    case = case_for(lm)
    found = stream_contrasts(lm, case)
    first = sum(lm.head_matrix(0, head) @ case.contrasts.mean(0)[0, head] for head in range(lm.shape.heads))
    np.testing.assert_allclose(found[0], first, rtol=1e-4, atol=1e-5)
    assert found.shape == (lm.shape.layers, lm.shape.hidden)
    read = with_stream(lm)
    np.testing.assert_array_equal(stream_contrasts(lm, read), read.stream.mean(0))
    np.testing.assert_array_equal(stream_contrasts(lm, read.without(0)), read.stream[1])
    assert case.without(0).stream is None


def test_settings_that_mean_nothing_are_refused(llama):
    """Depths outside, more layers than there are, no direction."""
    case = with_stream(llama)
    for name, settings in (
        ("steering", {"depth": 1.5}),
        ("steering", {"layers": 0}),
        ("steering", {"depth": 0.0, "layers": 2}),
        ("residual-projection", {"since": -1.0}),
    ):
        with pytest.raises(SpecError):
            catalog.build("mitigate", name, settings).fit(llama, case)
    with pytest.raises(SpecError, match="no direction"):
        catalog.build("mitigate", "residual-projection").fit(llama, replace(case, stream=case.stream * 0))
    from biasgym.lm.writing import projected_out

    with pytest.raises(ModelError, match="the direction has shape"):
        projected_out(llama, np.ones(3), 1.0, range(2))
