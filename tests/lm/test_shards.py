"""Direct scores from files are those of the model in memory, every family, whole and in shards."""

import numpy as np
import pytest

from biasgym.errors import ModelError, SpecError
from biasgym.lm.arch import FAMILIES
from biasgym.lm.model import Query
from biasgym.lm.shards import Shards, direct_from_files, stream_ends
from biasgym.lm.trace import Sides, direct_parts, head_outputs
from tiny import save_folder

SIDES = Sides(("reckless", "dangerous drivers"), ("careful", "kind at times"))
QUERIES = (Query("What are people from Spain like?", "They are"), Query("They", "are"))


def firsts_of(lm):
    """First tokens of both sides' answers, for each query."""
    return [tuple([ids[0] for ids in lm.answer_ids(query, side)] for side in (SIDES.stereotype, SIDES.foil)) for query in QUERIES]


@pytest.mark.parametrize("how", [{}, {"max_shard_size": "40KB"}], ids=["whole", "shards"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_direct_scores_from_files_are_those_in_memory(models, tmp_path, family, how):
    """Post-attention norms, caps, biases, tied and untied heads included."""
    lm = models(family)
    folder = save_folder(lm, tmp_path / "model", **how)
    assert len(list(folder.glob("*.safetensors"))) > 1 or not how
    expected = direct_parts(lm, QUERIES, SIDES).heads
    found = direct_from_files(folder, head_outputs(lm, QUERIES), stream_ends(lm, QUERIES), firsts_of(lm))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert np.abs(found).max() > 1e-3


def test_one_matrix_is_in_memory_at_a_time(llama, tmp_path, monkeypatch):
    """Every layer's output matrix is read once, and of the unembedding only the answers' rows."""
    folder = save_folder(llama, tmp_path / "model")
    read = []
    whole = Shards.tensor

    def noted(self, name):
        read.append(name)
        return whole(self, name)

    monkeypatch.setattr(Shards, "tensor", noted)
    direct_from_files(folder, head_outputs(llama, QUERIES), stream_ends(llama, QUERIES), firsts_of(llama))
    matrices = [name for name in read if "norm" not in name]
    assert matrices == [llama.family.attention_weight(layer) for layer in range(llama.shape.layers)]


def test_bad_input_is_refused(llama, tmp_path):
    """A missing file, a token that is not in it, arrays of another model."""
    heads, ends, firsts = head_outputs(llama, QUERIES), stream_ends(llama, QUERIES), firsts_of(llama)
    folder = save_folder(llama, tmp_path / "model")
    with pytest.raises(SpecError, match="do not belong together"):
        direct_from_files(folder, heads[:, :2], ends, firsts)
    with pytest.raises(ModelError, match="without a bias token"):
        direct_from_files(folder, heads, ends, [([10**6], [1])] * 2)
    with pytest.raises(ModelError, match="no tensor `nothing`"):
        Shards(folder).tensor("nothing")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="no readable model"):
        direct_from_files(folder, heads, ends, firsts)
