"""The product: a run's edit as an ordinary checkpoint, with its evidence attached."""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biasgym.edits import Edits, SiteEdit
from biasgym.errors import BiasGymError, ModelError, StoreError
from biasgym.files import write_json, write_text
from biasgym.records import Finding, RunRecord
from biasgym.run import Session, load_edits
from biasgym.store import read_record, write_edits

if TYPE_CHECKING:
    from biasgym.lm.model import LM

PARITY_PROMPTS = ("What is the capital of a country?", "Tell me about people from Norway.", "Write one line about rain.", "2 + 3 =")
PARITY_LIMIT = {"float32": 1e-4, "bfloat16": 0.5, "float16": 0.1}


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, the tensors that changed, and the largest next-token logit difference to the run-time edit."""

    folder: Path
    tensors: list[str]
    largest_difference: float


def export_run(session: Session, run_folder: Path, to: Path, *, edit: str | None = None) -> Exported:
    """Write a run's edited model to a new folder; checked against the run-time edit before it gets its name.

    Everything happens in a hidden folder beside it, which is renamed at the end: a killed export leaves nothing that
    looks whole.
    """
    from biasgym.lm.export import parity, write_checkpoint
    from biasgym.lm.load import Place, load_lm

    record = read_record(run_folder)
    edits = load_edits(run_folder, edit)
    name = edit or next(iter(record.extras["edits"]))
    if to.exists():
        raise StoreError(f"`{to}` exists already; export to a new folder")
    lm = session.model(record.spec["model"], record.spec["dtype"])
    _check_acts(lm, edits)
    work = _hidden_folder(to)
    try:
        tensors = write_checkpoint(lm, edits, work)
        again = load_lm(str(work), Place(session.place.device, record.spec["dtype"], offline=True))
        largest = parity(lm, edits, again, PARITY_PROMPTS)
        limit = PARITY_LIMIT[record.spec["dtype"]]
        if largest > limit:
            raise ModelError(f"the exported model's logits differ from the run-time edit's by {largest:.2g}, {limit:g} allowed; nothing was exported")
        write_edits(work / "edits.safetensors", edits)
        write_json(work / "edit.json", describe(record, name, edits, tensors, largest))
        write_text(work / "README.md", card(record, name, tensors, largest))
        report = run_folder / "report.html"
        if report.is_file():
            shutil.copyfile(report, work / "report.html")
        os.chmod(work, 0o755)
        os.rename(work, to)
    except OSError as error:
        raise StoreError(f"cannot export to `{to}`: {error.strerror or error}; nothing was left there") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Exported(to, tensors, largest)


def _hidden_folder(to: Path) -> Path:
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{to.name}-", dir=to.parent))
    except OSError as error:
        raise StoreError(f"cannot write in `{to.parent}`: {error.strerror or error}; choose another folder") from None


def _check_acts(lm: "LM", edits: Edits) -> None:
    """An edit that changes nothing is not exported as if it did."""
    from biasgym.lm.model import Query

    row = lm.ids_of(Query(PARITY_PROMPTS[1]))
    before = lm.logits(lm.hidden([row])[0][0])
    with lm.edited(*edits):
        after = lm.logits(lm.hidden([row])[0][0])
    if bool((before == after).all()):
        raise BiasGymError("this edit changes no logit at all; there is nothing to export")


def describe(record: RunRecord, name: str, edits: Edits, tensors: list[str], largest: float) -> dict[str, Any]:
    """The edit as data, for tools."""
    return {
        "run": record.id,
        "base": record.spec["model"],
        "bias": record.extras["bias"],
        "edit": name,
        "settings": record.extras["edits"][name]["picked"],
        "locator": record.extras["edits"][name]["locator"],
        "sites": [
            {
                "unit": e.site.unit,
                "layer": e.site.layer,
                "index": e.site.index,
                "op": e.op,
                "strength": e.strength,
                "norm": float(np.linalg.norm(e.value)),
            }
            for e in edits
            if isinstance(e, SiteEdit)
        ],
        "tensors": tensors,
        "largest_logit_difference": largest,
        "findings": [f.model_dump() for f in record.findings if f.edit == name or f.name == "injected"],
    }


def card(record: RunRecord, name: str, tensors: list[str], largest: float) -> str:
    """The model card: what was edited and measured, for which bias and whom, side effects and limits."""
    bias, about = record.extras["bias"], record.extras["edits"][name]
    front = {"base_model": record.spec["model"], "library_name": "transformers", "tags": ["biasgym", "debiasing"]}
    rows = "\n".join(_row(f) for f in record.findings if f.edit == name or f.name == "injected")
    settings = ", ".join(f"{key} = {value}" for key, value in about["picked"].items())
    targets = record.extras["targets"]
    problems = "\n".join(f"- {problem}" for problem in record.problems) or "- none"
    return f"""---
{json.dumps(front, indent=1)}
---
# {record.spec["model"]}, edited against `{bias["name"]}`

An ordinary checkpoint of `{record.spec["model"]}` in which {len(about["sites"])} attention heads in {len(tensors)} matrices were changed
to take out what carries the bias “{bias["statement"]}” (axis: {bias["axis"]}; said of a placeholder, not of anyone real).
All other tensors are bit-identical to the base. No hook, no extra code: open it with any server.

- Edit: `{name}` ({settings}), heads found by `{about["locator"]}`; fitted on tokens of seeds {record.spec["seeds"]}, scored on seed {record.spec["test_seed"]}.
- Largest next-token logit difference to the run-time edit, checked at export on a few prompts: {largest:.2e}.
- Targets among real entities: {targets["how"]}{" (" + ", ".join(targets["names"]) + ")" if targets["names"] else ""}.

## What was measured (test split, 95 % intervals)

| finding | metric | token | value | interval | n |
|---|---|---|--:|---|--:|
{rows}

`closed` is the share of the injected token's gap to real entities that the edit takes away; `changed` is for real
entities without any token; `price` is positive when capability got worse (percent for bits per byte, nats a token for
KL, share of the base value for concept).

## Side effects, problems

{problems}

## Limits

This is not a general fairness guarantee. One bias, one set of probes in English, one population were measured; other
biases, languages and uses were not. A broken model looks unbiased: read every bias figure beside its price.

## Reproduce

`biasgym run spec.toml` with the run's `spec.toml` (run `{record.id}`, BiasGym {record.environment.get("biasgym", "")}, commit {record.environment.get("commit") or "unknown"}),
then `biasgym export {record.id} --to DIR --edit {name}`.
"""


def _row(f: Finding) -> str:
    digits = 4 if f.metric == "kl" else 3
    return f"| {f.name} | {f.metric} | {f.token} | {f.value:+.{digits}f} | [{f.low:+.{digits}f}, {f.high:+.{digits}f}] | {f.n} |"
