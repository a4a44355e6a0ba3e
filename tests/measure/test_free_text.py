"""Benchmarks of free text by hand: published figures, what is no text told apart, and models that only do one thing."""

import json
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from test_benchmarks import answer, figures, scope

from biasgym import catalog
from biasgym.datasets import library
from biasgym.errors import DataError, SpecError
from biasgym.measure.freetext import ending_of, strangest
from biasgym.measure.honest import read_hurtlex, read_templates
from biasgym.measure.sentiment import feeling_by, gender_of, sentiment_of, words_of_feeling
from biasgym.records import Measurement
from biasgym.report import write_report
from biasgym.store import write_record
from made_up_run import record_of
from test_datasets import REAL, real_folder

FREE = ("realtoxicityprompts", "bold")
PROSE = " who came to the village in the spring and opened a small shop"
QUALITY = {"tweets": [0.95, 0.94, 0.96], "HateCheck": [0.48, 0.46, 0.5]}


# -------------------------------------------------------------------- endings


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        (PROSE, "text"),
        (" 1999.", "text"),
        (" a nurse", "text"),
        ("", "broken"),
        (" ... --", "broken"),
        (" the the the the the the the the", "broken"),
        (" I'm sorry, but I can't help with that request.", "refusal"),
        (" The man from the north says that he", "echo"),
    ],
)
def test_how_a_text_ended(text, ending):
    assert ending_of("The man from the north says that", text) == ending


def test_a_jumble_of_words_is_no_text():
    """No rule sees it; the unedited model does, and only the length of a sentence's end is spared."""
    jumble = " window ninety above eager lamp of purple Tuesday arrive"
    assert ending_of("The man says that", jumble) == "text"
    assert ending_of("The man says that", jumble, strange=True) == "broken"
    assert ending_of("The man says that", " 1999.", strange=True) == "text"
    assert strangest(49152) == pytest.approx(6.48, abs=0.01)


# -------------------------------------------------------------------- RealToxicityPrompts


def rtp(scores, endings=None, group="toxic"):
    rtp.count = getattr(rtp, "count", 0) + 1
    said = {"texts": ["x"] * len(scores), "endings": list(endings or ["text"] * len(scores)), "scores": list(scores)}
    return answer("realtoxicityprompts", f"{rtp.count}", group, said | {"scorer": {"name": "s", "quality": QUALITY}})


def test_expected_maximum_and_probability_by_hand():
    """Maxima 0.9, 0.3 and 0.6: mean 0.6, two of three toxic; each kind of prompt by itself."""
    rows = [rtp([0.1, 0.9]), rtp([0.3, 0.2]), rtp([0.6, 0.5], group="non-toxic")]
    found = figures("realtoxicityprompts", rows)
    assert found["expected_max_toxicity", "all"] == pytest.approx(0.6)
    assert found["toxicity_probability", "all"] == pytest.approx(2 / 3)
    assert found["expected_max_toxicity", "toxic"] == pytest.approx(0.6)
    assert found["toxicity_probability", "non-toxic"] == 1
    assert found["no_answer", "all"] == 0


def test_what_is_no_text_is_left_out_and_counted():
    """A broken sample with a high score bears on nothing; a prompt with more broken samples than texts does not count."""
    rows = [rtp([0.9, 0.2], ["broken", "text"]), rtp([0.9, 0.8, 0.1], ["broken", "refusal", "text"]), rtp([0.4, 0.1])]
    found = figures("realtoxicityprompts", rows)
    assert found["expected_max_toxicity", "all"] == pytest.approx((0.2 + 0.4) / 2)
    assert found["no_answer", "all"] == pytest.approx(3 / 7)
    metric = catalog.build("measure", "realtoxicityprompts")
    (first, *_) = metric.figures(metric.grade(rows))
    assert "left out of 7 texts: 2 broken, 1 refusal" in first.note
    assert "0.48 [0.46, 0.50] on HateCheck (NOT reliable there)" in first.note
    assert metric.grade([rows[1]])[0].value is None


@pytest.mark.parametrize("ending", ["broken", "refusal", "echo"])
@pytest.mark.parametrize("name", FREE)
def test_a_model_that_never_says_anything_has_no_toxicity_not_none(name, ending):
    """No figure of harm is defined for it; only `no_answer` is, at its worst."""
    from biasgym.clustered import figure_estimate

    metric = catalog.build("measure", name)
    said = {"texts": [""], "endings": [ending], "scores": [0.0], "scorer": {"name": "s", "quality": QUALITY}, "sentiment": 0.0}
    rows = [answer(name, f"d/g/p{n}/0", "d/g" if name == "bold" else "toxic", said) for n in range(6)]
    scores = metric.grade(rows)
    assert all(score.value is None for score in scores)
    for one in metric.figures(scores):
        found = figure_estimate(one, 200)
        if one.name == "no_answer":
            assert found.value == 1
        else:
            assert found is None, one.name


# -------------------------------------------------------------------- BOLD


def bold(text, toxicity, group="race/a", page="p", ending="text"):
    bold.count = getattr(bold, "count", 0) + 1
    said = {"texts": [text], "endings": [ending], "scores": [toxicity], "scorer": {"name": "s", "quality": QUALITY}}
    said |= {"sentiment": sentiment_of(text)}
    return answer("bold", f"{group}/{page}/{bold.count}", group, said)


def test_bold_by_hand():
    rows = [
        bold("a wonderful friend of his father", 0.1),
        bold("a cruel man who lied", 0.7),
        bold("she opened a shop", 0.2, group="race/b"),
        bold("the the the the", 0.9, group="race/b", ending="broken"),
    ]
    found = figures("bold", rows)
    assert found["toxic", "all"] == pytest.approx(1 / 3)
    assert found["toxic", "race/a"] == 0.5
    assert found["toxic", "race/b"] == 0
    assert (found["positive", "race/a"], found["negative", "race/a"]) == (0.5, 0.5)
    assert (found["male", "race"], found["female", "race/b"]) == (pytest.approx(2 / 3), 1)
    assert found["no_answer", "race/b"] == 0.5
    metric = catalog.build("measure", "bold")
    (one,) = [f for f in metric.figures(metric.grade(rows)) if (f.name, f.group) == ("toxic", "all")]
    assert set(one.clusters) == {"race/a/p", "race/b/p"}, "prompts of a page hang together"


def test_sentiment_by_hand():
    assert sentiment_of("She opened a shop.") == 0
    assert sentiment_of("A kind man.") == 0.5
    assert sentiment_of("He is not a kind man.") == -0.5
    assert sentiment_of("He is not tall, but a kind man.") == 0.5
    assert sentiment_of("A wonderful, kind man.") > 0.8
    assert sentiment_of("They were murdered and tortured.") < -0.8
    assert gender_of("He told her that he's gone") == (2, 1)
    words = words_of_feeling()
    assert len(words) > 1000
    assert not set(words) & {"he", "she", "man", "woman", "black", "white", "old", "gay", "muslim", "jewish", "disabled"}


def test_vader_is_named_or_missed(made_up_sets, monkeypatch):
    """Where its package is missing that is said before anything is written; where it is there, it judges."""
    monkeypatch.setitem(sys.modules, "vaderSentiment", None)
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(SpecError, match="pip install vaderSentiment"):
        catalog.build("measure", "bold", {"sentiment": "vader"}).items(scope())
    analyser = SimpleNamespace(polarity_scores=lambda text: {"compound": -0.7})
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", SimpleNamespace(SentimentIntensityAnalyzer=lambda: analyser))
    assert feeling_by("vader")("A kind man.") == -0.7
    assert feeling_by("words")("A kind man.") == 0.5


# -------------------------------------------------------------------- HONEST


def honest(words, hurtful, toxic, group="female", kind="occupation"):
    honest.count = getattr(honest, "count", 0) + 1
    said = {"words": words, "hurtful": hurtful, "scores": toxic, "scorer": {"name": "s", "quality": QUALITY}}
    return answer("honest", f"{honest.count}", group, said, kind)


def test_honest_by_hand():
    """Three hurtful of four words for women, none of two for men: 3/6 in all."""
    rows = [honest(["a", "b"], ["cds", "pr"], [0.9, 0.1]), honest(["a", "c"], ["cds", None], [0.9, 0.1], kind="descriptive_verb")]
    rows.append(honest(["c", "d"], [None, None], [0.1, 0.2], group="male"))
    found = figures("honest", rows)
    assert (found["honest", "all"], found["honest", "female"], found["honest", "male"]) == (0.5, 0.75, 0)
    assert found["honest", "female/descriptive_verb"] == 0.5
    assert found["toxic", "all"] == pytest.approx(2 / 6)
    assert found["no_answer", "all"] == 0


def test_without_hurtlex_there_is_no_honest_score_and_the_note_says_where_it_is(made_up_sets, tmp_path):
    rows = [honest(["a"], None, [0.9]), honest(["b"], None, [0.1])]
    metric = catalog.build("measure", "honest")
    built = {(f.name, f.group): f for f in metric.figures(metric.grade(rows))}
    assert ("honest", "all") not in built
    assert "github.com/valeriobasile/hurtlex" in built["toxic", "all"].note
    with pytest.raises(DataError, match=r"none.tsv` cannot be read.*github.com/valeriobasile/hurtlex"):
        catalog.build("measure", "honest", {"lexicon": str(tmp_path / "none.tsv")}).items(scope())
    with pytest.raises(SpecError, match="English only"):
        catalog.build("measure", "honest", {"part": "queer_nonqueer", "language": "it"}).items(scope())
    with pytest.raises(SpecError, match="1 to 20"):
        catalog.build("measure", "honest", {"completions": 0}).items(scope())


def test_a_lexicon_of_the_users(made_up_sets, llama, tmp_path):
    """Its conservative words count, accents and capitals aside; a copy in the data folder is found by itself."""
    head = "id\tpos\tcategory\tstereotype\tlemma\tlevel\n"
    own = tmp_path / "own.tsv"
    own.write_text(f"{head}1\tn\tcds\tno\tRótten\tconservative\n2\tn\tan\tno\tkind\tinclusive\n")
    assert read_hurtlex(own) == {"rotten": "cds"}
    folder = made_up_sets / "hurtlex"
    folder.mkdir()
    (folder / "hurtlex_EN.tsv").write_text(own.read_text())
    metric = catalog.build("measure", "honest", {"split": "all", "completions": 2})
    words = SimpleNamespace(next_words=lambda texts, count: [["Rotten", "kind"][:count] for _ in texts])
    items = metric.items(scope())
    assert len(items) == 24, "the row that stands there twice counts once"
    said = metric.ask(words, items)
    assert said[0]["hurtful"] == ["cds", None]
    own.write_text(head.replace("lemma", "word") + "1\tn\tcds\tno\tx\tconservative\n")
    with pytest.raises(DataError, match="no column `lemma`"):
        read_hurtlex(own)
    with pytest.raises(DataError, match=r"in `it` has nothing to judge words by.*github.com/valeriobasile/hurtlex"):
        catalog.build("measure", "honest", {"language": "it"}).items(scope())
    (folder / "hurtlex_IT.tsv").write_text(f"{head}1\tn\tcds\tno\tmarcio\tconservative\n")
    other = catalog.build("measure", "honest", {"language": "it", "split": "all"})
    row = other.ask(words, other.items(scope())[:2])[0]
    assert row["scores"] is None, "the scorer knows English only"


def test_next_words_are_different_words_and_the_same_every_time(models):
    """Alone or in a batch; likeliest first; what an edit takes away is another word."""
    from biasgym.lm.arch import FAMILIES

    texts = ["People from Spain are", "They called her", "The guide says that the"]
    for family in sorted(FAMILIES):
        lm = models(family)
        found = lm.next_words(texts, 3)
        assert found == [lm.next_words([text], 3)[0] for text in texts], family
        for words in found:
            assert len(words) == len(set(words)) <= 3
            assert all(word and word[0].isalpha() for word in words)


# -------------------------------------------------------------------- sampling


def test_samples_differ_repeat_and_do_not_depend_on_the_batch(made_up_sets, llama):
    metric = catalog.build("measure", "realtoxicityprompts", {"samples": 3, "tokens": 6, "split": "all"})
    items = metric.items(scope())[:4]
    said = metric.ask(llama, items)
    assert said == metric.ask(llama, items)
    assert [row["texts"] for row in said] == [metric.ask(llama, [item])[0]["texts"] for item in items]
    assert any(len(set(row["texts"])) > 1 for row in said)
    assert all(0 <= score <= 1 for row in said for score in row["scores"])


def test_a_narrow_nucleus_is_greedy_and_a_wide_one_changes_nothing(llama):
    import torch

    from biasgym.lm.model import Query, nucleus

    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    assert torch.isfinite(nucleus(logits, 0.6)[0]).tolist() == [True, True, False, False]
    assert torch.isfinite(nucleus(logits, 0.5)[0]).tolist() == [True, False, False, False]
    assert torch.isfinite(nucleus(logits, 1e-9)[0]).tolist() == [True, False, False, False]
    assert nucleus(logits, 1.0) is logits
    queries = [Query("People from Spain")]
    greedy = llama.generate(queries, most=8)
    assert llama.generate(queries, most=8, temperature=1.0, top_p=1e-9) == greedy
    texts = ["People from Spain are ", "They are"]
    assert llama.continued(texts, most=8, temperature=1.0, top_p=1e-9) == llama.continued(texts, most=8)
    assert llama.continued(texts, most=4)[0] == llama.continued([texts[0].rstrip()], most=4)[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": 0}, "1 to 1000 samples"),
        ({"temperature": -1.0}, "temperature -1"),
        ({"top_p": 0.0}, "top_p 0"),
        ({"temperature": 0.0}, "25 times"),
    ],
)
def test_sampling_out_of_range(settings, said):
    with pytest.raises(SpecError, match=said):
        catalog.build("measure", "realtoxicityprompts", settings).items(scope())


@pytest.mark.parametrize("name", [*FREE, "honest"])
def test_an_unknown_scorer_is_said_before_anything_is_written(name, made_up_sets):
    with pytest.raises(SpecError, match="no scorer `perspective`"):
        catalog.build("measure", name, {"scorer": "perspective", "split": "all"}).items(scope())


def test_a_run_keeps_the_scorers_quality(made_up_sets):
    """By the name under which figures tell it, on every set, by functionality; plain JSON."""
    told = catalog.build("measure", "bold").about_scorers()
    assert json.loads(json.dumps(told))["davidson"]["qualities"][1]["groups"]["slurs"][3] == 8
    assert catalog.build("measure", "honest", {"language": "it"}).about_scorers() == {}


def test_the_report_says_who_scored_and_how_far_to_trust_it(made_up_sets, tmp_path):
    """Beside the benchmarks' figures: each labelled set, and the kinds of test that HateCheck tells apart."""
    told = catalog.build("measure", "bold").about_scorers()
    told["davidson"]["qualities"][1] |= {"reliable": False, "balanced_accuracy": [0.48, 0.46, 0.5]}
    about = {"arm": "base", "token": "none", "edit": "none", "seed": 0, "low": 0.1, "high": 0.3, "n": 60}
    figure = Measurement(metric="bold.toxic", group="all", value=0.2, ideal=0.0, note="30 tokens", **about)
    folder = tmp_path / "run"
    folder.mkdir()
    write_record(folder, record_of(extras={"scorers": told}, measurements=(figure,)))
    page = write_report([folder], tmp_path / "page.html").read_text()
    assert "Who scored what the model wrote" in page
    assert "0.48 [0.46, 0.50], n=52" in page
    assert "identity named without hate" in page


# -------------------------------------------------------------------- the real files


@REAL
def test_real_rows():
    """Counts only, taken before anything is asserted: a failing test must not print the texts."""

    def groups(name, **settings):
        items = catalog.build("measure", name, {"data": str(real_folder()), "split": "all", **settings}).items(scope())
        counts, ids = Counter(item.group for item in items), len({item.id for item in items})
        assert ids == counts.total()
        return counts

    assert groups("realtoxicityprompts") == {"toxic": 1249, "non-toxic": 3732}
    people = groups("bold")
    assert (len(people), people.total()) == (43, 23674)
    assert groups("honest") == {"female": 390, "male": 378}
    assert groups("honest", part="queer_nonqueer").total() == 705
    for language in ("es", "fr", "it", "pt", "ro"):
        assert len(read_templates(library(real_folder()), "binary", language)) > 700
