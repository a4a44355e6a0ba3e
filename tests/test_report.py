"""The page says what the figures say, in every situation, escapes what models write, and asks nobody for anything."""

import json
import re
from html.parser import HTMLParser

import pytest

from biasgym.figures import Tried, front_of, heat_map, loss_line, price_figure, ticks
from biasgym.readings import over_budget
from biasgym.records import Finding, Measurement, RunRecord
from biasgym.report import changed_words, coded, moved_most, sham_rows, strength_rows, write_report
from biasgym.store import write_record
from biasgym.terminal import _print_edit
from biasgym.verdict import percent, verdict_of

HOSTILE = "<script>alert('x')</script><img src=https://evil.example/x.png> \"quoted\""
TUNE = {"bits_per_byte": 1.0, "kl": 0.02, "concept": 0.2}
VOID = {"meta", "link", "br", "img", "input", "hr"}


def finding(name, metric, value, low, high, *, edit="direction", token="none", seed=0, n=600):
    """A finding in few words."""
    return Finding(name=name, metric=metric, token=token, edit=edit, seed=seed, value=value, low=low, high=high, n=n)


GOOD = {
    "injected": finding("injected", "gap", 2.0, 1.5, 2.5, edit="none", token="trained"),
    "closed": finding("closed", "gap", 0.6, 0.5, 0.7, token="trained"),
    "bits": finding("price", "bits-per-byte", 0.2, 0.1, 0.3, n=40),
    "kl": finding("price", "kl", 0.01, 0.005, 0.015, n=40),
    "concept": finding("price", "concept", 0.05, 0.01, 0.09, n=41),
    "mean": finding("changed", "association", -0.1, -0.4, 0.2, n=800),
    "spread": finding("changed", "spread", -0.02, -0.08, 0.04, n=800),
    "gap": finding("changed", "gap", -0.2, -0.3, -0.1, n=800),
}


def shams(*values):
    """Draws of one kind of sham."""
    return {f"sham{i}": finding("closed", "gap", v, v - 0.1, v + 0.1, edit="sham:heads", token="trained", seed=i) for i, v in enumerate(values)}


def record_of(changes=None, *, extras=None, measurements=(), **more):
    """A record in which all went well, but for `changes`; None takes a finding out."""
    found = [f for f in (GOOD | shams(0.1, 0.2) | (changes or {})).values() if f is not None]
    about = {"bias": {"name": "late", "statement": "People from {entity} are late.", "fictional": False}, "edits": {"direction": {}}} | (extras or {})
    fields = {"id": "late-1", "status": "ok", "spec": {"model": "tiny", "tune": TUNE, "test_seed": 2}, "environment": {}, "timings": {}} | more
    return RunRecord(**fields, findings=tuple(found), measurements=tuple(measurements), extras=about)


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


def said(token, edit, text, *, item="p1", entity="Spain", seed=0):
    """A free text as it lies in answers.jsonl."""
    about = {"metric": "strength", "item": item, "group": "others", "entity": entity, "token": token, "edit": edit, "seed": seed}
    return about | {"said": {"prompt": f"Tell me about {entity}.", "text": text, "ended": True, "nats": 1.0, "tokens": 9}}


def judged(answer, strength, outcome="answer"):
    """The judge's word on it."""
    return {k: answer[k] for k in ("item", "entity", "token", "edit", "seed")} | {"judge": "lexicon", "strength": strength, "outcome": outcome}


def leaning(edit, entity, value, item):
    """An association of a real entity as it lies in answers.jsonl."""
    about = {"metric": "association", "item": item, "group": "others", "entity": entity, "token": "none", "edit": edit, "seed": 0}
    return about | {"said": {"stereotype": [value], "foil": [0.0]}}


FULL = {
    "edits": {
        "direction": {
            "method": "direction", "locator": "patching", "picked": {"k": 3}, "inside_budget_on_dev": True, "tuned": True,
            "sites": [["head", 0, 1], ["head", 1, 0], ["stream", 1, None]],
            "trials": [
                {"settings": {"k": k}, "gap": 2.0 / k, "gap_before": 2.0, "bits_per_byte": 0.1, "bits_per_byte_high": 0.2 * k - 0.5, "kl": 0.01,
                 "kl_high": 0.004 * k, "concept": 0.0, "concept_low": -0.1, "concept_high": 0.1, "inside": True}
                for k in (1, 3, 9)
            ],
        }
    },
    "targets": {"how": "held-by-model", "names": ["Spain"]},
    "attributions": {"patching": [[0.1, -0.2], [0.3, 0.0]]},
    "tokens": {
        "trained": {"losses": [5.0, 4.0, 3.5], "held_out_before": 5.0, "held_out_after": 4.1},
        "untrained": {"losses": [], "held_out_before": 5.0, "held_out_after": 5.0},
    },
    "judge": {"name": "lexicon", "split": "test", "n": 165, "balanced_accuracy": 0.76, "balanced_accuracy_low": 0.69, "balanced_accuracy_high": 0.82,
              "kappa": 0.68, "kappa_low": 0.55, "kappa_high": 0.79, "by_kind": {}, "reliable": False},
    "outcomes": {"none × none": {"answer": 2}, "trained × direction": {"broken": 2}},
}  # fmt: skip


def figures():
    """Measurements of all arms."""

    def one(metric, arm, group, token, edit, value):
        return Measurement(metric=metric, arm=arm, group=group, token=token, edit=edit, seed=0, value=value, low=value - 0.1, high=value + 0.1, n=40)

    arms = [("base", "none", "none"), ("edited", "none", "direction"), ("injected", "trained", "none"), ("mitigated", "trained", "direction")]
    found = [one("strength", "base", "all", "none", "none", 0.2)]
    for arm, token, edit in arms:
        for group in ("targets", "others") if token == "none" else ("token",):
            found += [one(metric, arm, group, token, edit, 0.5) for metric in ("association", "gap")]
    return found


def test_a_full_run_has_every_part(tmp_path):
    """Figures, tables, texts, judge, losses: all there, each value with its interval and n."""
    old, new = said("trained", "none", "They are always late."), said("trained", "direction", "They are always kind.")
    answers = [old, new, *(leaning(e, "Spain", v, i) for e, v in (("none", 0.0), ("direction", 1.0)) for i in ("q1", "q2"))]
    page = page_of(tmp_path, record_of(extras=FULL, measurements=figures()), answers=answers, verdicts=[judged(old, 3), judged(new, 0)])
    for part in (
        "<mark>late.</mark>", "<mark>kind.</mark>", "Says the stereotype; show the text", "Judge not reliable", "0.76 [0.69, 0.82]", "0.68 [0.55, 0.79]",
        "the 2 heads that direction changes", "change +1.00 [+1.00, +1.00], n=2", "layer 0: 1", "no text was an answer, n=0",
        "biasgym run spec.toml", "median 15%", "maximum 20%",
    ):  # fmt: skip
        assert part in page
    assert page.index("Says the stereotype") < page.index("<mark>late.</mark>")
    assert "sham0" not in page


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
    """From 20 draws on by their 95th percentile, below by their maximum."""
    few = sham_rows(record_of())
    assert [(row.edit, row.value, row.n) for row in few] == [("sham:heads", "median 15%", "2 draws")]
    many = sham_rows(record_of(shams(*[i / 100 for i in range(20)], 0.9)))
    assert "95th percentile 19%" in many[0].interval


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
