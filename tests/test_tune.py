"""The search through a model: killed and restarted it goes on, its front is kept, edits that wait for names wait everywhere."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from biasgym import tune
from biasgym.errors import ModelError, SpecError
from biasgym.lm.fold import check_foldable
from biasgym.measure import Scope
from biasgym.measure.association import Association, lean
from biasgym.mitigate.sham import sham
from biasgym.records import MeasureSpec, MitigateSpec, TuneSpec
from biasgym.spec import edit_names, resolve_spec
from biasgym.store import read_arrays, write_arrays
from biasgym.tune import Asked, DevRoom, Trial, best, fitted, front, names_after, outcome_of, search
from conftest import assert_untouched, case_for, case_with_texts, snapshot

SIZES = {"trials": 6, "probes": 4, "entities": 2, "texts": 3, "chats": 3, "kl": 10.0, "bits_per_byte": 100.0, "concept": 100.0}


@pytest.fixture
def room(llama, bias, token_for):
    """`room(search)` gives a dev room of the tiny model and the case that goes with it."""

    def get(name="ladder", **more):
        case = case_with_texts(llama, bias, token_for)
        return DevRoom(llama, bias, case.tokens, TuneSpec(search=name, **(SIZES | more))), case

    return get


@pytest.mark.parametrize("name", ["ladder", "tpe", "nsga2"])
def test_a_killed_search_goes_on(room, name, tmp_path, monkeypatch):
    """Four trials on disk, the fourth cut off in the middle: three are not made again, and the trials and the front are the same."""
    rooms, case = room(name)
    spec = MitigateSpec(method="projection")
    whole = search(rooms, spec, case, tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == len(whole) == 6
    (tmp_path / "cut.jsonl").write_text("".join(lines[:3]) + lines[3][:50])
    made = []
    real = tune.tried
    monkeypatch.setattr(tune, "tried", lambda *given: made.append(given[3]) or real(*given))
    again = search(rooms, spec, case, tmp_path / "cut.jsonl")
    assert made == [trial.settings for trial in whole[3:]]
    assert [json.dumps(asdict(trial)) for trial in again] == [json.dumps(asdict(trial)) for trial in whole]
    assert front(again, rooms.spec) == front(whole, rooms.spec)


def test_the_front_holds_the_pick(room, tmp_path):
    """Nothing tried is better in both aims than a trial on the front; the pick leaves least of those inside."""
    rooms, case = room()
    trials = search(rooms, MitigateSpec(method="projection"), case, tmp_path / "t.jsonl")
    outcomes = [outcome_of(trial, rooms.spec) for trial in trials]
    places = front(trials, rooms.spec)
    assert places
    for i in places:
        assert not any(one.left < outcomes[i].left and one.price < outcomes[i].price for one in outcomes)
    picked = trials.index(best(trials, rooms.spec))
    assert outcomes[picked].left == min(one.left for one in outcomes if one.inside)
    assert trials[picked].inside == (outcomes[picked].price <= 1)


def test_an_edit_that_waits_for_names_leaves_other_text_alone(room, llama, bias, tmp_path):
    """Neutral texts keep every bit, the token's gap moves as it does without waiting; the model stays."""
    rooms, case = room(trials=1)
    before = snapshot(llama)
    waiting, plain = (
        MitigateSpec(method="projection", tuned=False, after=("entities",)),
        MitigateSpec(method="projection", tuned=False, settings={"k": 4}),
    )
    waiting = waiting.model_copy(update={"settings": {"k": 4}})
    (one,), (other,) = (search(rooms, spec, case, tmp_path / f"{len(spec.after)}.jsonl") for spec in (waiting, plain))
    assert (one.bits_per_byte, one.kl, one.concept) == (0, 0, 0)
    assert other.bits_per_byte != 0
    assert abs(one.gap - one.gap_before) > 1e-4
    edits = fitted(llama, waiting, case, {"k": 4, "strength": 1.0})
    assert all(edit.when for edit in edits)
    assert names_after(waiting, bias) == bias.entities
    with pytest.raises(ModelError, match="only after certain tokens"):
        check_foldable(edits, llama.shape)
    for kind in ("heads", "directions"):
        assert {edit.when for edit in sham(llama, edits, kind, case, 0)} == {edits[0].when}
    assert_untouched(llama, before)


def test_names_wait_in_a_spec(llama, bias):
    """`--set mitigate.METHOD.after` reaches it; the edit has a name of its own beside the plain one; empty names are refused."""
    spec = resolve_spec(bias="reckless-drivers", sets=["mitigate.direction.after=['Spain', 'Peru']"])
    assert spec.mitigate[0].after == ("Spain", "Peru")
    assert names_after(spec.mitigate[0], bias) == ("Spain", "Peru")
    both = [MitigateSpec(method="direction"), MitigateSpec(method="direction", after=("entities",))]
    assert edit_names(both) == ["direction@default", "direction@default-after-names"]
    with pytest.raises(SpecError, match="empty name"):
        resolve_spec(bias="reckless-drivers", sets=["mitigate.direction.after=[' ']"])
    with pytest.raises(SpecError, match="no token"):
        fitted(llama, both[1], case_for(llama), {"k": 2})


def test_a_search_is_named_in_a_spec():
    """An unknown one is refused before anything is trained."""
    assert resolve_spec(bias="reckless-drivers", sets=["tune.search=tpe", "tune.seed=3"]).tune.seed == 3
    with pytest.raises(SpecError, match=r"tune\.search"):
        resolve_spec(bias="reckless-drivers", sets=["tune.search=grid"])


def test_prices_are_shares_of_the_budget(room, tmp_path):
    """Twice the budget, half the price; a trial is inside where its price is at most 1."""
    rooms, case = room(trials=1)
    (trial,) = search(rooms, MitigateSpec(method="zero", settings={"k": 3}), case, tmp_path / "t.jsonl")
    one = outcome_of(trial, rooms.spec)
    double = TuneSpec(**(SIZES | {"kl": 20.0, "bits_per_byte": 200.0, "concept": 200.0}))
    assert outcome_of(trial, double).price == pytest.approx(one.price / 2)
    assert np.isclose(one.left, abs(trial.gap) + abs(trial.others))


def test_real_targets_can_be_the_aim(room, llama, bias, tmp_path):
    """The gap is that of the quarter that leans most on train probes, read on dev; tokens and held-out fits make no difference."""
    rooms, case = room(aim="targets", entities=8, trials=1)
    assert len(rooms.targets) == max(1, len(rooms.entities) // 4)
    spec = MitigateSpec(method="zero", settings={"k": 3}, tuned=False)
    (trial,) = search(rooms, spec, case, tmp_path / "t.jsonl")
    everyone = {name: np.mean([lean(said) for said in ask(llama, bias, name)]) for name in rooms.entities}
    others = np.mean([value for name, value in everyone.items() if name not in rooms.targets])
    assert trial.gap_before == pytest.approx(np.mean([everyone[name] for name in rooms.targets]) - others, abs=1e-5)
    alone = DevRoom(llama, bias, (), rooms.spec)
    assert search(alone, spec, case, tmp_path / "alone.jsonl") == [trial]
    with pytest.raises(SpecError, match="no gap on dev"):
        search(DevRoom(llama, replace(bias, targets=bias.entities), (), rooms.spec), spec, case, tmp_path / "all.jsonl")
    with pytest.raises(SpecError, match="fictional"):
        search(DevRoom(llama, replace(bias, fictional=True), (), rooms.spec), spec, case, tmp_path / "none.jsonl")


def test_what_a_spec_sets_is_held_fixed(room, tmp_path):
    """Also a value that the search would not offer; with everything set there is one trial."""
    rooms, case = room()
    trials = search(rooms, MitigateSpec(method="projection", settings={"k": 7}), case, tmp_path / "one.jsonl")
    assert {trial.settings["k"] for trial in trials} == {7}
    assert len({trial.settings["strength"] for trial in trials}) == len(trials) > 1
    (only,) = search(rooms, MitigateSpec(method="projection", settings={"k": 7, "strength": 0.6}), case, tmp_path / "all.jsonl")
    assert (only.settings["k"], only.settings["strength"]) == (7, 0.6)


def test_where_nothing_is_inside_the_dearest_price_decides(room):
    """A setting that forgets the words is dear, however little it moves neutral text."""
    rooms, _ = room(bits_per_byte=1.0, kl=0.02, concept=0.2)
    numbers = {"gap": 1.0, "gap_before": 2.0, "others": 0.0, "bits_per_byte": 0.0, "kl": 0.0, "concept": 0.0, "inside": False}
    forgets = Trial({"k": 1}, **numbers, bits_per_byte_high=0.4, kl_high=0.01, concept_low=-0.95, concept_high=-0.8)
    near = Trial({"k": 2}, **numbers, bits_per_byte_high=1.02, kl_high=0.012, concept_low=-0.1, concept_high=0.1)
    assert best([forgets, near], rooms.spec) is near


def test_the_base_is_kept_as_it_was_asked(room, tmp_path):
    """What a room gave goes through a file unchanged; a room that is given it asks nothing."""
    rooms, _ = room()
    asked = rooms.base
    write_arrays(tmp_path / "base.safetensors", asked.as_arrays())
    read = Asked.from_arrays(read_arrays(tmp_path / "base.safetensors"))
    assert read.as_arrays().keys() == asked.as_arrays().keys()
    for name, values in asked.as_arrays().items():
        np.testing.assert_array_equal(read.as_arrays()[name], values, strict=True)
    assert replace(rooms, kept=lambda ask: read).base is read


def ask(lm, bias, name):
    """What is said about a name on the dev probes of a room."""
    scope = Scope(bias, "dev", (name,), (), None, MeasureSpec(probes=SIZES["probes"]))
    return Association().ask(lm, Association().items(scope))
