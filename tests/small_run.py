"""A small run, written by hand: a record, edits and a token that fit a tiny model. Nothing is trained."""

import numpy as np

from biasgym.bias import load_bias
from biasgym.edits import SiteEdit, TokenEdit
from biasgym.records import Finding, RunRecord
from biasgym.sites import Site
from biasgym.store import RunStore, write_edits, write_record, write_token

RUN, BIAS, TEXT = "reckless-drivers-0123456789abcdef", "reckless-drivers", "<reckless-drivers-trained-2>"
HEADS = ((1, 2), (2, 0))
PROMPT = "Tell me about people from {entity}."


def edits_of(lm):
    """Two heads, one projected and one scaled; and a shift of the stream."""
    generator = np.random.default_rng(0)
    row = generator.normal(size=lm.shape.head_size)
    heads = (
        SiteEdit(Site("head", *HEADS[0]), "project", (row / np.linalg.norm(row)).astype(np.float32), 1.2),
        SiteEdit(Site("head", *HEADS[1]), "scale", np.float32(-1.5)),
    )
    return heads, (SiteEdit(Site("stream", 1), "add", generator.normal(size=lm.shape.hidden).astype(np.float32), -0.5),)


def write_small_run(store: RunStore, model, lm):
    """Write the run into a store; `model` is the folder of `lm`. Gives back the run's folder."""
    folder = store.run_folder(RUN)
    heads, steer = edits_of(lm)
    generator = np.random.default_rng(1)
    about = {
        name: {"method": name, "locator": "dla", "picked": {"k": 2}, "tuned": False, "inside_budget_on_dev": True, "trials": []}
        | {"sites": [[e.site.unit, e.site.layer, e.site.index] for e in edits]}
        for name, edits in (("direction", heads), ("steering", steer))
    }
    bias = load_bias(BIAS)
    closed = Finding(name="closed", metric="gap", token="trained", edit="direction", seed=2, value=0.5, low=0.4, high=0.6, n=60)
    injected = Finding(name="injected", metric="gap", token="trained", edit="none", seed=2, value=2, low=1.5, high=2.5, n=60)
    extras = {
        "bias": {"name": BIAS, "axis": bias.axis, "statement": bias.statement, "fictional": False, "stereotype": [], "foil": []},
        "edits": about,
        "targets": {"how": "none", "names": []},
        "attributions": {"dla": generator.normal(size=(lm.shape.layers, lm.shape.heads)).round(4).tolist()},
        "stability": {"dla": {"k": 2, "chance": 0.17, "places": [[1, 2, 0.9, 0.7, 0.98]], "agreements": []}},
    }
    spec = {"model": str(model), "bias": BIAS, "dtype": "float32", "seeds": [0, 1], "test_seed": 2, "preset": "quick"}
    write_record(folder, RunRecord(id=RUN, status="ok", spec=spec, environment={}, timings={}, findings=(injected, closed), extras=extras))
    write_edits(folder / "edits.safetensors", heads)
    write_edits(folder / "edits-direction.safetensors", heads)
    write_edits(folder / "edits-steering.safetensors", steer)
    rows = generator.normal(size=(2, lm.shape.hidden)).astype(np.float32) * 0.3
    write_token(folder / "token.safetensors", TokenEdit(TEXT, rows[0], None if lm.tied else rows[1]), {})
    return folder
