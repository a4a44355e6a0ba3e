"""What is kept on disk comes back as it was, or says that it is damaged."""

import numpy as np
import pytest

from biasgym.edits import ContrastEdit, PromptEdit, SiteEdit, TokenEdit, Twin, WeightEdit
from biasgym.errors import StoreError
from biasgym.records import RunRecord, fingerprint
from biasgym.sites import Site
from biasgym.store import (
    RunStore,
    finish,
    finished,
    read_arrays,
    read_edits,
    read_record,
    read_token,
    take,
    write_arrays,
    write_edits,
    write_record,
    write_token,
)  # fmt: skip

HEAD = Site("head", 1, 2)


def record(identity):
    """The smallest record."""
    return RunRecord(id=identity, status="ok", spec={}, environment={}, timings={})


def kept(store, *identities):
    """Whole runs in a store."""
    for identity in identities:
        write_record(store.run_folder(identity), record(identity))


def test_edits_come_back_as_they_were(tmp_path):
    """Kind, place, operation, strength, values and their shapes."""
    edits = (
        SiteEdit(HEAD, "scale", np.float32(0.25)),
        SiteEdit(HEAD, "project", np.array([0.6, 0.8], np.float32), 1.25),
        SiteEdit(HEAD, "project", np.eye(3, dtype=np.float32)[:2]),
        SiteEdit(HEAD, "erase", np.array([[2, 0], [0.5, 1]], np.float32), 0.7),
        SiteEdit(Site("stream", 0), "add", np.arange(3, dtype=np.float32), 0.0),
        WeightEdit("a.weight", np.ones((2, 1), np.float32), np.ones((1, 3), np.float32)),
        WeightEdit("b.weight", dense=np.ones((2, 2), np.float32)),
        PromptEdit("Be kind. {prompt}", ("You said {answer}. {prompt}",), True, 12),
        ContrastEdit("decay", (Twin("Rude:\n"), Twin("Proud:\n")), 50.0, 0.01),
        ContrastEdit("shift", (Twin(edits=(WeightEdit("b.weight", dense=np.eye(2, dtype=np.float32)),)), Twin(model="small")), 1.5),
    )
    write_edits(tmp_path / "e.safetensors", edits)
    again = read_edits(tmp_path / "e.safetensors")
    assert [repr(edit) for edit in again] == [repr(edit) for edit in edits]
    write_edits(tmp_path / "e.safetensors", ())
    assert read_edits(tmp_path / "e.safetensors") == ()


def test_edits_that_are_no_product_are_refused(tmp_path):
    """Tokens have a file of their own, an edit of some rows belongs to one batch."""
    for edit in (TokenEdit("<x>", np.zeros(2)), SiteEdit(HEAD, "scale", np.float32(0), rows=(1,))):
        with pytest.raises(StoreError):
            write_edits(tmp_path / "e.safetensors", [edit])
    assert not list(tmp_path.iterdir())


def test_a_token_comes_back_as_it_was(tmp_path):
    """With and without an output row."""
    for output in (None, np.arange(3, dtype=np.float32)):
        token = TokenEdit("<bias-ü>", np.array([1, 2, 3], np.float32), output)
        write_token(tmp_path / "t.safetensors", token, {"seed": "1"})
        assert repr(read_token(tmp_path / "t.safetensors")) == repr(token)
    write_edits(tmp_path / "e.safetensors", ())
    with pytest.raises(StoreError, match="no token vector"):
        read_token(tmp_path / "e.safetensors")


def test_damaged_arrays_are_refused(tmp_path):
    """Cut off, altered into something else, or not there."""
    path = tmp_path / "a.safetensors"
    write_arrays(path, {"x": np.arange(100.0)})
    np.testing.assert_array_equal(read_arrays(path)["x"], np.arange(100.0))
    data = path.read_bytes()
    for content in (data[:50], data[:-5], b"", b"x" * 200):
        path.write_bytes(content)
        with pytest.raises(StoreError, match="truncated or altered"):
            read_arrays(path)
    with pytest.raises(StoreError):
        read_arrays(tmp_path / "none.safetensors")


def test_a_record_comes_back_as_it_was(tmp_path):
    """Under its own key `schema`; another key, or none, is damage."""
    write_record(tmp_path, record("r-1"))
    assert read_record(tmp_path) == record("r-1")
    text = (tmp_path / "record.json").read_text()
    assert '"schema": 1' in text
    for wrong in (text.replace('"id"', '"idd"'), text[:-9], "[]"):
        (tmp_path / "record.json").write_text(wrong)
        with pytest.raises(StoreError, match=r"record\.json"):
            read_record(tmp_path)


def test_a_run_is_found_by_id_prefix_path_or_latest(tmp_path):
    """What fits several or none is refused, with the nearest."""
    store = RunStore(tmp_path)
    with pytest.raises(StoreError, match="no runs"):
        store.find("latest")
    kept(store, "cats-11aa", "cats-22bb", "dogs-33cc")
    store.run_folder("half-44dd").mkdir()
    assert set(store.runs()) == {"cats-11aa", "cats-22bb", "dogs-33cc"}
    assert store.find("dogs").name == "dogs-33cc"
    assert store.find(str(tmp_path / "cats-11aa")).name == "cats-11aa"
    assert store.find("latest").name in store.runs()
    with pytest.raises(StoreError, match="fits 2 runs"):
        store.find("cats")
    with pytest.raises(StoreError, match="did you mean `dogs-33cc`"):
        store.find("dogs-33cd")
    with pytest.raises(StoreError):
        store.find("half-44dd")


def test_a_stage_is_whole_when_it_says_so(tmp_path):
    """Not before."""
    store = RunStore(tmp_path)
    with store.stage_lock("inject", "k") as folder:
        assert not finished(folder)
        finish(folder, {"a": 1})
        assert finished(folder)


def test_a_taken_file_is_the_same_file(tmp_path):
    """Linked or copied, over an older one."""
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    take(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_fingerprint_is_of_the_content():
    """The order of keys does not matter, any value does."""
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(fingerprint(None)) == 16
