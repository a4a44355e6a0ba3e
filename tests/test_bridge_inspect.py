"""What of the Inspect bridge works without Inspect: its rows, its arithmetic, what it wears, and what is said where the extra is missing."""

import importlib
import math
import sys
from threading import Lock
from types import SimpleNamespace

import pytest

from biasgym.bias import load_bias
from biasgym.bridge_inspect import Worn, cut_at, gap_between, named, need_inspect, probe_rows, prompt_rows, refuse, worn_by
from biasgym.edits import PromptEdit
from biasgym.errors import SpecError
from biasgym.lm.model import Query


def test_rows_are_of_the_test_split_and_leave_the_slot_open_for_the_token():
    bias = load_bias("reckless-drivers")
    rows = probe_rows(bias, 3, 4, token=True)
    assert len(rows) == len({row["id"] for row in rows}) == 3 * 5
    assert {row["entity"] for row in rows} <= {*bias.entities_of("test"), "{entity}"}
    assert all(("{entity}" in row["prompt"] + row["prefix"]) == (row["group"] == "token") for row in rows)
    assert {row["group"] for row in prompt_rows(bias, 6, 3)} == {"others"}
    assert {row["entity"] for row in prompt_rows(bias, 6, 3, token=True)} == {"{entity}"}


def test_gap_by_hand():
    assert gap_between([3.0, 1.0, 0.5], ["token", "token", "others"]) == 1.5
    assert gap_between([3.0, math.nan, 1.0], ["targets", "targets", "others"]) == 2.0
    assert math.isnan(gap_between([1.0], ["others"]))


def test_stops_and_settings():
    assert cut_at("one two", ["two", "ne"]) == ("o", True)
    assert cut_at("one", ["x", ""]) == ("one", False)
    refuse([], SimpleNamespace(logprobs=None, top_k=None))
    with pytest.raises(SpecError, match="no tools"):
        refuse(["a tool"], SimpleNamespace())
    with pytest.raises(SpecError, match="biasgym/association"):
        refuse([], SimpleNamespace(logprobs=True))


def test_what_is_worn_writes_and_comes_off(llama, token_for):
    """The token fills the slot; a prompt edit acts on one prompt and is refused in a conversation; the model is itself afterwards."""
    worn = Worn(llama, (token_for(llama),), Lock())
    assert named(worn, "People from {entity}") == "People from <bias-0>"
    with pytest.raises(SpecError, match="-M token=true"):
        named(Worn(llama, (), Lock()), "{entity}")
    with pytest.raises(SpecError, match="RUN@EDIT"):
        worn_by(SimpleNamespace(api=object()))
    fair = Worn(llama, (PromptEdit("Be fair. {prompt}"),), Lock())
    (ours,) = llama.generate([Query("Be fair. Who?")], most=6)
    assert fair.write([("user", "Who?")], most=6)[0] == ours
    with pytest.raises(SpecError, match="changing one prompt"):
        fair.write([("user", "Who?"), ("assistant", "They."), ("user", "Why?")], most=6)
    with pytest.raises(SpecError, match="end in a user turn"):
        worn.write([("user", "Who?"), ("assistant", "a"), ("assistant", "b")], most=6)
    assert llama.worn == ()


def test_the_missing_extra_is_said_and_the_entry_point_keeps_quiet(monkeypatch):
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    with pytest.raises(SpecError, match=r"biasgym\[inspect\]"):
        need_inspect()
    sys.modules.pop("biasgym.inspect_registry", None)
    assert importlib.import_module("biasgym.inspect_registry").register
