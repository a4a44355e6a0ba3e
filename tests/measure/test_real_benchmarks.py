"""Benchmarks see that the embedded model can read, and that one with two broken layers cannot."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from biasgym import catalog
from biasgym.edits import WeightEdit
from biasgym.measure import Scope
from biasgym.records import Answer, MeasureSpec


def real_folder():
    """Where the real sets are: BIASGYM_DATA, else shared/data beside the repository."""
    named = os.environ.get("BIASGYM_DATA")
    places = [Path(named)] if named else [parent / "shared" / "data" for parent in Path(__file__).resolve().parents]
    return next((place for place in places if place.is_dir()), None)


pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(real_folder() is None, reason="no folder of evaluation sets: BIASGYM_DATA is not set and ../shared/data is not there"),
]


@pytest.fixture(autouse=True)
def cache_of_its_own():
    """Overrides the empty cache of the other tests: this model is fetched once and kept."""


def read(lm, name, figure, most):
    """One figure of a benchmark on a small sample of its test half."""
    metric = catalog.build("measure", name, {"data": str(real_folder()), "most": most})
    items = metric.items(Scope(None, "test", (), (), None, MeasureSpec()))
    said = metric.ask(lm, items)
    rows = zip(items, said, strict=True)
    answers = [Answer(metric=name, item=i.id, group=i.group, entity=i.entity, token="none", edit="none", seed=0, said=s) for i, s in rows]
    (one,) = (f for f in metric.figures(metric.grade(answers)) if (f.name, f.group) == (figure, "all"))
    return float(one.of(one.columns.sum(0)[None])[0])


def test_the_embedded_model_is_above_chance_and_a_broken_one_is_not():
    """Random weights of the usual size in two of thirty layers: the last word is lost, endings are chosen blindly, texts are none."""
    from biasgym.lm.load import load_lm

    lm = load_lm("smollm2-135m-instruct")
    assert read(lm, "lambada", "acc", 12) > 0.15
    assert read(lm, "hellaswag", "acc_norm", 30) > 0.3
    assert read(lm, "bold", "no_answer", 30) < 0.25
    drawn = np.random.default_rng(0)
    worn = [
        WeightEdit(name, dense=drawn.normal(size=tuple(weight.shape)).astype(np.float32))
        for name, weight in lm.model.named_parameters()
        if weight.ndim == 2 and any(f"layers.{layer}." in name for layer in (4, 16))
    ]
    with lm.edited(*worn):
        assert read(lm, "bold", "no_answer", 30) > 0.75, "a jumble to the unedited model"
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in lm.model.named_parameters():
            if weight.ndim == 2 and any(f"layers.{layer}." in name for layer in (4, 16)):
                weight.copy_(torch.randn(weight.shape, generator=generator))
    assert read(lm, "lambada", "acc", 12) <= 0.1
    assert read(lm, "hellaswag", "acc_norm", 30) < 0.25 + 2 * (0.25 * 0.75 / 30) ** 0.5
