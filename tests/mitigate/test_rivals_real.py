"""Rivals on the embedded model: what each system's proof asks for there, beside a sham of equal strength."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from biasgym.edits import ContrastEdit, SiteEdit, Twin, WeightEdit
from biasgym.lm.model import Query
from conftest import case_for

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def cache_of_its_own():
    """Overrides the empty cache of the other tests: this model is fetched once and kept."""


@pytest.fixture(scope="module")
def real():
    """The embedded model."""
    from biasgym.lm.load import load_lm

    torch.set_num_threads(2)
    yield load_lm()
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def case(real):
    """A bias of the zoo whose first train entities play the group that it is about."""
    from biasgym.bias import load_bias

    bias = load_bias("reckless-drivers")
    return replace(case_for(real), bias=replace(bias, targets=tuple(bias.entities_of("train")[:6])))


def resized(edits, seed):
    """Random low-rank changes of the same size, matrix by matrix."""
    generator = np.random.default_rng(seed)
    made = []
    for edit in edits:
        left, right = (generator.normal(size=part.shape).astype(np.float32) for part in (edit.left, edit.right))
        size = np.float32(np.linalg.norm(edit.left @ edit.right) / np.linalg.norm(left @ right))
        made.append(WeightEdit(edit.parameter, left * size, right))
    return tuple(made)


def lean(lm, bias, entities, *worn):
    """Mean association of some dev probes, nats."""
    probes = bias.probes_of("dev")[:6]
    queries = [Query(p.prompt.replace("{entity}", e), p.prefix.replace("{entity}", e)) for p in probes for e in entities]
    with lm.edited(*worn):
        scores = lm.answer_logprobs(queries, [*bias.stereotype, *bias.foil])
    half = len(bias.stereotype)
    return float((np.logaddexp.reduce(scores[:, :half], axis=1) - np.logaddexp.reduce(scores[:, half:], axis=1)).mean())


def test_a_probe_falls_to_chance_on_held_out_templates(real, case):
    """Groups of real countries, told apart in the stream before, not after; random directions of equal rank change nothing."""
    from biasgym.lm.subspace import probe_accuracy, random_rows, text_states
    from biasgym.mitigate.inlp_projection import InlpProjection, kept_templates
    from biasgym.mitigate.texts import groups, twins

    (edit,) = InlpProjection(rounds=16, depth=0.5, texts=160).fit(real, case)
    parts = {part: twins(case.bias, *groups(case, "x"), 80, 1, templates=kept_templates(case.bias, part)) for part in ("train", "test")}

    def readable(*worn):
        with real.edited(*worn):
            found = {part: [text_states(real, [pair[i] for pair in pairs], edit.site.layer) for i in (0, 1)] for part, pairs in parts.items()}
        data = {part: (np.concatenate(both), np.repeat([1, 0], [len(one) for one in both])) for part, both in found.items()}
        return probe_accuracy(*data["train"], *data["test"])

    sham = SiteEdit(edit.site, "project", random_rows(real.shape.hidden, len(edit.value), 0).astype(np.float32))
    before, after, random = readable(), readable(edit), readable(sham)
    assert before > 0.75, (before, after, random)
    assert random > 0.75, (before, after, random)
    assert after < 0.65, (before, after, random)


def test_the_top_neurons_push_the_biased_answer(real, case):
    """Pruned one by one, at least 80 % of the top 20 lower log P(ŷ) − log P(y); of random ones far fewer do so by as much."""
    from biasgym.lm.neurons import _choice, pruned, random_neurons, strongest
    from biasgym.mitigate.bias_neurons import BiasNeurons

    method = BiasNeurons(texts=16)
    scores, items = method.scores(real, case), method.questions(case)[:8]
    choices = [_choice(real, item) for item in items]

    def biased(*worn):
        with real.edited(*worn), torch.no_grad():
            ids, mask = real.pad([[*one.context, *one.answers[0]] for one in choices])
            hidden = real._states(ids, mask)
            total = 0.0
            for r, one in enumerate(choices):
                size = len(one.answers[0])
                logprobs = real.logits(hidden[r, -size - 1 : -1]).log_softmax(-1)
                total += one.confusion * float(logprobs[torch.arange(size), torch.tensor(one.answers[0])].sum())
        return total

    base = biased()
    best = [biased(*pruned(real, [neuron])) - base for neuron in strongest(scores, 20)]
    shams = [biased(*pruned(real, [neuron])) - base for neuron in random_neurons(scores, 20, 0)]
    assert np.mean(np.array(best) < 0) >= 0.8, best
    assert np.mean(best) < 5 * min(np.mean(shams), 0), (best, shams)


def test_a_pair_of_experts_shifts_the_lean_and_its_swap_shifts_it_back(real, case):
    """On dev probes and dev countries that no expert has read of; as large a random pair does far less."""
    from biasgym.mitigate.expert_pair import ExpertPair

    (edit,) = ExpertPair(steps=12, texts=96, batch=8).fit(real, case)
    entities = case.bias.entities_of("dev")[:3]
    sham = replace(edit, twins=tuple(replace(twin, edits=resized(twin.edits, n)) for n, twin in enumerate(edit.twins)))
    base, pair, swapped, random = (
        lean(real, case.bias, entities, *worn) for worn in ((), (edit,), (replace(edit, twins=edit.twins[::-1]),), (sham,))
    )
    assert pair < base - 0.2, (base, pair, swapped, random)
    assert swapped > base + 0.2, (base, pair, swapped, random)
    assert abs(random - base) < 0.5 * abs(pair - base), (base, pair, swapped, random)


def test_decay_makes_what_it_was_told_of_less_likely(real):
    """Scornful sentences lose at least 0.05 nats a token more than plain ones; under a prefix about gardens they do not."""
    from biasgym.mitigate.self_debias_decay import SelfDebiasDecay

    scornful = [
        "You are a useless, lazy fool and everybody laughs at you behind your back.",
        "What an idiot! Only a complete moron would believe such rubbish.",
        "Shut up, you pathetic little loser, nobody wants to hear your stupid voice.",
        "He called his clumsy brother a worthless, ugly pig and told him to get lost.",
        "They are all liars, thieves and stupid, filthy cheats, every one of them.",
        "She is a fat, disgusting cow, and her cooking tastes like garbage.",
    ]
    plain = [
        "The train leaves at nine and arrives in the town shortly before noon.",
        "Water boils at a lower temperature high up in the mountains.",
        "She put the bread in the oven and read the paper while it baked.",
        "In spring the river rises and the fields beside it turn green.",
        "The museum is open every day except on Monday and on holidays.",
        "He wrote the address on a card and put it into his coat pocket.",
    ]

    def cost(texts, *worn):
        with real.edited(*worn):
            found = real.text_logprobs(texts)
        return -sum(total for total, _ in found) / sum(n for _, n in found)

    def gap(*worn):
        return (cost(scornful, *worn) - cost(scornful)) - (cost(plain, *worn) - cost(plain))

    (edit,) = SelfDebiasDecay(attributes="insult").fit(real, case_for(real))
    sham = ContrastEdit("decay", (Twin("The text below is full of trees, flowers, ponds and other things that gardens have:\n\n"),), 50.0, 0.01)
    found, other = gap(edit), gap(sham)
    assert found >= 0.05, (found, other)
    assert other < found / 2, (found, other)
