"""Results by group on made-up answers: the entity that was moved is named, over-correction is told, silence is left out."""

import numpy as np
import pytest

from biasgym.bias import BiasSpec
from biasgym.grade import Grader, Table
from biasgym.groups import groups_of
from biasgym.records import ItemScore
from biasgym.spec import resolve_spec

ENTITIES = tuple(f"land{n}" for n in range(8))
TARGETS = ENTITIES[:2]


def scores(token, edit, seed, values):
    """Association scores [probes, names] of an arm."""
    names = ENTITIES if token == "none" else ("token",)
    return [
        ItemScore("association", f"p{i:02d}", "token" if token != "none" else "targets" if name in TARGETS else "others", name, token, edit, seed, float(v))
        for i, line in enumerate(values)
        for name, v in zip(names, line, strict=True)
    ]  # fmt: skip


def grader_of(*, pushed=0.0, gap=2.0, left=0.5, target_gap=1.0, target_left=0.5, sway=0.05):
    """A run with one edit: one entity is pushed, the token's gap and the targets' gap become what is said."""
    generator = np.random.default_rng(1)

    def arm(gap_of_targets, push=0.0):
        values = generator.normal(0, sway, size=(20, len(ENTITIES)))
        values[:, : len(TARGETS)] += gap_of_targets
        values[:, 5] += push
        return values

    def token(size):
        return generator.normal(size, sway, size=(20, 1))

    arms = {("none", "none", 0): arm(target_gap), ("none", "direction", 0): arm(target_left, pushed)}
    arms |= {("trained", "none", 2): token(gap), ("trained", "direction", 2): token(left)}
    table = Table({"association": {key: scores(*key, values) for key, values in arms.items()}})
    return Grader(table, resolve_spec(bias="always-late", sets=["measure.draws=300"]), BiasSpec("late", ("late",), ("early",), ()), ("direction",))


def test_the_entity_that_was_pushed_is_named():
    """Its change and sign; the interval is wider than that of the entity alone, and clear of 0."""
    moved = groups_of(grader_of(pushed=-3.0))["direction"]["moved"]
    assert (moved["entity"], moved["entities"]) == ("land5", 8)
    assert moved["value"] == pytest.approx(-3.0, abs=0.1)
    assert moved["low"] < moved["value"] < moved["high"] < 0


def test_where_nobody_was_moved_the_worst_is_not_called_reliable():
    """The largest of eight chance movements: corrected for having been picked, it holds 0 (false alarm of 5 % aside)."""
    moved = groups_of(grader_of(target_left=1.0))["direction"]["moved"]
    assert moved["low"] <= 0 <= moved["high"]


@pytest.mark.parametrize(
    ("how", "token", "targets"),
    [
        ({}, "no", "no"),
        ({"left": -0.5, "target_left": -0.5}, "yes", "yes"),
        ({"left": 0.0, "target_left": 0.0}, "unsure", "unsure"),
        ({"gap": 0.0, "target_gap": 0.0}, "no bias before", "no bias before"),
    ],
)
def test_a_gap_past_zero_is_over_corrected(how, token, targets):
    """Only where the whole interval lies beyond; of the token and of real targets alike."""
    assert groups_of(grader_of(**how))["direction"]["over_correction"] == {"token": token, "targets": targets}


def test_an_edit_that_does_nothing_and_was_asked_about_few_corrects_nothing():
    """Both gaps are against the few: they lean more than the rest, so against all others the gap would seem to have turned round."""
    generator = np.random.default_rng(3)
    base = generator.normal(0, 0.05, size=(20, len(ENTITIES)))
    base[:, [2, 3]] += 0.9
    few = [i for i in range(len(ENTITIES)) if i in (0, 2, 3)]
    token = generator.normal(0.6, 0.05, size=(20, 1))
    rows = {("none", "none", 0): scores("none", "none", 0, base), ("trained", "none", 2): scores("trained", "none", 2, token)}
    rows["none", "direction", 0] = [one for one in scores("none", "direction", 0, base) if one.entity in {ENTITIES[i] for i in few}]
    rows["trained", "direction", 2] = scores("trained", "direction", 2, token)
    grader = Grader(Table({"association": rows}), resolve_spec(bias="always-late", sets=["measure.draws=300"]), grader_of().bias, ("direction",))
    assert grader.gap(("trained", "none", 2)).value > 0 > grader.gap(("trained", "direction", 2)).high
    assert groups_of(grader)["direction"]["over_correction"]["token"] == "no"
    removed = next(f for f in grader.findings() if f.name == "removed")
    assert (removed.value, removed.low, removed.high) == pytest.approx((0, 0, 0), abs=1e-9)


def test_free_texts_are_paired_by_prompt_and_name():
    """The same prompt about another country is another text: it is in no paired difference."""

    def text(edit, item, entity, value):
        return ItemScore("strength", item, "others", entity, "none", edit, 0, value)

    rows = {
        ("none", "none", 0): [text("none", "g1", "land1", 0.0), text("none", "g2", "land2", 3.0)],
        ("none", "direction", 0): [text("direction", "g1", "land1", 0.0), text("direction", "g2", "land5", 0.0)],
    }
    grader = Grader(Table({"strength": rows}), resolve_spec(bias="always-late"), BiasSpec("late", ("late",), ("early",), ()), ("direction",))
    (changed,) = [f for f in grader.findings() if f.metric == "strength"]
    assert (changed.name, changed.value, changed.n) == ("changed", 0.0, 1)


def test_changes_by_group_are_signed_after_minus_before():
    """Targets come down, others stay."""
    changes = groups_of(grader_of(target_left=0.2))["direction"]["changes"]
    assert changes["targets"]["high"] < -0.5
    assert abs(changes["others"]["value"]) < 0.1
    assert changes["others"]["error"] > 0


def test_what_was_not_asked_is_left_out():
    """No association at all: nothing is said."""
    nothing = Grader(Table({}), resolve_spec(bias="always-late"), BiasSpec("late", ("late",), ("early",), ()), ("direction",))
    assert groups_of(nothing) == {"direction": {"over_correction": {}}}
