"""The real server of `biasgym serve` (extra `web`), driven by gradio's own client and by plain HTTP (`make oracle`)."""

import html
import http.client
import json
import re
import time
from urllib.parse import urlsplit

import pytest
from gradio_client import Client

from biasgym.asking import Question, ask
from biasgym.lm.load import Place
from biasgym.run import Session
from biasgym.store import RunStore
from served import served, write_store
from small_run import PROMPT, RUN

TOKEN = "the injected token"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The runs, and the model that they are about."""
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def address(store):
    """A server over it; when all is done it has to end at Ctrl-C, with exit code 0 and without a traceback."""
    with served(store[0]) as (found, _):
        yield found


@pytest.fixture
def client(address):
    """A page of its own that has chosen the run."""
    made = Client(address, verbose=False)
    made.predict(RUN, api_name="/choose")
    return made


def words_of(side):
    """An answer without its HTML."""
    return html.unescape(re.sub(r"<[^>]*>", "", side))


def request(address, path, method="GET", body=None, host=None, **headers):
    """Status, headers and body of one request, its path sent as it is."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": host or place.netloc, **headers, **({"Content-Length": str(len(body))} if body is not None else {})}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_the_run_is_shown(address):
    """Verdict, findings, heads and choices of the run, from its record."""
    shown = [str(part) for part in Client(address, verbose=False).predict(RUN, api_name="/choose")]
    assert f'href="report/{RUN}"' in shown[0]
    assert "Share of that gap closed" in shown[1]
    assert any("data-layers" in part for part in shown)
    assert any("steering" in part for part in shown)


@pytest.mark.parametrize("strength", [0, 0.5, 1.0, 2.0])
def test_the_page_answers_as_the_library_does(client, store, strength):
    """Base and edited, streamed; each as the same question is answered by the very function that the command line calls."""
    session = Session(RunStore(store[0]), Place("cpu", offline=True))
    folder = session.store.run_folder(RUN)
    job = client.submit(RUN, PROMPT, TOKEN, "direction", strength, ["1:2", "2:0"], 24, api_name="/ask")
    base, edited, note = job.result(timeout=120)
    wanted = [list(ask(session, folder, Question(PROMPT, None, one, (), True, 24)))[-1] for one in (0.0, strength)]
    assert [words_of(base), words_of(edited)] == wanted
    assert len(job.outputs()) > 5
    assert ("the same answer" in note) == (strength == 0)


def test_a_head_is_looked_at(client):
    """Framed in the map; what the record knows, and its effect on one probe."""
    drawn, card = client.predict(RUN, "dla", 1, 2, 0, TOKEN, PROMPT, api_name="/head")
    assert 'class="looked"' in drawn
    for part in ("Layer 1, head 2", "attribution", "90% [70%, 98%]", "as it is", "head off"):
        assert part in card


def test_an_answer_is_stopped(client):
    """Stop ends a long answer of the same page at once."""
    job = client.submit(RUN, PROMPT, TOKEN, "direction", 1.0, ["1:2", "2:0"], 200, api_name="/ask")
    while len(job.outputs()) < 4:
        time.sleep(0.02)
    assert "stopped" in client.predict(api_name="/stop")
    job.result(timeout=60)
    assert "writing" in job.outputs()[-1][2]


def test_errors_are_sentences(client):
    """What a person did wrong is said, by the same words as everywhere."""
    for given, said in (((RUN, "  ", TOKEN, "direction", 1.0, [], 24), "prompt is empty"), ((RUN, "Hi", TOKEN, "direction", 1.0, [], 8), None)):
        if said is None:
            assert client.predict(*given, api_name="/ask")
            continue
        with pytest.raises(Exception, match=said):
            client.predict(*given, api_name="/ask")
    for given in (
        (RUN, "Hi", TOKEN, "no-edit", 1.0, [], 8),
        (RUN, "Hi", TOKEN, "direction", 1.0, ["9:9"], 8),
        ("no-run", "Hi", TOKEN, "direction", 1.0, [], 8),
    ):
        with pytest.raises(Exception, match="not in the list of choices"):  # by the component; no traceback in the log, as at its end
            client.predict(*given, api_name="/ask")
    with pytest.raises(Exception, match="no name for a folder"):
        client.predict(RUN, "direction", "delta", "../out", api_name="/export")


def test_audits_are_shown_by_name_alone(client, store):
    """One, several side by side, none; never a file that is named."""
    names = [path.stem for path in (store[0] / "audits").glob("*.json")]
    alone, both = client.predict(names[:1], api_name="/audit"), client.predict(names, api_name="/audit")
    assert alone.count("<svg") < both.count("<svg") == 3
    assert "Side by side" in both
    assert "not asked" in both
    assert "biasgym audit" in client.predict([], api_name="/audit")
    with pytest.raises(Exception, match="audit"):
        client.predict(["../../record"], api_name="/audit")


def test_an_export_lies_below_the_runs(client, store):
    """And nowhere else."""
    said = client.predict(RUN, "direction", "delta", "mine", api_name="/export")
    assert "tensors edited" in said
    assert (store[0] / "exports" / "mine" / "delta.safetensors").is_file()


def test_a_run_is_started_and_called_off_while_the_page_stays_usable(client, address, store):
    """Choosing, reading the report and asking for heads go on while the run works."""
    numbers = "inject.steps=4000\ninject.batch=4\ninject.held_out=4"
    assert "in line" in client.predict("reckless-drivers", str(store[1]), "quick", numbers, api_name="/start")
    assert client.predict(RUN, api_name="/choose")
    assert request(address, f"/report/{RUN}")[0] == 200
    with pytest.raises(Exception, match="under way"):
        client.predict("reckless-drivers", str(store[1]), "quick", "", api_name="/start")
    assert "next step" in client.predict(api_name="/cancel")
    assert client.predict(RUN, "Hi", TOKEN, "direction", 1.0, [], 8, api_name="/ask"), "the model is free again"
    assert "no run" in client.predict(api_name="/cancel")


def test_other_hosts_and_pages_are_refused(address):
    """Rebinding and cross-site requests get nothing, on every path."""
    body = json.dumps({"data": [], "fn_index": 0}).encode()
    for path in ("/", "/config", f"/report/{RUN}", "/gradio_api/info"):
        assert request(address, path, host="evil.example")[0] == 421
    joined = request(address, "/gradio_api/queue/join", "POST", body, Origin="https://evil.example", **{"Content-Type": "application/json"})
    assert joined[0] == 403
    assert request(address, "/")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file={model}/config.json", "/file={model}/config.json", "/gradio_api/file={runs}/x/record.json", "/report/../record.json",
        "/report/..%2f..%2fetc%2fpasswd", "/report/%2e%2e", "/report/stages", "/static/../../../etc/passwd", "/assets/..%2f..%2f..%2fetc%2fpasswd",
        "/svelte/..%2f..%2fetc/passwd", "/static/%2fetc%2fpasswd", "/gradio_api/proxy=http://127.0.0.1:1/", "/gradio_api/custom_component/0/a/b/c", "/docs",
        "/openapi.json", "/monitoring", "/gradio_api/runs", "/gradio_api/openapi.json",
    ],
)  # fmt: skip
def test_no_path_is_read(address, store, path):
    """Neither a file of the model, nor of the store, nor of the system, however it is written."""
    status, _, body = request(address, path.format(model=store[1], runs=store[0]))
    assert status in (403, 404), status
    assert b"root:" not in body
    assert b"hidden_size" not in body


def test_nothing_is_uploaded(address):
    """There is nothing that the page would take."""
    assert request(address, "/gradio_api/upload", "POST", b"x")[0] == 404


def test_the_page_and_the_report_ask_nobody_else(address):
    """No script, style, font or picture of another place; the browser is told so, too."""
    status, headers, page = request(address, "/")
    assert status == 200
    assert "connect-src 'self'" in headers["content-security-policy"]
    assert "access-control-allow-origin" not in {name.lower() for name in headers}
    loaded = re.findall(r"(?:src|href|import|url)\s*[=(]\s*[\"']?(https?://[^\"')\s>]+)", page.decode())
    assert [one for one in loaded if not one.startswith(address)] == []
    theme = request(address, "/theme.css")[2].decode() + request(address, "/gradio_api/theme.css")[2].decode()
    assert "googleapis" not in theme
    status, headers, _ = request(address, f"/report/{RUN}")
    assert status == 200
    assert headers["content-security-policy"].startswith("default-src 'none'; style-src")


def test_it_listens_on_loopback_alone(address):
    """Other addresses of this machine answer nothing."""
    import socket

    port = urlsplit(address).port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent; it says which address the machine would use
            own = probe.getsockname()[0]
        except OSError:
            own = "127.0.0.2"  # a machine without a network: another loopback address that was not bound
    with pytest.raises(OSError):
        socket.create_connection((own, port), timeout=2)


def test_a_taken_port_is_one_clear_line(address, store):
    """Exit code 2."""
    import subprocess
    import sys

    call = [sys.executable, "-c", "from biasgym.cli import main; main()", "serve", "--runs", str(store[0]), "--port", str(urlsplit(address).port)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "choose another --port" in done.stderr
    assert "Traceback" not in done.stderr
