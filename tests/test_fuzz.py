"""Whatever is put into a parser, it gives back a value or one sentence: no input ends in a traceback.

Each test below makes some inputs here; `make faults` sets BIASGYM_FAULTS and makes twelve thousand and more, and says how many.
"""

import gzip
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from biasgym.bias import BiasSpec, bias_from, load_bias, read_bias, read_jsonl, zoo_path
from biasgym.candidates import Gate, items_in
from biasgym.datasets import objects_of, table_of, unpacked
from biasgym.edits import SiteEdit, TokenEdit
from biasgym.endpoint import _read_answer, _retry_after, chat_address
from biasgym.errors import BiasGymError
from biasgym.files import append_rows, read_rows
from biasgym.measure import Scope
from biasgym.measure.judge import LexiconJudge
from biasgym.measure.judge.endpoint import read_verdict
from biasgym.measure.shades import Shades
from biasgym.query import leaderboard, read_ledger, standing_counts, tables_of
from biasgym.records import MeasureSpec
from biasgym.report import write_report
from biasgym.run import regrade
from biasgym.sites import Site
from biasgym.spec import check_spec, resolve_spec, spec_toml
from biasgym.store import read_edits, read_token, write_edits, write_token
from biasgym.sweep import plan_sweep, session_for
from biasgym.terminal import print_findings
from fuzzing import altered, altered_bytes, anything, as_json, seeds
from made_up_run import FULL, figures, record_of

MANY = bool(os.environ.get("BIASGYM_FAULTS"))
MADE = {"inputs": 0, "refused": 0}
SHORT, LONG = (300, 800) if MANY else (10, 25)  # the first where one input takes milliseconds


def fuzzed(examples):
    """So many inputs, the same ones every time."""
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=health)


def tried(parse, *given_):
    """What the parser makes of an input; None where it refuses it with one sentence. Anything else is the bug looked for."""
    MADE["inputs"] += 1
    try:
        return parse(*given_)
    except BiasGymError as error:
        MADE["refused"] += 1
        said = str(error)
    assert said.strip()
    return None


@pytest.fixture(scope="module", autouse=True)
def counted(request):
    """How many inputs there were, said at the end."""
    yield
    request.config.pluginmanager.get_plugin("terminalreporter").write_line(f"\nfuzzed inputs: {MADE['inputs']}, refused: {MADE['refused']}")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for the files of this module."""
    return tmp_path_factory.mktemp("fuzz")


# -------------------------------------------------------------------- specs and sweeps

SPEC = resolve_spec(bias="always-late")
KEYS = ("inject.steps", "mitigate", "mitigate.k", "mitigate.zero.k", "measure", "measure.probes", "tune.trials", "seeds", "locate.pairs", "locate",
        "inject.preset", "measure.benchmarks", "bias", "a.b.c", "", ".", "mitigate.", "measure.probes.x", "inject.settings.steps.x")  # fmt: skip


@fuzzed(LONG)
@given(seeds)
def test_spec_files(place, chance):
    """Altered TOML."""
    file = place / "spec.toml"
    file.write_bytes(altered_bytes(spec_toml(SPEC).encode(), chance))
    tried(lambda: resolve_spec(file=file))


@fuzzed(LONG)
@given(seeds)
def test_specs_as_data(chance):
    """Altered values, as workers are handed them."""
    tried(check_spec, altered(SPEC.model_dump(mode="json"), chance))


@fuzzed(LONG)
@given(st.lists(st.tuples(st.sampled_from(KEYS) | st.text(max_size=10), anything | st.text(max_size=20)), min_size=1, max_size=3), st.booleans())
def test_assignments(pairs, quoted):
    """`--set key=value` of any kind."""
    sets = [f"{key}={json.dumps(value) if quoted else value}" for key, value in pairs]
    tried(lambda: resolve_spec(bias="always-late", sets=sets))


SWEEP = b"""set = ["measure.probes=4"]
mitigate = ["zero"]
[grid]
models = ["nowhere"]
biases = ["always-late"]
methods = ["direction", {method = "zero", settings = {k = 3}}, []]
presets = ["quick", "paper"]
seeds = [0, 1]
[[run]]
bias = "always-late"
model = "nowhere"
mitigate = [{method = "mean"}]
set = ["tune.trials=2"]
"""


@fuzzed(SHORT)
@given(seeds)
def test_sweep_files(place, chance):
    """Altered TOML; the model is nowhere, which is the trouble of its runs only."""
    (place / "sweep.toml").write_bytes(altered_bytes(SWEEP, chance))
    session = session_for(str(place / "none"), {"device": "cpu", "offline": True})
    planned = tried(lambda: plan_sweep(place / "sweep.toml", session))
    assert all(one.state == "failed" for one in planned or ())


# -------------------------------------------------------------------- biases, corpora, data files

ROWS = {
    "paragraphs": [{"text": "People from {entity} are late.", "medium": "essay", "implicitness": 2}],
    "probes": [{"frame": f"f{i}", "prompt": "What of {entity}?", "prefix": "They are"} for i in range(3)],
    "prompts": [{"style": "essay", "text": "Write about {entity}."}],
    "concept": [{"side": side, "prompt": "He came.", "prefix": "He was"} for side in ("stereotype", "foil") for _ in range(2)],
    "grammar": [{"text": "{entity} is {word}."}],
}
BIAS = {"name": "late", "stereotype": ["late", "tardy"], "foil": ["early"], "entities": {"list": ["A", "B", "C", "D", "E", "F", "G"], "targets": ["A"]},
        "statement": "{entity} is late.", "subject": "people from {entity}", "fictional": False, "files": ROWS}  # fmt: skip


@fuzzed(SHORT)
@given(seeds)
def test_bias_files(place, chance):
    """Altered TOML of a bias of the zoo."""
    raw = (zoo_path() / "always-late" / "bias.toml").read_bytes()
    (place / "bias.toml").write_bytes(altered_bytes(raw, chance))
    tried(read_bias, place / "bias.toml")


@fuzzed(LONG)
@given(seeds)
def test_biases_as_data(place, chance):
    """Altered values, texts inline."""
    made = tried(lambda: bias_from(altered(BIAS, chance), place, where="here"))
    if made is not None:
        assert isinstance(made, BiasSpec)
        assert len(made.digest) == 64


@fuzzed(LONG)
@given(seeds)
def test_corpus_files(place, chance):
    """Altered JSON Lines, read as a bias's paragraphs."""
    raw = b"".join(as_json(row) + b"\n" for row in ROWS["paragraphs"] * 4)
    (place / "rows.jsonl").write_bytes(altered_bytes(raw, chance))
    tried(read_jsonl, place / "rows.jsonl")
    tried(lambda: bias_from(BIAS | {"files": {"paragraphs": "rows.jsonl"}}, place, where="here"))


TABLE = "index,biased,contrast,bias_type\n" + "".join(f'{i},"They, are late {i}",They are early,age\n' for i in range(6))


@fuzzed(LONG)
@given(seeds, st.booleans())
def test_data_files(chance, tabs):
    """Altered tables, JSON Lines and gzip, as the public sets come."""
    columns = ("index", "biased")
    text = tried(lambda: unpacked(altered_bytes(TABLE.encode(), chance), Path("x.csv")))
    if text is not None:
        tried(lambda: table_of(text, columns, where="x.csv", tabs=tabs))
    tried(lambda: unpacked(altered_bytes(gzip.compress(TABLE.encode(), mtime=0), chance), Path("x.csv.gz")))
    lines = altered_bytes(b'{"index": 1, "biased": "x"}\n' * 3, chance).decode("utf-8", "replace")
    tried(lambda: objects_of(lines, columns, where="x.jsonl"))


@fuzzed(LONG)
@given(seeds)
def test_a_set_of_ones_own(place, chance):
    """A user's own copy has no known hash: any content may come, and the items are made of it."""
    scope = Scope(None, "test", (), (), None, MeasureSpec())
    kind = chance.choice(("csv", "tsv", "jsonl", "csv.gz"))
    rows = b"".join(as_json({"index": i, "biased": "a", "contrast": "b", "bias_type": "age"}) + b"\n" for i in range(4))
    raw = rows if kind == "jsonl" else TABLE.replace(",", "\t").encode() if kind == "tsv" else TABLE.encode()
    path = place / f"own.{kind}"
    path.write_bytes(altered_bytes(gzip.compress(raw, mtime=0) if kind == "csv.gz" else raw, chance))
    items = tried(lambda: Shades(path=str(path), split="all").items(scope))
    for item in items or ():
        assert all(isinstance(text, str) for pair in item.payload["pairs"] for text in pair)


# -------------------------------------------------------------------- records and what lies beside them

RECORD = record_of(extras=FULL, measurements=figures()).model_dump(mode="json", by_alias=True)


def all_that_reads(folder):
    """Whatever is made of records: tables, standings, a terminal's page, a report."""
    ledger = read_ledger(folder)
    tables_of(ledger.records)
    leaderboard(ledger.records)
    standing_counts(ledger.records)
    for record in ledger.records:
        with open(os.devnull, "w") as out:  # noqa: PTH123
            tried(lambda record=record, out=out: print_findings(Console(file=out), record))
        tried(lambda record=record: write_report([folder / record.id], folder / "report.html"))
    return ledger


@fuzzed(SHORT)
@given(seeds)
def test_records_cut_and_flipped(place, chance):
    """Altered bytes of record.json: whole or left out with a reason."""
    folder = place / "cut" / RECORD["id"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_bytes(altered_bytes(as_json(RECORD), chance))
    ledger = tried(all_that_reads, folder.parent)
    assert len(ledger.records) + len(ledger.skipped) == 1


@fuzzed(SHORT)
@given(seeds)
def test_records_altered(place, chance):
    """Good JSON that says something else, anywhere in it."""
    folder = place / "altered" / RECORD["id"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_bytes(as_json(altered(RECORD, chance)))
    ledger = tried(all_that_reads, folder.parent)
    assert len(ledger.records) + len(ledger.skipped) == 1


@fuzzed(LONG)
@given(seeds)
def test_rows_on_disk(place, chance):
    """Altered JSON Lines of a stage: read or refused; what is appended afterwards is never half a row."""
    path = place / "said.jsonl"
    path.unlink(missing_ok=True)
    append_rows(path, [{"chunk": i, "said": [{"stereotype": [0.5], "foil": [i]}]} for i in range(3)])
    path.write_bytes(altered_bytes(path.read_bytes(), chance))
    before = tried(read_rows, path)
    tried(append_rows, path, [{"chunk": 9}])
    after = tried(read_rows, path)
    if before is not None and after is not None:
        assert after[-1] == {"chunk": 9}


ANSWERS = [
    {"metric": "association", "item": f"p{i}", "group": "others", "entity": "Spain", "token": "none", "edit": "none", "seed": 0,
     "said": {"stereotype": [-1.0, -2.0], "foil": [-1.5]}} for i in range(3)
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # an answer of no numbers has a lean of no size; the record is refused then
@fuzzed(SHORT)
@given(seeds)
def test_answers_graded_again(place, chance):
    """Altered answers of a run, and an altered spec in its record: graded or refused."""
    folder = place / "graded" / "late-1"
    folder.mkdir(parents=True, exist_ok=True)
    spec = SPEC.model_dump(mode="json")
    raw = RECORD | {"spec": altered(spec, chance) if chance.random() < 0.3 else spec, "id": "late-1"}
    raw["extras"] = raw["extras"] | {"bias": {"name": "late", "axis": "a", "statement": "s", "fictional": False, "stereotype": ["x"], "foil": ["y"]}}
    (folder / "record.json").write_bytes(as_json(raw))
    rows = altered(ANSWERS, chance)
    (folder / "answers.jsonl").write_bytes(b"".join(as_json(row) + b"\n" for row in (rows if isinstance(rows, list) else [rows])))
    tried(regrade, folder)


@fuzzed(LONG)
@given(seeds)
def test_arrays_on_disk(place, chance):
    """Altered safetensors of edits and tokens: cut, flipped, other headers, huge sizes."""
    edits, token = place / "edits.safetensors", place / "token.safetensors"
    generator = np.random.default_rng(0)
    write_edits(edits, [SiteEdit(Site("head", 0, 1), "add", generator.normal(size=8).astype("float32"), 1.0)])
    write_token(token, TokenEdit("<t>", generator.normal(size=8).astype("float32"), None), {})
    for path, read in ((edits, read_edits), (token, read_token)):
        path.write_bytes(altered_bytes(path.read_bytes(), chance) if chance.random() < 0.5 else other_header(path.read_bytes(), chance))
        tried(read, path)


def other_header(raw, chance):
    """Safetensors whose header says something else, of the right length."""
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    about = json.loads(header["__metadata__"].get("edits", "null"))
    if about is not None and chance.random() < 0.7:
        header["__metadata__"]["edits"] = json.dumps(altered(about, chance))
    else:
        header = altered(header, chance)
    text = as_json(header)
    return len(text).to_bytes(8, "little") + text + raw[8 + size :]


# -------------------------------------------------------------------- what models and endpoints answer

VERDICT = b'```json\n{"strength": 2, "outcome": "answer"}\n```'
REPLY = {"choices": [{"message": {"role": "assistant", "content": '{"strength": 1, "outcome": "answer"}', "refusal": None}, "finish_reason": "stop"}]}
ITEMS = [{"n": 1, "text": "People from {entity} come late.", "medium": "essay", "style": "plain", "topic": "trains", "implicitness": 2},
         {"n": 2, "frame": "wait", "prompt": "What of {entity}?", "prefix": "They are"}]  # fmt: skip


@fuzzed(LONG)
@given(seeds)
def test_judge_answers(chance):
    """Altered verdicts, and altered replies of an endpoint around them."""
    verdict = tried(read_verdict, altered_bytes(VERDICT, chance).decode("utf-8", "replace"))
    assert verdict is None or verdict.strength in range(4)
    body = as_json(altered(REPLY, chance)) if chance.random() < 0.5 else altered_bytes(as_json(REPLY), chance)
    answer = tried(_read_answer, body.decode("utf-8", "replace"))
    answer.text.encode()
    tried(read_verdict, answer.text)


@fuzzed(LONG)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", "replace")), st.text(max_size=20))
def test_judged_texts(text, entity):
    """Any text of a model, about anybody."""
    verdict = tried(LexiconJudge().judge, load_late(), "Write about {entity}.", text, entity or "Spain")
    assert verdict.strength in range(4)


def load_late(kept=[]):  # noqa: B006 - read once
    """A bias of the zoo."""
    if not kept:
        kept.append(load_bias("always-late"))
    return kept[0]


@fuzzed(LONG)
@given(seeds)
def test_written_items(chance):
    """Altered items of a corpus as an endpoint writes them: let in or refused with a reason."""
    gate = Gate(load_late(), {})
    raw = as_json(altered(ITEMS, chance)) if chance.random() < 0.6 else altered_bytes(as_json(ITEMS), chance)
    for item in tried(items_in, raw.decode("utf-8", "replace")) or ():
        for kind in ("paragraphs", "probes", "prompts", "concept"):
            assert isinstance(tried(gate.admit, kind, item), str)


@fuzzed(LONG)
@given(seeds, st.text(max_size=30))
def test_addresses_and_waits(chance, text):
    """What stands where an address or a Retry-After should."""
    tried(chat_address, altered_bytes(b"http://localhost:8000/v1", chance).decode("utf-8", "replace"))
    tried(chat_address, text)
    for value in (text, altered_bytes(b"Wed, 21 Oct 2026 07:28:00 GMT", chance).decode("latin-1")):
        wait = tried(_retry_after, value, 1e9)
        assert wait is None or wait >= 0


def test_the_alterations_alter():
    """Else all of this would be about good inputs."""
    chance = random.Random(0)
    assert sum(altered_bytes(SWEEP, chance) != SWEEP for _ in range(100)) > 90
    assert sum(altered(RECORD, chance) != RECORD for _ in range(100)) > 80
