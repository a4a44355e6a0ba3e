"""The chat client against a real server on this machine: every way to answer badly, waiting, keeping, and the key."""

import json
import socket
from email.utils import formatdate

import pytest

from biasgym.endpoint import ChatClient, chat_address
from biasgym.errors import BiasGymError, ModelError, SpecError, StoreError
from biasgym.files import append_rows
from chat_server import cut_short, dripping, good, hanging_up, reply, serving, slow, status

KEY = "sk-never/seen-4711"
ASK = [{"role": "user", "content": "How are you?"}]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    """A key in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


class Sleeper:
    """Notes down how long it was told to sleep."""

    def __init__(self):
        self.waits = []

    def __call__(self, seconds):
        self.waits.append(seconds)


def client_of(server, **how):
    """A client that does not really wait; chance is fixed at 0, so waits are exact."""
    return ChatClient(server.url, "m", **{"sleep": Sleeper(), "chance": lambda: 0.0, "timeout": 5.0, **how})


# -------------------------------------------------------------------- asking


def test_what_is_sent():
    """Model, messages, temperature and limit to /v1/chat/completions, with the key in its header."""
    with serving([good("well")]) as server:
        answer = client_of(server).ask(ASK, temperature=0.5, most=7)
    assert (answer.text, answer.state, answer.cached) == ("well", "whole", False)
    headers, question, path = server.asked[0]
    assert path == "/v1/chat/completions"
    assert question == {"model": "m", "messages": ASK, "temperature": 0.5, "max_tokens": 7}
    assert headers["Authorization"] == f"Bearer {KEY}"


def test_without_a_key_no_header_is_sent(monkeypatch):
    """A local server wants none; another variable can be named."""
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("MY_KEY", "other")
    with serving() as server:
        client_of(server).ask(ASK)
        client_of(server, key_env="MY_KEY").ask(ASK)
    assert "Authorization" not in server.asked[0][0]
    assert server.asked[1][0]["Authorization"] == "Bearer other"


@pytest.mark.parametrize(
    ("body", "state", "text"),
    [
        ("<html>busy</html>", "not JSON", ""),
        (json.dumps(reply("x" * 50))[:40], "not JSON", ""),
        ("", "not JSON", ""),
        ('{"choices": []}', "no choices", ""),
        ('{"error": "none"}', "no choices", ""),
        ("[1, 2]", "no choices", ""),
        ("null", "no choices", ""),
        ('{"choices": [{"message": null}]}', "no choices", ""),
        ('{"choices": [{"message": {"content": 7}}]}', "no choices", ""),
        (json.dumps(reply(None)), "empty", ""),
        (json.dumps(reply("  ")), "empty", "  "),
        (json.dumps(reply("I ca", "length")), "truncated", "I ca"),
        (json.dumps(reply(None, refusal="no")), "refused", ""),
        (json.dumps(reply("", "content_filter")), "refused", ""),
        (json.dumps(reply([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}])), "whole", "ab"),
        (json.dumps(reply("half \ud83d")), "whole", "half ?"),
        ("[" * 100_000, "not JSON", ""),
    ],
)
def test_bad_answers_are_told_apart(body, state, text, tmp_path):
    """Each is an answer with a state, kept like any other; none is an exception."""
    with serving([status(200, body)]) as server:
        answer = client_of(server, cache=tmp_path / "a.jsonl").ask(ASK)
        assert (answer.state, answer.text) == (state, text)
        again = client_of(server, cache=tmp_path / "a.jsonl").ask(ASK)
    assert (again.state, again.text, again.cached) == (state, text, True)
    assert len(server.asked) == 1


# -------------------------------------------------------------------- waiting and giving up


@pytest.mark.parametrize("act", [status(500), status(503, "busy"), status(429), status(408), hanging_up, cut_short], ids=str)
def test_what_passes_is_tried_again(act):
    """Waits double from the first."""
    with serving([act, act, act]) as server:
        client = client_of(server)
        assert client.ask(ASK).text == "fine"
    assert client.sleep.waits == [1.0, 2.0, 4.0]
    assert (client.sent, client.retried) == (4, 3)


def test_waits_are_shortened_at_random():
    """So that many clients do not come back at the same moment; never by more than half."""
    with serving([status(500)] * 2) as server:
        client = client_of(server, chance=lambda: 0.999)
        client.ask(ASK)
    assert client.sleep.waits == pytest.approx([0.5, 1.0], rel=0.01)


@pytest.mark.parametrize(
    ("header", "waited"), [("7", 7.0), (formatdate(1_000_030, usegmt=True), 30.0), ("0", 0.0), ("soon", 1.0), ("-3", 1.0), ("nan", 1.0)]
)
def test_retry_after_is_heeded(header, waited):
    """Seconds or a date; what makes no sense is as if it were not there."""
    with serving([status(429, retry_after=header)]) as server:
        client = client_of(server, clock=lambda: 1_000_000.0)
        client.ask(ASK)
    assert client.sleep.waits == [waited]


def test_too_long_a_wait_is_the_users_decision():
    """An hour is not waited for."""
    with serving([status(429, retry_after=3600)]) as server, pytest.raises(ModelError, match="3600 s, try again then"):
        client_of(server).ask(ASK)


@pytest.mark.parametrize(
    ("act", "said"), [(status(502, "bad gateway"), r"HTTP 502 \(it said: bad gateway\)"), (status(429), "too many"), (hanging_up, "connection")]
)
def test_attempts_run_out(act, said):
    """Then one sentence with what was seen last, and how often it was tried."""
    with serving([act] * 9) as server:
        with pytest.raises(ModelError, match=rf"{said}.*gave up after 3 attempts"):
            client_of(server, attempts=3).ask(ASK)
        assert len(server.asked) == 3


@pytest.mark.parametrize("act", [slow(1.0), dripping(1.0)], ids=["slow", "dripping"])
def test_a_slow_answer_is_given_up(act):
    """Whether nothing comes or a byte at a time; the next one is taken."""
    with serving([act]) as server:
        client = client_of(server, timeout=0.3)
        assert client.ask(ASK).text == "fine"
        assert client.retried == 1
    with serving([act, act]) as server, pytest.raises(ModelError, match=r"no answer within 0.3 s; gave up after 2"):
        client_of(server, timeout=0.3, attempts=2).ask(ASK)


@pytest.mark.parametrize(
    ("code", "said"), [(401, "OPENAI_API_KEY"), (403, "forbidden"), (404, "no model `m`"), (400, "HTTP 400"), (422, "HTTP 422"), (302, "redirects")]
)
def test_what_does_not_pass_is_said_at_once(code, said):
    """One request, no waiting; a redirect is not followed, since the key would go with it."""
    with serving() as elsewhere, serving([status(code, f"your key {KEY} is bad", location=elsewhere.url)]) as server:
        client = client_of(server)
        with pytest.raises(ModelError, match=said) as caught:
            client.ask(ASK)
        assert elsewhere.asked == []
    assert len(server.asked) == 1
    assert client.sleep.waits == []
    assert KEY not in str(caught.value)
    assert "[key]" in str(caught.value)


def test_nobody_there_is_said_at_once():
    """A closed port before anything was answered: a wrong address or a server that is not running."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client = ChatClient(f"http://127.0.0.1:{free.getsockname()[1]}", "m", sleep=Sleeper())
    with pytest.raises(ModelError, match="is it running"):
        client.ask(ASK)
    assert client.sleep.waits == []


def test_a_server_that_went_away_may_come_back():
    """A closed port after an answer is a restart: tried again."""
    with serving() as server:
        client = client_of(server, attempts=3)
        client.ask(ASK)
    with pytest.raises(ModelError, match="gave up after 3"):
        client.ask(ASK, draw=1)


@pytest.mark.parametrize(
    ("body", "missing", "there"),
    [("Use 'max_completion_tokens' instead.", "max_tokens", "max_completion_tokens"), ("temperature is unsupported", "temperature", "max_tokens")],
)
def test_dialects_are_learnt_once(body, missing, there):
    """Some models take no max_tokens or temperature."""
    with serving([status(400, body)]) as server:
        client = client_of(server)
        client.ask(ASK, most=5)
        client.ask(ASK, draw=1)
    assert [missing in question for _, question, _ in server.asked] == [True, False, False]
    assert there in server.asked[2][1]
    assert client.sleep.waits == []


# -------------------------------------------------------------------- keeping


def test_nothing_is_asked_twice(tmp_path):
    """Not by the same client, not by the next; other words, model, limit or draw are another question."""
    with serving() as server:
        first = client_of(server, cache=tmp_path / "a.jsonl")
        assert not first.ask(ASK).cached
        assert first.ask(ASK).cached
        second = client_of(server, cache=tmp_path / "a.jsonl")
        assert second.ask(ASK).cached
        assert len(server.asked) == 1
        second.ask(ASK, draw=1)
        second.ask(ASK, most=3)
        second.ask(ASK, temperature=1.0)
        second.ask([{"role": "user", "content": "Else?"}])
        ChatClient(server.url, "other", tmp_path / "a.jsonl").ask(ASK)
    assert len(server.asked) == 6
    assert (second.sent, second.reused) == (4, 1)


def test_a_torn_last_line_costs_one_question(tmp_path):
    """A kill in the middle of a line; whole ones before and after stay."""
    path = tmp_path / "a.jsonl"
    with serving() as server:
        client_of(server, cache=path).ask(ASK)
        client_of(server, cache=path).ask(ASK, draw=1)
        path.write_bytes(path.read_bytes()[:-9])
        again = client_of(server, cache=path)
        assert again.ask(ASK).cached
        assert not again.ask(ASK, draw=1).cached
        assert client_of(server, cache=path).ask(ASK, draw=1).cached
    path.write_text("rubbish\n" + path.read_text())
    with pytest.raises(StoreError, match="line 1"):
        client_of(server, cache=path)


def test_strange_rows_in_the_cache_are_left_alone(tmp_path):
    """A row without what we need is no answer."""
    append_rows(tmp_path / "a.jsonl", [{"key": "abc"}])
    with serving() as server:
        assert client_of(server, cache=tmp_path / "a.jsonl").ask(ASK).text == "fine"


# -------------------------------------------------------------------- addresses and keys


@pytest.mark.parametrize(
    ("given", "posted"),
    [
        ("http://h:1", "http://h:1/v1/chat/completions"),
        ("http://h/", "http://h/v1/chat/completions"),
        (" https://h/v1/ ", "https://h/v1/chat/completions"),
        ("https://h/v1beta/openai", "https://h/v1beta/openai/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
    ],
)
def test_addresses(given, posted):
    """The base address as people write it; once complete it stays."""
    assert chat_address(given) == posted
    assert chat_address(posted) == posted


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://h/v1",
        "",
        "https://me:secret-1@h/v1",
        "https://h/v1?key=secret-1",
        "ftp://x:secret-1@h",
        "http://[::1",
        "http://h/a b",
        "http://hä/v1",
        "http://h:x/v1",
    ],
)
def test_bad_addresses_are_refused_without_repeating_a_secret(url):
    """An address would be stored, so it may carry none."""
    with pytest.raises(SpecError, match=r"address|carries") as caught:
        ChatClient(url, "m")
    assert "secret-1" not in str(caught.value)


@pytest.mark.parametrize("value", ["sk-abc\nX-Evil: 1", "sk abc-secret", "schlüssel-secret"])
def test_a_key_that_no_header_may_carry_is_not_repeated(value, monkeypatch):
    """The variable is named, its value is not."""
    monkeypatch.setenv("OPENAI_API_KEY", value)
    with serving() as server, pytest.raises(SpecError, match="OPENAI_API_KEY holds no usable key") as caught:
        client_of(server).ask(ASK)
    assert value not in str(caught.value)
    assert server.asked == []


def test_the_key_given_as_the_name_of_the_variable():
    """A common slip; it is not repeated."""
    with pytest.raises(BiasGymError, match="never the key itself") as caught:
        ChatClient("http://h", "m", key_env=KEY)
    assert KEY not in str(caught.value)


def test_an_echoed_key_is_kept_nowhere(tmp_path):
    """Neither in the answer, nor in the file, nor in the client's own account of itself."""
    with serving([good(f"Your key is {KEY}.")]) as server:
        client = client_of(server, cache=tmp_path / "a.jsonl")
        assert client.ask(ASK).text == "Your key is [key]."
    assert KEY not in repr(client) + repr(vars(client))
    assert KEY not in (tmp_path / "a.jsonl").read_text()


def test_a_made_up_key_does_not_blot_out_words(monkeypatch):
    """Local servers are given keys such as `fine`."""
    monkeypatch.setenv("OPENAI_API_KEY", "fine")
    with serving() as server:
        assert client_of(server).ask(ASK).text == "fine"


def test_a_client_needs_a_model():
    """An empty name is refused."""
    with pytest.raises(SpecError, match="no name"):
        ChatClient("http://h", "")
