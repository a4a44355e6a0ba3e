"""A client for any OpenAI-compatible chat endpoint: asks, waits its turn, tells bad answers apart, never asks twice.

The key comes from an environment variable at the moment of asking. It is in no attribute, file, log or message of ours.
"""

import hashlib
import http.client
import json
import os
import random
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

from biasgym.errors import ModelError, SpecError
from biasgym.files import append_rows, read_rows

State = Literal["whole", "truncated", "refused", "empty", "no choices", "not JSON"]
Message = dict[str, str]
KEY_ENV = "OPENAI_API_KEY"
MOST_BYTES = 16 * 2**20  # an answer longer than this is no chat answer
LEAST_SECRET = 8  # letters; local servers are given keys such as `none`, which must not be blotted out of every text
TRANSIENT = (408, 409, 425, 429)  # and every 5xx


@dataclass(frozen=True)
class Answer:
    """What came back: the text, and whether it is whole.

    `truncated`: stopped by the token limit, the text is what there was. `refused`: the endpoint's filter or the model's own
    refusal field. `empty`: a choice without words. `no choices`: JSON of another shape. `not JSON`: anything else.
    """

    text: str
    state: State
    cached: bool = False


@dataclass(frozen=True)
class _Reply:
    """One HTTP exchange: status 0 when none came about; `wait` is Retry-After in seconds."""

    status: int
    body: str
    wait: float | None = None
    lasting: bool = False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host; it is an error here."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass
class ChatClient:
    """Asks one model of one endpoint; answers are kept in `cache` (JSON Lines), so that no question is asked twice.

    `url` is the base address (`http://localhost:8000/v1`), `timeout` the seconds for one whole exchange, `attempts` the
    number of them before giving up, `patience` the longest wait in seconds that an endpoint may ask for. Between attempts
    it waits `first_wait` × 2ⁿ seconds, shortened at random by up to half, or what Retry-After says. `sleep`, `clock` (Unix
    seconds) and `chance` (uniform on 0–1) can be replaced by tests.
    """

    url: str
    model: str
    cache: Path | None = None
    key_env: str = KEY_ENV
    timeout: float = 120.0
    attempts: int = 6
    first_wait: float = 1.0
    patience: float = 600.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random
    sent: int = field(default=0, init=False)
    retried: int = field(default=0, init=False)
    reused: int = field(default=0, init=False)
    _known: dict[str, Answer] = field(default_factory=dict, init=False, repr=False)
    _unwanted: set[str] = field(default_factory=set, init=False, repr=False)
    _reached: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self.url = chat_address(self.url)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_env):
            raise SpecError("the name of the key's environment variable is letters, digits and underscores; give the name, never the key itself")
        if not self.model:
            raise SpecError("the endpoint's model has no name; give one")
        for row in read_rows(self.cache) if self.cache else []:
            if {"key", "text", "state"} <= row.keys():
                self._known[row["key"]] = Answer(row["text"], row["state"], cached=True)

    def ask(self, messages: Sequence[Message], *, temperature: float = 0.0, most: int = 1024, draw: int = 0) -> Answer:
        """One answer of at most `most` tokens. `draw` tells questions with the same words apart; it is not sent.

        Raises ModelError when the endpoint cannot be used (wrong address, key or model; all attempts failed).
        """
        question = {"model": self.model, "messages": list(messages), "temperature": temperature, "max_tokens": most}
        key = hashlib.sha256(json.dumps([self.url, question, draw], sort_keys=True).encode()).hexdigest()
        if key in self._known:
            self.reused += 1
            return self._known[key]
        answer = _read_answer(self._exchange(question))
        answer = Answer(self._without_key(answer.text), answer.state)
        self._known[key] = Answer(answer.text, answer.state, cached=True)
        if self.cache:
            append_rows(self.cache, [{"key": key, "state": answer.state, "text": answer.text}])
        return answer

    def _exchange(self, question: dict[str, Any]) -> str:
        """The body of a good reply, after as many attempts as it takes."""
        reply = _Reply(0, "")
        attempt = 0
        while attempt < self.attempts:
            reply = self._post(question)
            if reply.status == 200:
                self._reached = True
                return reply.body
            if reply.status == 400 and self._learn(reply.body):
                continue  # the same question in this server's dialect; no failure
            if reply.lasting or not (reply.status == 0 or reply.status >= 500 or reply.status in TRANSIENT):
                raise ModelError(self._complaint(reply))
            attempt += 1
            if attempt < self.attempts:
                self._wait(attempt, reply)
        raise ModelError(f"{self._complaint(reply)}; gave up after {self.attempts} attempts")

    def _wait(self, attempt: int, reply: _Reply) -> None:
        if reply.wait is not None and reply.wait > self.patience:
            raise ModelError(f"{self._complaint(reply)}; it asks to wait {reply.wait:.0f} s, try again then")
        backed_off = self.first_wait * 2 ** (attempt - 1) * (1 - self.chance() / 2)
        self.retried += 1
        self.sleep(backed_off if reply.wait is None else max(reply.wait, 0.0) + self.chance() * self.first_wait / 2)

    def _post(self, question: dict[str, Any]) -> _Reply:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        body = {name: value for name, value in question.items() if name not in self._unwanted}
        if "max_tokens" in self._unwanted:
            body["max_completion_tokens"] = question["max_tokens"]
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers, method="POST")
        self.sent += 1
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as response:
                return _Reply(200, _body(response, time.monotonic() + self.timeout))
        except urllib.error.HTTPError as error:
            with error:
                return _Reply(error.code, _error_body(error), _retry_after(error.headers.get("Retry-After"), self.clock()))
        except (OSError, http.client.HTTPException, urllib.error.ContentTooShortError) as error:
            return self._unreached(error)

    def _unreached(self, error: Exception) -> _Reply:
        """No exchange came about. A certificate never gets better; a closed port does, once somebody has been seen there."""
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return _Reply(0, f"no answer within {self.timeout:g} s")
        lasting = isinstance(reason, ssl.SSLCertVerificationError)
        lasting |= not self._reached and (isinstance(reason, ConnectionRefusedError) or type(reason).__name__ == "gaierror")
        # Only the kind of an HTTP complaint: its text may quote a header, and with it the key.
        words = getattr(reason, "strerror", None) or type(reason).__name__
        return _Reply(0, f"the connection failed ({words})", lasting=lasting)

    def _learn(self, body: str) -> bool:
        """Some servers refuse `max_tokens` (they say max_completion_tokens) or `temperature`; leave it out from then on."""
        said = body.lower()
        unsupported = "temperature" in said and ("unsupported" in said or "not support" in said)
        for name, meant in (("max_tokens", "max_completion_tokens" in said), ("temperature", unsupported)):
            if meant and name not in self._unwanted:
                self._unwanted.add(name)
                return True
        return False

    def _complaint(self, reply: _Reply) -> str:
        hints = {
            401: f"the key was not accepted; put a valid one into the environment variable {self.key_env}",
            403: f"access is forbidden to the key in the environment variable {self.key_env}, or to this model",
            404: f"there is no such address or no model `{self.model}`; the base address usually ends in /v1",
            429: "too many requests",
        }
        if reply.status == 0:
            said = "is it running?" if reply.lasting else ""
            return "; ".join(part for part in (f"endpoint {self.url}: {reply.body}", said) if part)
        told = self._without_key(" ".join(reply.body.split()))[:200]
        hint = hints.get(reply.status, "it redirects elsewhere; give its final address" if 300 <= reply.status < 400 else "")
        return f"endpoint {self.url}: HTTP {reply.status}" + (f", {hint}" if hint else "") + (f" (it said: {told})" if told else "")

    def _key(self) -> str:
        key = os.environ.get(self.key_env, "").strip()
        if not all("!" <= sign <= "~" for sign in key):
            raise SpecError(f"the environment variable {self.key_env} holds no usable key: blanks or letters that no header may carry")
        return key

    def _without_key(self, text: str) -> str:
        """A server may echo the key; nothing that it says is kept or shown with the key in it."""
        key = self._key()
        if len(key) < LEAST_SECRET:
            return text
        for form in (key, json.dumps(key)[1:-1], json.dumps(key)[1:-1].replace("/", "\\/")):
            text = text.replace(form, "[key]")
        return text


def chat_address(url: str) -> str:
    """Where to post, from a base address; an address that carries a password or a query is refused, since it would be stored."""
    try:
        parts = urllib.parse.urlsplit(url.strip())
        _ = parts.port
        if not all("!" <= sign <= "~" for sign in url.strip()):
            raise ValueError("blanks and letters outside ASCII stand in no address")
    except ValueError:
        raise SpecError("the endpoint's address is malformed; give one such as http://localhost:8000/v1") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = url if "@" not in url and "?" not in url else "…"
        raise SpecError(f"endpoint `{shown}` is no address; give one such as http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise SpecError(f"the address of endpoint {parts.hostname} carries a name, password or query; keys go into an environment variable only")
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = f"{path or '/v1'}/chat/completions"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def _body(response: Any, deadline: float) -> str:
    """The whole body; a server that drips a byte at a time is slow, too."""
    pieces, size = [], 0
    while piece := response.read1(65536):
        pieces.append(piece)
        size += len(piece)
        if time.monotonic() > deadline:
            raise TimeoutError
        if size > MOST_BYTES:
            raise ConnectionError(f"more than {MOST_BYTES} bytes")
    announced = response.headers.get("Content-Length")
    if announced is not None and announced.isdigit() and size < int(announced):  # read1 does not complain of a body cut short
        raise http.client.IncompleteRead(b"", int(announced) - size)
    return b"".join(pieces).decode("utf-8", errors="replace")


def _error_body(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(4096).decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException):
        return ""


def _retry_after(value: str | None, now: float) -> float | None:
    """Seconds from a Retry-After header, which is a number or a date; None when there is none or it makes no sense."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return seconds if 0 <= seconds < float("inf") else None


def _read_answer(body: str) -> Answer:
    """The text of the first choice, or what is wrong with the reply."""
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        return Answer("", "not JSON")
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        text = _text_of(message.get("content"))
    except (KeyError, IndexError, TypeError, AttributeError):
        return Answer("", "no choices")
    finish = choice.get("finish_reason")
    if message.get("refusal") or finish == "content_filter":
        return Answer(text, "refused")
    if finish == "length":
        return Answer(text, "truncated")
    return Answer(text, "whole" if text.strip() else "empty")


def _text_of(content: Any) -> str:
    """A message's content: a text, nothing, or a list of parts of which the text ones count."""
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str):
        raise TypeError("content of another kind")
    return content.encode("utf-8", errors="replace").decode()  # half a surrogate pair could not be written down
