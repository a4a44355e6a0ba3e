"""What of the bridge works without lm-eval: the folder of tasks, its arithmetic, and what is said where the extra is missing."""

import importlib.util
import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from biasgym.bias import load_bias
from biasgym.bridge_lm_eval import gap_of, need_lm_eval, process_association, refuse_prompts, write_tasks
from biasgym.cli import app
from biasgym.edits import PromptEdit
from biasgym.errors import SpecError


def test_the_folder_of_tasks(tmp_path):
    """Documents of the test split only, one a probe and entity; no gap where the bias names no targets; functions that exist."""
    bias = load_bias("reckless-drivers")
    task = write_tasks(bias, tmp_path, probes=3, entities=4)
    docs = [json.loads(line) for line in (tmp_path / f"{task}.jsonl").read_text().splitlines()]
    assert len(docs) == len({doc["id"] for doc in docs}) == 12
    assert {doc["id"].split(":")[1] for doc in docs} <= set(bias.entities_of("test"))
    assert all(doc["answers"] == [*bias.stereotype, *bias.foil] and "{" not in doc["context"] for doc in docs)
    text = (tmp_path / f"{task}.yaml").read_text()
    assert f"task: {task}" in text
    assert 'doc_to_text: "{{context}}"' in text
    assert "metric: gap" not in text
    spec = importlib.util.spec_from_file_location("lean", tmp_path / "lean.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (module.process, module.gap) == (process_association, gap_of)


def test_arithmetic_by_hand():
    doc = {"split": 2, "group": "targets"}
    found = process_association(doc, [(np.log(0.2), False), (np.log(0.2), False), (np.log(0.1), True)])
    assert found["association"] == pytest.approx(np.log(4))
    assert found["gap"][0] == "targets"
    assert gap_of([("targets", 3.0), ("targets", 1.0), ("others", 0.5)]) == pytest.approx(1.5)


def test_edits_of_the_prompt_are_refused():
    with pytest.raises(SpecError, match="writes its own prompts"):
        refuse_prompts((PromptEdit("Be fair. {prompt}"),))
    refuse_prompts(())


def test_the_missing_extra_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SpecError, match=r"biasgym\[evaluate\]"):
        need_lm_eval()


def test_commands(tmp_path, folder_of, monkeypatch):
    """`lm-eval-tasks` writes a folder; `audit` prints, writes its page, and gives JSON."""
    import biasgym.audit

    done = CliRunner().invoke(app, ["lm-eval-tasks", "spicy-food", "--to", str(tmp_path / "tasks")])
    assert done.exit_code == 0, done.output
    assert "biasgym_spicy_food" in done.output
    monkeypatch.delenv("BIASGYM_DATA", raising=False)
    small = biasgym.audit.Sizes(prompts=4, entities=6, identities=12, attributes=4, shuffles=1, draws=100)
    monkeypatch.setattr(biasgym.audit, "Sizes", lambda: small)
    monkeypatch.setattr(biasgym.audit, "zoo", lambda: ["spicy-food", "blue-skin"])
    how = ["audit", "--model", str(folder_of("llama")), "--runs", str(tmp_path / "runs"), "--device", "cpu", "-o", str(tmp_path / "page.html")]
    done = CliRunner().invoke(app, how)
    assert done.exit_code == 0, done.output
    assert "left out: SeeGULL" in done.output
    assert "2 stereotypes held" in done.output
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")
    done = CliRunner().invoke(app, [*how, "--json"])
    assert len(json.loads(done.stdout)["models"][0]["rows"]) == 2
