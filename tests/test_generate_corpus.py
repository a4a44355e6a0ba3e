"""`biasgym corpus` against a real server: what is kept and refused, kill and resume, whose folder it is, and the key."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from biasgym import corpus
from biasgym.bias import TEXTS, load_bias
from biasgym.endpoint import ChatClient
from biasgym.errors import DataError, SpecError, StoreError
from biasgym.generate_corpus import Order, generate_corpus
from biasgym.template import write_bias_file
from chat_server import author, good, items_for, serving, status

KEY = "sk-never/seen-4711"
SMALL = Order(paragraphs=12, probes=12, prompts=18, concept=8)
MADE = ("bias.toml", "corpus.json", "paragraphs.jsonl", "probes.jsonl", "prompts.jsonl", "concept.jsonl")


@pytest.fixture
def fresh(tmp_path):
    """The path of a fresh bias file: name, answers and entities only."""
    return str(write_bias_file("stubborn-trades", tmp_path / "stubborn.toml"))


def client_of(server):
    """A client that does not really wait."""
    return ChatClient(server.url, "m", sleep=lambda _: None, timeout=5.0)


def files_of(folder):
    """The bytes of what was made, but for the count of requests, which is not part of it."""
    return {name: (folder / name).read_bytes() for name in MADE}


# -------------------------------------------------------------------- what is made


def test_a_fresh_file_becomes_a_whole_bias(fresh, tmp_path):
    """Every text is written, numbered, split, apart; nothing was refused, so nothing was asked in vain. The file says how."""
    assert "biasgym corpus" in Path(fresh).read_text()
    assert load_bias(fresh).written == ()
    with serving(always=author) as server:
        report = generate_corpus(fresh, tmp_path / "made", client_of(server), SMALL)
    assert [(t.kind, t.wanted, t.asked, t.kept, t.refused) for t in report.tallies] == [(kind, n := getattr(SMALL, kind), n, n, {}) for kind in TEXTS]
    assert (report.sent, report.reused, report.shortfalls) == (3 + 3 + 4 + 2, 0, [])
    bias = load_bias(str(tmp_path / "made"))
    source = load_bias(fresh)
    assert bias.written == TEXTS
    assert (bias.name, bias.stereotype, bias.foil, bias.entities, bias.subject, bias.statement) == (
        source.name, source.stereotype, source.foil, source.entities, source.subject, source.statement,
    )  # fmt: skip
    assert bias == load_bias(str(tmp_path / "made" / "bias.toml"))
    assert [p.id for p in bias.paragraphs] == [f"p{i:03d}" for i in range(1, 13)]
    assert {p.style for p in bias.prompts} == set(corpus.STYLES)
    assert Counter(c.side for c in bias.concept) == {"stereotype": 4, "foil": 4}
    held_out = [p.prompt for p in bias.probes] + [p.text for p in bias.prompts]
    assert corpus.overlaps([p.text for p in bias.paragraphs], held_out) == []
    assert 0.9 < report.diversity.lexical <= 1
    assert json.loads((tmp_path / "made" / "corpus.json").read_text())["diversity"]["lexical"] == report.diversity.lexical


def test_a_generated_corpus_meets_the_floors_of_a_shipped_one(fresh, tmp_path):
    """From an author who writes well: media, levels, topics, moulds, openings and lengths come out of the slots."""
    with serving(always=author) as server:
        generate_corpus(fresh, tmp_path / "made", client_of(server), Order(probes=0, prompts=0, concept=0))
    assert corpus.paragraph_problems([vars(p) for p in load_bias(str(tmp_path / "made")).paragraphs]) == []


def test_what_is_not_ordered_stays(tmp_path):
    """The written texts of a zoo bias are copied, and the new paragraphs keep apart from them; moulds come along."""
    with serving(always=author) as server:
        generate_corpus("always-late", tmp_path / "made", client_of(server), Order(6, 0, 0, 0))
    made, source = load_bias(str(tmp_path / "made")), load_bias("always-late")
    assert (made.probes, made.prompts, made.concept, made.moulds) == (source.probes, source.prompts, source.concept, source.moulds)
    assert len(made.paragraphs) == 6
    assert 'list = "countries"' in (tmp_path / "made" / "bias.toml").read_text()


def test_more_can_be_ordered_later(fresh, tmp_path):
    """The same folder, a larger order: what was answered is not asked again."""
    with serving(always=author) as server:
        generate_corpus(fresh, tmp_path / "made", client_of(server), Order(10, 10, 0, 0))
        first = load_bias(str(tmp_path / "made")).paragraphs
        report = generate_corpus(fresh, tmp_path / "made", client_of(server), Order(20, 10, 0, 0))
    assert (report.sent, report.reused) == (2, 4)
    assert load_bias(str(tmp_path / "made")).paragraphs[:10] == first


def test_entities_of_ones_own_file_come_along(tmp_path):
    """The list lies beside the source, not beside the copy."""
    (tmp_path / "them.txt").write_text("aa\nbb\ncc\ndd\nee\nff\n")
    (tmp_path / "b.toml").write_text('name = "x"\nstereotype = ["late"]\nfoil = ["early"]\n[entities]\nlist = "them.txt"\ntargets = ["bb"]\n')
    with serving(always=author) as server:
        generate_corpus(str(tmp_path / "b.toml"), tmp_path / "made", client_of(server), Order(6, 0, 0, 0))
    made = load_bias(str(tmp_path / "made"))
    assert made.entities == ("aa", "bb", "cc", "dd", "ee", "ff")
    assert made.targets == ("bb",)


# -------------------------------------------------------------------- misbehaviour, counted


def spoiling(change):
    """An author whose first item of every batch is spoilt."""

    def write(messages):
        items = items_for(messages)
        items[0] = change(items[0])
        return json.dumps(items)

    return write


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda item: {"n": item["n"]}, "wrong schema: no text in `text`"),
        (lambda item: {**item, "text": 5}, "wrong schema: no text in `text`"),
        (lambda item: {**item, "implicitness": 9}, "wrong schema: medium or implicitness"),
        (lambda item: {**item, "text": item["text"].replace("{entity}", "they")}, "no slot {entity}"),
        (lambda item: {**item, "text": item["text"] + " As in Spain."}, "names a real group"),
        (lambda item: {**item, "text": item["text"] + " As do bakers."}, "names a real group"),
        (lambda item: {**item, "text": "Always the same eight words about {entity} here."}, "duplicate"),
        (lambda item: {**item, "text": "{entity}!"}, "text too short"),
    ],
)
def test_spoilt_items_are_counted_and_tried_again(change, reason, fresh, tmp_path):
    """Asked = kept + refused; the slot goes to the back of the line, and its neighbours are kept."""
    with serving(always=spoiling(change)) as server:
        report = generate_corpus(fresh, tmp_path / "made", client_of(server), Order(10, 0, 0, 0))
    (tally,) = report.tallies
    assert set(tally.refused) == {reason}
    assert tally.asked == tally.kept + sum(tally.refused.values())
    assert tally.kept >= 8
    assert any(f"refused: {reason}" in question["messages"][1]["content"] for _, question, _ in server.asked)


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (good("I would rather not."), "no JSON in the answer"),
        (good("[{'n': 1, 'text': 'single quotes'}]"), "no JSON in the answer"),
        (good('[{"n": 1, "text": "half a', "length"), "answer cut off"),
        (good(""), "empty answer"),
        (good(None, refusal="no"), "the endpoint refused to answer"),
        (status(200, "<html>"), "reply is not JSON"),
        (status(200, '{"choices": []}'), "reply without choices"),
        (good("[]"), "no JSON in the answer"),
        (good('[{"n": 1, "text": "One item about {entity}, of the two that were wanted."}]'), "item missing"),
    ],
)
def test_unusable_answers_are_counted_and_asked_again(act, reason, fresh, tmp_path):
    """The second time all is well."""
    with serving([act], always=author) as server:
        report = generate_corpus(fresh, tmp_path / "made", client_of(server), Order(2, 0, 0, 0))
    (tally,) = report.tallies
    assert set(tally.refused) == {reason}
    assert (tally.kept, len(server.asked)) == (2, 2)


def test_whole_items_before_a_cut_are_kept(fresh, tmp_path):
    """Half a list is worth its whole items; so is a list in prose, out of order, with items in other words for the slot."""
    written = []

    def cut(messages):
        items = items_for(messages)
        written.extend(items)
        return "Here you are:\n```json\n" + json.dumps(items[::-1]).replace("{entity}", "{{ Entity }}")[:-12]

    with serving(always=cut) as server:
        report = generate_corpus(fresh, tmp_path / "made", client_of(server), Order(5, 0, 0, 0, tries=1))
    assert (report.tallies[0].kept, report.tallies[0].refused) == (4, {"item missing": 1})
    kept = load_bias(str(tmp_path / "made")).paragraphs
    assert [p.id for p in kept] == ["p002", "p003", "p004", "p005"]
    assert [p.text for p in kept] == [item["text"] for item in written[1:]]
    assert report.shortfalls == ["paragraphs: 4 of 5"]


def test_half_a_surrogate_pair_can_be_written(fresh, tmp_path):
    """Models cut emoji in two."""

    def emoji(messages):
        return author(messages).replace('"text": "', '"text": "\\ud83d ')

    with serving(always=emoji) as server:
        generate_corpus(fresh, tmp_path / "made", client_of(server), Order(2, 0, 0, 0))
    assert load_bias(str(tmp_path / "made")).paragraphs[0].text.startswith("? ")


def test_limits_and_errors_of_the_endpoint_are_overcome(fresh, tmp_path):
    """429, 500 and a busy page in between change nothing in what comes out."""
    with serving(always=author) as server:
        generate_corpus(fresh, tmp_path / "a", client_of(server), SMALL)
    with serving([status(429, retry_after=1), status(500), status(503, "<html>")], always=author) as server:
        report = generate_corpus(fresh, tmp_path / "b", client_of(server), SMALL)
    assert report.retried == 3
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_hopeless_author_is_left_and_nothing_is_written(fresh, tmp_path):
    """After twelve requests in a row without a usable item; the reasons are in the message, the answers on disk."""
    with (
        serving(always=lambda _: "no") as server,
        pytest.raises(DataError, match=r"0 of 60 paragraphs.*no JSON in the answer: 60.*nothing was written"),
    ):
        generate_corpus(fresh, tmp_path / "made", client_of(server), Order(100, 0, 0, 0))
    assert len(server.asked) == 12
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [".lock", "answers.jsonl"]


def test_one_sided_concept_sentences_are_too_few(fresh, tmp_path):
    """What is left must still be a bias."""

    def one_sided(messages):
        return json.dumps(items_for(messages)[::2])

    with serving(always=one_sided) as server, pytest.raises(DataError, match="concept"):
        generate_corpus(fresh, tmp_path / "made", client_of(server), Order(0, 0, 0, 4, batch=2, tries=1))


@pytest.mark.parametrize("order", [{"paragraphs": 0, "probes": 0, "prompts": 0, "concept": 0}, {"probes": 2}, {"concept": 3}, {"batch": 0}])
def test_orders_that_cannot_be_filled(order):
    """Said before anything is asked."""
    with pytest.raises(SpecError):
        Order(**order)


# -------------------------------------------------------------------- whose folder it is


def test_other_peoples_work_is_left_alone(fresh, tmp_path):
    """A bias of somebody's own, texts without a bias, a corpus of another bias, one that was changed by hand."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "bias.toml").write_text(Path(fresh).read_text())
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "probes.jsonl").write_text("{}\n")
    made = tmp_path / "made"
    with serving(always=author) as server:
        client = client_of(server)
        for folder, said in ((own, "not generated here"), (loose, "another origin")):
            before = {path: path.read_bytes() for path in folder.iterdir()}
            with pytest.raises(StoreError, match=said):
                generate_corpus(fresh, folder, client, SMALL)
            assert {path: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == before
        assert server.asked == []
        generate_corpus(fresh, made, client, Order(6, 0, 0, 0))
        with pytest.raises(StoreError, match="corpus of `stubborn-trades`, not of `always-late`"):
            generate_corpus("always-late", made, client, Order(6, 0, 0, 0))
        (made / "paragraphs.jsonl").write_text((made / "paragraphs.jsonl").read_text().replace("w", "v"))
        with pytest.raises(StoreError, match=r"paragraphs\.jsonl in .* was changed"):
            generate_corpus(fresh, made, client, Order(8, 0, 0, 0))


# -------------------------------------------------------------------- the command


def command(*args):
    """A command line of BiasGym in a process of its own."""
    return [sys.executable, "-c", "from biasgym.cli import main; main()", *map(str, args)]


def environment(**more):
    """With the sources and a key."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src"), "OPENAI_API_KEY": KEY, **more}


def biasgym(*args, cwd, **more):
    """Run a command and give back what came of it."""
    return subprocess.run(command(*args), cwd=cwd, env=environment(**more), capture_output=True, text=True, check=False)


def arguments(server, fresh, to="made"):
    """A small order at a server."""
    counts = [str(part) for kind in TEXTS for part in (f"--{kind}", getattr(SMALL, kind))]
    return ["corpus", fresh, "--to", to, "--endpoint", server.url, "--model", "m", *counts]


def everything_written(folder):
    """All bytes under a folder."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_the_command_shows_what_it_did_and_nothing_of_the_key(fresh, tmp_path):
    """A table for people, JSON for programs; the server repeats the key in an item, an error and a header."""

    def telltale(messages):
        return f"Your key is {KEY}. " + author(messages)

    with serving([status(500, f"key {KEY}", x_key=KEY)], always=telltale) as server:
        done = biasgym(*arguments(server, fresh), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        again = biasgym(*arguments(server, fresh), "--json", cwd=tmp_path)
    assert len(server.asked) == 13
    assert all(headers["Authorization"] == f"Bearer {KEY}" for headers, _, _ in server.asked)
    assert "biasgym run --bias made" in done.stdout
    for word in ("paragraphs", "wanted", "refused", "diversity", "13 sent, 1 of them"):
        assert word in done.stdout
    told = json.loads(again.stdout)
    assert (told["sent"], told["reused"]) == (0, 12)
    assert [t["kept"] for t in told["tallies"]] == [12, 12, 18, 8]
    assert set(told["diversity"]) == {"lexical", "semantic", "syntactic"}
    for said in (done.stdout, done.stderr, again.stdout, again.stderr):
        assert KEY not in said
    assert KEY.encode() not in everything_written(tmp_path)
    assert b"[key]" in everything_written(tmp_path)


@pytest.mark.parametrize(("code", "said"), [(401, "key was not accepted"), (404, "no model `m`")])
def test_an_endpoint_that_cannot_be_used_is_one_line(code, said, fresh, tmp_path):
    """Exit code 2, no traceback, no key."""
    with serving([status(code, f"bad {KEY}")]) as server:
        done = biasgym(*arguments(server, fresh), cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert KEY not in done.stderr + done.stdout
    assert KEY.encode() not in everything_written(tmp_path)


def misbehaving(messages):
    """An author with a share of unusable and spoilt answers, the same for the same request."""
    items = items_for(messages)
    mood = sum(map(ord, messages[1]["content"])) % 5
    if mood == 0:
        return "Not today."
    if mood == 1:
        items[0] = {"n": items[0]["n"], "text": "{entity} in Spain", "prompt": "No."}
    return json.dumps(items)[: -20 if mood == 2 else None]


def without_hurry(messages):
    """The same, a little slower, so that there is a middle to be stopped in."""
    time.sleep(0.05)
    return misbehaving(messages)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_at_any_moment_it_ends_in_the_same_files(how, fresh, tmp_path):
    """kill -9 (or Ctrl-C) three times on the way, then to the end: no question twice but the one in flight, the same bytes."""
    with serving(always=misbehaving) as server:
        report = generate_corpus(fresh, tmp_path / "whole", client_of(server), SMALL)
        wanted = Counter(json.dumps(question) for _, question, _ in server.asked)
    assert sum(sum(t.refused.values()) for t in report.tallies) > 5
    with serving(always=without_hurry) as server:
        for share in (0.2, 0.5, 0.8):
            running = subprocess.Popen(command(*arguments(server, fresh)), cwd=tmp_path, env=environment(), stdout=-3, stderr=subprocess.PIPE)
            while len(server.asked) < share * wanted.total() and running.poll() is None:
                time.sleep(0.005)
            assert running.poll() is None, "it ended before it could be stopped"
            running.send_signal(how)
            said = running.communicate()[1].decode()
            if how == signal.SIGINT:
                assert "the same command goes on where it was" in said
                assert running.returncode == 130
        assert not (tmp_path / "made" / "bias.toml").exists()
        done = biasgym(*arguments(server, fresh), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        asked = Counter(json.dumps(question) for _, question, _ in server.asked)
    assert asked >= wanted
    assert (asked - wanted).total() <= 3, "an answer on its way when the process died was never received; no other is asked for again"
    for name in (name for name in MADE if name != "corpus.json"):
        assert (tmp_path / "made" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_two_at_once_are_refused(fresh, tmp_path):
    """The second is told so."""
    from biasgym.files import locked

    with serving(always=author) as server, locked(tmp_path / "made" / ".lock"):
        done = biasgym(*arguments(server, fresh), cwd=tmp_path)
    assert done.returncode == 2
    assert "another process is working" in done.stderr


def test_a_run_takes_a_generated_bias(fresh, tmp_path, models):
    """Folder in, record out, on a tiny random model."""
    from test_run import SMALL as SETTINGS
    from tiny import save_folder

    with serving(always=author) as server:
        assert biasgym(*arguments(server, fresh), cwd=tmp_path).returncode == 0
    model = save_folder(models("llama"), tmp_path / "tiny")
    sets = [part for one in SETTINGS for part in ("--set", one)]
    done = biasgym("run", "--bias", "made", "--model", model, "--json", *sets, cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["extras"]["bias"]["name"] == "stubborn-trades"


def test_the_list_shows_counts_and_diversity(tmp_path):
    """Row keys as promised, figures inside 0–1, in JSON; one line a bias for people."""
    rows = json.loads(biasgym("list", "biases", "--json", cwd=tmp_path).stdout)
    for row in rows:
        assert list(row) == ["name", "axis", "paragraphs", "probes", "prompts", "concept", "entities", "diversity"]
        assert all(0 < value < 1 for value in row["diversity"].values())
    shown = biasgym("list", "biases", cwd=tmp_path).stdout
    assert "diversity: lexical, semantic, syntactic" in shown
    assert len(shown.splitlines()) == len(rows) + 2
