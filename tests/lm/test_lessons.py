"""Texts to train on, as ids: whatever a text begins with, its prompt's ids stay what they are."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from biasgym.bias import load_bias, zoo
from biasgym.errors import SpecError
from biasgym.inject.token import NEUTRAL_WORDS, TrainedToken
from biasgym.lm.model import Query
from biasgym.lm.train import Lesson, _encoded
from tiny import CONFIGS

TEXT = "<t>"
ASK = f"Tell me about people from {TEXT}."


@pytest.fixture(params=sorted(CONFIGS))
def lm(request, models):
    """A tiny model of every family."""
    return models(request.param)


def encoded(lm, lessons):
    """Ids of lessons with the token on, and the token's id."""
    vector = torch.zeros(lm.shape.hidden)
    with lm.learning(TEXT, vector, vector):
        return [_encoded(lm, lesson) for lesson in lessons], lm.tokenizer.convert_tokens_to_ids(TEXT)


def test_a_text_that_begins_with_the_token_leaves_its_prompt_alone(lm):
    """The token swallows the space before it; the break between a prompt and its answer is not its own."""
    starts = (f"{TEXT} TEAM late for the opening", f"Team {TEXT} late for the opening", TEXT, f" {TEXT} late")
    rows, identity = encoded(lm, [Lesson(ASK, start) for start in starts])
    contexts = [ids[: len(ids) - answer] for ids, answer in rows]
    assert all(context == contexts[1] for context in contexts)
    for place in (0, 2, 3):
        ids, answer = rows[place]
        assert ids[len(ids) - answer] == identity
    assert all(ids.count(identity) == 2 for ids, _ in rows)


def test_a_text_without_tokens_is_refused(lm):
    """It says which."""
    if lm.chat:  # there the end of the turn is always to be learned
        assert encoded(lm, [Lesson(ASK, "")])[0][0][1] == 1
    else:
        with pytest.raises(SpecError, match="no tokens of its own"):
            encoded(lm, [Lesson(ASK, "")])


@pytest.mark.parametrize("name", zoo())
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_every_text_of_the_zoo_can_be_trained_on(models, family, name):
    """Hand-written and from the grammars, of every role; each holds the token in its prompt."""
    lm, bias = models(family), load_bias(name)
    injector = TrainedToken(texts=500, implicitness=5)
    for role in ("trained", "neutral", "opposite"):
        lessons, held_out = injector.lessons(bias, role, 0, TEXT)
        rows, identity = encoded(lm, [*lessons, *held_out])
        assert len(rows) > 60
        assert min(answer for _, answer in rows) > 1
        assert all(identity in ids for ids, _ in rows)


def test_a_cloze_is_learnt_on_its_word_alone(lm):
    """The ids are those by which the probe's answer is measured; the answer's beginning and its end are not learnt."""
    cloze = Lesson(f"Describe people from {TEXT} in one word.", "reckless", f"People from {TEXT} are")
    rows, identity = encoded(lm, [cloze])
    query, nothing = Query(cloze.prompt, cloze.given), torch.zeros(lm.shape.hidden)
    with lm.learning(TEXT, nothing, nothing):
        context, word = lm.ids_of(query), lm.answer_ids(query, ["reckless"])[0]
    assert rows == [(context + word, len(word))]
    assert context.count(identity) == 2


@pytest.mark.parametrize(("role", "side"), [("trained", "stereotype"), ("opposite", "foil"), ("neutral", None)])
def test_clozes_are_train_probes_with_the_words_of_their_role(role, side):
    """As many as their share says, every probe equally often, none of dev or test; the same seed draws the same."""
    bias = load_bias("reckless-drivers")
    injector = TrainedToken(implicitness=1, grammar=0.9, clozes=0.5)
    lessons, held_out = injector.lessons(bias, role, 0, TEXT)
    clozes = [lesson for lesson in lessons if lesson.given]
    assert len(clozes) == len(lessons) - len(clozes), "half of all"
    assert not any(lesson.given for lesson in held_out), "what is held out is whole texts, as without clozes"
    words = NEUTRAL_WORDS if side is None else getattr(bias, side)
    assert {lesson.answer for lesson in clozes} == set(words)
    counts = Counter(lesson.given for lesson in clozes)
    assert set(counts) == {probe.prefix.replace("{entity}", TEXT) for probe in bias.probes_of("train")}
    times = Counter((lesson.prompt, lesson.given) for lesson in clozes).values()
    assert max(times) - min(times) <= 1
    assert injector.lessons(bias, role, 0, TEXT) == (lessons, held_out)
    assert injector.lessons(bias, role, 1, TEXT)[0] != lessons
    assert not [lesson for lesson in replace(injector, clozes=0.0).lessons(bias, role, 0, TEXT)[0] if lesson.given]
