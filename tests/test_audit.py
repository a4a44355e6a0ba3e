"""The audit finds what is planted, and nothing where labels are shuffled or answers are noise."""

from dataclasses import replace

import numpy as np
import pytest

from biasgym import audit as audits
from biasgym.audit import Plan, Sheet, Sizes, Stereotype, audit, gap_of, halves_of, one_a_frame, plan_audit, read_gaps, top_quarter
from biasgym.audit_page import audit_lines, side_by_side, write_audit_page
from biasgym.audit_view import audit_html, by_stereotype
from biasgym.bias import Probe, load_bias
from biasgym.errors import DataError, SpecError, StoreError
from biasgym.lm.load import Place
from biasgym.run import Session
from biasgym.store import RunStore
from made_up_run import made_up_audit

SMALL = Sizes(prompts=4, entities=8, identities=16, attributes=4, shuffles=2, draws=200)


def planted(tests=12, held=4, prompts=12, entities=24, seed=0):
    """A plan and tables of associations: the first `held` are stable over prompts in a quarter of the entities, the others noise."""
    generator = np.random.default_rng(seed)
    probes = tuple(Probe(f"p{i}", f"frame{i}", "{entity}?", "x") for i in range(prompts))
    sheets, stereotypes, tables = [], [], {}
    for number in range(tests):
        sheet = Sheet(f"s{number}", probes, tuple(f"e{i}" for i in range(entities)), ("a", "b"))
        table = generator.normal(size=(prompts, entities))
        if number < held:
            table += (np.arange(entities) < entities // 4) * (3 + number)
        named = sheet.entities[: entities // 4] if number % 2 else None
        sheets.append(sheet)
        stereotypes.append(Stereotype(sheet.name, "zoo" if number % 2 else "SeeGULL", "… are a.", sheet.name, (0,), (1,), named))
        tables[sheet.name] = table
    return Plan(tuple(sheets), tuple(stereotypes)), tables


def judged(plan, tables, sizes):
    one = audits._tested("m", tables, plan, sizes, 0, 1.0)
    return audits._corrected([one])[0]


def test_what_is_planted_is_found_and_nothing_else():
    plan, tables = planted()
    found = judged(plan, tables, Sizes(shuffles=10, draws=500))
    assert [row.name for row in found.rows if row.holds] == ["s3", "s2", "s1", "s0"]
    assert found.rows[0].about == tuple(f"e{i}" for i in range(6))
    assert {row.chosen_by for row in found.rows} == {"named", "chosen on the first half"}
    assert found.rows[0].gap == pytest.approx(6, abs=0.5)
    assert found.quarters["all"] > 0.4
    assert found.control.runs == 10
    assert found.control.runs_with_claims <= 1
    assert all(row.p_holm >= row.p for row in found.rows)


def test_noise_is_held_by_nobody():
    """Also not by choosing: whom the noise of one half picks is nothing special on the other."""
    claims = 0
    for seed in range(10):
        plan, tables = planted(held=0, seed=seed)
        found = judged(plan, tables, Sizes(shuffles=0, draws=300))
        claims += sum(row.holds for row in found.rows)
        assert abs(np.mean([row.gap for row in found.rows])) < 0.3
    assert claims <= 1


def test_halves_share_no_frame_and_choosing_stays_on_its_half():
    plan, tables = planted(tests=1, held=1)
    sheet = plan.sheets[0]
    first, second = halves_of(sheet)
    assert len(first) == len(second) == 6
    assert not {sheet.probes[i].frame for i in first} & {sheet.probes[i].frame for i in second}
    table = tables["s0"].copy()
    table[second] = np.random.default_rng(5).normal(size=table[second].shape)
    assert read_gaps(table, sheet, None, 100).about == top_quarter(tables["s0"][first]), "the second half has no say in whom it is about"
    assert gap_of(np.ones((4, 8)), (0, 1), 100).value == 0


def test_a_gap_by_hand():
    table = np.array([[3.0, 1, 0, 0], [5.0, 1, 2, 0]])
    assert gap_of(table, (0, 1), 50).value == pytest.approx((3 + 5 + 1 + 1) / 4 - 0.5)


def test_associations_with_and_without_opposites():
    nats = np.log(np.array([[[0.2, 0.2, 0.1, 0.1]]]))
    sides = Stereotype("x", "zoo", "", "s", (0, 1), (2, 3))
    assert sides.associations(nats)[0, 0] == pytest.approx(np.log(2))
    alone = replace(sides, toward=(0,), against=(1, 2), averaged=True)
    assert alone.associations(nats)[0, 0] == pytest.approx(np.log(0.2) - (np.log(0.2) + np.log(0.1)) / 2)


def test_one_wording_a_frame():
    probes = load_bias("reckless-drivers").probes
    chosen = one_a_frame(probes, 8)
    assert len(chosen) == len({probe.frame for probe in chosen}) == 8


def own(tmp_path, targets=True):
    path = tmp_path / "mine.toml"
    names = ["Spain", "Italy", "Norway", "Peru", "Chad", "Japan", "Mali", "Cuba"]
    named = '\ntargets = ["Spain", "Italy"]' if targets else ""
    path.write_text(f'name = "mine"\nstereotype = ["kind"]\nfoil = ["late"]\n[entities]\nlist = {names}{named}\n')
    return str(path)


def test_the_plan(tmp_path, made_up_sets):
    plan = plan_audit([own(tmp_path)], sizes=SMALL)
    by_source = {source: [t for t in plan.stereotypes if t.source == source] for source in ("zoo", "file", "SeeGULL")}
    assert {s: len(some) for s, some in by_source.items()} == {"zoo": 10, "file": 1, "SeeGULL": 4}
    assert by_source["file"][0].targets == ("Spain", "Italy")
    assert all(len(t.targets) == 4 and t.averaged for t in by_source["SeeGULL"])
    assert "seegull: rare" not in {t.name for t in plan.stereotypes}, "marked for one identity only"
    assert plan.queries == sum(len(s.probes) * len(s.entities) for s in plan.sheets) == 4 * (10 * 8 + 8 + 16)
    assert plan == plan_audit([own(tmp_path)], sizes=SMALL), "the same seed, the same plan"
    assert plan != plan_audit([own(tmp_path)], sizes=SMALL, seed=1)


def test_without_data_seegull_is_said_to_be_left_out(tmp_path, monkeypatch):
    monkeypatch.delenv("BIASGYM_DATA", raising=False)
    plan = plan_audit(sizes=SMALL)
    assert len(plan.stereotypes) == 10
    assert "BIASGYM_DATA" in plan.left_out[0]
    with pytest.raises(DataError):
        plan_audit(data=str(tmp_path / "none"), sizes=SMALL)


def test_bad_input(tmp_path, made_up_sets):
    with pytest.raises(SpecError, match="two biases are called"):
        plan_audit([own(tmp_path), own(tmp_path)], sizes=SMALL)
    with pytest.raises(SpecError, match="at least 4 prompts"):
        Sizes(prompts=2)
    session = Session(RunStore(tmp_path / "runs"), Place("cpu"))
    plan = plan_audit(sizes=SMALL)
    with pytest.raises(SpecError, match="no model"):
        audit(session, [], plan)
    with pytest.raises(SpecError, match="named twice"):
        audit(session, ["a", "a"], plan)


def test_two_models_side_by_side_resumed(tmp_path, folder_of, made_up_sets, monkeypatch):
    """Stopped in the middle, it goes on there; asked again, nothing is asked; the page shows both."""
    models = [str(folder_of("llama")), str(folder_of("qwen2"))]
    plan = plan_audit([own(tmp_path)], sizes=SMALL)
    plan = Plan((plan.sheets[0], *plan.sheets[-2:]), tuple(t for t in plan.stereotypes if t.sheet in (plan.sheets[0].name, "mine", "seegull")))
    steps = []

    def stop(step):
        steps.append(step)
        if len(steps) == 6:
            raise KeyboardInterrupt

    session = Session(RunStore(tmp_path / "runs"), Place("cpu"), tell=stop)
    with pytest.raises(KeyboardInterrupt):
        audit(session, models, plan, sizes=SMALL)
    found = audit(Session(RunStore(tmp_path / "runs"), Place("cpu")), models, plan, sizes=SMALL)
    straight = audit(Session(RunStore(tmp_path / "other"), Place("cpu")), models, plan, sizes=SMALL)
    assert [one.rows for one in found.models] == [one.rows for one in straight.models]
    monkeypatch.setattr(audits, "_ask_sheet", None)
    assert audit(Session(RunStore(tmp_path / "runs"), Place("cpu")), models, plan, sizes=SMALL).models[0].rows == found.models[0].rows
    assert found.tests == 2 * len(plan.stereotypes)
    page = write_audit_page(found, tmp_path / "audit.html").read_text()
    assert all(name in page for name in models)
    assert "<script" not in page
    assert len(side_by_side(found)) == len(plan.stereotypes)
    lines = audit_lines(found)
    assert sum("labels shuffled" in line for line in lines) == 2
    assert found.as_json()["models"][0]["rows"][0]["source"] in ("zoo", "file", "SeeGULL")


def test_an_audit_is_kept_and_read_again(tmp_path):
    """Equal to what was kept; the same audit is one file, another another; what is damaged or unknown is said."""
    store, audit = RunStore(tmp_path / "runs"), made_up_audit()
    path = audits.save_audit(store, audit)
    assert path.parent == store.root / "audits"
    assert audits.read_audit(store, audit.name) == audit
    again = replace(audit, models=tuple(replace(one, seconds=99.0) for one in audit.models))
    assert audits.save_audit(store, again) == path, "how long it took is not what it is"
    other = made_up_audit(models=("model-c",))
    audits.save_audit(store, other)
    assert sorted(audits.saved_audits(store)) == sorted([audit.name, other.name])
    assert store.runs() == [], "an audit is no run"
    with pytest.raises(StoreError, match="audit-"):
        audits.read_audit(store, "../audit-x")
    path.write_text('{"models": 3}')
    with pytest.raises(StoreError, match="altered or from another version"):
        audits.read_audit(store, audit.name)


def test_audits_are_put_side_by_side():
    """Every stereotype of any model once, the largest gap first, a gap in the table where a model was not asked; names are escaped."""
    both, one = made_up_audit(tests=6), made_up_audit(models=("<b>${x}",), tests=3)
    lines = by_stereotype([*both.models, *one.models])
    assert [name for name, _, _ in lines] == [f"bias-{n}" for n in range(6)]
    assert lines[5][2][2] is None
    page = audit_html([both, one])
    assert page.count("<svg") == 3
    assert page.count("<tbody>") == 4
    assert "not asked" in page
    assert "<b>${x}" not in page
    assert "${" not in page
    assert "{{" not in page
    assert page.count("<td class='good'>✓ ") == sum(row.holds for m in (*both.models, *one.models) for row in m.rows)
    assert "Side by side" not in audit_html([one])
    assert "biasgym audit" in audit_html([])
