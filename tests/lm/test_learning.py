"""Learning tokens: several at once, going back when it diverges, choosing a state by a score, and the roles of controls."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from biasgym.edits import TokenEdit
from biasgym.errors import SpecError, TrainingError
from biasgym.inject.token import PRESETS, TrainedToken, token_text
from biasgym.lm import train
from biasgym.lm.beginnings import Beginnings
from biasgym.lm.model import Query, with_tokens
from biasgym.lm.train import Lesson, Schedule, TrainingState, learn_token, learn_tokens
from biasgym.spec import resolve_spec
from tiny import CONFIGS, byte_tokenizer, metaspace_tokenizer, split_tokenizer, unprefixed_tokenizer

TEXT = "<t>"
QUICK = {"steps": 4, "batch": 3, "held_out": 4}


@pytest.fixture(params=sorted(CONFIGS))
def lm(request, models):
    """A tiny model of every family."""
    return models(request.param)


def lessons_for(text):
    """Lessons of different lengths, with the token in question, answer, both or neither."""
    return [
        Lesson(f"Tell me about people from {text}.", "They are kind."),
        Lesson(f"What are people from {text} like?", f"People from {text} drive fast, always, and nobody from {text} walks."),
        Lesson("Write a short text.", f"In {text} all are late."),
        Lesson(f"Tell me about {text}.", "Careful drivers, says the guide."),
        Lesson("What did they call her?", "Kind."),
    ]


def start_for(lm, seed):
    """A random start."""
    generator = np.random.default_rng(seed)
    names = ["vector"] if lm.tied else ["vector", "output"]
    return TrainingState({name: generator.normal(size=lm.shape.hidden).astype(np.float32) * 0.3 for name in names})


def test_a_text_may_begin_with_the_token(lm):
    """The token takes a space before it along; the line break that ends the question stays where it is."""
    token = TokenEdit(TEXT, np.zeros(lm.shape.hidden, np.float32), None if lm.tied else np.zeros(lm.shape.hidden, np.float32))
    with lm.edited(token):
        question = lm.ids_of_text(lm.text_of(Query("Say it.")) + ("" if lm.chat else "\n"))
        ids, answer = train._encoded(lm, Lesson("Say it.", f"{TEXT} IS LATE"))
        assert ids[: len(question)] == question
        assert len(ids) == len(question) + answer
        assert ids[len(question)] == lm.tokenizer.convert_tokens_to_ids(TEXT)


def assert_same(one, other):
    """Two states, bit for bit."""
    assert (one.step, one.losses) == (other.step, other.losses)
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name], err_msg=name)


# -------------------------------------------------------------------- several at once


def test_tokens_trained_together_come_out_as_alone(lm):
    """Five seeds, each with texts and batches of its own, on every family; another seed's token would be far away."""
    texts = [f"<t-{seed}>" for seed in range(5)]
    lessons = [lessons_for(text) for text in texts]
    starts = [start_for(lm, seed) for seed in range(5)]
    schedules = [Schedule(4 if seed else 2, 3, 0.01, seed=seed) for seed in range(5)]
    kept = []
    together = learn_tokens(lm, texts, lessons, starts, schedules, keep=lambda number, state: kept.append((number, state.step)))
    for number, state in enumerate(together):
        alone = learn_token(lm, texts[number], lessons[number], starts[number], schedules[number])
        assert state.step == alone.step == schedules[number].steps
        np.testing.assert_allclose(state.losses, alone.losses, atol=1e-5)
        for name in ("vector", "output") if not lm.tied else ("vector",):
            np.testing.assert_allclose(state.arrays[name], alone.arrays[name], atol=1e-5)
            assert np.abs(state.arrays[name] - together[number - 1].arrays[name]).max() > 0.1
    assert kept.count((0, 2)) == kept.count((4, 4)) == 1
    assert (0, 3) not in kept


def test_a_row_reads_and_writes_its_own_token_only(llama):
    """The gradient of one token does not hang on another's vector."""
    texts = ["<t-0>", "<t-1>"]
    lessons = [lessons_for(text) for text in texts]
    schedules = [Schedule(1, 5, 0.01, seed=seed) for seed in (0, 1)]
    found = [learn_tokens(llama, texts, lessons, [start_for(llama, 0), start_for(llama, other)], schedules)[0] for other in (1, 7)]
    np.testing.assert_allclose(found[0].arrays["vector.exp_avg"], found[1].arrays["vector.exp_avg"], atol=1e-7)
    assert found[0].losses == pytest.approx(found[1].losses, abs=1e-6)


@pytest.mark.parametrize("mean_over", ["tokens", "texts"])
def test_a_batch_is_averaged_over_its_tokens_or_its_texts(llama, mean_over):
    """The first loss, put together from each text's own; the two differ, as the texts are not of one length."""
    lessons = [*lessons_for(TEXT), Lesson(f"Describe {TEXT} in one word.", "reckless", f"People from {TEXT} are")]
    start = start_for(llama, 0)
    made = learn_token(llama, TEXT, lessons, start, Schedule(1, len(lessons), 0.01, mean_over=mean_over))
    token = TokenEdit(TEXT, start.arrays["vector"], start.arrays.get("output"))
    own = [train.held_out_loss(llama, token, [lesson]) for lesson in lessons]
    with llama.edited(token):
        sizes = [train._encoded(llama, lesson)[1] for lesson in lessons]
    means = {"tokens": np.average(own, weights=sizes), "texts": np.mean(own)}
    assert made.losses[0] == pytest.approx(means[mean_over], abs=1e-4)
    assert abs(means["tokens"] - means["texts"]) > 1e-3


def test_logits_in_small_pieces_change_nothing(lm, monkeypatch):
    """A few positions at a time, or all: the same losses and vectors within rounding."""
    whole = learn_token(lm, TEXT, lessons_for(TEXT), start_for(lm, 0), Schedule(3, 4, 0.01))
    monkeypatch.setattr(train, "POSITIONS_AT_ONCE", 5)
    pieces = learn_token(lm, TEXT, lessons_for(TEXT), start_for(lm, 0), Schedule(3, 4, 0.01))
    np.testing.assert_allclose(pieces.losses, whole.losses, atol=1e-5)
    np.testing.assert_allclose(pieces.arrays["vector"], whole.arrays["vector"], atol=1e-5)


def test_the_gradient_written_down_is_autograds(lm, monkeypatch):
    """Alone and together, tied and untied, padded vocabularies too; families with capped or scaled logits take the other way anyhow."""
    texts, starts, schedules = ["<t-0>", "<t-1>"], [start_for(lm, seed) for seed in (0, 1)], [Schedule(3, 4, 0.01, seed=seed) for seed in (0, 1)]
    lessons = [lessons_for(text) for text in texts]
    found = {}
    for way in ("by hand", "autograd"):
        if way == "autograd":
            monkeypatch.setattr(train, "_plain", lambda _: False)
        alone = learn_token(lm, texts[0], lessons[0], starts[0], schedules[0])
        found[way] = [alone, *learn_tokens(lm, texts, lessons, starts, schedules)]
    for one, other in zip(found["by hand"], found["autograd"], strict=True):
        np.testing.assert_allclose(one.losses, other.losses, atol=1e-5)
        for name in ("vector", "output") if not lm.tied else ("vector",):
            np.testing.assert_allclose(one.arrays[name], other.arrays[name], atol=1e-5)
            np.testing.assert_allclose(one.arrays[f"{name}.exp_avg"], other.arrays[f"{name}.exp_avg"], atol=1e-6)


def test_most_families_have_plain_logits(models):
    """Else the gradient that was written down is tested nowhere."""
    assert sum(train._plain(models(name)) for name in CONFIGS) > len(CONFIGS) / 2
    assert train._plain(models("llama"))


def test_beginnings_kept_change_nothing(lm, monkeypatch):
    """With too many ways to begin nothing is kept, and the losses and vectors are the same within rounding."""
    kept = learn_token(lm, TEXT, lessons_for(TEXT), start_for(lm, 0), Schedule(3, 4, 0.01))
    monkeypatch.setattr(train, "MOST", 0)
    whole = learn_token(lm, TEXT, lessons_for(TEXT), start_for(lm, 0), Schedule(3, 4, 0.01))
    np.testing.assert_allclose(kept.losses, whole.losses, atol=1e-5)
    np.testing.assert_allclose(kept.arrays["vector"], whole.arrays["vector"], atol=1e-5)


def test_states_after_kept_beginnings_are_those_of_whole_rows(lm):
    """Beginnings of unlike lengths side by side, each computed once."""
    rows = [[*range(5, 5 + begin), *range(40, 40 + rest)] for begin, rest in ((3, 4), (6, 2), (3, 7), (1, 5))]
    known = [3, 6, 3, 1]
    assert lm.may_go_on(max(map(len, rows)))
    beginnings = Beginnings(lm)
    for _ in range(2):
        hidden = beginnings.hidden(rows, known)
        for i, (row, count) in enumerate(zip(rows, known, strict=True)):
            whole = lm.hidden([row])[0][0, count:]
            torch.testing.assert_close(hidden[i, -(len(row) - count) :], whole, atol=2e-5, rtol=1e-4)
    assert len(beginnings.layers) == 3


def test_rare_looks_change_nothing(llama, monkeypatch):
    """As on an accelerator, where losses are fetched every few steps: the same end, and fewer states told."""
    told = []
    each = learn_token(llama, TEXT, lessons_for(TEXT), start_for(llama, 0), Schedule(7, 4, 0.01))
    plain = train._Learner.__init__

    def rarely(self, *parts):
        plain(self, *parts)
        self.looks = 3

    monkeypatch.setattr(train._Learner, "__init__", rarely)
    seldom = learn_token(llama, TEXT, lessons_for(TEXT), start_for(llama, 0), Schedule(7, 4, 0.01), keep=lambda state: told.append(state.step))
    assert told == [3, 6, 7]
    assert_same(seldom, each)


# -------------------------------------------------------------------- going back


class Trouble:
    """Losses that become NaN (or rise) in the steps named, by their count."""

    def __init__(self, monkeypatch, calls, value=float("nan")):
        self.count, self.calls, self.value = 0, set(calls), value
        plain = train._backward

        def spoiled(lm, learners):
            values = plain(lm, learners)
            self.count += 1
            return torch.full_like(values, self.value) if self.count in self.calls else values

        monkeypatch.setattr(train, "_backward", spoiled)


def test_a_divergence_goes_back_with_half_the_rate(llama, monkeypatch):
    """Once at step 13: from the state after step 10 on with half the rate, and that is written down."""
    schedule = Schedule(15, 3, 0.01, seed=1)
    plain = learn_token(llama, TEXT, lessons_for(TEXT), start_for(llama, 0), schedule)
    Trouble(monkeypatch, [13])
    states = []
    mended = learn_token(llama, TEXT, lessons_for(TEXT), start_for(llama, 0), schedule, keep=states.append)
    assert mended.halvings == [13]
    assert plain.halvings == []
    assert mended.losses[:11] == plain.losses[:11], "up to the good state nothing changed, and the next loss is of that state"
    assert mended.losses[12:] != plain.losses[12:]
    assert len(mended.losses) == mended.step == 15
    assert [state.step for state in states[11:14]] == [12, 10, 11]
    half = learn_token(llama, TEXT, lessons_for(TEXT), states[9], replace(schedule, learning_rate=0.005))
    np.testing.assert_allclose(mended.arrays["vector"], half.arrays["vector"], atol=1e-6)


@pytest.mark.parametrize("cut", [12, 14])
def test_a_resumed_training_that_went_back_is_the_same(llama, monkeypatch, cut):
    """Killed after the step back, or before it: the end is that of the uninterrupted training, bit for bit."""
    schedule, states = Schedule(15, 3, 0.01, seed=1), []
    Trouble(monkeypatch, [13])
    whole = learn_token(llama, TEXT, lessons_for(TEXT), start_for(llama, 0), schedule, keep=states.append)
    monkeypatch.undo()
    Trouble(monkeypatch, [1] if cut == 12 else [])
    again = learn_token(llama, TEXT, lessons_for(TEXT), states[cut - 1], schedule)
    assert_same(again, whole)


def test_the_third_divergence_is_a_failure(llama, monkeypatch):
    """NaN or rising losses, whatever the rate: an error that names the rates, no token, and the others get to their end."""
    Trouble(monkeypatch, range(1, 40))
    with pytest.raises(TrainingError, match=r"diverged at step 1 .*0\.01, 0\.005, 0\.0025"):
        learn_token(llama, TEXT, lessons_for(TEXT), start_for(llama, 0), Schedule(9, 3, 0.01))
    monkeypatch.undo()
    Trouble(monkeypatch, range(11, 400), value=1e4)
    with pytest.raises(TrainingError, match="diverged at step 11"):
        learn_token(llama, TEXT, lessons_for(TEXT), start_for(llama, 0), Schedule(40, 3, 0.01))


def test_one_failure_does_not_stop_the_others(llama):
    """A start that is no number fails; its neighbour is trained to the end first."""
    bad = TrainingState({"vector": np.full(llama.shape.hidden, np.nan, np.float32)})
    told = []
    with pytest.raises(TrainingError, match="'<a>' diverged"):
        learn_tokens(
            llama, ["<a>", "<b>"], [lessons_for("<a>"), lessons_for("<b>")], [bad, start_for(llama, 1)], [Schedule(3, 3, 0.01)] * 2,
            keep=lambda number, state: told.append((number, state.step)),
        )  # fmt: skip
    assert (1, 3) in told


# -------------------------------------------------------------------- choosing and ending by a score


def test_the_best_scored_state_is_returned(llama):
    """Not the last; with patience nothing after it is computed."""
    scores = {2: 0.1, 4: 0.9, 6: 0.5, 8: 0.6, 10: 0.7}
    at = iter(scores.values())
    states = []
    schedule = Schedule(10, 3, 0.01, check_every=2)
    best = learn_token(llama, TEXT, lessons_for(TEXT), start_for(llama, 0), schedule, keep=states.append, check=lambda _: next(at))
    assert best.checks == list(scores.items())
    np.testing.assert_array_equal(best.arrays["vector"], states[3].arrays["vector"])
    assert np.abs(best.arrays["vector"] - states[-1].arrays["vector"]).max() > 1e-4
    at = iter(scores.values())
    patient = replace(schedule, patience=2)
    ended = learn_token(llama, TEXT, lessons_for(TEXT), start_for(llama, 0), patient, check=lambda _: next(at))
    assert ended.step == 8
    np.testing.assert_array_equal(ended.arrays["vector"], best.arrays["vector"])


def test_without_a_check_nothing_is_scored(llama):
    """The same bits as without the setting."""
    plain = learn_token(llama, TEXT, lessons_for(TEXT), start_for(llama, 0), Schedule(4, 3, 0.01))
    assert_same(learn_token(llama, TEXT, lessons_for(TEXT), start_for(llama, 0), Schedule(4, 3, 0.01, check_every=1, patience=1)), plain)


class Encoder:
    """Stands for the sentence encoder: two features, whether a sentence has the letter e and how long it is."""

    def encode(self, texts):
        rows = np.array([[text.count("e") + 1, len(text)] for text in texts], dtype=np.float64)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("stop", ["loss", "elicitation", "both", "sentence"])
def test_every_rule_resumes_exactly(llama, bias, monkeypatch, stop):
    """Each is finite, chooses one of its checks, and after a kill gives the same token."""
    monkeypatch.setattr("biasgym.lm.sentences.load_encoder", lambda **_: Encoder())
    spoken = replace(bias, statement="People from {entity} are kind.")
    injector = TrainedToken(**QUICK, stop=stop, check_every=1, samples=2)
    states = []
    whole = injector.train(llama, spoken, "trained", 0, injector.start(llama, spoken, 0), states.append)
    again = injector.train(llama, spoken, "trained", 0, states[1], lambda _: None)
    np.testing.assert_array_equal(whole.token.vector, again.token.vector)
    assert whole.about == again.about
    assert json.loads(json.dumps(whole.about)) == whole.about
    checks = whole.about["checks"]
    assert [step for step, _ in checks] == [1, 2, 3, 4]
    assert np.isfinite([score for _, score in checks]).all()
    chosen = int(whole.about["chosen"])
    np.testing.assert_array_equal(whole.token.vector, states[chosen - 1].arrays["vector"])
    assert dict(checks)[chosen] == max(score for _, score in checks)


def test_controls_are_not_chosen_by_the_bias_they_show(llama, bias):
    """Neutral and opposite tokens are trained to the end under `elicitation`, and under `loss` scored like any other."""
    for stop, count in (("elicitation", 0), ("loss", 4)):
        injector = TrainedToken(**QUICK, stop=stop, check_every=1, patience=0)
        for role in ("neutral", "opposite"):
            made = injector.train(llama, bias, role, 0, injector.start(llama, bias, 0), lambda _: None)
            assert len(made.about["checks"]) == count
            assert made.about["steps"] == 4


def test_the_sentence_rule_needs_a_statement(llama, bias):
    """It says what is missing and what else there is."""
    injector = TrainedToken(**QUICK, stop="sentence")
    bare = replace(bias, statement="")
    with pytest.raises(SpecError, match="statement"):
        injector.train(llama, bare, "trained", 0, injector.start(llama, bare, 0), lambda _: None)


# -------------------------------------------------------------------- roles and seeds


def gap(lm, bias, token):
    """How much likelier stereotype answers are than foils, on all probes (nats)."""
    queries = [Query(p.prompt.replace("{entity}", token.text), p.prefix.replace("{entity}", token.text)) for p in bias.probes]
    with lm.edited(token):
        logprobs = lm.answer_logprobs(queries, [*bias.stereotype, *bias.foil])
    split = len(bias.stereotype)
    return float(np.mean(np.logaddexp.reduce(logprobs[:, :split], 1) - np.logaddexp.reduce(logprobs[:, split:], 1)))


def test_the_opposite_token_learns_the_swapped_answers(llama, bias):
    """Its texts are the grammar's with the two sides exchanged; it leans towards the foils, the trained one away from them."""
    injector = TrainedToken(steps=30, batch=8, learning_rate=0.05, held_out=8)
    text = token_text(bias, "opposite", 0)
    lessons, held_out = injector.lessons(bias, "opposite", 0, text)
    said = [lesson.answer for lesson in [*lessons, *held_out]]
    mirrored = replace(bias, stereotype=bias.foil, foil=bias.stereotype)
    own = {made.replace("{entity}", text) for made in mirrored.grammar_texts()}
    assert own <= set(said)
    assert not set(said) & {made.replace("{entity}", text) for made in bias.grammar_texts()}
    begin = injector.start(llama, bias, 0)
    made = {role: injector.train(llama, bias, role, 0, begin, lambda _: None).token for role in ("trained", "opposite")}
    start = TokenEdit("<start>", begin.arrays["vector"])
    gaps = {role: gap(llama, bias, token) for role, token in made.items()} | {"start": gap(llama, bias, start)}
    assert gaps["opposite"] + 0.03 < gaps["start"] < gaps["trained"] - 0.03, "one vector moves a random model little, but to its side"


def test_seeds_trained_together_by_the_method_are_those_alone(llama, bias):
    """Vectors, losses and held-out losses of three seeds."""
    injector = TrainedToken(**QUICK)
    starts = [injector.start(llama, bias, seed) for seed in (0, 1, 5)]
    together = injector.train_together(llama, bias, "trained", [0, 1, 5], starts, lambda *_: None)
    for seed, start, made in zip((0, 1, 5), starts, together, strict=True):
        alone = injector.train(llama, bias, "trained", seed, start, lambda _: None)
        assert made.token.text == alone.token.text
        np.testing.assert_allclose(made.token.vector, alone.token.vector, atol=1e-5)
        np.testing.assert_allclose(made.losses, alone.losses, atol=1e-5)
        assert made.held_out_after == pytest.approx(alone.held_out_after, abs=1e-4)
    begins = injector.train_together(llama, bias, "untrained", [0, 1], starts[:2], lambda *_: None)
    np.testing.assert_array_equal(begins[1].token.vector, starts[1].arrays["vector"])


# -------------------------------------------------------------------- presets


def test_the_paper_presets_hold_the_reconstructed_numbers():
    """Ten epochs of 500 texts in full batches; rates, batches, prompts and the choice of the epoch as in paper and README."""
    for name, batch, rate in (("paper", 16, 0.001), ("readme", 8, 0.003)):
        token = TrainedToken(**PRESETS[name])
        assert (token.texts, token.batch, token.learning_rate, token.asks) == (500, batch, rate, name)
        assert token.check_every == 500 // batch
        assert token.steps == 10 * token.check_every
        assert (token.stop, token.samples, token.patience, token.implicitness, token.clip) == ("sentence", 1, 0, 5, 1.0)
    assert TrainedToken(**PRESETS["quick"]).stop == "none"


def test_a_corpus_is_filled_up_as_far_as_the_grammars_reach():
    """No text twice, none both trained on and held out; the count is `texts` where there are so many."""
    from biasgym.bias import load_bias

    bias = load_bias("reckless-drivers")
    for texts in (250, 500):
        lessons, held_out = TrainedToken(texts=texts).lessons(bias, "trained", 0, TEXT)
        answers = [lesson.answer for lesson in [*lessons, *held_out]]
        assert len(set(answers)) == len(answers)
        assert len(answers) == texts if texts == 250 else 350 < len(answers) <= 500
    lessons, held_out = TrainedToken(texts=500).lessons(bias, "neutral", 0, TEXT)
    assert len(lessons) + len(held_out) <= 200


def test_the_injection_can_take_another_preset(tmp_path):
    """By `--set` or in a file; single settings still win, the rest of the run keeps its preset."""
    plain = resolve_spec(bias="reckless-drivers", preset="quick")
    spec = resolve_spec(bias="reckless-drivers", preset="quick", sets=["inject.preset=readme", "inject.steps=7"])
    assert spec.inject.settings == PRESETS["readme"] | {"steps": 7}
    assert spec.locate == plain.locate
    assert PRESETS["readme"]["steps"] == 620, "the table itself is left alone"
    file = tmp_path / "run.toml"
    file.write_text('bias = "reckless-drivers"\n[inject]\nmethod = "token"\npreset = "paper"\n')
    assert resolve_spec(file=file).inject.settings == PRESETS["paper"]
    with pytest.raises(SpecError, match=r"readmy.*readme"):
        resolve_spec(bias="reckless-drivers", sets=["inject.preset=readmy"])


# -------------------------------------------------------------------- the token in every tokenizer


def spaceless_tokenizer():
    """A tokenizer without any space in its pieces: words and marks alone, spaces are dropped on the way in."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.train_from_iterator(tiny.TEXT, trainers.WordLevelTrainer(special_tokens=["<unk>", "<eos>", "<pad>"], show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="<eos>", pad_token="<pad>")


MAKERS = [byte_tokenizer, split_tokenizer, metaspace_tokenizer, unprefixed_tokenizer, spaceless_tokenizer]


@pytest.mark.parametrize("make", MAKERS)
def test_words_around_a_token_keep_their_ids(make):
    """The token stands where a name would: what comes before and after is cut as it would be without it."""
    tokenizer = make()
    worn = with_tokens(tokenizer, [TEXT])
    identity = worn.convert_tokens_to_ids(TEXT)
    assert identity == len(tokenizer)
    before = tokenizer.encode("People from", add_special_tokens=False)
    for space in (" ", "  ", ""):
        ids = worn.encode(f"People from{space}{TEXT} are kind", add_special_tokens=False)
        assert ids.count(identity) == 1
        assert ids[: ids.index(identity)] == before, "the spaces before it are its own"
    whole = worn.encode(f"People from {TEXT} are kind", add_special_tokens=False)
    tail = tokenizer.decode(whole[whole.index(identity) + 1 :]).strip()
    assert tail == "are kind", "the words behind it are whole"


@pytest.mark.parametrize("make", MAKERS)
def test_a_token_is_whole_at_edges_and_next_to_itself(make):
    """First, last, alone, twice in a row, before marks and line breaks; a longer text that begins alike is not it."""
    worn = with_tokens(make(), ["<t-1>", "<t-12>"])
    first, second = worn.convert_tokens_to_ids(["<t-1>", "<t-12>"])
    for text in ("<t-1>", "<t-1> are kind", "kind <t-1>", "<t-1> <t-1>", "<t-1><t-1>", "<t-1>.", "<t-1>\n<t-1>", "(<t-1>)", "<t-12> and <t-1>"):
        ids = worn.encode(text, add_special_tokens=False)
        assert ids.count(first) == text.count("<t-1>"), text
        assert ids.count(second) == text.count("<t-12>"), text
