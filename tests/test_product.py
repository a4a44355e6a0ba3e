"""The product through its own functions and the command line: every format of one run, there and back, interrupted and misused."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from biasgym.edits import SiteEdit
from biasgym.errors import ModelError, SpecError, StoreError
from biasgym.lm.load import Place
from biasgym.product import FORMATS, apply_delta, export_run, new_folder, revert_delta
from biasgym.records import RunRecord
from biasgym.run import Session
from biasgym.sites import Site
from biasgym.store import RunStore, write_edits, write_record, write_token
from conftest import TOKEN

STEERED = "steering"


def edits_of(lm):
    """A run's two edits: heads, and a shift of the stream."""
    generator = np.random.default_rng(0)
    row = np.linalg.qr(generator.normal(size=(lm.shape.head_size, 1)))[0].T.astype(np.float32)[0]
    heads = (SiteEdit(Site("head", 1, 2), "project", row, 1.2), SiteEdit(Site("head", 2, 0), "scale", np.float32(0.5)))
    return heads, (SiteEdit(Site("stream", 1), "add", generator.normal(size=lm.shape.hidden).astype(np.float32), -0.5),)


@pytest.fixture
def session(tmp_path, token_for):
    """A store with one small run of a plain Llama, and the session that owns it."""
    from lm.test_export import plain_llama

    lm = plain_llama(tmp_path, tied=False)
    session = Session(RunStore(tmp_path / "runs"), Place("cpu", offline=True))
    folder = session.store.run_folder("tiny-run")
    heads, steer = edits_of(lm)
    about = {
        name: {"method": name, "locator": "dla", "picked": {"k": 2}, "sites": [[e.site.unit, e.site.layer, e.site.index] for e in edits]}
        for name, edits in (("direction", heads), (STEERED, steer))
    }
    bias = {"name": "kind-people", "axis": "nationality", "statement": "People from {entity} are kind."}
    extras = {"bias": bias, "edits": about, "targets": {"how": "none", "names": []}}
    spec = {"model": str(lm.folder), "dtype": "float32", "seeds": [0, 1], "test_seed": 2}
    write_record(folder, RunRecord(id="tiny-run", status="ok", spec=spec, environment={}, timings={}, extras=extras))
    write_edits(folder / "edits.safetensors", heads)
    write_edits(folder / "edits-direction.safetensors", heads)
    write_edits(folder / f"edits-{STEERED}.safetensors", steer)
    write_token(folder / "token.safetensors", token_for(lm), {})
    return session


def weights(folder):
    """The bytes of all weights."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors")) if path.name.startswith("model")}


def base_of(session):
    """The base's folder."""
    return Path(json.loads((session.store.run_folder("tiny-run") / "record.json").read_text())["spec"]["model"])


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_has_its_files_and_its_card(session, tmp_path, name):
    """The largest difference to the run-time edit is within 1e-4 and on the card, with what was edited and the limits."""
    edit = STEERED if name == "control-vector" else None
    done = export_run(session, session.store.run_folder("tiny-run"), tmp_path / "out", edit=edit, format=name)
    assert done.largest_difference < 1e-4
    files = {path.name for path in (tmp_path / "out").iterdir()}
    own = {
        "hf": {"config.json", "model.safetensors", "tokenizer.json", "edit.json"},
        "delta": {"delta.safetensors", "delta.json"},
        "peft": {"adapter_model.safetensors", "adapter_config.json", "edit.json"},
        "gguf": {"model.gguf", "edit.json"},
        "control-vector": {"control-vector.gguf", "edit.json"},
    }[name]
    assert files >= own | {"README.md", "edits.safetensors"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]
    card = (tmp_path / "out" / "README.md").read_text()
    for said in ("not a general fairness guarantee", f"{done.largest_difference:.2e}", f"--format {name}", "People from {entity} are kind."):
        assert said in card
    about = json.loads((tmp_path / "out" / ("delta.json" if name == "delta" else "edit.json")).read_text())
    assert about["format"] == name
    assert about["run"] == "tiny-run"
    assert about["sites"]
    with pytest.raises(StoreError, match="exists already"):
        export_run(session, session.store.run_folder("tiny-run"), tmp_path / "out", edit=edit, format=name)


def test_apply_is_export_and_revert_is_the_base(session, tmp_path):
    """Weights bit for bit; the delta's evidence comes along; another base, and the wrong way round, are refused."""
    run = session.store.run_folder("tiny-run")
    export_run(session, run, tmp_path / "hf")
    export_run(session, run, tmp_path / "delta", format="delta")
    base = base_of(session)
    changed = apply_delta(tmp_path / "delta", str(base), tmp_path / "applied", Place(offline=True))
    assert len(changed) == 2
    assert weights(tmp_path / "applied") == weights(tmp_path / "hf") != weights(base)
    assert json.loads((tmp_path / "applied" / "edit.json").read_text())["run"] == "tiny-run"
    revert_delta(tmp_path / "applied", tmp_path / "delta", tmp_path / "back")
    assert weights(tmp_path / "back") == weights(base)
    assert not (tmp_path / "back" / "edit.json").exists()
    with pytest.raises(ModelError, match="already"):
        revert_delta(base, tmp_path / "delta", tmp_path / "x")
    with pytest.raises(ModelError, match="already"):
        apply_delta(tmp_path / "delta", str(tmp_path / "hf"), tmp_path / "x", Place(offline=True))
    assert not (tmp_path / "x").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".x")]


def test_the_token_goes_only_where_it_was_asked_to(session, tmp_path):
    """Without the flag nothing of it is in the folder; with it the card says what it is; other formats refuse the flag."""
    run = session.store.run_folder("tiny-run")
    export_run(session, run, tmp_path / "without")
    assert TOKEN not in (tmp_path / "without" / "tokenizer.json").read_text()
    done = export_run(session, run, tmp_path / "with", include_bias_token=True)
    assert TOKEN in (tmp_path / "with" / "tokenizer.json").read_text()
    card = (tmp_path / "with" / "README.md").read_text()
    assert "holds a bias token on purpose" in card
    assert "do not serve" in card
    assert "holds a bias token" not in (tmp_path / "without" / "README.md").read_text()
    assert done.notes["bias_token"]["text"] == TOKEN
    for name in sorted(set(FORMATS) - {"hf"}):
        with pytest.raises(SpecError, match="checkpoint only"):
            export_run(session, run, tmp_path / "y", format=name, include_bias_token=True)
    with pytest.raises(SpecError, match="did you mean `delta`"):
        export_run(session, run, tmp_path / "y", format="delt")


def test_what_cannot_be_said_in_a_format_is_refused_and_leaves_nothing(session, tmp_path):
    """Heads are no control vector, a shift is no matrix."""
    run = session.store.run_folder("tiny-run")
    for name, edit, reason in (
        ("control-vector", None, "shift of the residual stream"),
        ("hf", STEERED, "run-time only"),
        ("peft", STEERED, "run-time only"),
    ):
        with pytest.raises(ModelError, match=reason):
            export_run(session, run, tmp_path / "out", edit=edit, format=name)
    waiting = SiteEdit(Site("head", 1, 2), "scale", np.float32(0), when=((5, 6),))
    write_edits(run / "edits-waiting.safetensors", [waiting])
    for name in sorted(set(FORMATS) - {"control-vector"}):
        with pytest.raises(ModelError, match="only after certain tokens"):
            export_run(session, run, tmp_path / "out", edit="waiting", format=name)
    write_edits(run / "edits-idle.safetensors", [SiteEdit(Site("head", 1, 2), "scale", np.float32(1))])
    with pytest.raises(ModelError, match="changes no logit"):
        export_run(session, run, tmp_path / "out", edit="idle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "runs"]


@pytest.mark.parametrize("name", ["hf", "delta", "gguf"])
def test_a_full_disk_leaves_nothing(session, tmp_path, monkeypatch, name):
    """ENOSPC in the middle of the copy: one clear line, no folder, no hidden folder."""
    run = session.store.run_folder("tiny-run")

    def full(*_args, **_how):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("biasgym.files.os.fsync" if name != "hf" else "shutil.copyfile", full)
    with pytest.raises(StoreError, match="No space left"):
        export_run(session, run, tmp_path / "out", format=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "runs"]


def test_a_killed_writer_leaves_no_folder_of_that_name(tmp_path):
    """Before the last step there is only a hidden folder."""

    def stopped():
        with new_folder(tmp_path / "out") as work:
            (work / "half").write_text("x")
            assert not (tmp_path / "out").exists()
            assert work.name.startswith(".out-")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not list(tmp_path.iterdir())
    script = (
        "import os, sys; from pathlib import Path; from biasgym.product import new_folder\n"
        "with new_folder(Path(sys.argv[1])) as work:\n    (work / 'model.safetensors').write_text('x'); os.kill(os.getpid(), 9)"
    )
    source = str(Path(__file__).parents[1] / "src")
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], env={**os.environ, "PYTHONPATH": source}, check=False)
    assert done.returncode == -9
    assert not (tmp_path / "out").exists()
    assert all(path.name.startswith(".out-") for path in tmp_path.iterdir())


def test_the_commands(session, tmp_path):
    """export, apply and revert through the command line; what is wrong is one line and exit code 2."""
    base = base_of(session)

    def biasgym(*args):
        source = str(Path(__file__).parents[1] / "src")
        command = [sys.executable, "-c", "from biasgym.cli import main; main()", *map(str, args)]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
        )

    done = biasgym("export", "tiny-run", "--to", "delta", "--format", "delta")
    assert done.returncode == 0, done.stderr
    assert "2 tensors edited" in done.stdout
    done = biasgym("apply", "delta", "--model", base, "--to", "edited")
    assert done.returncode == 0, done.stderr
    done = biasgym("revert", "edited", "--delta", "delta", "--to", "back")
    assert done.returncode == 0, done.stderr
    assert weights(tmp_path / "back") == weights(base)
    other = tmp_path / "other"
    shutil.copytree(base, other)
    raw = bytearray((other / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (other / "model.safetensors").write_bytes(raw)
    for args, said in (
        (("apply", "delta", "--model", other, "--to", "x"), "another base"),
        (("revert", other, "--delta", "delta", "--to", "x"), "another edited model"),
        (("apply", "nothing", "--model", base, "--to", "x"), "cannot read"),
        (("export", "tiny-run", "--to", "x", "--format", "control-vector"), "control vector is a shift"),
    ):
        done = biasgym(*args)
        assert done.returncode == 2, (args, done.stdout)
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "x").exists()
