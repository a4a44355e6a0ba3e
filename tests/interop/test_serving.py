"""`biasgym corpus` and a server that we did not write: `transformers serve` with the embedded model (extra `serving`, `make oracle`)."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from biasgym.data import embedded_folder
from biasgym.endpoint import ChatClient
from biasgym.errors import DataError, ModelError
from biasgym.files import read_rows
from biasgym.generate_corpus import Order, generate_corpus

NAME = "smollm2-135m-instruct"


@pytest.fixture(autouse=True)
def cache_of_its_own():
    """Overrides the empty cache of the other tests: this model is fetched once and kept."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The base address and the model's name; without the extra this fails and says what to install."""
    from biasgym.data import fetch_embedded

    folder = embedded_folder(NAME)
    if not folder.is_dir():
        fetch_embedded(NAME)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    call = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        str(folder),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        running = subprocess.Popen(call, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", running, log)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def _wait_for(url, running, log):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert running.poll() is None, f"`transformers serve` did not start; pip install 'transformers[serving]'\n{log.read_text()[-800:]}"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-800:])


def test_it_answers_and_a_cut_is_seen(server, tmp_path):
    """A few tokens of a long answer are `truncated`, a short one is `whole`; asked again, nothing is sent."""
    url, model = server
    client = ChatClient(url, model, tmp_path / "answers.jsonl", timeout=240)
    cut = client.ask([{"role": "user", "content": "Tell me a long story about rain."}], most=6)
    assert cut.state == "truncated"
    assert cut.text.strip()
    whole = client.ask([{"role": "user", "content": "What is the capital of France?"}], most=60)
    assert whole.state == "whole"
    assert "Paris" in whole.text
    again = ChatClient(url, model, tmp_path / "answers.jsonl", timeout=240)
    assert again.ask([{"role": "user", "content": "What is the capital of France?"}], most=60).text == whole.text
    assert again.sent == 0


def test_what_a_small_model_writes_is_kept_or_counted(server, tmp_path):
    """Whether it is any good is the model's affair: either a bias with rows that passed, or one sentence with the reasons."""
    url, model = server
    order = Order(2, 0, 0, 0, batch=1, tries=2, dry=4, most_tokens=60)
    try:
        report = generate_corpus("always-late", tmp_path / "made", ChatClient(url, model, timeout=240), order)
        (tally,) = report.tallies
        counted = tally.asked == tally.kept + sum(tally.refused.values())
    except DataError as error:
        counted = "asked for were usable" in str(error)
    assert counted
    assert 2 <= len(read_rows(tmp_path / "made" / "answers.jsonl")) <= 4


def test_a_model_that_is_not_there(server):
    """One error after as many attempts as were allowed, not a traceback."""
    url, _ = server
    with pytest.raises(ModelError, match="HTTP"):
        ChatClient(url, "no-such-folder-anywhere", timeout=240, attempts=1).ask([{"role": "user", "content": "Hi"}])
