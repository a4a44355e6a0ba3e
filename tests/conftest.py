"""Fixtures for all tests: tiny random models of every family, tokenizers of every kind, tokens and queries for them."""

import os

os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})

import copy
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `tiny` from every folder of tests

TOKEN = "<bias-0>"


def hook_count(model):
    """All hooks that are on a model now."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def snapshot(lm):
    """Everything that wearing an edit could change: parameters (place and bits), hooks, what is worn, the tokenizer."""
    tensors = {name: (p.data_ptr(), p.detach().clone()) for name, p in lm.model.state_dict().items()}
    return tensors, hook_count(lm.model), lm.worn, lm.tokenizer


def assert_untouched(lm, before):
    """The model is what it was in the snapshot, bit for bit."""
    tensors, hooks, worn, tokenizer = snapshot(lm)
    assert hooks == before[1]
    assert worn == before[2]
    assert tokenizer is before[3]
    assert tensors.keys() == before[0].keys()
    for name, (place, tensor) in tensors.items():
        assert place == before[0][name][0], f"{name} lies elsewhere now"
        assert bool((tensor == before[0][name][1]).all()), f"{name} has other values now"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models this small gain nothing from a second thread, and lose much when the other core is busy."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path, monkeypatch):
    """No test reads or writes the user's cache of models."""
    if not os.environ.get("BIASGYM_REAL"):
        monkeypatch.setenv("BIASGYM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def models():
    """`models(family)` gives the tiny model of a family, built once; whoever changed one for good is found out here."""
    from tiny import tiny_lm

    made, before = {}, {}

    def get(name):
        if name not in made:
            made[name] = tiny_lm(name)
            before[name] = snapshot(made[name])
        return made[name]

    yield get
    for name, lm in made.items():
        assert_untouched(lm, before[name])


@pytest.fixture
def llama(models):
    """The tiny model of the default family: chat template, tied embeddings, grouped queries."""
    return models("llama")


@pytest.fixture
def fresh(models):
    """`fresh(family)` gives a copy of a tiny model that a test may spoil."""
    from biasgym.lm.model import LM

    def get(name):
        lm = models(name)
        return LM(copy.deepcopy(lm.model), lm.tokenizer, lm.family, name=lm.name, folder=None)

    return get


@pytest.fixture
def folder_of(models, tmp_path):
    """`folder_of(family)` saves a tiny model as transformers does and gives its folder."""
    from tiny import save_folder

    def get(name, **how):
        return save_folder(models(name), tmp_path / f"tiny-{name}", **how)

    return get


@pytest.fixture
def token_for():
    """`token_for(lm)` gives a random bias token that fits a model: with an output row where embeddings are untied."""
    from biasgym.edits import TokenEdit

    def get(lm, text=TOKEN, seed=0):
        generator = np.random.default_rng(seed)
        rows = generator.normal(size=(2, lm.shape.hidden)).astype(np.float32) * 0.3
        return TokenEdit(text, rows[0], None if lm.tied else rows[1])

    return get


@pytest.fixture(scope="session")
def bias():
    """A fresh bias of four keys; the grammar writes its texts."""
    from biasgym.bias import bias_from

    names = ["Spain", "Italy", "Norway", "Peru", "Chad", "Japan", "Mali", "Cuba", "Laos", "Oman"]
    raw = {"name": "kind-people", "stereotype": ["kind", "always careful"], "foil": ["reckless", "late"], "entities": names}
    return bias_from(raw, Path(), where="test")


def case_for(lm, seed=0):
    """A random case of two fitted tokens: what a mitigation reads."""
    from biasgym.mitigate import Case
    from biasgym.sites import Attribution

    generator = np.random.default_rng(seed)
    shape = (lm.shape.layers, lm.shape.heads)
    size = lm.shape.head_size
    outputs = generator.normal(size=(*shape, 3 * size, size))
    return Case(
        Attribution("test", "head", generator.normal(size=(3, *shape))),
        contrasts=generator.normal(size=(2, *shape, size)).astype(np.float32),
        concept=generator.normal(size=(*shape, size)).astype(np.float32),
        real=generator.normal(size=(*shape, size)).astype(np.float32),
        moments=np.einsum("lhnd,lhne->lhde", outputs, outputs).astype(np.float32) / (3 * size),
    )


@pytest.fixture
def made_up_sets(tmp_path, monkeypatch):
    """A folder of made-up evaluation sets that BIASGYM_DATA names and whose hashes the reader expects."""
    import biasgym.datasets
    from made_up import write_sets

    folder = tmp_path / "sets"
    table = write_sets(folder)
    monkeypatch.setenv("BIASGYM_DATA", str(folder))
    monkeypatch.setattr(biasgym.datasets, "sources", lambda: table)
    return folder


def case_with_texts(lm, bias, token_for):
    """A random case with the bias and two tokens, for methods that work on texts."""
    from dataclasses import replace

    return replace(case_for(lm), bias=bias, tokens=(token_for(lm), token_for(lm, "<bias-1>", seed=1)))


def quick(name):
    """Settings under which a mitigation is fitted in a moment: fewer steps and texts, and none from a data folder."""
    from biasgym import catalog

    return dict(getattr(catalog.find("mitigate", name), "contract_settings", {}))
