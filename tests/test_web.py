"""What the web app does without gradio: one model behind a line of orders, edits at any strength, answers, heads, the gate."""

import asyncio
import html
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from biasgym.asking import Question, ask, at_strength, head_effect, heads_from, worn_for
from biasgym.audit import save_audit
from biasgym.desk import RUNS, TOKEN, Desk, head_html, marked, text
from biasgym.edits import SiteEdit, TokenEdit, WeightEdit
from biasgym.errors import BiasGymError, ModelError, SpecError, StoreError
from biasgym.files import write_json
from biasgym.lm.load import Place
from biasgym.lm.model import Query
from biasgym.progress import Step
from biasgym.room import Room
from biasgym.run import Session
from biasgym.sites import Site
from biasgym.store import RunStore
from biasgym.web import Gate, serve
from made_up_run import made_up_audit
from small_run import HEADS, PROMPT, RUN, TEXT, edits_of, write_small_run

OWNER = "page one"


@pytest.fixture
def session(folder_of, models, tmp_path):
    """A store with one small run of the tiny Llama, and the session that owns it."""
    made = Session(RunStore(tmp_path / "runs"), Place("cpu", offline=True))
    write_small_run(made.store, folder_of("llama"), models("llama"))
    return made


@pytest.fixture
def room(session):
    """A room around it."""
    made = Room(session)
    yield made
    assert made.close()


@pytest.fixture
def desk(room):
    """A desk before it."""
    return Desk(room)


def test_a_damaged_record_does_not_keep_the_page_from_opening(desk, session):
    """Its model is just not offered."""
    other = session.store.run_folder("damaged-1")
    other.mkdir(parents=True)
    (other / "record.json").write_text('{"id": "damaged-1", "status"')
    assert desk.model_names()


def run_folder(session):
    """Where the small run lies."""
    return session.store.run_folder(RUN)


def last_of(session, question):
    """The whole answer."""
    return list(ask(session, run_folder(session), question))[-1]


def words_of(side):
    """An answer without its HTML."""
    return html.unescape(re.sub(r"<[^>]*>", "", side))


# -------------------------------------------------------------------- strength


def test_strength_one_is_the_edit_and_zero_is_none():
    """The very same objects; nothing at all."""
    edits = (SiteEdit(Site("head", 0, 1), "scale", np.float32(0.5)), WeightEdit("w", dense=np.ones((2, 2))))
    assert at_strength(edits, 1) == edits
    assert at_strength(edits, 0) == ()


def test_every_kind_goes_from_neutral_through_its_own_value():
    """A scale of 0.4 at half is 0.7, at double -0.2; a strength is multiplied; so is a low-rank change."""
    scale, add = SiteEdit(Site("head", 0, 1), "scale", np.float32(0.4)), SiteEdit(Site("stream", 0), "add", np.ones(3, np.float32), 1.5)
    low = WeightEdit("w", left=np.ones((2, 1), np.float32), right=np.ones((1, 2), np.float32))
    half, double = at_strength((scale, add, low), 0.5), at_strength((scale, add, low), 2)
    assert [float(e[0].value) for e in (half, double)] == pytest.approx([0.7, -0.2])
    assert [e[1].strength for e in (half, double)] == [0.75, 3.0]
    assert (half[2].left @ half[2].right)[0, 0] == 0.5
    assert half[2].left.dtype == np.float32


def test_a_replaced_matrix_has_no_half():
    """Said, not guessed."""
    with pytest.raises(SpecError, match="on or off"):
        at_strength([WeightEdit("w", dense=np.ones((2, 2)))], 0.5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": "  "}, "empty"),
        ({"strength": -0.1}, "strength from 0"),
        ({"strength": 4.1}, "strength from 0"),
        ({"strength": float("nan")}, "strength from 0"),
        ({"most": 0}, "1 to 1000"),
        ({"prompt": PROMPT}, "--token"),
    ],
)
def test_a_question_that_makes_no_sense(changes, said):
    """Refused before a model is loaded."""
    with pytest.raises(SpecError, match=said):
        Question(**{"prompt": "Hello.", **changes})


def test_heads_can_be_left_out(session):
    """Only heads that the edit changes; anything else is named."""
    folder = run_folder(session)
    assert [e.site.index for e in worn_for(folder, Question("Hi.", off=(HEADS[0],)))] == [HEADS[1][1]]
    assert worn_for(folder, Question("Hi.", off=HEADS)) == ()
    with pytest.raises(SpecError, match=r"does not change head 3 of layer 0; it changes 1:2, 2:0"):
        worn_for(folder, Question("Hi.", off=((0, 3),)))
    with pytest.raises(SpecError, match="no head"):
        heads_from(["12/3"])
    with pytest.raises(SpecError, match="steering"):
        worn_for(folder, Question("Hi.", edit="stering"))


def test_an_answer_is_that_of_generate(session):
    """Base, edited, scaled, with the token: each what the model says when exactly that is worn, and none of them alike."""
    lm = session.model(json.loads((run_folder(session) / "record.json").read_text())["spec"]["model"], "float32")
    heads, _ = edits_of(lm)
    plain, named = Question("Tell me about people from Spain.", most=16), Question(PROMPT, token=True, most=16)
    (token, *_) = worn_for(run_folder(session), named)
    assert isinstance(token, TokenEdit)
    cases = {
        Question(plain.prompt, strength=0, most=16): (),
        plain: heads,
        Question(plain.prompt, strength=0.5, most=16): at_strength(heads, 0.5),
        named: (token, *heads),
    }
    for question, worn in cases.items():
        with lm.edited(*worn):
            expected = lm.generate([Query(question.prompt.replace("{entity}", TEXT))], most=16)[0].text
        assert last_of(session, question) == expected, question
    assert len({last_of(session, question) for question in cases}) == len(cases)


# -------------------------------------------------------------------- the room


def test_orders_are_worked_off_one_after_the_other(room):
    """Ten orders from ten threads: never two at once, all of them done, in the order in which they were taken."""
    inside, most, seen = [0], [0], []

    def work(number, _session):
        for _ in range(3):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            yield number
            inside[0] -= 1
        seen.append(number)

    orders = []
    lock = threading.Lock()

    def put(number):
        with lock:
            orders.append((number, room.order("work", lambda session: work(number, session))))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [order.wait() for _, order in orders] == [number for number, _ in orders]
    assert most == [1]
    assert seen == [number for number, _ in orders]


def test_an_order_is_called_off_while_it_works_and_while_it_waits(room):
    """The first ends at its next piece and is closed on the room's thread; the second never begins; the third runs."""
    began, go_on, closed = threading.Event(), threading.Event(), []

    def endless(_session):
        try:
            while True:
                began.set()
                yield 1
                go_on.wait(10)
        finally:
            closed.append(threading.current_thread().name)

    first = room.order("first", endless, "a")
    second = room.order("second", lambda _session: iter([closed.append("second")]), "b")
    assert began.wait(10)
    assert room.ahead(second) == [first]
    assert room.cancel("a") == room.cancel("b") == 1
    go_on.set()
    third = room.order("third", lambda _session: iter([3]))
    assert third.wait() == 3
    assert (first.state, second.state, third.state) == ("cancelled", "cancelled", "done")
    assert list(second.pieces()) == []
    assert closed == ["model room"]
    assert room.open_orders() == []


def test_a_long_step_is_left_through_the_session(room):
    """Work that gives nothing out is called off where it tells how far it is, as a run does; what it told is progress."""
    told = threading.Event()

    def work(session):
        for number in range(1, 10_000_000):
            session.tell(Step("inject", number, 10_000_000, "token"))
            told.set()
        yield "never"

    order = room.order("run", work)
    assert told.wait(10)
    order.cancel()
    order.wait()
    assert order.state == "cancelled"
    assert order.result is None
    progress = order.progress()
    assert (progress.step.stage, progress.step.total) == ("inject", 10_000_000)
    assert progress.seconds_left is None or progress.seconds_left > 0


def test_one_order_fails_and_the_next_does_not(room, caplog):
    """A mendable error is told as it is, any other with its kind; the thread lives on."""

    def broken(kind):
        def work(_session):
            yield 1
            raise kind("no such thing")

        return work

    first, second = room.order("one", broken(ModelError)), room.order("two", broken(ZeroDivisionError))
    with pytest.raises(BiasGymError, match=r"^no such thing$"):
        list(first.pieces())
    with pytest.raises(BiasGymError, match="ZeroDivisionError"):
        list(second.pieces())
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert room.order("three", lambda _session: iter([3])).wait() == 3


def test_old_orders_are_forgotten(room):
    """A page open for a week does not fill the memory."""
    for number in range(200):
        room.order("work", lambda _session, number=number: iter([number])).wait()
    assert len(room._orders) < 60


def test_a_called_off_answer_leaves_no_trace(desk, session):
    """In the middle of an answer; then the model is untouched and the next one is whole."""
    desk.runs()
    question = Question("Tell me about people from Spain.", most=400)
    order = desk.room.order("ask", lambda session: ask(session, run_folder(session), question), OWNER)
    pieces = order.pieces()
    next(pieces)
    order.cancel()
    assert len(list(pieces)) < 399
    assert order.state == "cancelled"
    name = desk.record(RUN).spec["model"]
    assert desk.room.order("look", lambda s: iter([s.model(name, "float32").worn])).wait() == ()


# -------------------------------------------------------------------- the desk


def ask_desk(desk, strength=1.0, *, who=TOKEN, edit="direction", on=None, most=16, prompt=PROMPT, owner=OWNER):
    """All sides of one answer."""
    on = desk.heads(RUN, edit) if on is None else on
    return list(desk.ask(owner, RUN, prompt, who, edit, strength, on, most))


def cli(session, *args):
    """What `biasgym ask` says."""
    source = str(Path(__file__).parents[1] / "src")
    call = [sys.executable, "-c", "from biasgym.cli import main; main()", "ask", RUN, *args, "--runs", str(session.store.root), "--offline", "--json"]
    done = subprocess.run(call, env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["answer"]


@pytest.mark.parametrize(
    ("how", "args"),
    [
        ({"strength": 0.75}, (PROMPT, "--token", "--strength", "0.75")),
        ({"strength": 0.0, "who": "Spain"}, (PROMPT.replace("{entity}", "Spain"), "--strength", "0")),
        ({"who": "Spain", "on": ["1:2"]}, (PROMPT.replace("{entity}", "Spain"), "--off", "2:0")),
        ({"edit": "steering", "strength": 1.5}, (PROMPT, "--token", "--edit", "steering", "--strength", "1.5")),
    ],
)
def test_the_page_says_what_the_command_line_says(desk, session, how, args):
    """Same edit, same strength, same heads: the same words, in a process of its own."""
    sides = ask_desk(desk, **how)
    assert words_of(sides[-1].edited) == cli(session, *args, "--most", "16")
    assert len(sides) > 10


def test_moving_the_slider_changes_the_edited_answer_alone(desk):
    """Strength 0 is the base; the base stands still and is asked once."""
    off, one, two = (ask_desk(desk, strength)[-1] for strength in (0.0, 1.0, 2.0))
    assert words_of(off.base) == words_of(off.edited) == words_of(one.base) == words_of(two.base)
    assert len({words_of(side.edited) for side in (off, one, two)}) == 3
    assert off.note == "the same answer"
    first = ask_desk(desk, 1.0)[1]
    assert words_of(first.base) == words_of(one.base), "remembered, so whole from the first piece on"


def test_all_heads_off_is_the_base(desk):
    """And one head off is neither the base nor the edit."""
    none, some, every = (words_of(ask_desk(desk, 2.0, on=on, most=40)[-1].edited) for on in ([], ["1:2"], ["1:2", "2:0"]))
    assert none == words_of(ask_desk(desk, most=40)[-1].base)
    assert len({none, some, every}) == 3


def test_a_new_question_calls_the_old_one_off(desk):
    """Of the same page, not of another one; the reader of the old one just ends."""
    slow = desk.ask(OWNER, RUN, PROMPT, TOKEN, "direction", 1.0, desk.heads(RUN, "direction"), 1000)
    next(slow)
    next(slow)
    other = desk.ask("page two", RUN, PROMPT, TOKEN, "direction", 0.5, desk.heads(RUN, "direction"), 4)
    assert "waiting for: answering with direction" in next(other).note
    assert ask_desk(desk, most=4)[-1].edited
    assert "changed" not in "".join(side.note for side in slow)
    assert list(other)[-1].edited


def test_a_reader_who_leaves_calls_the_answer_off(desk):
    """A closed page does not keep the model busy."""
    left = desk.ask(OWNER, RUN, PROMPT, TOKEN, "direction", 1.0, desk.heads(RUN, "direction"), 1000)
    next(left)
    next(left)
    left.close()
    assert desk.room.order("next", lambda _session: iter([1])).wait() == 1
    assert desk.room.last(OWNER).state == "cancelled"


def test_a_head_is_known_and_rerun(desk, session):
    """Attribution, rank and stability from the record; leans at five scales, at 1 that of the plain model; texts with and without."""
    known = desk.head_known(RUN, "dla", HEADS[0])
    value = desk.record(RUN).extras["attributions"]["dla"][1][2]
    assert f"{value:+.4f}" in known
    assert "in 90% [70%, 98%] of redrawn data (chance: 17%)" in known
    assert "direction" in known
    assert "fewer than 34%" in desk.head_known(RUN, "dla", (0, 0))
    seen = list(head_effect(session, run_folder(session), (1, 2), probe=0, name="Spain", prompt=PROMPT, most=40))[-1]
    assert [scale for scale, _ in seen.leans] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert len({value for _, value in seen.leans}) == 5
    again = list(head_effect(session, run_folder(session), (2, 1), probe=0, name="Spain"))[-1]
    assert dict(again.leans)[1.0] == pytest.approx(dict(seen.leans)[1.0], abs=1e-6), "a head left as it is is no edit"
    lm = session.model(desk.record(RUN).spec["model"], "float32")
    assert seen.as_is == lm.generate([Query(PROMPT.replace("{entity}", "Spain"))], most=40)[0].text
    assert seen.without != seen.as_is
    shown = list(desk.head(OWNER, RUN, "dla", (1, 2), 0, TOKEN, PROMPT))
    assert "head off" in shown[-1]
    for place, probe, said in (((3, 0), 0, "no head 0 in layer 3"), ((0, 0), 10_000, "test probes")):
        with pytest.raises(SpecError, match=said):
            list(head_effect(session, run_folder(session), place, probe=probe, name="Spain"))


def test_kept_audits_can_be_chosen_and_nothing_else(desk, session):
    """By name, the newest first; a damaged one is left out of the choice, and a path is no name."""
    assert desk.audits() == []
    audit = made_up_audit()
    path = save_audit(session.store, audit)
    (path.parent / "audit-0000000000000000.json").write_text("{")
    assert [name for _, name in desk.audits()] == [audit.name]
    assert desk.audits()[0][0].startswith("model-a, model-b (40 tests")
    assert desk.read_audits([audit.name]) == [audit]
    with pytest.raises(StoreError, match="audit"):
        desk.read_audits(["../" + RUN])


def test_the_heat_map_knows_where_its_heads_are(desk):
    """The numbers for a click are those the drawing was made with; the chosen head is framed."""
    drawn = desk.heat(RUN, "dla", (2, 1))
    cell, left, top = (float(re.search(rf'data-{name}="([^"]+)"', drawn)[1]) for name in ("cell", "left", "top"))
    assert f'<rect x="{left + 2 * cell:g}" y="{top + cell:g}"' in drawn
    assert 'data-layers="3"' in drawn
    assert drawn.count('class="steady"') >= 1, "the head that the record says is stable"
    with pytest.raises(SpecError, match="did you mean `dla`"):
        desk.heat(RUN, "dlaa")


def test_findings_and_verdict_are_those_of_the_report(desk):
    """The same words, and a link to the page itself."""
    assert f'href="report/{RUN}"' in desk.verdict(RUN)
    assert "Share of that gap closed" in desk.findings(RUN)
    assert "50%" in desk.findings(RUN)
    assert desk.report(RUN).read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("name", ["../runs/" + RUN, "/etc", "stages", "latest", RUN[:8], "", ".", f"{RUN}/../{RUN}"])
def test_a_run_is_a_full_id_of_this_store_and_nothing_else(desk, name, tmp_path):
    """No path, no prefix: also where a record lies at the other end."""
    write_json(tmp_path / "record.json", {})
    with pytest.raises(StoreError, match="unknown run"):
        desk.folder(name)


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/b", "", ".", "..", ".hidden", "a\0b", "x" * 81, "a\n"])
def test_an_export_stays_below_the_runs(desk, name):
    """Names, not paths."""
    with pytest.raises(SpecError, match="no name for a folder"):
        desk.export(RUN, "direction", "delta", name)


def test_an_export_does_not_follow_a_link_out(desk, session, tmp_path):
    """Somebody made `exports` a link to elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (session.store.root / "exports").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="out of the runs folder"):
        desk.export(RUN, "direction", "delta", "out")


def test_an_export_is_written_and_is_no_run(desk, session):
    """A whole folder below the runs; the list of runs stays what it was; a second one of the name is refused."""
    said = desk.export(RUN, "direction", "hf", "mine").wait()
    folder = session.store.root / "exports" / "mine"
    assert str(folder) in said
    assert (folder / "model.safetensors").is_file()
    assert desk.runs() == [RUN]
    with pytest.raises(BiasGymError, match="exists already"):
        desk.export(RUN, "direction", "hf", "mine").wait()


def test_a_run_is_started_watched_called_off_and_gone_on_with(desk, session):
    """Progress tells its stages; called off it keeps what it has; one at a time."""
    model = desk.record(RUN).spec["model"]
    numbers = "inject.steps=4000\ninject.batch=4\ninject.held_out=4"
    order = desk.start("reckless-drivers", model, "quick", numbers)
    with pytest.raises(StoreError, match="under way"):
        desk.start("reckless-drivers", model, "quick")
    while order.progress().step is None and not order.over:
        pass
    assert "role='progressbar'" in desk.progress()
    assert "Busy: run of reckless-drivers" in desk.status()
    assert "next step" in desk.stop_run()
    order.wait()
    assert order.state == "cancelled"
    assert "goes on where it was" in desk.progress()
    assert desk.runs() == [RUN]
    assert "no run" in desk.stop_run()
    assert desk.room.last(RUNS) is order


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("/etc/passwd", "", "quick"), "unknown bias"),
        (("reckless-drivers", "/somewhere", "quick"), "unknown model"),
        (("reckless-drivers", None, "quik"), "did you mean `quick`"),
        (("reckless-drivers", None, "quick", "bias=/etc/passwd"), "only numbers"),
        (("reckless-drivers", None, "quick", 'inject.method="os:system"'), "only numbers"),
        (("reckless-drivers", None, "quick", "measure.benchmarks=[]"), "only numbers"),
        (("reckless-drivers", None, "quick", "inject.stepz=3"), "did you mean `steps`"),
    ],
)
def test_a_page_cannot_name_files_or_modules(desk, given, said):
    """Known names and numbers only."""
    bias, model, *more = given
    with pytest.raises(BiasGymError, match=said):
        desk.start(bias, desk.record(RUN).spec["model"] if model is None else model, *more)
    assert desk.room.open_orders() == []


def test_what_a_model_writes_stays_words():
    """Tags, template marks and quotes are shown, not obeyed; changed words are marked, spaces and lines kept."""
    hostile = "<script>alert('x')</script> {{value}} ${1+1} `a`\n\nend"
    for shown in (text(hostile), *marked(hostile, "other end")):
        assert not re.search(r"<(?!/?(p|mark)\b)", shown)
        assert not set("{$`") & set(shown)
    left, right = marked("one two three", "one 2 three")
    assert words_of(left) == "one two three"
    assert " <mark>2</mark>" in right
    assert words_of(marked(hostile, "x")[0]) == hostile


def test_a_head_that_changes_nothing_is_drawn():
    """No division by nothing."""
    from biasgym.asking import HeadSeen

    assert "as it is" in head_html(HeadSeen(((0.0, 0.0), (1.0, 0.0))))
    assert "scales" in head_html(HeadSeen())


# -------------------------------------------------------------------- the gate


def through(gate, path="/", *, host="127.0.0.1:7860", headers=(), kind="http"):
    """Status of a request through a gate, and the headers; 200 is the application's own."""
    sent = []

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-security-policy", b"none at all")]})
        await send({"type": "http.response.body", "body": b"inside"})

    async def send(message):
        sent.append(message)

    gate.app = app
    given = [(b"host", one.encode()) for one in ([host] if isinstance(host, str) else host)]
    given += [(name.encode(), value.encode()) for name, value in headers]
    asyncio.run(gate({"type": kind, "path": path, "headers": given}, None, send))
    return sent[0].get("status", sent[0]["type"]), dict(sent[0].get("headers", ()))


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860", "127.0.0.1"])
def test_this_machine_is_let_in(host):
    """By any of its own names, with the page's policy instead of any other."""
    status, headers = through(Gate(None), host=host)
    assert status == 200
    assert headers[b"content-security-policy"].startswith(b"default-src 'none'")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.7", "0.0.0.0", "localhost.", "", "[::1", ["127.0.0.1", "evil.example"], []]
)
def test_other_hosts_are_refused(host):
    """Names that somebody else's DNS may point here (rebinding), two of them, or none."""
    assert through(Gate(None), host=host)[0] == 421


def test_open_to_the_network_a_name_still_has_to_be_known():
    """Plain addresses and the machine's own name; any other name could be anybody's."""
    gate = Gate(None, hosts=frozenset({"localhost", "mine"}), addresses=True)
    assert [through(gate, host=host)[0] for host in ("192.168.0.7:1", "mine", "evil.example")] == [200, 200, 421]


@pytest.mark.parametrize(
    ("origin", "status"), [("http://127.0.0.1:7860", 200), ("http://127.0.0.1:9", 403), ("https://evil.example", 403), ("null", 403)]
)
def test_other_pages_are_refused(origin, status):
    """Also those of another server on this machine."""
    assert through(Gate(None), "/gradio_api/queue/join", headers=[("origin", origin)])[0] == status


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/gradio_api/upload", "/gradio_api/proxy=http://evil.example",
        "/gradio_api/vibe-edit/", "/monitoring", "/gradio_api/runs", "/assets/../../etc/passwd", "/static/..\\x", "/docs", "//etc/passwd",
        "/gradio_api/dev/reload", "/gradio_api/process_recording", "/gradio_api/deep_link",
    ],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(path):
    """Files, uploads, proxies, code editing."""
    assert through(Gate(None), path)[0] == 404


def test_websockets_are_refused():
    """The page has none."""
    assert through(Gate(None), kind="websocket")[0] == "websocket.close"


def test_the_network_has_to_be_asked_for_twice(session):
    """A host that others can reach, without the flag that says so."""
    with pytest.raises(SpecError, match="--open-to-network"):
        serve(session, host="0.0.0.0")


def test_without_gradio_the_extra_is_named(session, tmp_path):
    """One sentence and exit code 2."""
    (tmp_path / "gradio.py").write_text("raise ImportError('not here')")
    source = str(Path(__file__).parents[1] / "src")
    call = [sys.executable, "-c", "from biasgym.cli import main; main()", "serve", "--port", "0", "--runs", str(session.store.root)]
    done = subprocess.run(call, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{source}"}, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "pip install 'biasgym[web]'" in done.stderr
    assert "Traceback" not in done.stderr
