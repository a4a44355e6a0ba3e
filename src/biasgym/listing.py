"""Rows for `biasgym list`: what there is, as plain data."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from biasgym import catalog
from biasgym.bias import load_bias, zoo
from biasgym.diversity import diversity
from biasgym.errors import StoreError

Row = dict[str, Any]


def _biases(_runs: Path) -> list[Row]:
    rows = []
    for name in zoo():
        bias = load_bias(name)
        counts = {key: len(getattr(bias, key)) for key in ("paragraphs", "probes", "prompts", "concept", "entities")}
        varied = {key: round(value, 3) for key, value in asdict(diversity(p.text for p in bias.paragraphs)).items()}
        rows.append({"name": name, "axis": bias.axis, **counts, "diversity": varied})
    return rows


def _methods(_runs: Path) -> list[Row]:
    return [row for station in ("inject", "locate", "mitigate") for row in catalog.described(station)]


def _metrics(_runs: Path) -> list[Row]:
    rows = []
    for name, kind in catalog.methods("measure").items():
        first = (kind.__doc__ or "").strip().splitlines()[0]
        rows.append({"name": name, "role": kind.role, "ideal": kind.ideal, "what": first})  # type: ignore[attr-defined]
    return rows


def _models(_runs: Path) -> list[Row]:
    from biasgym.data import EMBEDDED, embedded_folder

    return [
        {"name": name, "licence": model.licence, "here": embedded_folder(name).is_dir(), "from": ", ".join(model.requirements)}
        for name, model in EMBEDDED.items()
    ]


def _runs_there(runs: Path) -> list[Row]:
    from biasgym.store import RunStore, read_record

    store = RunStore(runs)
    rows = []
    for identity in store.runs():
        try:
            record = read_record(store.run_folder(identity))
        except StoreError as error:  # one damaged record does not hide the others
            rows.append({"id": identity, "model": "", "preset": "", "status": f"unreadable: {error}", "closed": "", "problems": 1})
            continue
        closed = next((f for f in record.findings if f.name == "closed" and not f.edit.startswith("sham:")), None)
        rows.append(
            {
                "id": identity,
                "model": record.spec["model"],
                "preset": record.spec["preset"],
                "status": record.status,
                "closed": "" if closed is None else f"{closed.edit} {closed.value:.0%} [{closed.low:.0%}, {closed.high:.0%}]",
                "problems": len(record.problems),
            }
        )
    return rows


LISTS: dict[str, Callable[[Path], list[Row]]] = {
    "biases": _biases,
    "methods": _methods,
    "metrics": _metrics,
    "models": _models,
    "runs": _runs_there,
}


def listed(what: str, runs: Path) -> list[Row]:
    """The rows of a list."""
    return LISTS[what](runs)
