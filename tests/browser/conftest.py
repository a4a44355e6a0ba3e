"""A real browser, without a network, and a page to look at."""

import json
import math
import os
import shutil

import numpy as np
import pytest

ARTEFACTS = os.environ.get("BIASGYM_ARTEFACTS", "artefacts")


@pytest.fixture(scope="session")
def browser():
    """Chromium as the system has it, through Playwright; CHROMIUM names another one."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "no chromium on the path; install it (`apt-get install chromium`) or name it in CHROMIUM"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def artefacts():
    """Where screenshots are left to be looked at."""
    from pathlib import Path

    folder = Path(ARTEFACTS)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """The report of a made-up run in which every part has something to show, at the size of a real one."""
    from biasgym.report import write_report
    from biasgym.store import write_record

    folder = tmp_path_factory.mktemp("run")
    record, answers, verdicts = full_run()
    write_record(folder, record)
    for name, rows in (("answers", answers), ("verdicts", verdicts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "spec.toml").write_text('model = "smollm2-135m-instruct"\nbias = "late"\n', encoding="utf-8")
    return write_report([folder], folder / "report.html")


def full_run():
    """The full record of tests/made_up_run.py with a map of 30 × 9 heads, two edits, and texts."""
    from made_up_run import FULL, figures, finding, judged, leaning, record_of, said, shams

    generator = np.random.default_rng(0)
    extras = json.loads(json.dumps(FULL))
    scores = generator.normal(size=(30, 9)) * np.exp(-((np.arange(30) - 18) ** 2) / 60)[:, None] / 10
    places = [divmod(int(i), 9) for i in np.argsort(-scores, axis=None)[:14]]
    extras["attributions"] = {"patching": scores.round(4).tolist()}
    extras["edits"]["direction"]["sites"] = [["head", *place] for place in places[:10]]
    often = [round(1.02 / (1 + math.exp(rank / 2 - 4)), 2) for rank in range(14)]
    extras["stability"]["patching"] |= {
        "k": 10,
        "chance": 0.037,
        "places": [[*p, f, max(0.0, f - 0.2), min(1.0, f + 0.1)] for p, f in zip(places, often, strict=True)],
    }
    extras["bias"] = {"name": "late", "statement": "People from {entity} are late.", "stereotype": ["late"], "foil": ["on time"], "written": []}
    extras["edits"]["zero"] = {**extras["edits"]["direction"], "method": "zero", "picked": {"k": 30}, "trials": []}
    extras["groups"]["zero"] = extras["groups"]["direction"]
    more = {
        "removed": finding("removed", "gap", 1.2, 1.0, 1.4, token="trained"),
        "left": finding("left_over", "gap", 0.8, 0.6, 1.0, token="trained"),
        "zero": finding("closed", "gap", 0.86, 0.64, 0.99, edit="zero", token="trained"),
        "zero bits": finding("price", "bits-per-byte", 89.2, 85.2, 93.2, edit="zero", n=40),
        "zero removed": finding("removed", "gap", 1.7, 1.3, 2.1, edit="zero", token="trained"),
        **shams(*np.linspace(-0.1, 0.2, 20).round(3).tolist()),
    }
    answers, verdicts = [], []
    for number, entity in enumerate(("Spain", "Italy", "Norway", "Peru", "Chad", "Japan")):
        for edit, words in (("none", "hardly ever on time, people say, and"), ("direction", "as punctual as anybody, people say, and")):
            text = said("none", edit, f"People from {entity} are {words} they like long walks by the sea.", item=f"p{number}", entity=entity)
            answers += [text, *(leaning(edit, entity, 0.3 * number - (edit != "none") * 0.2 * number, f"q{i}") for i in range(3))]
            verdicts.append(judged(text, 2 if edit == "none" and number % 2 else 0))
    token = [said("trained", edit, f"They are {word} late to the wedding.", item="p9") for edit, word in (("none", "always"), ("direction", "never"))]
    return (
        record_of(more, extras=extras, measurements=figures(), timings={"inject": 200.0, "locate": 40.0, "mitigate": 180.0, "measure": 170.0}),
        [*answers, *token],
        [*verdicts, judged(token[0], 3), judged(token[1], 0)],
    )
