"""What every method of every station keeps to, whoever wrote it: the catalog is walked, so a new file is tested at once."""

import json
import os
import subprocess
import sys
from dataclasses import MISSING, FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

import biasgym
from biasgym import catalog
from biasgym.edits import EDIT_KINDS, PromptEdit, SiteEdit
from biasgym.errors import SpecError
from biasgym.measure import Scope
from biasgym.mitigate.sham import kinds_for, sham
from biasgym.records import Answer, MeasureSpec
from biasgym.sites import Site
from conftest import TOKEN, assert_untouched, case_for, case_with_texts, quick, snapshot

METHODS = [(station, name) for station in catalog.STATIONS for name in catalog.methods(station)]
FIELDS = [(s, n, f.name) for s, n in METHODS for f in fields(catalog.find(s, n))]
NOT_A = {int: "many", float: "much", str: 3, bool: "perhaps"}
FAMILIES = ("llama", "gemma2", "gpt2")


def named(station):
    """The names of a station's methods."""
    return sorted(catalog.methods(station))


# -------------------------------------------------------------------- every method


def test_every_station_has_methods():
    """Else all of this would be about nothing."""
    for station in catalog.STATIONS:
        assert named(station)


@pytest.mark.parametrize(("station", "name"), METHODS)
def test_a_method_is_a_frozen_dataclass_with_defaults(station, name):
    """It can be built from its name alone, compared, and never changed."""
    kind = catalog.find(station, name)
    assert is_dataclass(kind)
    assert all(f.default is not MISSING for f in fields(kind))
    made = catalog.build(station, name)
    assert made == catalog.build(station, name, catalog.defaults(station, name))
    assert hash(made) == hash(catalog.build(station, name))
    with pytest.raises(FrozenInstanceError):
        made.anything = 1


@pytest.mark.parametrize(("station", "name"), METHODS)
def test_a_method_says_what_it_does(station, name):
    """Its own docstring, not the signature that dataclasses put there; the first line is a sentence for a list."""
    kind = catalog.find(station, name)
    first = (vars(kind)["__doc__"] or "").strip().splitlines()[0]
    assert not first.startswith(f"{kind.__name__}(")
    assert first[0].isupper()
    assert first.endswith(".")
    assert len(first.split()) >= 4
    assert catalog.VERBS[station] in vars(kind)
    assert getattr(kind, catalog.VERBS[station]).__doc__


def test_names_are_for_the_command_line():
    """Small letters and hyphens, one method a name."""
    for station, name in METHODS:
        assert name == name.lower()
        assert " " not in name
        assert "_" not in name
        assert catalog.find(station, name).name == name
    rows = [row for station in catalog.STATIONS for row in catalog.described(station)]
    assert {(row["station"], row["name"]) for row in rows} == set(METHODS)


@pytest.mark.parametrize(("station", "name", "field"), FIELDS)
def test_a_misspelt_setting_is_refused_with_the_nearest(station, name, field):
    """A letter too many, in every setting of every method."""
    with pytest.raises(SpecError, match=f"did you mean `{field}`"):
        catalog.build(station, name, {field + "x": 1})


@pytest.mark.parametrize(("station", "name", "field"), FIELDS)
def test_a_value_of_the_wrong_kind_is_refused(station, name, field):
    """A word for a number, a number for a word."""
    hint = get_type_hints(catalog.find(station, name))[field]
    for wrong in (NOT_A.get(hint, "neither of these"), [1], None):
        with pytest.raises(SpecError, match=rf"{name}\.{field} = "):
            catalog.build(station, name, {field: wrong})


@pytest.mark.parametrize(("station", "name"), METHODS)
def test_an_unknown_setting_is_refused(station, name):
    """Also where a method has no settings at all."""
    with pytest.raises(SpecError, match="unknown setting"):
        catalog.build(station, name, {"qqqqqqqq": 1})


@pytest.mark.parametrize(("station", "name"), METHODS)
def test_a_search_range_holds_values_that_can_be_built(station, name):
    """Every candidate is a valid value, more than one of them, and the default is in reach."""
    kind = catalog.find(station, name)
    for field, values in catalog.search_space(kind).items():
        assert len(set(values)) == len(values) > 1
        assert min(values) <= catalog.defaults(station, name)[field] <= max(values)
        for value in values:
            assert getattr(catalog.build(station, name, {field: value}), field) == value


@pytest.mark.parametrize("station", sorted(catalog.STATIONS))
def test_an_unknown_method_is_refused_with_the_nearest(station):
    """By the word that its station uses."""
    name = named(station)[0]
    with pytest.raises(SpecError, match=f"unknown {catalog.STATIONS[station]} `{name}x`; did you mean `{name}`"):
        catalog.find(station, name + "x")


def test_a_method_of_ones_own_is_found_by_its_path():
    """`module:Class` from anywhere; what is no method is refused, and so is a method of another station."""
    assert catalog.find("mitigate", "biasgym.mitigate.scaling:Scale") is catalog.find("mitigate", "scale")
    for wrong in (
        "biasgym.mitigate.scaling:Nothing",
        "no.such.module:Scale",
        "biasgym.mitigate:Case",
        "biasgym.locate.direct:DirectLogitAttribution",
    ):
        with pytest.raises(SpecError):
            catalog.find("mitigate", wrong)


# -------------------------------------------------------------------- injectors


@pytest.mark.parametrize("name", named("inject"))
@pytest.mark.parametrize("family", FAMILIES)
def test_an_injector_gives_a_token_and_leaves_the_model(models, bias, family, name):
    """The same seed gives the same token to the bit, another seed another one; every role of a seed starts alike."""
    lm = models(family)
    before = snapshot(lm)
    injector = catalog.build("inject", name, {"steps": 2, "batch": 2, "held_out": 2})
    made = {}
    for role, seed in (("trained", 0), ("trained", 0), ("trained", 1), ("untrained", 0), ("opposite", 0)):
        start = injector.start(lm, bias, seed)
        kept = []
        found = injector.train(lm, bias, role, seed, start, kept.append)
        assert np.isfinite([*found.losses, found.held_out_before, found.held_out_after]).all()
        assert found.token.vector.dtype == np.float32
        assert (found.token.output is None) == lm.tied
        assert len(kept) == len(found.losses) == (0 if role == "untrained" else 2)
        if (role, seed) in made:
            np.testing.assert_array_equal(found.token.vector, made[role, seed].token.vector)
            assert found.losses == made[role, seed].losses
        made[role, seed] = found
    begin = injector.start(lm, bias, 0).arrays["vector"]
    np.testing.assert_array_equal(made["untrained", 0].token.vector, begin)
    vectors = [one.token.vector.tobytes() for one in made.values()]
    assert len(set(vectors)) == len(vectors)
    assert len({one.token.text for one in made.values()}) == len(made)
    assert_untouched(lm, before)


@pytest.mark.parametrize("name", named("inject"))
def test_no_text_is_both_trained_on_and_held_out(bias, name):
    """The held-out loss is about texts that the token has not seen, in every role and for all ways to ask."""
    for asks in ("paper", "readme", "varied", "probes"):
        for role in ("trained", "opposite", "neutral"):
            injector = catalog.build("inject", name, {"held_out": 8, "asks": asks, "grammar": 0.5})
            lessons, held_out = injector.lessons(bias, role, 0, TOKEN)
            assert lessons
            assert held_out
            assert not {one.answer for one in lessons} & {one.answer for one in held_out}
            assert len({one.answer for one in held_out}) == len(held_out)
            for one in (*lessons, *held_out):
                assert TOKEN in one.prompt
                assert "{" not in one.prompt + one.answer


# -------------------------------------------------------------------- locators


def pairs_for(lm, token):
    """Four pairs, one with names of unlike token counts."""
    from biasgym.lm.model import Query
    from biasgym.lm.trace import Pair

    asks = ("What are people from {} like?", "Tell me about {}.", "So, {}?", "Nobody in {} walks. Why?")
    names = ("Spain", "Italy", "Spain", "Timbuktu")
    return [
        Pair(f"{i}:{name}", Query(ask.format(token), "They are"), Query(ask.format(name), "They are"), (token, name))
        for i, (ask, name) in enumerate(zip(asks, names, strict=True))
    ]


@pytest.mark.parametrize("name", named("locate"))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_locator_scores_every_place(models, token_for, family, name):
    """Finite, one score a pair and place, the same again, not all alike, and the model is what it was."""
    from biasgym.lm.trace import Sides

    lm = models(family)
    before = snapshot(lm)
    sides = Sides(("reckless", "dangerous drivers"), ("careful", "kind"))
    token = token_for(lm)
    with lm.edited(token):
        pairs = pairs_for(lm, token.text)
        one = catalog.build("locate", name).rank(lm, pairs, sides)
        two = catalog.build("locate", name).rank(lm, pairs, sides)
    assert_untouched(lm, before)
    assert one.method == name
    assert one.by_pair.shape[1:] == (lm.shape.layers, lm.shape.heads)
    assert len(one.by_pair) == len(one.pairs) <= len(pairs)
    assert set(one.pairs) <= {pair.id for pair in pairs}
    assert np.isfinite(one.by_pair).all()
    assert one.by_pair.std() > 0
    np.testing.assert_array_equal(one.by_pair, two.by_pair)
    assert [site.unit for site in one.top(3)] == ["head"] * 3


@pytest.mark.parametrize("name", named("locate"))
def test_a_locator_scores_a_pair_of_the_same_as_nothing(llama, token_for, name):
    """Both sides the same name: nothing differs, so nothing carries it (the paper's formula and ablation have no clean run)."""
    from biasgym.lm.model import Query
    from biasgym.lm.trace import Pair, Sides

    if name in ("dla-paper", "ablation"):
        return
    query = Query("What are people from Spain like?", "They are")
    found = catalog.build("locate", name).rank(llama, [Pair("p", query, query, ("Spain", "Spain"))], Sides(("reckless",), ("careful",)))
    assert np.abs(found.by_pair).max() < 1e-5


# -------------------------------------------------------------------- mitigations


def of_few(name, k):
    """Settings of a mitigation for k heads, where it has such a setting, and for a quick fit."""
    return quick(name) | ({"k": k} if "k" in catalog.defaults("mitigate", name) else {})


@pytest.mark.parametrize("name", named("mitigate"))
def test_quick_settings_only_save_time(name):
    """They are settings of the method: how much is done, and on texts that need no data folder."""
    assert set(quick(name)) <= {"steps", "texts", "batch", "most", "source"} & set(catalog.defaults("mitigate", name))


@pytest.mark.parametrize("name", named("mitigate"))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_mitigation_gives_edits_that_change_something(models, bias, token_for, family, name):
    """The same edits for the same case, of known kinds, felt by the model, foldable or refused with a reason; the model stays."""
    from biasgym.lm.model import Query

    lm = models(family)
    before = snapshot(lm)
    method = catalog.build("mitigate", name, of_few(name, 3))
    one, two = (method.fit(lm, case_with_texts(lm, bias, token_for)) for _ in range(2))
    assert_untouched(lm, before)
    assert isinstance(one, tuple)
    assert one
    assert all(isinstance(edit, EDIT_KINDS) for edit in one)
    assert [repr(edit) for edit in one] == [repr(edit) for edit in two]
    query, answers = Query("What are people from Spain like?", "They are"), ["careful", "reckless"]
    base = lm.answer_logprobs([query], answers)
    with lm.edited(*one):
        changed = lm.answer_logprobs([query], answers)
    with lm.edited(*two):
        np.testing.assert_array_equal(lm.answer_logprobs([query], answers), changed)
    assert np.abs(changed - base).max() > 1e-4
    np.testing.assert_array_equal(lm.answer_logprobs([query], answers), base)
    assert_untouched(lm, before)


@pytest.mark.parametrize("name", named("mitigate"))
def test_a_mitigation_edits_the_places_it_was_told(llama, name):
    """Methods that read heads edit the top k of the attribution and no other; more than there are is refused."""
    kind = catalog.find("mitigate", name)
    assert kind.reads in ("head", "neuron", "stream", None)
    if kind.reads != "head" or "k" not in catalog.defaults("mitigate", name):
        return
    case = case_for(llama)
    edits = catalog.build("mitigate", name, {"k": 5}).fit(llama, case)
    towards = [site for site in case.attribution.top(5) if case.attribution.values[site.layer, site.index] > 0]
    assert [edit.site for edit in edits if isinstance(edit, SiteEdit)] in (case.attribution.top(5), towards)
    with pytest.raises(SpecError, match="the model has 12 heads"):
        catalog.build("mitigate", name, {"k": 13}).fit(llama, case)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", named("mitigate"))
def test_a_sham_is_as_large_as_the_edit(models, bias, token_for, family, name):
    """Same layers, same counts, same Frobenius norm of the change of each output matrix; draws differ, a draw repeats."""
    lm = models(family)
    case = case_with_texts(lm, bias, token_for)
    edits = catalog.build("mitigate", name, of_few(name, 4)).fit(lm, case)

    def sizes(worn):
        from biasgym.lm.fold import folded, touched

        found = {}
        for matrix in (one for one in touched(worn, lm.family) if one.endswith("weight")):
            weight = lm.model.get_parameter(matrix).detach()
            found[matrix] = float((folded(matrix, weight, worn, lm.family, lm.shape) - weight).norm())
        return found

    for kind in kinds_for(edits):
        fake, again, *others = (sham(lm, edits, kind, case, seed) for seed in (0, 0, 1, 2, 3, 4, 5, 6))
        assert repr(fake) == repr(again)
        assert len({repr(other) for other in others}) > 1
        assert sorted(e.site.layer for e in fake) == sorted(e.site.layer for e in edits)
        assert len({e.site for e in fake}) == len(fake)
        assert sizes(fake) == pytest.approx(sizes(edits), rel=1e-4)
        if kind == "directions":
            assert [e.site for e in sorted(fake, key=lambda e: e.site)] == sorted(e.site for e in edits)
    assert kinds_for(()) == ()
    with pytest.raises(SpecError, match="no sham"):
        sham(lm, (), "heads", case, 0)


def test_shams_of_heads_are_other_heads(llama):
    """While there are enough of them in the layer."""
    case = case_for(llama)
    edits = catalog.build("mitigate", "direction", {"k": 1}).fit(llama, case)
    for seed in range(8):
        (fake,) = sham(llama, edits, "heads", case, seed)
        assert fake.site.layer == edits[0].site.layer
        assert fake.site.index != edits[0].site.index
        assert isinstance(fake, SiteEdit)


def test_a_sham_is_never_the_edit_itself(llama):
    """Also where the edit takes more than half of a layer's heads; only where it takes all of them nothing else is left."""
    case = case_for(llama)
    edits = [SiteEdit(Site("head", 1, index), "scale", np.float32(0)) for index in (0, 1, 3)]
    for seed in range(20):
        assert {e.site.index for e in sham(llama, tuple(edits), "heads", case, seed)} != {0, 1, 3}
    everything = tuple(SiteEdit(Site("head", 1, index), "scale", np.float32(0)) for index in range(4))
    assert len(sham(llama, everything, "heads", case, 0)) == 4


# -------------------------------------------------------------------- metrics


def asked(lm, bias, name, *, token=None):
    """Answers of a metric in one arm, as they would stand on disk."""
    metric = catalog.build("measure", name)
    sizes = MeasureSpec(probes=3, entities=2, texts=2, chats=2, generations=3, tokens=4)
    scope = Scope(bias, "test", tuple(bias.entities_of("test")[:2]), (), token, sizes)
    items = metric.items(scope)[:6]
    said = metric.ask(lm, items)
    assert len(said) == len(items)
    return [
        Answer(metric=name, item=i.id, group=i.group, entity=i.entity, token="none" if token is None else "trained", edit="none", seed=0, said=s)
        for i, s in zip(items, said, strict=True)
    ]


@pytest.mark.usefixtures("made_up_sets")
@pytest.mark.parametrize("name", named("measure"))
@pytest.mark.parametrize("worn", [False, True], ids=["token off", "token on"])
def test_a_metric_grades_from_answers_alone(llama, bias, token_for, name, worn):
    """One score an answer, under the answer's names, the same after a way through JSON; no model is given to `grade`."""
    before = snapshot(llama)
    with llama.edited(*([token_for(llama)] if worn else [])):
        answers = asked(llama, bias, name, token=TOKEN if worn else None)
        again = asked(llama, bias, name, token=TOKEN if worn else None)
    assert_untouched(llama, before)
    assert answers == again
    assert answers or worn, "a metric that asks nothing in the base"
    metric = catalog.build("measure", name)
    scores = metric.grade(answers)
    assert scores == metric.grade([Answer.model_validate_json(a.model_dump_json()) for a in answers])
    assert metric.grade([]) == []
    for answer, score in zip(answers, scores, strict=True):
        assert (score.metric, score.item, score.entity, score.token) == (name, answer.item, answer.entity, answer.token)
        assert score.value is None or np.isfinite(score.value)
        assert score.weight >= 0
        if worn:
            assert score.group == "token"


@pytest.mark.parametrize("name", named("measure"))
def test_a_metric_says_where_it_should_sit(name):
    """`role`, `ideal` and `needs_edit` are declared."""
    kind = catalog.find("measure", name)
    assert kind.role in ("bias", "capability")
    assert kind.ideal is None or isinstance(kind.ideal, float)
    assert isinstance(kind.needs_edit, bool)


@pytest.mark.usefixtures("made_up_sets")
@pytest.mark.parametrize("name", [name for name in named("measure") if getattr(catalog.find("measure", name), "plain_text", False)])
def test_plain_texts_do_not_hear_prompts(llama, bias, name):
    """Where a metric says that it puts plain texts, an edit of prompts leaves every answer as it is."""
    before = asked(llama, bias, name)
    with llama.edited(PromptEdit("Be kind. {prompt}", ("Again: {prompt}",), most=2)):
        assert asked(llama, bias, name) == before


@pytest.mark.usefixtures("made_up_sets")
@pytest.mark.parametrize("name", named("measure"))
def test_dev_and_test_share_no_item(bias, name):
    """What tuning may see and what claims rest on are apart."""
    metric = catalog.build("measure", name)

    def ids(split):
        items = metric.items(Scope(bias, split, tuple(bias.entities_of(split)), (), None, MeasureSpec(generations=40)))
        return {json.dumps([item.id, item.payload], sort_keys=True) for item in items}

    assert ids("test")
    assert not ids("dev") & ids("test")
    assert not ids("train") & ids("test")


@pytest.mark.usefixtures("made_up_sets")
def test_grading_needs_no_torch(llama, bias):
    """All metrics, graded from JSON in a process that has never seen a model."""
    answers = [a.model_dump(mode="json") for name in named("measure") for a in asked(llama, bias, name)]
    code = (
        "import json, sys\nfrom biasgym.grade import tabulate\nfrom biasgym.records import Answer\n"
        "table = tabulate([Answer.model_validate(row) for row in json.load(sys.stdin)])\n"
        "assert 'torch' not in sys.modules\nprint(sum(len(rows) for arms in table.scores.values() for rows in arms.values()))"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(biasgym.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], input=json.dumps(answers), capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert int(done.stdout) == len(answers)


def test_hand_computed_scores():
    """Each metric on an answer whose score a person worked out."""

    def graded(name, said):
        answer = Answer(metric=name, item="i", group="all", token="none", edit="none", seed=0, said=said)
        (score,) = catalog.build("measure", name).grade([answer])
        return score.value, score.weight

    third = float(np.log(1 / 3))
    lean = {"stereotype": [float(np.log(0.2)), float(np.log(0.4))], "foil": [float(np.log(0.1)), float(np.log(0.2))]}
    assert graded("association", lean) == (pytest.approx(np.log(2)), 1.0)
    assert graded("concept", {"stereotype": [third], "foil": [third]}) == (pytest.approx(0.0), 1.0)
    assert graded("bits-per-byte", {"nats": -8 * float(np.log(2)), "tokens": 3, "bytes": 16}) == (pytest.approx(8.0), 16.0)
    assert graded("kl", {"nats": 0.5, "tokens": 10}) == (0.5, 10.0)
    assert graded("kl", {"nats": 0.0, "tokens": 0}) == (None, 0.0)
    assert graded("strength", {"text": "x", "verdict": {"strength": 2, "outcome": "answer"}}) == (2.0, 1.0)
    for outcome in ("refusal", "broken", "off-topic"):
        assert graded("strength", {"text": "x", "verdict": {"strength": 0, "outcome": outcome}}) == (None, 1.0)
    assert graded("strength", {"text": "x"}) == (None, 1.0)
