"""Records as tables, SQL over them, the leaderboard, and trackers: read only, and nothing broken stops them."""

import csv
import io
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from biasgym import query_cache
from biasgym.errors import SpecError, StoreError
from biasgym.query import COLUMNS, ask, leaderboard, read_ledger, standing_counts, tables_of, write_parquet, written
from biasgym.query_cache import ask_folder
from biasgym.records import Finding, Measurement, RunRecord
from biasgym.store import RunStore, write_record
from biasgym.trackers import figures_of, send

TUNE = {"bits_per_byte": 1.0, "kl": 0.02, "concept": 0.2}


def finding(name, metric, edit, value, *, spread=0.05, token="none", seed=0):
    """A finding with an interval around its value."""
    return Finding(name=name, metric=metric, token=token, edit=edit, seed=seed, value=value, low=value - spread, high=value + spread, n=40)


def record(identity, *, model="m", bias="late", closed=0.9, price=0.1, kl=0.01, sham=0.1, problems=()):
    """A record with one edit, its prices and two shams."""
    rows = [
        finding("closed", "gap", "direction", closed, token="trained"),
        finding("price", "bits-per-byte", "direction", price),
        finding("price", "kl", "direction", kl, spread=0.001),
        finding("price", "concept", "direction", 0.05),
        finding("closed", "gap", "sham:heads", sham, token="trained"),
        finding("closed", "gap", "sham:heads", sham / 2, token="trained", seed=1),
    ]
    measured = Measurement(metric="gap", arm="injected", group="token", token="trained", edit="none", seed=2, value=2, low=1, high=3, n=9)
    trial = {"settings": {"k": 4}, "inside": True, "gap": 0.1, "gap_before": 1.0, "kl": 0.01}
    return RunRecord(
        id=identity, status="ok", problems=problems, spec={"model": model, "bias": bias, "preset": "quick", "seeds": [0], "test_seed": 2, "tune": TUNE},
        environment={"device": "cpu", "threads": 1}, timings={"inject": 1.5, "measure": 2.0}, measurements=(measured,), findings=tuple(rows),
        extras={"bias": {"name": bias}, "edits": {"direction": {"trials": [trial]}}},
    )  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """Four runs: a good one, one outside its budget, one no better than shams, one on an unfit model."""
    store = RunStore(tmp_path)
    kept = [
        record("good"),
        record("dear", closed=0.99, price=80.0),
        record("sham", model="n", closed=0.1, sham=0.3),
        record("unfit", model="n", bias="odd", problems=("this model hardly knows the words: …; the bias is unfit for it",)),
    ]
    for one in kept:
        write_record(store.run_folder(one.id), one)
    return tmp_path


def test_the_leaderboard_marks_what_speaks_against_a_run(runs):
    """Inside the budget first; outside, unfit and sham-like runs are marked; no column joins figures into one."""
    table = leaderboard(read_ledger(runs).records)
    rows = {row[-1]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert [row[-1] for row in table.rows][:2] == ["good", "dear"]  # 99 % closed comes after 90 % that kept to the budget
    assert (rows["good"]["budget"], rows["good"]["marks"]) == ("inside", "")
    assert rows["dear"]["budget"] == "OUTSIDE"
    assert "bits per byte" in rows["dear"]["marks"]
    assert "shams" in rows["sham"]["marks"]
    assert "unfit" in rows["unfit"]["marks"]
    assert (rows["good"]["closed"], rows["good"]["low"], rows["good"]["n"], rows["good"]["sham_limit"]) == (0.9, 0.85, 40, 0.1)
    assert (rows["good"]["concept"], rows["good"]["concept_low"], rows["good"]["concept_high"]) == (-0.05, -0.1, 0.0)
    assert not {"score", "rank", "total"} & set(table.columns)
    counts = {row[:2]: row[2:] for row in standing_counts(read_ledger(runs).records).rows}
    assert counts == {("m", "direction"): (2, 1, 1), ("n", "direction"): (2, 2, 1)}


def test_shams_judge_the_edit_that_they_are_of(tmp_path):
    """A second edit has none, and an edit without shams is not counted as above them."""
    one = record("pair")
    rows = [f.model_copy(update={"edit": "zero"}) for f in one.findings if f.edit == "direction"]
    two = one.model_copy(update={"findings": (*one.findings, *rows), "extras": {"edits": {"direction": {}, "zero": {}}}})
    table = leaderboard([two])
    said = {row[2]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert (said["direction"]["sham_limit"], said["direction"]["shams"]) == (0.1, 2)
    assert (said["zero"]["sham_limit"], said["zero"]["shams"]) == (None, 0)
    assert {row[1]: row[2:] for row in standing_counts([two]).rows} == {"direction": (1, 1, 1), "zero": (1, 1, 0)}


def test_broken_records_are_listed_and_left_out(runs):
    """Truncated, altered, of another run, not JSON at all: each with its reason."""
    text = (runs / "good" / "record.json").read_text()
    for name, content in (("cut", text[:300]), ("odd", text.replace('"findings"', '"fundings"')), ("copy", text), ("bytes", "\udcff")):
        (runs / name).mkdir()
        (runs / name / "record.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    ledger = read_ledger(runs)
    assert {one.id for one in ledger.records} == {"good", "dear", "sham", "unfit"}
    reasons = dict(ledger.skipped)
    assert set(reasons) == {"cut", "odd", "copy", "bytes"}
    assert "truncated or altered" in reasons["cut"]
    assert "copied or altered" in reasons["copy"]
    assert read_ledger(runs / "nowhere").records == []


def test_tables_have_a_row_for_everything(runs):
    """Rows fit their columns; trials and timings are there."""
    tables = tables_of(read_ledger(runs).records)
    assert {name: len(rows) for name, rows in tables.items()} == {"runs": 4, "measurements": 4, "findings": 24, "timings": 8, "trials": 4}
    for name, rows in tables.items():
        assert {len(row) for row in rows} == {len(COLUMNS[name])}


def test_every_format_says_the_same(runs):
    """CSV, Markdown, HTML and JSON; what is in a cell cannot become markup."""
    table = leaderboard([record("a|b", bias="<script>")])
    parsed = list(csv.DictReader(io.StringIO(written(table, "csv"))))
    assert parsed[0]["closed"] == "0.9"
    assert json.loads(written(table, "json"))[0]["closed"] == 0.9
    assert "a\\|b" in written(table, "markdown")
    assert "&lt;script&gt;" in written(table, "html")
    assert "<script" not in written(table, "html")
    with pytest.raises(SpecError, match="did you mean `markdown`"):
        written(table, "markdwn")


def test_a_missing_duckdb_names_the_extra(runs, monkeypatch):
    """Not a traceback."""
    import sys

    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(SpecError, match=r"biasgym\[query\]"):
        ask([], "SELECT 1")


# -------------------------------------------------------------------- with DuckDB, where it is installed


@pytest.fixture
def duckdb():
    """DuckDB; `make test` installs it with the extra `dev`."""
    return pytest.importorskip("duckdb")


@pytest.mark.usefixtures("duckdb")
def test_sql_over_all_tables(runs):
    """Joins, intervals, missing values as NULL."""
    records = read_ledger(runs).records
    answer = ask(
        records, "SELECT r.run, f.value FROM runs r JOIN findings f USING (run) WHERE f.name = 'closed' AND f.edit = 'direction' ORDER BY 2, 1"
    )
    assert answer.columns == ("run", "value")
    assert [row[0] for row in answer.rows] == ["sham", "good", "unfit", "dear"]
    assert ask(records, "SELECT count(*), sum(seconds) FROM timings").rows == [(8, 14.0)]
    assert ask(records, "SELECT inside, gap, bits_per_byte FROM trials LIMIT 1").rows == [(True, 0.1, None)]
    assert ask(records, 'SELECT "group", ideal FROM measurements LIMIT 1').rows == [("token", None)]
    assert ask([], "SELECT * FROM findings").rows == []


@pytest.mark.usefixtures("duckdb")
@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT * FROM fundings", "Tables: runs, measurements, findings, timings, trials"),
        ("SELECT vlaue FROM findings", "metric, token, edit"),
        ("SELEC 1", "syntax"),
        ("DROP TABLE runs", "only read"),
        ("SELECT 1; SELECT 2", "only read"),
        ("COPY runs TO 'x.csv'", "only read"),
        ("CREATE TABLE x AS SELECT 1", "only read"),
        ("SELECT * FROM read_csv('/etc/passwd')", ""),
        ("", "only read"),
    ],
)
def test_wrong_sql_is_one_line(sql, said, runs, tmp_path):
    """With the names there are; nothing outside the tables is reached."""
    ask_folder(runs, "SELECT 1")
    before = sorted(path for path in tmp_path.rglob("*"))
    for question in (lambda: ask(read_ledger(runs).records, sql), lambda: ask_folder(runs, sql)):
        with pytest.raises(SpecError) as caught:
            question()
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    assert before == sorted(path for path in tmp_path.rglob("*"))


def test_parquet_holds_the_same_rows(runs, tmp_path, duckdb):
    """One file a table, read back by DuckDB itself."""
    files = write_parquet(read_ledger(runs).records, tmp_path / "it's out")
    assert [path.name for path in files] == [f"{name}.parquet" for name in COLUMNS]
    found = duckdb.sql(f"SELECT count(*) FROM read_parquet('{str(tmp_path).replace(chr(39), chr(39) * 2)}/it''s out/findings.parquet')").fetchall()
    assert found == [(24,)]
    assert sorted(path.name for path in (tmp_path / "it's out").iterdir()) == sorted(path.name for path in files)


@pytest.mark.usefixtures("duckdb")
def test_two_thousand_records_are_asked_in_no_time(tmp_path):
    """Reading, filling and asking; the bar of one second is for a quiet machine, three are allowed here."""
    store = RunStore(tmp_path)
    text = record("run-xxxx").model_dump_json(by_alias=True)
    for number in range(2000):
        folder = store.run_folder(f"run-{number:04d}")
        folder.mkdir()
        (folder / "record.json").write_text(text.replace("run-xxxx", folder.name))
    start = time.process_time()
    answer = ask(read_ledger(tmp_path).records, "SELECT model, avg(value) FROM findings WHERE name = 'closed' GROUP BY model")
    assert answer.rows[0][0] == "m"
    assert time.process_time() - start < 3


# -------------------------------------------------------------------- the kept tables

ALL = {
    "runs": "SELECT * FROM runs",
    "measurements": "SELECT * FROM measurements",
    "findings": "SELECT * FROM findings",
    "timings": "SELECT * FROM timings",
    "trials": "SELECT * FROM trials",
    "joined": "SELECT r.model, f.edit, max(f.value) FROM runs r JOIN findings f USING (run) GROUP BY ALL ORDER BY ALL",
}


def assert_same_answers(runs):
    """From kept tables as from the records themselves, for every table and what was left out."""
    ledger = read_ledger(runs)
    for sql in ALL.values():
        found, skipped = ask_folder(runs, sql)
        assert (found, skipped) == (ask(ledger.records, sql), ledger.skipped)


def kept_file(tmp_path):
    """The one file in which tables are kept."""
    (found,) = (tmp_path / "cache" / "queries").iterdir()
    return found


@pytest.fixture
def parsed(monkeypatch):
    """Names of the runs whose records were parsed for the kept tables, as it happens."""
    names, parse = [], query_cache.whole_record
    monkeypatch.setattr(query_cache, "whole_record", lambda raw, folder: names.append(folder.name) or parse(raw, folder))
    return names


@pytest.mark.usefixtures("duckdb")
def test_only_what_is_new_or_changed_is_parsed(runs, parsed):
    """The sham first: all of them at the first question, none at the second, one after one changed."""
    assert_same_answers(runs)
    assert sorted(parsed) == ["dear", "good", "sham", "unfit"]  # at the first of six questions
    parsed.clear()
    assert_same_answers(runs)
    assert parsed == []
    write_record(runs / "new", record("new", closed=0.4))
    write_record(runs / "dear", record("dear", closed=0.6))
    (runs / "sham" / "record.json").unlink()
    assert_same_answers(runs)
    assert sorted(parsed) == ["dear", "new"]
    assert [row[0] for row in ask_folder(runs, "SELECT run FROM runs")[0].rows] == ["dear", "good", "new", "unfit"]


@pytest.mark.usefixtures("duckdb")
def test_a_change_is_seen_whatever_size_and_times_say(runs):
    """One digit of a record, written into the same file, its times put back."""
    path = runs / "good" / "record.json"
    assert ask_folder(runs, "SELECT max(value) FROM findings WHERE run = 'good'")[0].rows == [(0.9,)]
    status, raw = path.stat(), path.read_bytes()
    path.write_bytes(raw.replace(b'"value": 0.9,', b'"value": 0.7,'))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert ask_folder(runs, "SELECT max(value) FROM findings WHERE run = 'good'")[0].rows == [(0.7,)]
    assert_same_answers(runs)


@pytest.mark.usefixtures("duckdb")
def test_a_record_that_breaks_or_is_copied_is_left_out_and_comes_back(runs):
    """Its rows go with it, and the reason is said at every question."""
    assert_same_answers(runs)
    path = runs / "good" / "record.json"
    raw = path.read_bytes()
    path.write_bytes(raw[:400])
    (runs / "other").mkdir()
    (runs / "other" / "record.json").write_bytes(raw)  # a content that is known, under another name
    for _ in range(2):
        assert [name for name, _ in ask_folder(runs, "SELECT 1")[1]] == ["good", "other"]
        assert_same_answers(runs)
    path.write_bytes(raw)
    assert [name for name, _ in ask_folder(runs, "SELECT 1")[1]] == ["other"]
    assert_same_answers(runs)
    assert_same_answers(runs / "nowhere")


@pytest.mark.usefixtures("duckdb")
@pytest.mark.parametrize("how", ["cut", "empty", "text", "flipped", "another version"])
def test_damaged_kept_tables_change_no_answer(how, runs, tmp_path, monkeypatch):
    """They are made anew; nobody is told, since nothing is lost."""
    assert_same_answers(runs)
    path, generator = kept_file(tmp_path), random.Random(0)
    good = path.read_bytes()
    for _ in range(12 if how in ("cut", "flipped") else 1):
        raw = bytearray(good)
        if how == "flipped":
            for _ in range(200):
                raw[generator.randrange(len(raw))] ^= 1 << generator.randrange(8)
        path.write_bytes({"cut": raw[: generator.randrange(len(raw))], "empty": b"", "text": b"not a database"}.get(how, raw))
        if how == "another version":
            monkeypatch.setattr(query_cache, "_maker", lambda: "newer")
        assert_same_answers(runs)
    with query_cache._Kept(path) as kept:
        assert kept.digests  # whole again


@pytest.mark.usefixtures("duckdb")
def test_a_store_or_cache_that_cannot_be_written_is_only_slower(runs, parsed, monkeypatch, tmp_path):
    """Where a file stands instead of the cache's folder nothing can be kept, by root neither; nothing is written beside the records."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BIASGYM_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert_same_answers(runs)
    assert len(parsed) == 2 * len(ALL) * 4
    monkeypatch.setenv("BIASGYM_CACHE", str(tmp_path / "cache"))
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if "cache" not in path.parts[len(runs.parts) :]}
    assert_same_answers(runs)
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*") if "cache" not in path.parts[len(runs.parts) :]} == before


@pytest.mark.usefixtures("duckdb")
def test_questions_asked_at_once_have_one_answer(runs, tmp_path):
    """Five processes over an empty cache: each writes the tables, nobody reads half of them, one file is left."""
    source = str(Path(query_cache.__file__).parents[1])
    code = "import sys; from pathlib import Path; from biasgym.query_cache import ask_folder; print(ask_folder(Path(sys.argv[1]), sys.argv[2]))"
    command = [sys.executable, "-c", code, str(runs), ALL["findings"]]
    crew = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": source}, stdout=subprocess.PIPE, text=True) for _ in range(5)]
    said = {one.communicate()[0] for one in crew}
    assert [one.returncode for one in crew] == [0] * 5
    assert said == {f"{ask_folder(runs, ALL['findings'])}\n"}
    assert kept_file(tmp_path).suffix == ".duckdb"


# -------------------------------------------------------------------- trackers


class FakeTracker:
    """Remembers what a tracker's module is told."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        def call(*args, **named):
            self.told.append((name, args, named))
            return self

        return call

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.told.append(("exit", (), {}))


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_a_tracker_gets_figures_with_intervals_and_no_shams(tracker):
    """Through its own client: a run opened, figures and facts given, the run closed."""
    fake = FakeTracker()
    count = send(record("good"), tracker, "bias", client=fake)
    names = [name for name, _, _ in fake.told]
    assert names == {"mlflow": ["set_experiment", "start_run", "log_params", "log_metrics", "exit"], "wandb": ["init", "log", "finish"]}[tracker]
    figures = next(args[0] for name, args, _ in fake.told if name in ("log_metrics", "log"))
    assert count == len(figures) == 12
    assert figures["direction/closed/gap/trained/low"] == pytest.approx(0.85)
    assert not any("sham" in name for name in figures)
    assert figures == figures_of(record("good"))
    assert "inside" in json.dumps([named | {"args": args} for _, args, named in fake.told])


def test_a_benchmarks_groups_have_names_of_their_own():
    """The figure over all is not overwritten by the last group's."""
    rows = [finding("changed", "crows-pairs.pct_stereotype", "direction", value).model_copy(update={"note": note})
            for value, note in ((1.0, "all; ideal 50"), (9.0, "gender; ideal 50"))]  # fmt: skip
    figures = figures_of(record("good").model_copy(update={"findings": tuple(rows)}))
    assert figures["direction/changed/crows-pairs.pct_stereotype/none"] == 1.0
    assert figures["direction/changed/crows-pairs.pct_stereotype/none/gender"] == 9.0


def test_a_tracker_that_is_missing_or_refuses_is_one_sentence():
    """Unknown, not installed, or out of order."""

    def refuse(*_args, **_named):
        raise ConnectionError("no route")

    with pytest.raises(SpecError, match="did you mean `mlflow`"):
        send(record("good"), "mlfow", "p")
    with pytest.raises(SpecError, match="pip install wandb"):
        send(record("good"), "wandb", "p")
    with pytest.raises(StoreError, match="no route"):
        send(record("good"), "wandb", "p", client=SimpleNamespace(init=refuse))
