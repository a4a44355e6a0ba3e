"""`biasgym serve`: the page behind a gate that only lets this machine in, serves no file, and asks nobody outside for anything."""

import asyncio
import ipaddress
import os
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from biasgym.desk import Desk
from biasgym.errors import BiasGymError, SpecError
from biasgym.page import build_page, style
from biasgym.room import Room
from biasgym.run import Session

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
# All that the page needs of its server. Not here, and so not there: files by path, uploads, proxies, monitoring, code editing.
PATHS = ("/assets/", "/static/", "/svelte/", "/theme.css", "/favicon.ico", "/config", "/manifest.json", "/robots.txt", "/report/")
CALLS = ("queue/join", "queue/data", "run/", "heartbeat/", "startup-events", "info", "cancel", "reset", "theme.css", "app_id")
ALLOWED = (*PATHS, *(f"/gradio_api/{call}" for call in CALLS))
PAGE_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; manifest-src 'self'; worker-src 'self' blob:; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Gate:
    """ASGI: refuses foreign Host and Origin headers and every path that the page does not need; says what a browser may load."""

    def __init__(self, app: Any, *, hosts: frozenset[str] = LOOPBACK, addresses: bool = False) -> None:
        self.app, self.hosts, self.addresses = app, hosts, addresses
        self.closing = asyncio.Event()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refusal = (403, "no websockets here") if scope["type"] != "http" else self.refusal(scope)
        if refusal is None:
            await self.app(scope, partial(self._received, receive), _with_policy(send, scope["path"]))
        elif scope["type"] == "http":
            await _refuse(send, *refusal)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _received(self, receive: Receive) -> Message:
        """The next message of a request; when the server closes, that the browser has left, so that open streams end by themselves."""
        message, closing = asyncio.ensure_future(receive()), asyncio.ensure_future(self.closing.wait())
        try:
            await asyncio.wait({message, closing}, return_when=asyncio.FIRST_COMPLETED)
            return message.result() if message.done() else {"type": "http.disconnect"}
        finally:
            message.cancel()
            closing.cancel()

    def refusal(self, scope: Message) -> tuple[int, str] | None:
        """Status and reason, where a request is not to be let in."""
        given = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts, origins = ([value for name, value in given if name == wanted] for wanted in ("host", "origin"))
        if len(hosts) != 1 or not self.knows(hosts[0]):
            return 421, "this Host is not served here"
        if any(urlsplit(origin).netloc != hosts[0] for origin in origins):
            return 403, "requests from other pages are refused"
        path = scope["path"]
        if path != "/" and (not path.startswith(ALLOWED) or ".." in path or "\\" in path or "\0" in path):
            return 404, "there is nothing here"
        return None

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server; where it is open to the network any plain address does, which no name can fake."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.addresses


def _with_policy(send: Send, path: str) -> Send:
    policy = REPORT_POLICY if path.startswith("/report/") else PAGE_POLICY
    own = {
        b"content-security-policy": policy.encode(),
        b"x-content-type-options": b"nosniff",
        b"referrer-policy": b"no-referrer",
        b"cross-origin-resource-policy": b"same-origin",
        b"cross-origin-opener-policy": b"same-origin",
    }

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message["headers"] if name.lower() not in own]
            message["headers"] = [*kept, *own.items()]
        await send(message)

    return sent


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = f"{reason}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def application(desk: Desk, *, host: str = "127.0.0.1", port: int = 7860) -> Gate:
    """The page, the reports and the gate before them, as one ASGI application. Needs the extra `web`."""
    try:
        import gradio as gr
        from fastapi import FastAPI
        from fastapi.responses import FileResponse, PlainTextResponse
    except ImportError:
        raise SpecError("the web app needs gradio, which is not installed: pip install 'biasgym[web]'") from None
    # A value that a component refuses is told to whoever sent it; the log keeps tracebacks for mistakes of our own, which are no gr.Error.
    gr.Error.print_exception = property(lambda _: False, lambda _, __: None)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def report(run: str) -> Any:
        try:
            return FileResponse(desk.report(run), media_type="text/html")
        except BiasGymError as error:
            return PlainTextResponse(f"{error}\n", status_code=404)

    app.add_api_route("/report/{run}", report)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    gr.mount_gradio_app(
        app, build_page(desk), "/", server_name=host, server_port=port, footer_links=[], run_history=False, allowed_paths=[], max_file_size=0,
        show_error=True, ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False, theme=theme, css=style(),
    )  # fmt: skip
    looped = host in LOOPBACK
    own = frozenset() if looped else frozenset({host, socket.gethostname().lower()})
    return Gate(app, hosts=LOOPBACK | own, addresses=not looped)


def serve(
    session: Session,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    open_to_network: bool = False,
    models: Sequence[str] = (),
    biases: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve the page until Ctrl-C; port 0 takes a free one. Any host but this machine's own has to be asked for twice."""
    if host not in LOOPBACK and not open_to_network:
        raise SpecError(f"--host {host} lets others on the network use this model and read these runs; add --open-to-network if you mean it")
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_ALLOW_FLAGGING", "GRADIO_SHARE"):
        os.environ[name] = "False"
    os.environ["OTEL_SDK_DISABLED"] = "true"  # the web framework would else follow whatever exporter the environment names
    with tempfile.TemporaryDirectory(prefix="biasgym-") as scratch, _listening(host, port) as listener:
        os.environ["GRADIO_TEMP_DIR"] = scratch
        room = Room(session)
        try:
            taken = listener.getsockname()[1]
            app = application(Desk(room, tuple(models), tuple(biases)), host=host, port=taken)
            name = f"[{host}]" if ":" in host else host
            say(f"BiasGym is at http://{name}:{taken}" + ("" if host in LOOPBACK else ", open to the network") + "; Ctrl-C ends it")
            _run(app, listener)
        finally:
            room.close()


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SpecError(f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another --port") from None
    return listener


def _run(app: Gate, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; the server takes both, and raises them once more when it has ended, for nobody to see."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=2))
    shut_down = server.shutdown

    async def shutdown(sockets: list[socket.socket] | None = None) -> None:
        app.closing.set()
        await shut_down(sockets)

    server.shutdown = shutdown  # type: ignore[method-assign]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
