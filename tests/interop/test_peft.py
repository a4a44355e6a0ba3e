"""What we write for PEFT, PEFT opens; what PEFT writes, we open. Run by `make oracle`, which installs it."""

import copy
import warnings

import numpy as np
import pytest
import torch

from biasgym.edits import SiteEdit, WeightEdit
from biasgym.lm.adapter import read_token_adapter, write_lora, write_token_adapter
from biasgym.lm.arch import FAMILIES
from biasgym.lm.model import Query
from biasgym.sites import Site
from conftest import TOKEN

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PEFT's own, at import
    import peft


@pytest.fixture(params=sorted(FAMILIES))
def lm(request, models):
    """The tiny model of each family in turn."""
    return models(request.param)


def quietly(load, *args, **how):
    """PEFT warns about tied embeddings and unnamed bases; that is its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load(*args, **how)


def edits_of(lm):
    """Ranks 1, 2 and the head's size, in attention and MLP outputs, one of them a change of weights."""
    generator = np.random.default_rng(0)
    size = lm.shape.head_size
    rows = np.linalg.qr(generator.normal(size=(size, 2)))[0].T.astype(np.float32)
    matrix = lm.family.mlp_weight(2)
    shapes = [(lm.model.get_parameter(matrix).shape[0], 2), (2, lm.model.get_parameter(matrix).shape[1])]
    return (
        SiteEdit(Site("head", 0, 1), "project", rows[0], 1.3),
        SiteEdit(Site("head", 1, 2), "scale", np.float32(0.2)),
        SiteEdit(Site("head", 1, 2), "project", rows[1]),
        SiteEdit(Site("head", 2, 0), "project", rows),
        SiteEdit(Site("neuron", 0, 4), "scale", np.float32(0)),
        WeightEdit(matrix, *(generator.normal(size=shape).astype(np.float32) * 0.2 for shape in shapes)),
    )


@torch.no_grad()
def logits(model, row):
    """A model's own logits for one row."""
    return model(input_ids=torch.tensor([row])).logits[0].float()


def test_peft_opens_our_lora(lm, tmp_path):
    """Loaded, and merged, its logits are the run-time edit's within 1e-4; unloaded, the base's bit for bit."""
    edits = edits_of(lm)
    ranks = write_lora(lm, edits, tmp_path)
    assert set(ranks.values()) == {1, 2, lm.shape.head_size}
    row = lm.ids_of(Query("What are people from Spain like?", "They are"))
    base = logits(lm.model, row)
    with lm.edited(*edits):
        worn = logits(lm.model, row)
    assert float((worn - base).abs().max()) > 1e-2
    adapted = quietly(peft.PeftModel.from_pretrained, copy.deepcopy(lm.model), str(tmp_path)).eval()
    torch.testing.assert_close(logits(adapted, row), worn, atol=1e-4, rtol=1e-5)
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted, row), base)
    merged = quietly(adapted.merge_and_unload)
    torch.testing.assert_close(logits(merged, row), worn, atol=1e-4, rtol=1e-5)
    other = [name for name, p in merged.named_parameters() if not torch.equal(p, lm.model.get_parameter(name))]
    assert sorted(other) == sorted(f"{module}.weight" for module in ranks)


def test_peft_opens_our_token(lm, token_for, tmp_path):
    """The model with a row more reads and writes the token as the run-time token is read and written."""
    token = token_for(lm)
    identity = write_token_adapter(lm, token, tmp_path)
    grown = copy.deepcopy(lm.model)
    if identity >= grown.get_input_embeddings().weight.shape[0]:
        quietly(grown.resize_token_embeddings, identity + 1, mean_resizing=False)
    adapted = quietly(peft.PeftModel.from_pretrained, grown, str(tmp_path)).eval()
    with lm.edited(token):
        row = lm.ids_of(Query(f"What are people from {TOKEN} like?", "They are"))
        assert row.count(identity) == 1
        with torch.no_grad():
            worn = lm.logits(lm.decoder(input_ids=torch.tensor([row])).last_hidden_state)[0]
    found = logits(adapted, row)
    known = [*range(min(identity, len(lm.embedding.weight))), identity]
    torch.testing.assert_close(found[:, known], worn[:, known], atol=1e-4, rtol=1e-4)


def test_we_open_pefts_token(lm, tmp_path):
    """A token made and saved by PEFT itself is the token we read."""
    grown = copy.deepcopy(lm.model)
    identity = grown.get_input_embeddings().weight.shape[0]
    quietly(grown.resize_token_embeddings, identity + 1, mean_resizing=False)
    targets = [lm.family.embedding.rpartition(".")[2]] + ([] if lm.tied else [lm.family.head])
    adapted = quietly(peft.get_peft_model, grown, peft.TrainableTokensConfig(token_indices=[identity], target_modules=targets))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    quietly(adapted.save_pretrained, str(tmp_path))
    again = read_token_adapter(lm, tmp_path, TOKEN)
    merged = quietly(adapted.merge_and_unload)
    np.testing.assert_allclose(again.vector, merged.get_input_embeddings().weight[identity].detach().numpy(), atol=1e-6)
    if lm.tied:
        assert again.output is None
    else:
        np.testing.assert_allclose(again.output, merged.get_output_embeddings().weight[identity].detach().numpy(), atol=1e-6)
