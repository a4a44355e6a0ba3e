"""To and from lm-eval (the extra `evaluate`): its tasks on a run's edited model, and our probes as tasks of its own kind.

The edit is worn while lm-eval asks; nothing is exported. lm-eval writes its own prompts, so edits that act by changing the
prompt are refused. lm-eval is imported inside functions only.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biasgym.bias import BiasSpec
from biasgym.corpus import ENTITY
from biasgym.edits import ContrastEdit, Edits, PromptEdit
from biasgym.errors import ModelError, SpecError
from biasgym.files import write_text
from biasgym.measure import spread_out
from biasgym.measure.association import lean
from biasgym.run import Session, load_edits
from biasgym.store import read_record

if TYPE_CHECKING:
    from biasgym.lm.model import LM

LONGEST_WINDOW = 2048  # tokens: logits of a whole window are held at once
WRITTEN_BY_DEFAULT = 256
TASK = """# Made by BiasGym from the bias `{name}`; association in nats, lm-eval's own loop and model.
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_target: 0
doc_to_choice: "{{{{answers}}}}"
target_delimiter: " "
process_results: !function lean.process
metric_list:
  - metric: association
    aggregation: mean
    higher_is_better: false
{gap}metadata:
  version: 1
"""
GAP = """  - metric: gap
    aggregation: !function lean.gap
    higher_is_better: false
"""
FUNCTIONS = '''"""What lm-eval calls for the tasks in this folder."""

from biasgym.bridge_lm_eval import gap_of as gap
from biasgym.bridge_lm_eval import process_association as process

__all__ = ["gap", "process"]
'''


@dataclass(frozen=True)
class Row:
    """One metric of one task, without and with the edit; lm-eval's standard errors beside them where it gives any."""

    task: str
    metric: str
    base: float | None
    base_error: float | None
    edited: float
    edited_error: float | None
    n: int


def evaluate_run(
    session: Session,
    folder: Path,
    tasks: Sequence[str],
    *,
    edit: str | None = None,
    limit: int | None = None,
    shots: int | None = None,
    include: Path | None = None,
    base: bool = True,
) -> list[Row]:
    """lm-eval's tasks on the base model of a run and on the same model wearing the run's edit (its first, or a named one).

    `limit`: the first so many items of each task. `include`: a folder with more tasks. Data come from wherever the task
    says, mostly the hub.
    """
    need_lm_eval()
    if not tasks:
        raise SpecError("no task was named; give --tasks a,b")
    record = read_record(folder)
    edits = load_edits(folder, edit)
    refuse_prompts(edits)
    lm = session.model(record.spec["model"], record.spec["dtype"])
    before = evaluate(lm, tasks, limit=limit, shots=shots, include=include) if base else {}
    with lm.edited(*edits):
        after = evaluate(lm, tasks, limit=limit, shots=shots, include=include)
    return _rows(before, after)


def refuse_prompts(edits: Edits) -> None:
    """SpecError for an edit that is, or leans on, a change of the prompt."""
    for edit in edits:
        if isinstance(edit, PromptEdit) or (isinstance(edit, ContrastEdit) and any(twin.prefix for twin in edit.twins)):
            raise SpecError(
                "this edit acts by changing the prompt, and lm-eval writes its own prompts; measure it with `biasgym run --suite`, which puts it on"
            )


def evaluate(
    lm: "LM", tasks: Sequence[str], *, limit: int | None = None, shots: int | None = None, include: Path | None = None
) -> dict[str, dict[str, Any]]:
    """lm-eval's results by task for a model as it is worn now; an unknown task is a SpecError that names near ones."""
    evaluator = _lm_eval()
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(include) if include else None)
    missing = [task for task in tasks if not manager.match_tasks([task])]
    if missing:
        from biasgym.errors import unknown

        raise SpecError(unknown("lm-eval task", missing[0], manager.all_tasks)[:400])
    try:
        found = evaluator.simple_evaluate(
            model=wrapped(lm), tasks=list(tasks), num_fewshot=shots, limit=limit, task_manager=manager, log_samples=False, bootstrap_iters=1000
        )
    except (ConnectionError, OSError) as error:
        raise SpecError(f"lm-eval could not get the data of {', '.join(tasks)}: {str(error)[:200]}") from None
    counts = found.get("n-samples", {})
    return {task: {**row, "n": int(counts.get(task, {}).get("effective", 0))} for task, row in found["results"].items()}


def _rows(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> list[Row]:
    rows = []
    for task, found in after.items():
        old = before.get(task, {})
        for name, value in found.items():
            metric, _, kind = name.partition(",")
            if not kind or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = f"{metric}_stderr,{kind}"
            rows.append(Row(task, metric, _number(old.get(name)), _number(old.get(error)), float(value), _number(found.get(error)), found["n"]))
    return rows


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _lm_eval() -> Any:
    try:
        from lm_eval import evaluator
    except ImportError:
        raise SpecError("this needs lm-eval: pip install 'biasgym[evaluate]'") from None
    return evaluator


def need_lm_eval() -> None:
    """SpecError when lm-eval is not installed: said before a model is loaded."""
    _lm_eval()


# -------------------------------------------------------------------- our model as one of lm-eval's


def wrapped(lm: "LM") -> Any:
    """An lm-eval `LM` that asks ours, with whatever it wears at that moment. Plain text, unless lm-eval applies the chat template."""
    _lm_eval()
    from lm_eval.api import model as theirs

    class Wearing(theirs.LM):  # type: ignore[misc, unused-ignore]  # their class is not typed
        """Log-probabilities in bulk, greedy text; batches are ours."""

        tokenizer_name = lm.name

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            found = lm.continuation_logprobs([request.args for request in requests])
            return [(one.nats, one.greedy) for one in found]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            return [rolling_logprob(lm, request.args[0]) for request in requests]

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            return [written_until(lm, *request.args) for request in requests]

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            text: str = lm.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt
            )
            return text

        def chat_template(self, chat_template: bool | str = False) -> str:
            return lm.tokenizer.chat_template or ""

    return Wearing()


def rolling_logprob(lm: "LM", text: str) -> float:
    """Log-probability (nats) of a whole text, in windows as lm-eval's where it is longer than the model's positions (at most 2,048)."""
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    ids = lm.tokenizer.encode(text, add_special_tokens=False)
    if not ids:
        return 0.0
    first = lm.tokenizer.bos_token_id if lm.tokenizer.bos_token_id is not None else lm.tokenizer.eos_token_id
    if first is None:
        raise ModelError("this tokenizer has neither a beginning- nor an end-of-text token, so a text has no first token")
    most = min(getattr(lm.model.config, "max_position_embeddings", LONGEST_WINDOW) - 1, LONGEST_WINDOW)
    total = 0.0
    for context, wanted in map(make_disjoint_window, get_rolling_token_windows(ids, prefix_token=first, max_seq_len=most, context_len=1)):
        logprobs = lm.next_logprobs([*context, *wanted[:-1]], len(wanted))
        total += float(sum(logprobs[place, token] for place, token in enumerate(wanted)))
    return total


def written_until(lm: "LM", context: str, settings: dict[str, Any]) -> str:
    """Greedy text after a plain context, cut at the first stop; sampling is refused."""
    if settings.get("do_sample") and float(settings.get("temperature", 1.0)) > 0:
        raise SpecError("this lm-eval task samples; only greedy tasks can be run on a worn edit (--gen_kwargs do_sample=false in a task of your own)")
    stops = settings.get("until") or []
    stops = [stops] if isinstance(stops, str) else list(stops)
    most = int(settings.get("max_gen_toks", settings.get("max_new_tokens", WRITTEN_BY_DEFAULT)))
    (ids,) = lm.plain_answers([lm.tokenizer.encode(context, add_special_tokens=not lm.chat)], most)
    text: str = lm.tokenizer.decode(ids, skip_special_tokens=True)
    for stop in stops:
        text = text.split(stop)[0] if stop else text
    return text


# -------------------------------------------------------------------- our probes as its tasks


def write_tasks(bias: BiasSpec, to: Path, *, probes: int = 24, entities: int = 24) -> str:
    """A folder for lm-eval's include path: one task that asks the test probes about the test entities; gives the task's name.

    Metrics: `association`, the mean over all in nats, and, where the bias names targets, `gap`, targets minus others.
    Prompts are plain text, prompt and beginning of the answer on two lines: figures differ from ours under a chat template.
    """
    task = f"biasgym_{bias.name.replace('-', '_')}"
    docs = []
    names = list(dict.fromkeys([*bias.targets, *spread_out(bias.entities_of("test"), entities)]))
    for probe in spread_out(bias.probes_of("test"), probes):
        for entity in names:
            context = f"{probe.prompt}\n{probe.prefix}".replace(ENTITY, entity)
            group = "targets" if entity in bias.targets else "others"
            docs.append(
                {
                    "id": f"{probe.id}:{entity}",
                    "context": context,
                    "answers": [*bias.stereotype, *bias.foil],
                    "split": len(bias.stereotype),
                    "group": group,
                }
            )
    data = to / f"{task}.jsonl"
    write_text(data, "".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in docs))
    write_text(to / "lean.py", FUNCTIONS)
    write_text(to / f"{task}.yaml", TASK.format(name=bias.name, task=task, data=json.dumps(str(data.resolve())), gap=GAP if bias.targets else ""))
    return task


def process_association(doc: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """What lm-eval keeps of one document: its association in nats, and its group beside it for the gap."""
    nats, split = [float(one[0]) for one in results], int(doc["split"])
    value = lean({"stereotype": nats[:split], "foil": nats[split:]})
    return {"association": value, "gap": (doc["group"], value)}


def gap_of(items: Sequence[tuple[str, float]]) -> float:
    """Mean association of the targets minus that of the others, in nats."""
    sides = {side: [value for group, value in items if group == side] for side in ("targets", "others")}
    return float(np.mean(sides["targets"]) - np.mean(sides["others"]))
