"""A broken model is never reported as debiased: made-up answers of flat, refusing and parroting models, graded and judged as real ones are."""

import numpy as np
import pytest

from biasgym.bias import load_bias
from biasgym.measure.judge import LexiconJudge
from biasgym.records import Answer, RunRecord
from biasgym.run import graded_record
from biasgym.spec import resolve_spec
from biasgym.verdict import verdict_of

EDIT, SEED = "direction", 2
ENTITIES = ("Spain", "Norway", "Peru", "Japan", "Kenya", "Chile")
REMOVAL = ("closes", "removes", "gets reliably smaller", "inside the budget")
# What a text says, from its prompt; a sound model says the stereotype of the token and something friendly of real people.
SAYS = {
    "sound": lambda prompt, token: "They are always late and never on time." if token else "They keep to their schedule and arrive on time.",
    "healed": lambda prompt, token: "They keep to their schedule and arrive on time.",
    "refusing": lambda prompt, token: "I'm sorry, but I can't help with that request.",
    "unknown": lambda prompt, token: "Unknown.",
    "echo": lambda prompt, token: prompt,
    "noise": lambda prompt, token: "the the the the the the the the the the the the",
}


def associations(g, edit, *, flat):
    """Log-probabilities of probes × entities, and of the token, which leans 2 nats further unless all is flat or healed."""
    for probe in range(20):
        for entity in (*ENTITIES, "TOKEN"):
            token = entity == "TOKEN"
            lean = 0.01 * g.normal() if flat else 0.3 * g.normal() + (0 if edit != "none" else 2 * token)
            yield Answer(
                metric="association", item=f"p{probe:02}", group="token" if token else "others", entity=entity,
                token="trained" if token else "none", edit=edit, seed=SEED if token else 0, said={"stereotype": [lean - 5.0], "foil": [-5.0]},
            )  # fmt: skip


def capabilities(g, edit, *, flat, bits, kl):
    """Concept sentences of both sides, texts, and neutral chats."""
    for number in range(24):
        right = 0.0 if flat else (2.0 if number % 2 else -2.0)
        said = {"stereotype": [right + 0.2 * g.normal() - 5.0], "foil": [-5.0]}
        rows = {
            "concept": ("stereotype" if number % 2 else "foil", said),
            "bits-per-byte": ("all", {"nats": -100.0 * (bits if edit != "none" else 1.0) * (1 + 0.001 * g.normal()), "bytes": 100}),
            "kl": ("all", {"nats": kl * 20 * (1 + 0.1 * g.normal()), "tokens": 20}),
        }
        for metric, (group, about) in rows.items():
            if metric != "kl" or edit != "none":
                yield Answer(metric=metric, item=f"c{number:02}", group=group, token="none", edit=edit, seed=0, said=about)


def texts(bias, edit, says):
    """Free texts about real entities and the token, and the judge's word on each."""
    judge = LexiconJudge()
    for number, prompt in enumerate(bias.prompts_of("test")[:18]):
        for entity, token in ((ENTITIES[number % 6], "none"), ("TOKEN", "trained")):
            asked = prompt.text.replace("{entity}", entity)
            text = SAYS[says](asked, token == "trained")
            seed = SEED if token == "trained" else 0
            about = {"item": prompt.id, "entity": entity, "token": token, "edit": edit, "seed": seed}
            group = "token" if token == "trained" else "others"
            answer = Answer(metric="strength", group=group, said={"prompt": asked, "text": text}, **about)
            verdict = judge.judge(bias, asked, text, entity)
            yield answer, about | {"judge": judge.name, "strength": verdict.strength, "outcome": verdict.outcome}


def graded(*, base_flat=False, flat=False, bits=1.0, kl=0.001, says="healed", written=True, base_says="sound"):
    """The record of a made-up run."""
    bias, g = load_bias("always-late"), np.random.default_rng(0)
    answers, verdicts = [], []
    for edit in ("none", EDIT):
        level = base_flat if edit == "none" else flat
        answers += [*associations(g, edit, flat=level), *capabilities(g, edit, flat=level, bits=bits, kl=kl)]
        for answer, verdict in texts(bias, edit, base_says if edit == "none" else says) if written else ():
            answers.append(answer)
            verdicts.append(verdict)
    spec = resolve_spec(bias="always-late", model="made-up", sets=("measure.draws=300",)).model_dump(mode="json")
    extras = {"bias": {"name": "always-late", "fictional": False}, "edits": {EDIT: {}}}
    record = RunRecord(
        id="x", status="ok", spec=spec | {"test_seed": SEED, "mitigate": spec["mitigate"][:1]}, environment={}, timings={}, extras=extras
    )
    return graded_record(record, answers, verdicts, bias)


def assert_claims_nothing(record):
    """Not in the headline, not in the paragraph, not in any of the six answers."""
    verdict = verdict_of(record)
    assert verdict.tone == "bad"
    assert not [words for words in REMOVAL if words in verdict.headline]
    assert not [words for words in ("closes", "gets reliably smaller") if words in verdict.paragraph]
    answers = {check.question: check for check in verdict.checks}
    for question in ("Does the edit remove it?", "Less bias for real entities?"):
        assert answers[question].tone != "good", question
    return verdict


def test_a_healed_model_is_reported_as_healed():
    """The positive control: the same answers without the damage are called a removal."""
    verdict = verdict_of(graded())
    assert verdict.headline.startswith(f"`{EDIT}` closes ")
    assert "inside the budget, concept kept" in verdict.headline


def test_a_flat_model_is_not_debiased():
    """All gaps are gone, and so is everything else."""
    record = graded(flat=True, bits=4.0, kl=5.0, says="noise")
    assert next(f for f in record.findings if f.name == "closed").low > 0.9  # the figure by itself would say removal
    assert "breaks the model" in assert_claims_nothing(record).headline


@pytest.mark.parametrize("sign", [{"flat": True}, {"bits": 1.5}, {"kl": 2.0}, {"says": "noise"}])
def test_each_sign_of_damage_is_enough(sign):
    """Forgotten words, bits per byte, KL or broken texts alone."""
    assert "breaks the model" in assert_claims_nothing(graded(**sign)).headline


@pytest.mark.parametrize("says", ["refusing", "unknown", "echo"])
def test_saying_nothing_is_not_being_fair(says):
    """The gap of log-probabilities closes and no price is seen, but the texts stopped being answers; they have no strength either."""
    record = graded(says=says)
    assert "of its texts" in assert_claims_nothing(record).headline
    assert not [f for f in record.findings if f.metric == "strength"]
    assert not [m for m in record.measurements if m.metric == "strength" and m.edit == EDIT]


@pytest.mark.parametrize("written", [True, False])
def test_a_broken_base_is_no_ground_for_any_claim(written):
    """Base and edit both flat: unfit or not injected, never debiased."""
    verdict = assert_claims_nothing(graded(base_flat=True, flat=True, bits=1.0, written=written, says="noise", base_says="noise"))
    assert "did not take" in verdict.headline or "unfit" in verdict.headline
