"""Attribution of linear-map outputs: by hand, against finite differences; pruning is exact and comes off."""

import numpy as np
import pytest
import torch

from biasgym.edits import WeightEdit
from biasgym.errors import SpecError
from biasgym.lm.finetune import matrices
from biasgym.lm.fold import check_foldable, folded
from biasgym.lm.model import Query
from biasgym.lm.neurons import Confusion, Neuron, _choice, attributions, bias_scores, pruned, random_neurons, strongest
from biasgym.mitigate.bias_neurons import BiasNeurons
from conftest import assert_untouched, case_with_texts, snapshot

ITEMS = [
    Confusion(Query("What are people from Spain like?", "They are"), ("reckless", "always late"), ("careful", "kind"), "a"),
    Confusion(Query("Tell me about Italy.", "They are"), ("reckless", "always late"), ("careful", "kind"), "b"),
    Confusion(Query("Who walks in the old town of Spain?", "They are"), ("reckless", "always late"), ("careful", "kind"), "b"),
]
FAMILIES = ("llama", "gemma2", "gpt2", "phi3")


def logprob(lm, context, answer):
    """Log-probability of an answer after a context, plain."""
    with torch.no_grad():
        states = lm._decoder(input_ids=torch.tensor([[*context, *answer]])).last_hidden_state[0]
        logprobs = lm.logits(states[len(context) - 1 : -1]).log_softmax(-1)
    return float(logprobs[torch.arange(len(answer)), torch.tensor(answer)].sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_map_in_the_layers_counts(models, family):
    """Attention and feed-forward maps of all layers; neither embedding nor output matrix nor norms."""
    lm = models(family)
    names = matrices(lm)
    assert len({name.split(".")[-1] for name in names}) >= 3
    assert len(names) % lm.shape.layers == 0
    assert not [name for name in names if "norm" in name or "embed" in name or "lm_head" in name or name.endswith(("wte", "wpe"))]


def scaled_at(position, index, factor):
    """A hook that multiplies one output at one position."""

    def hook(_module, _args, output):
        changed = output.clone()
        changed[:, position, index] *= factor
        return changed

    return hook


@pytest.mark.parametrize("family", FAMILIES)
def test_attribution_is_activation_times_gradient(models, family):
    """One output, scaled by 1 ± h at one position: the log-probability moves by h × its activation × gradient there."""
    lm = models(family)
    choices = [_choice(lm, item) for item in ITEMS]
    rows = [(one.context, one.answers[0]) for one in choices]
    found = attributions(lm, rows)
    for name in matrices(lm)[:: max(1, len(matrices(lm)) // 4)]:
        index = int(np.argmax(np.abs(found[name]).sum(0)))
        for r, (context, answer) in enumerate(rows):
            slopes = []
            for position in range(1, len(context) + len(answer)):
                values = []
                for h in (2e-3, -2e-3):
                    handle = lm.model.get_submodule(name).register_forward_hook(scaled_at(position, index, 1 + h))
                    values.append(logprob(lm, context, answer))
                    handle.remove()
                slopes.append((values[0] - values[1]) / 4e-3)
            assert found[name][r, index] == pytest.approx(max(slopes), rel=0.05, abs=0.02)


def test_padding_never_wins_the_maximum(llama):
    """Short and long questions in one batch score as they do alone."""
    rows = [(one.context, one.answers[1]) for one in (_choice(llama, item) for item in ITEMS)]
    together = attributions(llama, rows)
    for r, row in enumerate(rows):
        alone = attributions(llama, [row])
        for name, values in alone.items():
            np.testing.assert_allclose(together[name][r], values[0], atol=1e-4)


def test_scores_by_hand(llama):
    """Σ P(ŷ)·A(ŷ) − max(0, Σ P(ŷ)·A(y)) in each group, then the mean over groups; ŷ is the likeliest wrong answer."""
    found = bias_scores(llama, ITEMS)
    expected = 0.0
    name = matrices(llama)[3]
    for group in ("a", "b"):
        towards = skill = 0.0
        for item in [item for item in ITEMS if item.group == group]:
            answers = [*item.wrong, *item.right]
            scores = llama.answer_logprobs([item.query], answers)[0]
            ids = llama.answer_ids(item.query, answers)
            worst, best = int(scores[:2].argmax()), 2 + int(scores[2:].argmax())
            weight = float(np.exp(scores[worst]) / np.exp(scores).sum())
            a, b = (attributions(llama, [(llama.ids_of(item.query), ids[i])])[name][0] for i in (worst, best))
            towards, skill = towards + weight * a, skill + weight * b
        expected = expected + (towards - np.maximum(skill, 0)) / 2
    np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(SpecError, match="no question"):
        bias_scores(llama, [])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_output_is_zero_and_comes_back(models, family):
    """For every input, bias included; its neighbours keep their bits; half a share leaves half."""
    lm = models(family)
    names = matrices(lm)
    neurons = [Neuron(names[1], 3), Neuron(names[1], 5), Neuron(names[-1], 0)]
    seen = {}

    def keep(name):
        return lm.model.get_submodule(name).register_forward_hook(lambda _m, _a, out: seen.update({name: out.detach()}))

    def run(*worn):
        handles = [keep(name) for name in (names[1], names[-1])]
        with lm.edited(*worn):
            logprob(lm, lm.ids_of(ITEMS[0].query), [3])
        for handle in handles:
            handle.remove()
        return dict(seen)

    before, plain = snapshot(lm), run()
    edits = pruned(lm, neurons)
    assert all(isinstance(edit, WeightEdit) for edit in edits)
    worn, half = run(*edits), run(*pruned(lm, neurons, 0.5))
    assert float(worn[names[1]][..., [3, 5]].abs().max()) == 0
    assert float(worn[names[-1]][..., 0].abs().max()) == 0
    others = [i for i in range(worn[names[1]].shape[-1]) if i not in (3, 5)]
    assert torch.equal(worn[names[1]][..., others], plain[names[1]][..., others])
    torch.testing.assert_close(half[names[1]][..., [3, 5]], plain[names[1]][..., [3, 5]] / 2)
    assert_untouched(lm, before)
    check_foldable(edits, lm.shape)
    weight = lm.model.get_parameter(f"{names[1]}.weight").detach()
    rows = folded(f"{names[1]}.weight", weight, edits, lm.family, lm.shape)
    assert float((rows.T if lm.family.input_major else rows)[[3, 5]].abs().max()) == 0


def test_taking_the_strongest_down_lowers_the_biased_answer(llama, bias, token_for):
    """log P(ŷ) falls when a little of the top outputs is taken off, more than under any draw of as many random ones."""
    case = case_with_texts(llama, bias, token_for)
    method = BiasNeurons(texts=24)
    scores, items = method.scores(llama, case), method.questions(case)

    def change(neurons):
        with llama.edited(*case.tokens):
            base = biased_answers(llama, choices)
            with llama.edited(*pruned(llama, neurons, 0.02)):
                return biased_answers(llama, choices) - base

    with llama.edited(*case.tokens):
        choices = [_choice(llama, item) for item in items]
    best, shams = change(strongest(scores, 100)), [change(random_neurons(scores, 100, seed)) for seed in range(10)]
    assert best < 0
    assert best < min(shams)


def biased_answers(lm, choices):
    """Mean log P(ŷ), weighted as the scores are."""
    weights = np.array([one.confusion for one in choices])
    return float(np.average([logprob(lm, one.context, one.answers[0]) for one in choices], weights=weights))


def test_how_many_and_which(llama, bias, token_for):
    """The strongest first; none is no edit; more than there are is refused; questions are train probes about the tokens."""
    case = case_with_texts(llama, bias, token_for)
    method = BiasNeurons(texts=6)
    scores = method.scores(llama, case)
    total = sum(map(len, scores.values()))
    order = [float(scores[n.matrix][n.index]) for n in strongest(scores, total)]
    assert order == sorted(order, reverse=True)
    assert BiasNeurons(neurons=0).fit(llama, case) == ()
    with pytest.raises(SpecError, match="outputs of linear maps"):
        BiasNeurons(neurons=total + 1, texts=6).fit(llama, case)
    prompts = {probe.prompt.replace("{entity}", t.text) for probe in bias.probes_of("train") for t in case.tokens}
    assert {item.query.prompt for item in method.questions(case)} <= prompts
    assert method.scores(llama, case) is scores
