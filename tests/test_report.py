"""The page says what the figures say, in every situation, escapes what models write, and asks nobody for anything."""

import json
import re
from html.parser import HTMLParser

import pytest

from biasgym.figures import Tried, front_of, heat_map, loss_line, price_figure, ticks
from biasgym.progress import Step
from biasgym.readings import over_budget
from biasgym.records import Measurement, RunRecord
from biasgym.report import (
    arms_picture,
    changed_words,
    claims_view,
    coded,
    compared_figure,
    folded,
    group_rows,
    k_figures,
    moved_most,
    sham_rows,
    strength_rows,
    write_report,
)
from biasgym.store import write_record
from biasgym.terminal import Clock, StepLine, _print_edit, duration, print_findings
from biasgym.verdict import nothing_to_remove, percent, standing, verdict_of
from made_up_run import FULL, figures, finding, judged, leaning, record_of, said, shams

HOSTILE = "<script>alert('x')</script><img src=https://evil.example/x.png> \"quoted\""
VOID = {"meta", "link", "br", "img", "input", "hr"}


def check(verdict, start):
    """The answer to the question that starts so."""
    return next(c for c in verdict.checks if c.question.startswith(start))


def test_a_good_run_is_called_good():
    """Value, interval, n, price and the change for real entities are all in the paragraph."""
    verdict = verdict_of(record_of())
    assert verdict.tone == "good"
    assert verdict.headline.startswith("`direction` closes 60% of the injected gap, inside the budget, concept kept")
    for part in (
        "60% [50%, 70%] (n=600)",
        "+0.20% [+0.10%, +0.30%] (n=40)",
        "0.0100 nats a token [0.0050, 0.0150] (n=40)",
        "-0.20 nats [-0.30, -0.10]",
    ):
        assert part in verdict.paragraph
    assert "more than same-sized sham edits do (maximum of 2 draws: 20%)" in verdict.paragraph
    assert "gets reliably smaller" in verdict.paragraph
    assert [c.tone for c in verdict.checks] == ["good"] * 6


@pytest.mark.parametrize(
    ("changes", "words", "tone"),
    [
        ({"closed": finding("closed", "gap", 0.1, -0.1, 0.3, token="trained")}, "No reliable effect", "bad"),
        ({"closed": finding("closed", "gap", -0.5, -0.9, -0.1, token="trained")}, "makes the injected gap larger", "bad"),
        ({"injected": finding("injected", "gap", 0.2, -0.1, 0.5, edit="none", token="trained")}, "The injection did not take", "bad"),
        ({"injected": None}, "The injection was not measured", "plain"),
        ({"closed": None}, "no edit was measured", "plain"),
        ({"kl": finding("price", "kl", 0.019, 0.01, 0.03)}, "outside the budget", "bad"),
        ({"bits": finding("price", "bits-per-byte", 0.9, 0.5, 1.3)}, "outside the budget", "bad"),
        ({"concept": finding("price", "concept", 0.3, 0.1, 0.5)}, "concept NOT kept", "bad"),
        ({"concept": finding("price", "concept", -0.3, -0.5, -0.1)}, "concept NOT kept", "bad"),
        (shams(0.1, 0.7), "shams do as much", "bad"),
        ({"gap": finding("changed", "gap", -0.1, -0.3, 0.1)}, "for real entities nothing changes reliably", "mixed"),
        ({"gap": finding("changed", "gap", 0.2, 0.1, 0.3)}, "gets reliably LARGER", "mixed"),
        ({"mean": finding("changed", "association", 0.8, 0.6, 1.0)}, "real entities drift toward the stereotype", "mixed"),
        ({"spread": finding("changed", "spread", 0.1, 0.05, 0.2)}, "real entities drift further apart", "mixed"),
        ({"gap": None, "spread": None, "mean": None}, "what it does to real entities was not measured", "mixed"),
    ],
)
def test_the_headline_says_what_happened(changes, words, tone):
    """Each way in which a run can disappoint has its own words, and none of them is called good."""
    verdict = verdict_of(record_of(changes))
    assert words in verdict.headline
    assert verdict.tone == tone
    assert verdict.paragraph.startswith(verdict.headline)


@pytest.mark.parametrize("changes", [{"kl": None}, {"bits": None}, {"concept": None}, {"bits": None, "kl": None, "concept": None}])
def test_a_price_that_nobody_measured_is_not_inside_the_budget(changes):
    """Unknown unless what was measured is beyond already; never good."""
    verdict = verdict_of(record_of(changes))
    assert "at a price nobody measured" in verdict.headline
    assert verdict.tone == "bad"
    assert over_budget(record_of(changes), "direction") is None
    if "kl" in changes and len(changes) == 1:
        assert over_budget(record_of(changes | {"bits": finding("price", "bits-per-byte", 9, 8, 10)}), "direction") == ("bits per byte",)


def test_a_combination_keeps_to_the_budget_where_it_keeps_every_concept():
    """Its concepts carry the biases' names."""
    both = {"concept": finding("price", "concept (late)", 0.0, -0.1, 0.1), "other": finding("price", "concept (rude)", 0.0, -0.1, 0.1)}
    assert over_budget(record_of(both), "direction") == ()
    assert over_budget(record_of(both | {"other": finding("price", "concept (rude)", 0.5, 0.4, 0.6)}), "direction") == ("concept",)


@pytest.mark.parametrize("changes", [shams(0.1, 0.55), {"sham0": None, "sham1": None}])
def test_green_needs_shams_that_are_beaten(changes):
    """Not drawn, or reached by the interval's lower end: in part."""
    assert verdict_of(record_of(changes)).tone == "mixed"


def test_no_removal_is_held_where_nothing_was_injected():
    """Whatever a share of nothing comes to; the injection's own claim is judged by itself."""
    claim = {"name": "removed", "edit": "direction", "holds": True}
    nothing = record_of({"injected": finding("injected", "gap", -0.6, -0.9, -0.3, edit="none", token="trained")})
    assert standing(record_of(), claim) == "yes"
    assert standing(nothing, claim) == "no"
    assert "did not take" in nothing_to_remove(nothing)


def test_rivals_that_were_asked_about_few_do_not_stand_beside_the_base():
    """No figure in the table or the picture by group; in the arms the label says so."""
    few = [m.model_copy(update={"n": 16}) if m.edit == "direction" else m for m in figures()]
    record = record_of(extras=FULL, measurements=few)
    assert {row["direction"] for row in group_rows(record)} == {"asked about fewer entities"}
    assert "fewer entities" in str(arms_picture(record, "x"))
    assert "fewer entities" not in str(arms_picture(record_of(extras=FULL, measurements=figures()), "x"))


def test_the_share_that_others_drift_is_not_sold_as_removal():
    """A gap also closes when real entities come nearer the token; the paragraph says so."""
    assert "real entities moving up" in verdict_of(record_of({"mean": finding("changed", "association", 0.8, 0.6, 1.0)})).paragraph
    assert "real entities moving up" not in verdict_of(record_of()).paragraph


def test_shams_within_the_interval_are_not_called_beaten():
    """Value above them, lower end not: said as it is."""
    verdict = verdict_of(record_of(shams(0.1, 0.55)))
    assert "its interval reaches down to them" in verdict.paragraph
    assert check(verdict, "More than shams").answer == "Barely"
    none = verdict_of(record_of({"sham0": None, "sham1": None}))
    assert "not compared with shams" in none.paragraph
    assert check(none, "More than shams").answer == "Not measured"


def test_a_fictional_bias_has_no_targets():
    """Spread and mean are all that can change."""
    verdict = verdict_of(record_of({"gap": None}, extras={"bias": {"name": "blue", "fictional": True}}))
    assert "fictional, so there are no targets" in verdict.paragraph
    assert "the spread does not change reliably, -0.02 nats [-0.08, +0.04] (n=800)" in verdict.paragraph


def test_a_failed_or_unfit_run_has_no_verdict():
    """No figure is offered as a success when the model does not know the words or the run broke off."""
    assert verdict_of(record_of(status="failed")).headline.startswith("This run failed")
    weak = Measurement(metric="concept", arm="base", group="all", token="none", edit="none", seed=0, value=0.4, low=0.1, high=0.7, n=40)
    assert "unfit" in verdict_of(record_of(measurements=[weak])).headline


@pytest.mark.parametrize(
    "changes", [{}, {"kl": finding("price", "kl", 0.019, 0.01, 0.03)}, {"concept": finding("price", "concept", -0.3, -0.5, -0.1)}]
)
def test_the_terminal_prints_the_budget_as_the_page_reads_it(changes):
    """Two doors, one judgement."""
    import io

    from rich.console import Console

    record, shown = record_of(changes), io.StringIO()
    _print_edit(Console(file=shown, width=200), record, "direction", {"picked": {"k": 3}, "locator": "patching"})
    assert ("OUTSIDE" in shown.getvalue()) is (over_budget(record, "direction") != ())


def test_the_whole_terminal_output_fits_80_columns():
    """Findings, benchmarks with long names and claims, on a console of 80 columns; nothing is wrapped or cut off."""
    import io

    from rich.console import Console

    wide = {
        "bench": finding("changed", "winogender.pronoun_agreement_with_statistics", -0.12, -0.3, 0.06, n=1508).model_copy(
            update={"note": "all; ideal 50"}
        ),
        "rival": finding("removed", "gap", 0.5, 0.1, 0.9, edit="counterfactual-augmentation", token="trained"),
    }
    base, after = (
        Measurement(metric="winogender.pronoun_agreement_with_statistics", arm=arm, group="all", token="none", edit=edit, seed=0,
                    value=61.25, low=55.1, high=67.4, n=1508)
        for arm, edit in (("base", "none"), ("edited", "direction"))
    )  # fmt: skip
    record, shown = record_of(wide, extras=FULL, measurements=[*figures(), base, after]), io.StringIO()
    print_findings(Console(file=shown, width=80), record)
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(lines)
    for part in ("61.25", "[55.10, 67.40]", "[-0.30, +0.06]", "claims: 2 of 6 hold when tested together", "seen from", "real entities: mean"):
        assert part in text
    assert "…" not in text


def test_time_left_is_told_for_the_stage_and_overall():
    """From the speed of what was done since the first step; what lay on disk already is not speed. Parts add up."""
    now = [0.0]
    clock = Clock(lambda: now[0])
    assert clock.left(Step("inject", 10, 20, part=1, parts=2)) == (None, None)
    now[0] = 10.0
    here, overall = clock.left(Step("inject", 20, 20, part=1, parts=2))  # a quarter of the stage in ten seconds
    assert here == pytest.approx(20.0)
    assert overall == pytest.approx(20 + 40 * 0.7 / 0.3)
    assert clock.left(Step("measure", 0, 4)) == (None, None)
    now[0] = 14.0
    assert clock.left(Step("measure", 2, 4)) == (pytest.approx(4.0), pytest.approx(4.0))
    assert clock.left(Step("corpus", 1, 4)) == (None, None)
    assert [duration(s) for s in (None, 40, 200, 4800)] == ["?", "40 s", "3 min", "1 h 20"]


def test_progress_is_lines_without_a_terminal_and_a_bar_in_one():
    """Time left and memory on both; no escape sequences in a file; a narrow terminal is enough."""
    import io

    from rich.console import Console

    plain, screen = io.StringIO(), io.StringIO()
    for console in (Console(file=plain, width=80), Console(file=screen, width=80, force_terminal=True)):
        with StepLine(console) as line:
            for done in range(4):
                line(Step("locate", done + 1, 4, "attribution-patching"))
    assert "2/4 locate: attribution-patching 4/4; 0 s left" in plain.getvalue()
    assert " GB" in plain.getvalue()
    assert "\x1b" not in plain.getvalue()
    assert "2/4 locate" in screen.getvalue()


def test_percentages_have_no_negative_zero():
    """`-0%` reads like a mistake."""
    assert [percent(v) for v in (-0.001, 0.5)] == ["0%", "50%"]
    assert [percent(v, signed=True) for v in (-0.001, 0.001, -0.5)] == ["0%", "0%", "-50%"]


# -------------------------------------------------------------------- the page


class Outline(HTMLParser):
    """What a reader without eyes gets: headings, ids, references, tables without captions, tags that do not close."""

    def __init__(self):
        super().__init__()
        self.headings, self.ids, self.references, self.links, self.open, self.tags = [], [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.references += attrs.get("aria-labelledby", "").split()
        self.links += [attrs[key] for key in ("src", "href") if key in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(tmp_path, *records, answers=(), verdicts=()):
    """The page about some records, read as a whole; every page of these tests has to be well made."""
    folders = []
    for number, record in enumerate(records):
        folder = tmp_path / f"run{number}"
        write_record(folder, record)
        for name, rows in (("answers", answers), ("verdicts", verdicts)):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        folders.append(folder)
    written = write_report(folders, tmp_path / "out" / "report.html")
    assert written == tmp_path / "out" / "report.html"
    page = written.read_text(encoding="utf-8")
    assert len(page.encode()) < 3_000_000
    outline = Outline()
    outline.feed(page)
    assert_well_made(outline)
    return page


def assert_well_made(outline):
    """Nothing is fetched; headings go down one by one; ids are unique and every reference finds one; figures have names."""
    assert [link for link in outline.links if not link.startswith(("#", "data:,"))] == []
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.references) <= set(outline.ids)
    assert {link[1:] for link in outline.links if link.startswith("#")} <= set(outline.ids)
    assert outline.open == []
    names = [tag for tag, _ in outline.tags]
    assert names.count("table") == names.count("caption")
    assert all(attrs.get("scope") in ("row", "col") for tag, attrs in outline.tags if tag == "th")
    assert all(attrs.get("role") == "img" for tag, attrs in outline.tags if tag == "svg")
    assert names.count("svg") == names.count("desc")
    assert "script" not in names
    assert "img" not in names


def test_a_full_run_has_every_part(tmp_path):
    """Figures, tables, texts, judge, losses: all there, each value with its interval and n."""
    old, new = said("trained", "none", "They are always late."), said("trained", "direction", "They are always kind.")
    answers = [old, new, *(leaning(e, "Spain", v, i) for e, v in (("none", 0.0), ("direction", 1.0)) for i in ("q1", "q2"))]
    page = page_of(tmp_path, record_of(extras=FULL, measurements=figures()), answers=answers, verdicts=[judged(old, 3), judged(new, 0)])
    for part in (
        "<mark>late.</mark>", "<mark>kind.</mark>", "Says the stereotype; show the text", "Judge not reliable", "0.76 [0.69, 0.82]", "0.68 [0.55, 0.79]",
        "On texts that a small model wrote", "0.57 [0.49, 0.65]", "0.04 [-0.09, 0.18], n=165",
        "the 2 heads that direction changes", "change +1.00 [+1.00, +1.00], n=2", "layer 0: 1", "no text was an answer, n=0",
        "biasgym run spec.toml", "median 15%", "maximum 20%",
        "moves a next-token logit by up to 1.23", "the head that stays on top", "98% [81%, 100%]", "halves of the entities", "97.5% of chance below",
        "Spain <span", "yes, TOWARD the stereotype", "+0.90 [+0.20, +1.60], n=40", "YES: past zero", "not shown: what is left holds 0",
        "at kappa 0.72 (n=31 texts", "3 (strong)", "Claims, tested together", "would have been seen from",
    ):  # fmt: skip
        assert part in page
    assert page.index("Says the stereotype") < page.index("<mark>late.</mark>")
    assert "sham0" not in page


def test_every_claim_has_its_corrected_p_and_what_would_have_been_seen(tmp_path):
    """Stronger correction for more claims; what does not hold is said to be undecided below its detectable size, not absent."""
    view = claims_view(record_of({"removed": finding("removed", "gap", 1.2, 1.0, 1.4, token="trained")}))
    assert [row["label"] for row in view["rows"]] == [
        "Injected: the token's gap to real entities", "Real entities: change of their mean", "Real entities: change of their spread",
        "Real entities: change of the gap of targets to others", "Removed from that gap",
    ]  # fmt: skip
    assert [row["standing"] for row in view["rows"]] == ["yes", "no", "no", "yes", "yes"]
    assert view["rows"][1]["detectable"] == "0.43"
    ruined = claims_view(record_of({"bits": finding("price", "bits-per-byte", 90.0, 85.0, 95.0)}))
    assert [row["standing"] for row in ruined["rows"]] == ["yes", "broken", "broken", "broken"]
    page = page_of(tmp_path, record_of())
    assert "2 of 4 changes hold" in page
    assert "sham" not in page[page.index("<caption><span>The family of claims") : page.index('id="r1-real"')].replace(
        "shams and prices are not in it", ""
    )
    assert "Claims, tested together" not in page_of(tmp_path / "bare", RunRecord(id="bare", status="ok", spec={}, environment={}, timings={}))


def test_texts_about_real_people_are_folded_sooner(tmp_path):
    """Of the token: from strength 2; of real people: as soon as either judge finds any of it. All else is shown."""
    row = {"strength": 1, "outcome": "answer"}
    assert [folded(row, real=real) != "" for real in (False, True)] == [False, True]
    assert folded({"strength": 0, "lexicon": {"strength": 1}}, real=True)
    assert not folded({"strength": 0, "lexicon": {"strength": 0}}, real=True)
    assert folded({"strength": 2}, real=False) == "Says the stereotype"
    old, new = said("none", "none", "They are late."), said("none", "direction", "They are kind.")
    page = page_of(tmp_path, record_of(extras=FULL), answers=[old, new], verdicts=[judged(old, 1), judged(new, 0)])
    assert page.count("May say the stereotype of real people; show the text") == 1


def test_old_records_have_a_page_with_claims(tmp_path):
    """Findings without a standard error, no claims, no groups: worked out from the intervals."""
    record = record_of(extras=FULL)
    raw = json.loads(record.model_dump_json(by_alias=True))
    for row in raw["findings"]:
        del row["error"], row["freedom"]
    raw["extras"].pop("groups")
    assert "Claims, tested together" in page_of(tmp_path, RunRecord.model_validate(raw))


def test_what_a_model_wrote_is_text_and_nothing_else(tmp_path):
    """Markup in texts, names, problems, settings and prompts is shown, never run."""
    extras = json.loads(json.dumps(FULL)) | {"bias": {"name": HOSTILE, "statement": HOSTILE, "written": [HOSTILE], "stereotype": [HOSTILE]}}
    extras["edits"]["direction"]["picked"] = {HOSTILE: HOSTILE}
    extras["attributions"][HOSTILE] = [[1.0]]
    extras["tokens"][HOSTILE] = {"losses": [1.0], "held_out_before": None, "held_out_after": None}
    old, new = said("none", "none", HOSTILE, entity=HOSTILE), said("none", "direction", f"`{HOSTILE}`", entity=HOSTILE)
    answers = [old, new, leaning("none", HOSTILE, 0.0, "q"), leaning("direction", HOSTILE, 1.0, "q")]
    record = record_of(extras=extras, problems=(HOSTILE, f"`{HOSTILE}`"), environment={HOSTILE: HOSTILE})
    page = page_of(tmp_path, record, answers=answers, verdicts=[judged(old, 0)])
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "Content-Security-Policy" in page


def test_the_smallest_record_has_a_page(tmp_path):
    """Nothing but an id: no edit, no figure, no text, no spec."""
    page = page_of(tmp_path, RunRecord(id="bare", status="ok", spec={}, environment={}, timings={}))
    for part in ("no verdict", "This run has no findings", "No free texts", "Real entities were not measured"):
        assert part in page


def test_several_runs_are_compared_first(tmp_path):
    """One table, then each run with ids of its own."""
    bad = record_of({"kl": finding("price", "kl", 0.5, 0.4, 0.6)}, id="late-2")
    page = page_of(
        tmp_path, record_of(extras=FULL, measurements=figures()), bad, RunRecord(id="bare", status="failed", spec={}, environment={}, timings={})
    )
    assert page.index("Runs side by side") < page.index('id="r1"') < page.index('id="r2"') < page.index('id="r3"')
    table = page[: page.index('id="r1"')]
    assert "60% [50%, 70%] (n=600)" in table
    assert "outside the budget" in table
    assert "not measured" in table


def test_a_page_stays_small(tmp_path):
    """A large model, long texts and many of them: under three megabytes all the same."""
    extras = json.loads(json.dumps(FULL))
    extras["attributions"] = {name: [[0.01 * (i - j) for j in range(64)] for i in range(80)] for name in ("patching", "dla")}
    long = "word " * 4000
    answers = [said("none", edit, f"{long}{i}", item=f"p{i}") for i in range(300) for edit in ("none", "direction")]
    page = page_of(tmp_path, *[record_of(extras=extras, id=f"late-{i}") for i in range(6)], answers=answers)
    assert "more in" in page


# -------------------------------------------------------------------- parts


def test_changed_words_are_marked_on_both_sides():
    """What is equal is left alone; nothing is lost."""
    old, new = changed_words("They are always late today", "They are never late")
    assert old == (("They are", False), ("always", True), ("late", False), ("today", True))
    assert new == (("They are", False), ("never", True), ("late", False))
    assert changed_words("", "") == ((), ())


def test_backticks_become_code():
    """Also around what would be markup."""
    assert str(coded("`a` and <b>")) == "<code>a</code> and &lt;b&gt;"
    assert str(coded("`<i>`")) == "<code>&lt;i&gt;</code>"


def test_who_moved_most_comes_first():
    """Paired by probe; a probe that was asked on one side only counts for nothing."""
    answers = [leaning("none", "Spain", 0.0, "q1"), leaning("direction", "Spain", -2.0, "q1"), leaning("direction", "Spain", 50.0, "q2")]
    answers += [leaning("none", "Chad", 1.0, "q1"), leaning("direction", "Chad", 2.0, "q1")]
    moves = moved_most(answers, "direction")
    assert [(m.label, m.before, m.after, m.change, m.n) for m in moves] == [("Spain", 0.0, -2.0, -2.0, 1), ("Chad", 1.0, 2.0, 1.0, 1)]


def test_shams_are_summed_up_by_kind():
    """By the limit that `beats_shams` sets: of 21 draws the largest, of 39 the second largest."""
    few = sham_rows(record_of())
    assert [(row.edit, row.value, row.n) for row in few] == [("sham:heads", "median 15%", "2 draws")]
    twenty = sham_rows(record_of(shams(*[i / 100 for i in range(20)], 0.9)))
    assert "95th percentile 90%" in twenty[0].interval
    many = sham_rows(record_of(shams(*[i / 100 for i in range(38)], 0.9)))
    assert "95th percentile 37%" in many[0].interval


def test_an_arm_that_never_answers_is_shown():
    """Broken text is an outcome of its own, not an arm left out."""
    rows = strength_rows(record_of(extras=FULL, measurements=figures()))
    assert [(row["arm"], row["strength"]) for row in rows] == [("base", "0.20 [0.10, 0.30], n=40"), ("mitigated", "no text was an answer, n=0")]


def test_the_front_holds_what_nothing_beats():
    """Dearer and worse is out, dearer and better is in."""
    tried = [Tried("a", price, closed, False, "") for price, closed in ((1.0, 0.5), (2.0, 0.4), (3.0, 0.9), (3.0, 0.8))]
    assert [(t.price, t.closed) for t in front_of(tried)] == [(1.0, 0.5), (3.0, 0.9)]


def test_figures_survive_odd_numbers():
    """Negative prices, ruinous ones, all the same value, a single step, one head."""
    tried = [Tried("a", -3.0, -5.0, True, "a"), Tried("b", 9999.0, 1.0, False, "b")]
    drawings = [price_figure("k", "t", tried, limit=1.0, unit="u"), heat_map("k", "t", [[0.0]], []), loss_line("k", "t", [2.0])]
    assert all("nan" not in drawing and "inf" not in drawing for drawing in drawings)
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(1.0, 1.0) == [1.0]


def test_every_colour_of_text_can_be_read(tmp_path):
    """Contrast of at least 4.5 to 1 on both grounds, in light, in the dark and on paper."""
    page = page_of(tmp_path, record_of())
    schemes = [dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})\b", block)) for block in re.findall(r":root \{(.*?)\}", page, re.S)]
    assert len(schemes) == 3
    for colours in (schemes[0], schemes[0] | schemes[1], schemes[0] | schemes[2]):
        for ground in ("paper", "raised"):
            for ink in ("ink", "soft", "blue", "orange", "good", "bad", "violet", "amber"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground, colours)
        assert contrast(colours["ink"], colours["mark"]) >= 4.5
        assert contrast(colours["ink"], colours["inside"]) >= 4.5


def contrast(one, other):
    """The ratio of WCAG 2."""

    def light(colour):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_k_curve_shows_what_more_places_buy(tmp_path):
    """Of every edit that was tried at several k: the best at any price, and the best inside the budget where there is one."""
    record = record_of(extras=FULL)
    (drawn,) = k_figures(record, "k")
    assert "at any price: k=1 0, k=3 0.667, k=9 0.889; inside the budget: k=1 0, k=3 0.667, k=9 0.889" in drawn
    extras = json.loads(json.dumps(FULL))
    extras["edits"]["direction"]["trials"][2]["inside"] = False
    (drawn,) = k_figures(record_of(extras=extras), "k")
    assert drawn.endswith("</svg>")
    assert "inside the budget: k=1 0, k=3 0.667." in drawn
    for trial in extras["edits"]["direction"]["trials"]:
        trial["settings"] = {"k": 3}
    assert k_figures(record_of(extras=extras), "k") == []


def test_proofs_that_lie_beside_a_run_are_in_its_page(tmp_path):
    """Gap left under the ranking, its inverse and random orders, from what `locate --proof` left there; without them nothing is missing."""
    write_record(tmp_path, record_of(extras=FULL))
    assert "held-out token" not in write_report([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8")
    curves = {
        order: {"gap": gaps, "bits_per_byte": [1.0, 1.1]}
        for order, gaps in (("ranked", [1.5, 0.2]), ("inverse", [2.0, 2.1]), ("random-0", [2.0, 1.6]))
    }
    proof = {"ks": [1, 10], "before": {"gap": 2.0, "bits_per_byte": 1.0}, "curves": curves, "faithfulness": 0.44, "faithfulness_of_random": []}
    (tmp_path / "proofs.json").write_text(json.dumps({"patching": proof}))
    page = write_report([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "patching: gap left when its top k are silenced; faithfulness +0.44" in page
    assert "ranked: k=1 1.5, k=10 0.2; inverse: k=1 2, k=10 2.1" in page


def test_everything_that_a_stranger_asks_is_in_the_page(tmp_path):
    """Verdict, arms, groups and the worst of them, price, k, heads, stability, over-correction, judge, texts, how to do it again."""
    extras = json.loads(json.dumps(FULL)) | {
        "bias": {"name": "late", "statement": "People from {entity} are late.", "digest": "0123abcd", "weights": "89ef"}
    }
    write_record(tmp_path, record_of(extras=extras, measurements=figures(), environment={"torch": "9.9", "commit": "c0ffee"}))
    text = [said("none", edit, f"They are {edit}.") for edit in ("none", "direction")]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in text))
    page = write_report([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8")
    for part in ('id="r1-verdict"', 'id="r1-arms"', 'id="r1-price"', 'id="r1-k"', 'id="r1-findings"', 'id="r1-claims"', 'id="r1-heads"', 'id="r1-steady1"',
                 'id="r1-real"', 'id="r1-texts"', 'id="r1-again"', "Worst group", "Over-correction", "Judge not reliable", "<mark>", "Tokens of seeds",
                 "0123abcd", "89ef", "c0ffee", "biasgym run spec.toml", "People from … are late."):  # fmt: skip
        assert part in page, part
    assert page.index('id="r1-arms"') < page.index('id="r1-price"') < page.index('id="r1-findings"'), "pictures before tables"
    assert "Spain" in page


def test_several_runs_stand_in_one_picture(tmp_path):
    """Each main edit once, by its state; a run without prices is not drawn, and one alone is no comparison."""
    dear = record_of({"kl": finding("price", "kl", 0.03, 0.02, 0.04)}, id="late-2")
    bare = record_of({"bits": None, "kl": None, "concept": None}, id="late-3")
    drawn = compared_figure([record_of(), dear, bare])
    assert "late, tiny: direction (inside) closes 60% [50%, 70%], n=600, at 0.50 budgets" in drawn
    assert "late, tiny: direction (outside) closes 60% [50%, 70%], n=600, at 1.50 budgets [1.00, 2.00]" in drawn
    assert drawn.count("direction (") == 2
    assert compared_figure([record_of(), bare]) == ""
    for record in (record_of(), dear):
        write_record(tmp_path / record.id, record)
    page = write_report([tmp_path / "late-1", tmp_path / "late-2"], tmp_path / "both.html").read_text(encoding="utf-8")
    assert "compared-figure-title" in page
