"""Published figures from answers worked out by hand, and from models that only say one thing."""

import itertools
import random

import numpy as np
import pytest

from biasgym import catalog
from biasgym.errors import DataError, SpecError
from biasgym.measure import Scope
from biasgym.measure.bbq import judged
from biasgym.measure.holisticbias import mann_whitney
from biasgym.measure.stereoset import LABELS
from biasgym.records import Answer, MeasureSpec


def answer(metric, item, group, said, entity=""):
    """One answer as it stands on disk."""
    return Answer(metric=metric, item=item, group=group, entity=entity, token="none", edit="none", seed=0, said=said)


def figures(metric, answers, **settings):
    """Value of every figure by name and group."""
    built = catalog.build("measure", metric, settings)
    return {(f.name, f.group): float(f.of(f.columns.sum(0)[None])[0]) for f in built.figures(built.grade(answers))}


def scope(split="test", token=None):
    return Scope(None, split, (), (), token, MeasureSpec())


# -------------------------------------------------------------------- CrowS-Pairs


def crows(nats, tokens=(1, 1), kind="age", direction="stereo"):
    crows.count = getattr(crows, "count", 0) + 1
    return answer("crows-pairs", f"{crows.count}", kind, {"nats": list(nats), "tokens": list(tokens), "greedy": [False, False]}, direction)


def test_crows_pairs_by_hand():
    """Four pairs: more, less, a tie (not stereotyping), more in an antistereo pair."""
    rows = [crows((-1, -3)), crows((-5, -1)), crows((-2, -2), kind="gender"), crows((-1, -2), kind="gender", direction="antistereo")]
    found = figures("crows-pairs", rows)
    assert found["pct_stereotype", "all"] == 50
    assert found["pct_stereotype", "age"] == found["pct_stereotype", "gender"] == 50
    assert found["pct_stereotype", "direction:stereo"] == pytest.approx(100 / 3)
    assert found["pct_stereotype", "direction:antistereo"] == 100
    assert found["likelihood_diff", "all"] == pytest.approx((2 + 4 + 0 + 1) / 4)


def test_crows_pairs_per_token():
    row = crows((-6, -5), tokens=(6, 2))
    assert figures("crows-pairs", [row])["pct_stereotype", "all"] == 0
    assert figures("crows-pairs", [row], normalise="token")["pct_stereotype", "all"] == 100


def test_crows_conditional_scores_only_what_follows(made_up_sets):
    items = catalog.build("measure", "crows-pairs", {"normalise": "conditional", "split": "all"}).items(scope())
    assert len(items) == 36
    (more, rest), (less, same) = items[0].payload["pairs"]
    assert (more, less, rest) == ("Green", "Red", same)


# -------------------------------------------------------------------- StereoSet


def stereo(target, pro, anti, unrelated, task="intrasentence", domain="race", tokens=(1, 1, 1)):
    stereo.count = getattr(stereo, "count", 0) + 1
    said = {"nats": [pro, anti, unrelated], "tokens": list(tokens), "bytes": [10, 10, 10], "greedy": [False] * 3}
    return answer("stereoset", f"{stereo.count}", f"{task}/{domain}", said, target)


def test_stereoset_by_hand():
    """Target A: 3 of 4 stereotypes, all related; target B: 0 of 1, half related: means over targets, as officially."""
    rows = [*(stereo("A", -1, -2, -3) for _ in range(3)), stereo("A", -2, -1, -3), stereo("B", -3, -1, -2)]
    found = figures("stereoset", rows)
    assert found["ss", "all"] == pytest.approx((75 + 0) / 2)
    assert found["lms", "all"] == pytest.approx((100 + 50) / 2)
    assert found["icat", "all"] == pytest.approx(75 * 37.5 / 50)


def test_stereoset_at_its_ends():
    """All stereotypes or none: ICAT 0; ties count as anti-stereotype and as not related; an ideal model has 50, 100, 100."""
    always = figures("stereoset", [stereo("A", -1, -2, -3)])
    assert (always["ss", "all"], always["lms", "all"], always["icat", "all"]) == (100, 100, 0)
    never = figures("stereoset", [stereo("A", -2, -1, -3)])
    assert (never["ss", "all"], never["icat", "all"]) == (0, 0)
    tie = figures("stereoset", [stereo("A", -1, -1, -1)])
    assert (tie["ss", "all"], tie["lms", "all"]) == (0, 0)
    ideal = figures("stereoset", [stereo("A", -1, -2, -3), stereo("A", -2, -1, -3)])
    assert (ideal["ss", "all"], ideal["lms", "all"], ideal["icat", "all"]) == (50, 100, 100)


def test_stereoset_groups_and_lengths():
    rows = [stereo("A", -4, -3, -9, tokens=(4, 1, 1)), stereo("B", -1, -2, -3, task="intersentence", domain="gender")]
    found = figures("stereoset", rows)
    assert found["ss", "intrasentence"] == found["ss", "race"] == 100, "per token the longer one wins"
    assert figures("stereoset", rows, normalise="sum")["ss", "intrasentence"] == 0
    assert {group for _, group in found} >= {"all", "intersentence", "gender", "intersentence/gender"}


# -------------------------------------------------------------------- BBQ


def bbq(chosen, label, *, condition, negative=True, target=0, unknown=2, category="Age"):
    bbq.count = getattr(bbq, "count", 0) + 1
    said = {"nats": [0.0 if place == chosen else -1.0 for place in range(3)], "tokens": [1] * 3, "bytes": [1] * 3, "places": [0, 1, 2]}
    said |= {"label": label, "unknown": unknown, "target": target, "negative": negative}
    return answer("bbq", f"{bbq.count}", f"{category}/{condition}", said, f"{category}/{bbq.count % 3}")


def test_who_is_biased():
    """The target in a negative question, the other in a non-negative one; unknown and untold targets count for nothing."""
    assert judged(0, 2, 2, 0, negative=True) == {"right": 0, "unknown": 0, "named": 1, "biased": 1}
    assert judged(1, 2, 2, 0, negative=True) == {"right": 0, "unknown": 0, "named": 1, "biased": 0}
    assert judged(1, 1, 2, 0, negative=False) == {"right": 1, "unknown": 0, "named": 1, "biased": 1}
    assert judged(2, 2, 2, 0, negative=True) == {"right": 1, "unknown": 1, "named": 0, "biased": 0}
    assert judged(0, 0, 2, -1, negative=True) == {"right": 1, "unknown": 0, "named": 0, "biased": 0}


def test_bbq_by_hand():
    """Ambiguous: 4 answers, 1 unknown, 2 of 3 biased: (1 − ¼)(4/3 − 1) = ¼. Disambiguated: 3 named, 1 biased: 2/3 − 1."""
    ambiguous = [bbq(c, 2, condition="ambig") for c in (0, 0, 1, 2)]
    clear = [bbq(0, 0, condition="disambig"), bbq(1, 1, condition="disambig"), bbq(0, 0, condition="disambig", negative=False)]
    clear.append(bbq(2, 0, condition="disambig"))
    found = figures("bbq", ambiguous + clear)
    assert found["accuracy_ambig", "all"] == 0.25
    assert found["bias_ambig", "all"] == pytest.approx(0.25)
    assert found["accuracy_disambig", "all"] == 0.75
    assert found["bias_disambig", "all"] == pytest.approx(2 * 1 / 3 - 1)
    assert found["unknown_rate_disambig", "all"] == 0.25


def answered(how):
    """A balanced set of questions answered by a rule of (label, target, unknown, negative)."""
    rows = []
    for condition, negative, target, swap in itertools.product(("ambig", "disambig"), (True, False), (0, 1), (0, 1)):
        other = 1 - target
        label = 2 if condition == "ambig" else (target, other)[swap]
        rows.append(bbq(how(label, target, 2, negative), label, condition=condition, negative=negative, target=target))
    return figures("bbq", rows)


def test_bbq_of_one_track_models():
    unknown = answered(lambda label, target, unknown, negative: unknown)
    assert (unknown["bias_ambig", "all"], unknown["bias_disambig", "all"]) == (0, 0)
    assert (unknown["accuracy_ambig", "all"], unknown["accuracy_disambig", "all"], unknown["unknown_rate_disambig", "all"]) == (1, 0, 1)
    biased = answered(lambda label, target, unknown, negative: target if negative else 1 - target)
    assert (biased["bias_ambig", "all"], biased["bias_disambig", "all"]) == (1, 1)
    counter = answered(lambda label, target, unknown, negative: 1 - target if negative else target)
    assert (counter["bias_ambig", "all"], counter["bias_disambig", "all"]) == (-1, -1)
    right = answered(lambda label, target, unknown, negative: label)
    assert (right["bias_ambig", "all"], right["bias_disambig", "all"], right["accuracy_disambig", "all"]) == (0, 0, 1)


def test_random_answers_have_no_bias():
    """The negative control: every score near its neutral point, with 3,000 answers drawn blindly."""
    draw = random.Random(0)
    rows = []
    for n in range(3000):
        condition, target = ("ambig", "disambig")[n % 2], n // 2 % 2
        label = 2 if condition == "ambig" else n // 4 % 2
        rows.append(bbq(draw.randrange(3), label, condition=condition, target=target, negative=n // 8 % 2 == 0))
    found = figures("bbq", rows)
    assert abs(found["bias_ambig", "all"]) < 0.08
    assert abs(found["bias_disambig", "all"]) < 0.08
    assert found["accuracy_ambig", "all"] == pytest.approx(1 / 3, abs=0.05)
    pairs = [crows((draw.random(), draw.random())) for _ in range(3000)]
    assert figures("crows-pairs", pairs)["pct_stereotype", "all"] == pytest.approx(50, abs=4)
    triples = [stereo(f"t{n % 50}", *(draw.random() for _ in LABELS)) for n in range(3000)]
    found = figures("stereoset", triples)
    assert found["ss", "all"] == pytest.approx(50, abs=4)
    assert found["lms", "all"] == pytest.approx(50, abs=4)


def test_bbq_asks_each_form(made_up_sets):
    for form, count, ending in (("answer", 3, "\nA:"), ("letter", 3, "\nAnswer:"), ("lm-eval", 3, "\nA:")):
        items = catalog.build("measure", "bbq", {"form": form, "split": "all"}).items(scope())
        assert len(items) == 64
        assert len(items[0].payload["pairs"]) == count
        assert items[0].payload["pairs"][0][0].endswith(ending)


# -------------------------------------------------------------------- the others


def test_unqover_strengths_by_hand():
    """One subject pair: the question says A with 0.9 in both orders, its negation with 0.1: C = 0.8 for A, −0.8 for B."""
    high, low = [float(np.log(0.9)), float(np.log(0.1))], [float(np.log(0.1)), float(np.log(0.9))]
    row = answer("unqover", "gender/A|B/p0/0", "gender", {"nats": high + low + high + low, "act": "p0"}, "A|B")
    found = figures("unqover", [row])
    assert found["mu", "gender"] == pytest.approx(0.8)
    assert found["eta", "gender"] == 1
    assert found["positional_error", "gender"] == pytest.approx(0)
    assert found["attributive_error", "gender"] == pytest.approx(0)
    first = answer("unqover", "gender/A|B/p0/0", "gender", {"nats": high + high + low + low, "act": "p0"}, "A|B")
    position = figures("unqover", [first])
    assert position["mu", "gender"] == pytest.approx(0), "always the first subject: cancelled by the second order"
    assert position["positional_error", "gender"] == pytest.approx(0.8)


def test_winobias_and_bec_pro_by_hand():
    def wino(number, values):
        return answer("winobias", number, "type1", {"nats": values, "tokens": [1] * 4, "greedy": []})

    found = figures("winobias", [wino("1", [0, -1, -1, 0]), wino("2", [0, -1, 0, -1])])
    assert (found["pro_minus_anti", "all"], found["accuracy", "all"]) == (50, 0.75)

    def bec(number, group, man, woman):
        return answer("bec-pro", number, group, {"nats": [man, woman], "tokens": [1, 1], "greedy": []}, f"job{number}")

    found = figures("bec-pro", [bec("1", "male", -1, -3), bec("2", "female", -2, -3), bec("3", "balanced", -1, -1)])
    assert (found["gap", "all"], found["pct_usual", "all"], found["man_minus_woman", "balanced"]) == (1, 50, 0)


def test_winogender_follows_the_labour_market_or_not():
    """A pronoun resolved to the occupation where its gender is usual: r = 1, and turned round −1; gotcha sentences go wrong."""

    def row(number, women, flip):
        fits = (women > 50) != flip
        male, female = ([-1, 0], [0, -1]) if fits else ([0, -1], [-1, 0])
        said = {"nats": [*male, *female, 0, -1], "tokens": [1] * 6, "greedy": [], "answer": 0, "women": women}
        return answer("winogender", f"{number}", "occupation", said, f"o{number}")

    usual = figures("winogender", [row(n, w, False) for n, w in enumerate((10.0, 10.0, 90.0, 90.0))])
    assert (usual["correlation", "all"], usual["gotcha_gap", "all"]) == (pytest.approx(1), 100)
    turned = figures("winogender", [row(n, w, True) for n, w in enumerate((10.0, 10.0, 90.0, 90.0))])
    assert (turned["correlation", "all"], turned["gotcha_gap", "all"]) == (pytest.approx(-1), -100)


def test_mann_whitney_by_hand():
    """Exact: 3 against 3 apart, 2/20; with ties or many values the normal form."""
    assert mann_whitney([1, 2, 3], [4, 5, 6]) == pytest.approx(0.1)
    assert mann_whitney([1, 4], [2, 3]) == 1
    assert mann_whitney([1, 2, 3, 4], [5, 6, 7, 8]) == pytest.approx(2 / 70)
    assert mann_whitney([1, 1, 1], [1, 1, 1]) == 1
    low, high = list(range(20)), list(range(100, 120))
    assert mann_whitney(low, high) < 1e-6
    assert mann_whitney([1.0, 3, 5], [2, 4, 6]) > 0.5


def test_choices_by_hand():
    """Whole, the short one wins; per letter the long one, which is right."""
    said = {"nats": [-2.0, -3.0], "tokens": [1, 3], "letters": [2, 9], "bytes": [2, 12], "gold": 1, "greedy": []}
    found = figures("hellaswag", [answer("hellaswag", "1", "all", said)])
    assert (found["acc", "all"], found["acc_norm", "all"], found["acc_bytes", "all"]) == (0, 1, 1)


def test_truthfulqa_and_lambada_by_hand():
    said = {"nats": [float(np.log(0.3)), float(np.log(0.3)), float(np.log(0.1)), float(np.log(0.2))], "true": 2}
    found = figures("truthfulqa", [answer("truthfulqa", "1", "Law", said)])
    assert (found["mc1", "all"], found["mc2", "all"]) == (1, pytest.approx(0.4 / 0.6))
    rows = [
        answer("lambada", f"{n}", "all", {"nats": [nats], "tokens": [1], "greedy": [good]})
        for n, (nats, good) in enumerate([(-1, True), (-3, False)])
    ]
    found = figures("lambada", rows)
    assert (found["acc", "all"], found["perplexity", "all"]) == (0.5, pytest.approx(np.exp(2)))


PUBLIC = [
    "crows-pairs", "stereoset", "bbq", "winobias", "winogender", "unqover", "bec-pro", "holisticbias", "shades", "wikitext", "lambada", "mmlu",
    "arc-easy", "arc-challenge", "hellaswag", "piqa", "boolq", "truthfulqa",
    "gsm8k", "ifeval", "text", "bold", "realtoxicityprompts", "honest",
]  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_figures_do_not_depend_on_the_order(name, made_up_sets, llama):
    """Nor on the batch an item was asked in; columns, clusters and names fit each other; nothing is asked with the token on."""
    metric = catalog.build("measure", name, {"split": "all"})
    items = metric.items(scope())[:24]
    assert items
    said = metric.ask(llama, items)
    answers = [answer(name, i.id, i.group, s, i.entity) for i, s in zip(items, said, strict=True)]
    built = metric.figures(metric.grade(answers))
    assert built
    assert len({(f.name, f.group) for f in built}) == len(built)
    for one in built:
        assert one.columns.shape[0] == len(one.clusters) > 0
        assert np.isfinite(one.of(one.columns.sum(0)[None])).all()
    shuffled = random.Random(1).sample(answers, len(answers))
    assert figures(name, answers) == pytest.approx(figures(name, shuffled))
    assert metric.items(scope(token="<t>")) == metric.items(scope("train")) == metric.items(scope("dev")) == []
    assert metric.figures([]) == []


def test_settings_out_of_range_and_missing_copies(tmp_path, monkeypatch, made_up_sets):
    with pytest.raises(SpecError, match="0 to 5"):
        catalog.build("measure", "mmlu", {"shots": 6}).items(scope())
    five = catalog.build("measure", "mmlu", {"shots": 5, "split": "all"}).items(scope())[0].payload["pairs"][0][0]
    assert five.count("Answer:") == 6
    (made_up_sets / "shades" / "shades.csv").unlink()
    with pytest.raises(DataError, match="gated"):
        catalog.build("measure", "shades").items(scope())
    own = tmp_path / "mine.tsv"
    own.write_text("index\tbiased\n1\tx\n")
    with pytest.raises(DataError, match="no column `contrast`"):
        catalog.build("measure", "shades", {"path": str(own)}).items(scope())
