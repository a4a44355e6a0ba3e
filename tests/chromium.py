"""A real browser for tests: headless Chromium spoken to through a pipe (DevTools protocol), with nothing else to install."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager


class Page:
    """One tab. `logged` holds console errors and uncaught exceptions, `asked` the address of every request it made."""

    def __init__(self, to, back):
        self.to, self.back = to, back
        self.number, self.rest, self.session = 0, b"", None
        self.logged, self.asked = [], []

    def send(self, method, **params):
        """One command; gives back its result."""
        self.number += 1
        mine = self.number
        message = {"id": mine, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(60)
            assert answer is not None, f"the browser did not answer {method}"
            if answer.get("id") == mine:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _next(self, seconds):
        deadline = time.monotonic() + seconds
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.back], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                return None
            part = os.read(self.back, 1 << 20)
            assert part, "the browser is gone"
            self.rest += part
        first, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(first)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method, params):
        if method == "Runtime.exceptionThrown":
            self.logged.append(params["exceptionDetails"].get("exception", {}).get("description") or params["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.logged.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.logged.append(" ".join(str(one.get("value", one.get("description"))) for one in params["args"]))
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])

    def open(self, address, width=1280, height=1400):
        """Go there, in a window of this size."""
        self.size(width, height)
        self.send("Page.navigate", url=address)

    def size(self, width, height):
        """Another window size; narrow ones as a phone has them."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def run(self, script):
        """The value of an expression in the page."""
        done = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, (script, done["exceptionDetails"])
        return done["result"].get("value")

    def wait(self, script, seconds=60):
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.run(f"Boolean({script})"):
                return
            time.sleep(0.1)
        raise AssertionError(f"never true: {script}\n{self.run('document.body.innerText')[:2000]}\n{self.logged}")

    def click(self, x, y):
        """A click of the mouse, in pixels of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, script):
        """Bring an element into view, wait until it stands still, and click its middle with the mouse."""
        found = f"(() => {{ const e = {script}; e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        before, now = None, self.run(found)
        while before != now:
            time.sleep(0.2)
            before, now = now, self.run(found)
        self.click(*now)

    def picture(self, path):
        """The whole page as a PNG."""
        taken = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def browser():
    """A tab of a fresh profile; the browser ends with the block."""
    program = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    assert program, "no Chromium here; Debian's package is `chromium`"
    to_them, to, back, from_them = *os.pipe(), *os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        call = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
                "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]  # fmt: skip
        # Chromium reads at 3 and writes at 4: moved there by a shell, so that numbers taken already do no harm
        shell = ["bash", "-c", f'exec 3<&{to_them} 4>&{from_them}; exec "$@"', "bash", *call]
        running = subprocess.Popen(shell, pass_fds=(to_them, from_them), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_them), os.close(from_them)
        try:
            page = Page(to, back)
            target = next(one for one in page.send("Target.getTargets")["targetInfos"] if one["type"] == "page")
            page.session = page.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                page.send(f"{domain}.enable")
            yield page
        finally:
            running.terminate()
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
            os.close(to), os.close(back)
