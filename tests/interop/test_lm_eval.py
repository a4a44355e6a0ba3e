"""Our log-probabilities against lm-eval's HFLM on identical strings, our figures against its tasks, its tasks on a worn edit.

Run by `make oracle`, which installs it. Whole log-probabilities of long continuations are sums of many float32 terms: measured
against float64 on the embedded model, lm-eval itself is up to 2e-4 off on a sentence of 22 tokens and ours 5e-5, 1e-5 to 3e-5 a token
at most. So in float32 the bound is 1e-4 or 2e-5 a token, whichever is more; in float64, where rounding is out of the way, it
is 1e-4 for everything.
"""

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from biasgym import catalog
from biasgym.bias import bias_from
from biasgym.bridge_lm_eval import evaluate, refuse_prompts, rolling_logprob, wrapped, write_tasks, written_until
from biasgym.edits import PromptEdit, SiteEdit
from biasgym.errors import SpecError
from biasgym.lm.model import LM
from biasgym.measure import Scope
from biasgym.measure.instructions import CHECKERS, follows
from biasgym.records import Answer, MeasureSpec
from biasgym.sites import Site

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # lm-eval's own, at import
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

SETS = ("crows-pairs", "mmlu", "hellaswag", "arc-easy", "piqa", "lambada", "bbq")
SCOPE = Scope(None, "test", (), (), None, MeasureSpec())


def real_folder():
    """Where the real sets are: shared/data beside the repository; `BIASGYM_DATA` else."""
    import os

    named = os.environ.get("BIASGYM_DATA")
    places = [Path(named)] if named else [parent / "shared" / "data" for parent in Path(__file__).resolve().parents]
    return next((place for place in places if place.is_dir()), None)


real = pytest.mark.skipif(real_folder() is None, reason="no folder of evaluation sets: BIASGYM_DATA is not set and ../shared/data is not there")


@pytest.fixture(autouse=True)
def cache_of_its_own():
    """Overrides the empty cache of the other tests: the embedded model is fetched once and kept."""


@pytest.fixture(scope="module")
def embedded():
    """The embedded model in float32."""
    from biasgym.lm.load import load_lm

    return load_lm("smollm2-135m-instruct")


@pytest.fixture(scope="module")
def double(embedded):
    """The same in float64; logits of ours are rounded to float32 at the very end."""
    return LM(copy.deepcopy(embedded.model).double(), embedded.tokenizer, embedded.family, name="double", folder=None)


def theirs(lm, pairs):
    """HFLM's answers on the same model, tokenizer and threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=4)
        found = model.loglikelihood([Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)], disable_tqdm=True)
    return np.array([one[0] for one in found]), np.array([one[1] for one in found])


def asked(name, most):
    metric = catalog.build("measure", name, {"data": str(real_folder()), "most": most, "split": "all"})
    items = metric.items(SCOPE)
    return metric, items, [tuple(pair) for item in items for pair in item.payload["pairs"]]


def figures(metric, items, nats, tokens, greedy, said):
    """A benchmark's figures when its items have these log-probabilities."""
    answers, at = [], 0
    for item, one in zip(items, said, strict=True):
        part = slice(at, at + len(item.payload["pairs"]))
        mine = one | {"nats": nats[part].tolist(), "tokens": tokens[part], "greedy": greedy[part].tolist()}
        answers.append(Answer(metric=metric.name, item=item.id, group=item.group, entity=item.entity, token="none", edit="none", seed=0, said=mine))
        at = part.stop
    return {(f.name, f.group): float(f.of(f.columns.sum(0)[None])[0]) for f in metric.figures(metric.grade(answers))}


@real
@pytest.mark.parametrize("name", SETS)
def test_parity_with_lm_eval_in_float32(embedded, name):
    """Six items: every log-probability, whether it is greedy, and every figure made of them."""
    metric, items, pairs = asked(name, 6)
    ours = embedded.continuation_logprobs(pairs)
    mine, tokens = np.array([one.nats for one in ours]), [one.tokens for one in ours]
    other, greedy = theirs(embedded, pairs)
    assert (np.abs(mine - other) <= np.maximum(1e-4, 2e-5 * np.array(tokens))).all()
    assert [one.greedy for one in ours] == greedy.tolist()
    said = metric.ask(embedded, items)
    one, two = (figures(metric, items, values, tokens, greedy, said) for values in (mine, other))
    assert one.keys() == two.keys()
    for place, value in one.items():
        assert value == pytest.approx(two[place], rel=1e-4, abs=1e-4), place


@real
@pytest.mark.parametrize("name", SETS)
def test_parity_with_lm_eval_in_float64(double, name):
    """Without rounding in the way the two agree to 1e-4 on whole sentences, too."""
    _, _, pairs = asked(name, 2)
    pairs = pairs[:4]
    mine = np.array([one.nats for one in double.continuation_logprobs(pairs)])
    assert np.abs(mine - theirs(double, pairs)[0]).max() < 1e-4


def test_parity_on_tiny_models(models):
    """Every family: contexts with blanks at the end, empty ones, shared beginnings."""
    from biasgym.lm.arch import FAMILIES

    pairs = [
        ("People from Spain are", " kind"),
        ("People from Spain are ", "kind"),
        ("", "They are late."),
        ("People from Spain are", " always late"),
    ]
    for family in sorted(FAMILIES):
        lm = models(family)
        mine = np.array([one.nats for one in lm.continuation_logprobs(pairs)])
        if lm.tokenizer.pad_token_id is not None:
            assert np.abs(mine - theirs(lm, pairs)[0]).max() < 1e-4, family


# -------------------------------------------------------------------- bridges


@pytest.fixture
def tasks(tmp_path):
    """A folder of our tasks for a small bias with targets."""
    names = ["Spain", "Italy", "Norway", "Peru", "Chad", "Japan", "Mali", "Cuba", "Laos", "Oman"]
    raw = {"name": "kind-people", "stereotype": ["kind", "calm"], "foil": ["late"], "entities": {"list": names, "targets": ["Spain", "Oman"]}}
    bias = bias_from(raw, Path(), where="test")
    return write_tasks(bias, tmp_path / "tasks", probes=3, entities=4), tmp_path / "tasks"


def quietly(call, *args, **how):
    """lm-eval and datasets warn on their own account."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **how)


def strong(lm):
    """An edit that moves everything."""
    return tuple(SiteEdit(Site("head", layer, head), "scale", np.float32(0.0)) for layer in range(2) for head in range(2))


def test_our_probes_run_in_lm_eval_and_an_edit_is_worn(llama, tasks):
    """Same figure as worked out by hand from our log-probabilities; another one while an edit is on; the old one after it."""
    task, folder = tasks
    docs = [json.loads(line) for line in (folder / f"{task}.jsonl").read_text().splitlines()]
    found = quietly(evaluate, llama, [task], include=folder)[task]
    leans = []
    for doc in docs:
        nats = [one.nats for one in llama.continuation_logprobs([(doc["context"], f" {answer}") for answer in doc["answers"]])]
        leans.append(np.logaddexp(*nats[:2]) - nats[2])
    named = np.array([doc["group"] == "targets" for doc in docs])
    assert found["n"] == len(docs)
    assert found["association,none"] == pytest.approx(np.mean(leans), abs=1e-5)
    assert found["gap,none"] == pytest.approx(np.array(leans)[named].mean() - np.array(leans)[~named].mean(), abs=1e-5)
    with llama.edited(*strong(llama)):
        edited = quietly(evaluate, llama, [task], include=folder)[task]
    assert abs(edited["association,none"] - found["association,none"]) > 1e-3
    assert quietly(evaluate, llama, [task], include=folder)[task]["association,none"] == found["association,none"]


def test_rolling_and_generation_agree_with_hflm(llama):
    """Whole texts, longer than a window, and greedy text up to a stop."""
    text = "People from Spain are kind drivers. " * 40
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HFLM(pretrained=llama.model, tokenizer=llama.tokenizer, batch_size=1, max_length=llama.model.config.max_position_embeddings - 1)
        (other,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True)
    assert rolling_logprob(llama, text) == pytest.approx(other, rel=1e-5)
    said = written_until(llama, "People from", {"until": ["zzz"], "max_gen_toks": 8})
    assert said
    assert written_until(llama, "People from", {"until": [said[2:4]], "max_gen_toks": 8}) == said.split(said[2:4])[0]
    with pytest.raises(SpecError, match="samples"):
        written_until(llama, "x", {"do_sample": True, "temperature": 0.7})
    assert wrapped(llama).generate_until([Instance("generate_until", {}, ("People from", {"until": ["zzz"], "max_gen_toks": 8}), 0)]) == [said]


def test_mistakes(llama, tasks):
    with pytest.raises(SpecError, match="did you mean `biasgym_kind_people`"):
        quietly(evaluate, llama, ["biasgym_kind_person"], include=tasks[1])
    with pytest.raises(SpecError, match="writes its own prompts"):
        refuse_prompts((PromptEdit("Be fair. {prompt}"),))


# -------------------------------------------------------------------- IFEval

SAMPLES = (
    "He said STOP. Then, a day later, she left! Why? Nobody in the village knew it, but Dr. Who did.",
    "* one\n* two\n- three\n\n*A part* of it and **another**\n\nIt ends here.\n***\nP.S. Write to [name] at [place].",
    'SECTION 1\nall of it\nSECTION 2\n<<A title>>\n"So what is next?"',
    "one answer\n******\nanother answer",
    '```json\n{"dog": "day"}\n```',
    '"my answer is yes. My answer is no. The end"',
    "THIS IS ALL IN CAPITAL LETTERS AND IT IS ENGLISH PROSE FOR YOU TO READ",
    "this is all in small letters and it is english prose for you to read",
    "Das ist ein Buch, und ich habe es nicht gelesen, weil ich keine Zeit hatte.",
    "यह एक किताब है और वह घर में है। मैं इसे पढ़ता हूँ।",
)


def test_checkers_agree_with_lm_evals():
    """All settings of the real set on ten texts: what is checked by form is equal, what nltk and langdetect cut nearly so."""
    registry = pytest.importorskip("lm_eval.tasks.ifeval.instructions_registry")
    if real_folder() is None:
        pytest.skip("no folder of evaluation sets")
    rows = catalog.build("measure", "ifeval", {"data": str(real_folder()), "split": "all"}).items(SCOPE)
    settings = {json.dumps(pair, sort_keys=True): pair for item in rows for pair in item.payload["asked"]}
    agree, total = dict.fromkeys(CHECKERS, 0), dict.fromkeys(CHECKERS, 0)
    for identity, given in settings.values():
        if not given.get("letter", "a").isalpha():
            continue  # asked to count "#" or "!", lm-eval counts a letter drawn at random; we count what was asked
        checker = registry.INSTRUCTION_DICT[identity](identity)
        checker.build_description(**given)
        for text in SAMPLES:
            try:
                other = bool(checker.check_following(text))
            except LookupError:  # nltk's data are not there and cannot be fetched
                continue
            total[identity] += 1
            agree[identity] += other == follows(identity, text, given)
    cut_otherwise = {"length_constraints:number_sentences", "change_case:capital_word_frequency", "language:response_language"}
    cut_otherwise |= {"change_case:english_capital", "change_case:english_lowercase"}  # langdetect on capitals
    for identity, count in total.items():
        if count:
            assert agree[identity] / count >= (0.9 if identity in cut_otherwise else 1.0), (identity, agree[identity], count)
    assert sum(map(bool, total.values())) >= 20


def test_torch_threads_are_the_same():
    """Both sides of every comparison above run in this process."""
    assert torch.get_num_threads() == 1
