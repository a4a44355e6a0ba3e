"""Inputs that nobody meant: bytes and JSON values altered at random, and values of any shape, for the tests of parsers."""

import copy
import json
import random

from hypothesis import strategies as st

JUNK = (
    b"\x00", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"[" * 3000, b'{"a":' * 2000, b"9" * 5000, b"1e999", b"NaN", b"-Infinity", b"null", b"true",
    b'"', b"'", b"\n", b"\r", b"{", b"}", b"]", b"=", b",", b"[[", b"\t", b" = 1\n", b"../../etc/passwd", b"{entity}", b"\xe2\x80\xa8", b"-1", b"0.5",
    b"1979-05-27T07:32:00Z", b"inf", b"nan", b"{word}", b"x" * 140_000,
)  # fmt: skip
VALUES = (
    None, True, False, 0, -1, 3, 10**30, 0.5, -0.0, float("inf"), float("nan"), "", " ", "a", "\ud800", "\x00", "direction", "sham:heads", "none",
    "../..", "{entity}", "9" * 50, [], [[]], [None], [1, 2], ["a"], [{}], {}, {"a": 1}, {"": None}, {"value": "x"}, [["head", 0, 0]],
)  # fmt: skip

seeds = st.integers(0, 2**48).map(random.Random)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(VALUES)
anything = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8)


def altered_bytes(raw, chance):
    """One to four changes: a flipped bit, a cut, a piece out, a piece twice, junk put in, two pieces exchanged."""
    data = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at, to = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        kind = chance.randrange(7)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : min(to, at + chance.choice((1, 4, 40)))]
        elif kind == 3:
            data[at:at] = data[at:to]
        elif kind == 4:
            data[at:at] = chance.choice(JUNK)
        elif kind == 5:
            data[at : min(to, at + 12)] = chance.choice(JUNK)
        else:
            data[:] = data[to:] + data[at:to] + data[:at]
    return bytes(data[:400_000])


def altered(value, chance):
    """A JSON value with one to three places exchanged, emptied, taken out, or given something more."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return chance.choice(VALUES)
        inside, key = chance.choice(places)
        kind = chance.randrange(6)
        if kind == 0:
            del inside[key]
        elif kind == 1 and isinstance(inside, dict):
            inside[chance.choice(("", "a", "method", "name", "k", "value"))] = copy.deepcopy(chance.choice(VALUES))
        elif kind == 2 and isinstance(inside, list):
            inside.append(copy.deepcopy(chance.choice((*VALUES, inside[key]))))
        elif kind == 3:
            other, where = chance.choice(places)
            inside[key] = copy.deepcopy(other[where])
        else:
            inside[key] = copy.deepcopy(chance.choice(VALUES))
    return value


def _places(value):
    """Every (container, key) below a value."""
    pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    for key, inner in pairs:
        yield value, key
        yield from _places(inner)


def as_json(value):
    """A value as bytes of JSON, with NaN and halves of letters as they come."""
    return json.dumps(value).encode("utf-8", "surrogatepass")
