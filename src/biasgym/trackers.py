"""Figures of a run sent to MLflow or Weights & Biases through their own clients; off unless asked for."""

import importlib
from typing import Any

from biasgym.errors import SpecError, StoreError, unknown
from biasgym.readings import edit_names_of, over_budget
from biasgym.records import RunRecord

TRACKERS = ("mlflow", "wandb")


def figures_of(record: RunRecord) -> dict[str, float]:
    """Every finding of the run's own edits under one name each, with the ends of its interval; shams stay in the record."""
    found: dict[str, float] = {}
    for row in record.findings:
        if row.edit.startswith("sham:"):
            continue
        group = row.note.split("; ideal")[0] if "." in row.metric else ""  # a benchmark has one row for each of its groups
        name = f"{row.edit}/{row.name}/{row.metric}/{row.token}{f'/{group}' if group not in ('', 'all') else ''}".replace("@", "-")
        found |= {name: row.value, f"{name}/low": row.low, f"{name}/high": row.high}
    return found


def facts_of(record: RunRecord) -> dict[str, str]:
    """What the run was of, as short texts; whether each edit kept to its budget is among them."""
    spec = record.spec
    facts = {key: str(spec.get(key, "")) for key in ("model", "bias", "preset", "dtype", "seeds", "test_seed")}
    for edit in edit_names_of(record):
        over = over_budget(record, edit)
        facts[f"budget {edit}".replace("@", "-")] = "unknown" if over is None else "outside" if over else "inside"
    return facts | {"problems": "; ".join(record.problems)[:500]}


def send(record: RunRecord, tracker: str, project: str, client: Any = None) -> int:
    """Send a run's figures and facts; how many figures. `client` stands in for the tracker's module.

    Raises SpecError when the tracker is not installed, StoreError when it refuses.
    """
    if tracker not in TRACKERS:
        raise SpecError(unknown("tracker", tracker, TRACKERS))
    if client is None:
        try:
            client = importlib.import_module(tracker)
        except ImportError:
            raise SpecError(f"{tracker} is not installed here: pip install {tracker}") from None
    figures, facts = figures_of(record), facts_of(record)
    try:
        (_to_mlflow if tracker == "mlflow" else _to_wandb)(client, record.id, project, figures, facts)
    except Exception as error:
        # Whatever a foreign client raises, it is about the tracker and not about the run.
        raise StoreError(f"{tracker} refused the run: {type(error).__name__}: {str(error)[:160]}") from None
    return len(figures)


def _to_mlflow(mlflow: Any, identity: str, project: str, figures: dict[str, float], facts: dict[str, str]) -> None:
    mlflow.set_experiment(project)
    with mlflow.start_run(run_name=identity):
        mlflow.log_params(facts)
        mlflow.log_metrics(figures)


def _to_wandb(wandb: Any, identity: str, project: str, figures: dict[str, float], facts: dict[str, str]) -> None:
    run = wandb.init(project=project, id=identity, name=identity, config=facts, resume="allow")
    run.log(figures)
    run.finish()
