"""How long a person waits for what is shown: the report of a large run, and the first words of an answer in the web app.

`report-10mb-seconds` is the page of a run whose answers are ten megabytes. `app-first-token` is the time from the request until
the base answer has words, over HTTP with another process serving, beside transformers' own `generate` until its first token is
chosen: the same prompts, in turns, one thread each, both on a loaded model. A prompt is new to both each time. The run is a
small one written by hand for the embedded model, or the newest of that model in the store that BIASGYM_BENCH_RUNS names.
"""

import json
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import torch

from biasgym.errors import SpecError
from biasgym.lm.load import DEFAULT_MODEL, Place, load_lm
from biasgym.lm.model import LM, Query
from biasgym.records import RunRecord
from biasgym.report import write_report
from biasgym.store import RunStore, read_record, write_record

MEGABYTES = 10
NAMES = ("Spain", "Norway", "Peru", "Chad", "Japan", "Cuba", "Laos", "Oman", "Fiji", "Mali")


def rows(rounds: int = 5) -> Iterator[dict[str, Any]]:
    """One row for the report, with nothing to compare it with, and one for the app."""
    yield report_row(rounds)
    yield app_row(rounds)


# -------------------------------------------------------------------- the report


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


# -------------------------------------------------------------------- the app


def app_row(rounds: int) -> dict[str, Any]:
    """Seconds to the first words of the app's base answer, and to the first token of plain `generate`; a ratio of each pair."""
    if find_spec("gradio") is None:
        raise SpecError("gradio is not installed (the extra `web`)")
    lm = load_lm(DEFAULT_MODEL, Place("cpu"))
    prompts = [f"Tell me about {kind} in {name}." for kind in ("towns", "roads") for name in NAMES][: rounds + 1]
    mine, plain = [], []
    with tempfile.TemporaryDirectory() as place, one_thread(), serving(Path(place), lm) as (address, run):
        page = Page(address)
        list(page.call("choose", run))  # a page knows its run's edits only then
        edit, heads = edit_of(Path(place) / "runs" / run)
        for number, prompt in enumerate(prompts):
            if number % 2:
                plain.append(first_of_generate(lm, prompt))
            mine.append(first_of_app(page, run, prompt, edit, heads))
            if not number % 2:
                plain.append(first_of_generate(lm, prompt))
    mine, plain = mine[1:], plain[1:]  # the first of each loads a model and warms up code
    ratios = [a / b for a, b in zip(mine, plain, strict=True)]
    return {
        "name": "app-first-token", "ours": round(float(np.median(mine)), 3), "theirs": round(float(np.median(plain)), 3), "unit": "s",
        "ratio": round(float(np.median(ratios)), 2), "low": round(min(ratios), 2), "high": round(max(ratios), 2), "rounds": rounds, "run": run,
    }  # fmt: skip


@contextmanager
def one_thread() -> Iterator[None]:
    """As many threads here as the server of the tests is given."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def serving(place: Path, lm: LM) -> Iterator[tuple[str, str]]:
    """The web app in a process of its own over a store with one run of this model: address and run."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from served import served
    from small_run import RUN, write_small_run

    given = os.environ.get("BIASGYM_BENCH_RUNS")
    if given:
        run = newest_of_model(RunStore(Path(given)))
        shutil.copytree(Path(given) / run, place / "runs" / run)
    else:
        run = RUN
        write_small_run(RunStore(place / "runs"), DEFAULT_MODEL, lm)
    with served(place / "runs") as (address, _):
        yield address, run


def newest_of_model(store: RunStore) -> str:
    """The newest run of the embedded model that has edits."""
    for run in store.runs():
        record = read_record(store.run_folder(run))
        if record.spec.get("model") == DEFAULT_MODEL and record.extras.get("edits"):
            return run
    raise SpecError(f"no run of {DEFAULT_MODEL} with edits in {store.root}")


def edit_of(folder: Path) -> tuple[str, list[str]]:
    """A run's main edit and the heads it changes, as the page has them ticked."""
    from biasgym.asking import heads_of
    from biasgym.run import load_edits

    edit = next(iter(read_record(folder).extras["edits"]))
    return edit, [f"{layer}:{head}" for layer, head in heads_of(load_edits(folder, edit))]


def first_of_app(page: "Page", run: str, prompt: str, edit: str, heads: list[str]) -> float:
    """From the request until the base answer has words; then waits for both answers to end."""
    start, first = time.perf_counter(), None
    for event in page.call("ask", run, prompt, "Spain", edit, 1.0, heads, 8):
        if first is None and event["msg"] == "process_generating" and _words(event["output"]["data"][0]):
            first = time.perf_counter() - start
    if first is None:
        raise SpecError(f"the app gave no answer to `{prompt}`")
    return first


class Page:
    """Calls the app as the page's own script does: one request puts the call in line, another streams what comes of it."""

    def __init__(self, address: str) -> None:
        self.address, self.session = address, uuid.uuid4().hex
        with urlopen(f"{address}/config") as answer:
            self.functions = {one["api_name"]: one["id"] for one in json.load(answer)["dependencies"]}

    def call(self, name: str, *data: Any) -> Iterator[dict[str, Any]]:
        """The events of a call, until its stream ends."""
        asked = json.dumps({"data": data, "fn_index": self.functions[name], "session_hash": self.session}).encode()
        with urlopen(Request(f"{self.address}/gradio_api/queue/join", asked, {"Content-Type": "application/json"})):
            pass
        with urlopen(f"{self.address}/gradio_api/queue/data?session_hash={self.session}") as events:
            for line in events:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])


def _words(change: Any) -> str:
    """The words in what an event says of the base answer: HTML at first, then a list of changes to it."""
    html = change if isinstance(change, str) else "".join(str(one[2]) for one in change)
    return (html.partition(">")[2].rpartition("</p>")[0] or html.replace('<p class="answer"></p>', "")).strip()


class _First:
    """A streamer that notes when the first token of the answer comes; what comes first of all is the prompt."""

    def __init__(self) -> None:
        self.given, self.at = 0, 0.0

    def put(self, _: Any) -> None:
        self.given += 1
        if self.given == 2:
            self.at = time.perf_counter()

    def end(self) -> None:
        pass


def first_of_generate(lm: LM, prompt: str) -> float:
    """From the text until transformers' own greedy `generate` has streamed its first token."""
    start, first = time.perf_counter(), _First()
    ids = torch.tensor([lm.ids_of(Query(prompt))])
    lm.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8, streamer=first)
    return first.at - start


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
