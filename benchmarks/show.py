"""How long a person waits for what is shown: the report of a run whose answers are ten megabytes."""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from biasgym.records import RunRecord
from biasgym.report import write_report
from biasgym.store import write_record

MEGABYTES = 10
NAMES = ("Spain", "Norway", "Peru", "Chad", "Japan", "Cuba", "Laos", "Oman", "Fiji", "Mali")


def rows(rounds: int = 5) -> Iterator[dict[str, Any]]:
    """One row for the report; nothing to compare with."""
    yield report_row(rounds)


def report_row(rounds: int) -> dict[str, Any]:
    """Median, least and most seconds that the page of a large run takes."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        size = large_run(folder)
        seconds = [_timed(lambda: write_report([folder], folder / "report.html")) for _ in range(rounds)]
        page = (folder / "report.html").stat().st_size
    ends = {"low": round(min(seconds), 2), "high": round(max(seconds), 2)}
    return {"name": "report-10mb-seconds", "ours": round(float(np.median(seconds)), 2), "unit": "s", **ends, "bytes": size, "page_bytes": page}


def large_run(folder: Path) -> int:
    """Write a run with ten megabytes of answers, associations and texts alike; gives back the bytes of its files."""
    attributions = np.random.default_rng(0).normal(size=(30, 9)).round(4).tolist()
    extras = {"edits": {"direction": {"locator": "patching", "picked": {"k": 30}}}, "attributions": {"patching": attributions}}
    write_record(folder, RunRecord(id="large", status="ok", spec={"model": "m", "test_seed": 2}, environment={}, timings={}, extras=extras))
    lines: list[str] = []
    size = number = 0
    while size < MEGABYTES << 20:
        for edit in ("none", "direction"):
            about = {"item": f"p{number}", "group": "others", "entity": NAMES[number % len(NAMES)], "token": "none", "edit": edit, "seed": 0}
            text = {"prompt": "Tell me.", "text": " ".join(f"word{(number * i) % 97}" for i in range(1, 60)), "ended": True}
            leans = {"stereotype": [-1.0 - number % 7, -2.0], "foil": [-1.5, -2.5]}
            for metric, said in (("strength", text), ("association", leans), ("association", leans), ("association", leans)):
                lines.append(json.dumps({"metric": metric, **about, "said": said}) + "\n")
                size += len(lines[-1])
        number += 1
    (folder / "answers.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "verdicts.jsonl").write_text("", encoding="utf-8")
    return size + (folder / "record.json").stat().st_size


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
