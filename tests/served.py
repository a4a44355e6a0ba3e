"""`biasgym serve` in a process of its own, on a free port, over a store with one small run of a tiny model."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from biasgym.audit import save_audit
from biasgym.store import RunStore
from made_up_run import made_up_audit
from small_run import write_small_run
from tiny import save_folder, tiny_lm


def write_store(place):
    """A store with the small run of a tiny Llama and two made-up audits; gives back its root and the model's folder."""
    lm = tiny_lm("llama")
    model = save_folder(lm, place / "tiny-llama")
    store = RunStore(place / "runs")
    write_small_run(store, model, lm)
    save_audit(store, made_up_audit())
    save_audit(store, made_up_audit(models=("model-c",), tests=6))
    return place / "runs", model


@contextmanager
def served(runs, *args):
    """Address and process; ended by SIGINT, as Ctrl-C does. Fails, with what the server said, where it does not start or end."""
    source = str(Path(__file__).parents[1] / "src")
    call = [sys.executable, "-u", "-c", "from biasgym.cli import main; main()", "serve", "--port", "0", "--offline", "--runs", str(runs), *args]
    log = runs.parent / "serve.log"
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        running = subprocess.Popen(call, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        yield _address(running, log), running
        if running.poll() is None:
            running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0, log.read_text()[-2000:]
        assert "Traceback" not in log.read_text(), log.read_text()[-4000:]
    finally:
        if running.poll() is None:
            running.kill()
        running.wait()


def _address(running, log):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = re.search(r"http://[\w.:\[\]]+", log.read_text())
        if found:
            return found[0]
        assert running.poll() is None, f"`biasgym serve` did not start; it needs the extra `web`\n{log.read_text()[-2000:]}"
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-2000:])
