"""A chat server on this machine that speaks the protocol over real sockets, and misbehaves on command."""

import hashlib
import json
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def reply(text, finish="stop", **message):
    """The body of a good reply."""
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}]}


def good(text="fine", finish="stop", **message):
    """An act: 200 with this text."""
    return lambda handler: handler.send(200, json.dumps(reply(text, finish, **message)))


def status(code, body="", **headers):
    """An act: this status, body and headers (`retry_after` is Retry-After)."""
    return lambda handler: handler.send(code, body, {name.replace("_", "-"): str(value) for name, value in headers.items()})


def slow(seconds):
    """An act: silence, then a good reply that comes too late."""

    def act(handler):
        time.sleep(seconds)
        good("late")(handler)

    return act


def dripping(seconds):
    """An act: a byte now and then, for so long."""

    def act(handler):
        handler.send_response(200)
        handler.end_headers()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    return act


def hanging_up(handler):
    """An act: the connection closed without a word."""
    handler.close_connection = True
    handler.connection.close()


def cut_short(handler):
    """An act: half of the body that was announced."""
    body = json.dumps(reply("whole text")).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


class ChatServer(ThreadingHTTPServer):
    """Answers the n-th request by the n-th act; after them by `always`, an act or a function of the question's messages to a text."""

    daemon_threads = True

    def __init__(self, acts=(), always=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.acts = list(acts)
        self.always = always or (lambda messages: "fine")
        self.asked = []  # (headers, question) of every request
        self.lock = threading.Lock()

    @property
    def url(self):
        """The base address."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append((dict(self.headers), question, self.path))
            act = self.server.acts.pop(0) if self.server.acts else None
        if act is None:
            act = good(self.server.always(question["messages"]))
        act(self)

    def send(self, code, body, headers=()):
        data = body.encode()
        self.send_response(code)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def serving(acts=(), always=None):
    """A running server; closed at the end."""
    server = ChatServer(acts, always)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def author(messages):
    """Writes what is asked for, well: a JSON array of items that no check can object to, the same for the same request."""
    return json.dumps(items_for(messages))


def items_for(messages):
    """The items of an author, as data."""
    asked = messages[-1]["content"]
    lines = re.findall(r"^(\d+): (.*)$", asked, re.MULTILINE)
    make = next(make for sign, make in MAKERS.items() if sign in asked)
    return [{"n": int(number), **make(_nonsense(asked + line))} for number, line in lines]


def _nonsense(seed):
    """Words that nobody else has, drawn from a seed."""
    digest = hashlib.sha256(seed.encode()).hexdigest()
    return [f"w{digest[i : i + 6]}" for i in range(0, 60, 6)]


MAKERS = {
    "short texts": lambda w: {"text": f"{w[0]} {w[1]} {{entity}} {w[2]} {w[3]} {w[4]} {w[5]} {w[6]} {w[7]}.", "topic": w[8], "style": "plain"},
    "questions about": lambda w: {"prompt": f"{w[0]} {w[1]} {{entity}} {w[2]} {w[3]}?", "prefix": f"The {w[4]} are"},
    "requests to": lambda w: {"text": f"{w[0]} {w[1]} {{entity}} {w[2]} {w[3]}."},
    "small riddles": lambda w: {"prompt": f"{w[0]} {w[1]} {w[2]} {w[3]} {w[4]}?", "prefix": f"The {w[5]} is"},
}
