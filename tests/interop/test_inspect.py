"""Inspect with a run's edit on: found by its entry point, equal to our own figures, refused where it would leave something out.

Run by `make oracle`, which installs it. A small run that fits a tiny model is written by hand; nothing is trained.
"""

import asyncio
import math

import numpy as np
import pytest

inspect_ai = pytest.importorskip("inspect_ai")

from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, GenerateConfig, get_model  # noqa: E402

from biasgym.bias import load_bias  # noqa: E402
from biasgym.bridge_inspect import BASE, _asking, probe_rows, wear  # noqa: E402
from biasgym.edits import PromptEdit  # noqa: E402
from biasgym.errors import SpecError, StoreError  # noqa: E402
from biasgym.lm.model import Query  # noqa: E402
from biasgym.run import load_edits  # noqa: E402
from biasgym.store import RunStore, read_token  # noqa: E402
from small_run import BIAS, RUN, TEXT, write_small_run  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning")
NAME = RUN[:20]  # a unique prefix


@pytest.fixture
def runs(models, tmp_path, monkeypatch):
    """A folder of runs with the small run in it; Inspect's logs go beside it."""
    from tiny import save_folder

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    _asking.cache_clear()
    folder = save_folder(models("llama"), tmp_path / "tiny")
    return tmp_path / "runs", write_small_run(RunStore(tmp_path / "runs"), folder, models("llama"))


def model(runs, name, **how):
    return get_model(f"biasgym/{name}", runs=str(runs[0]), device="cpu", memoize=False, **how)


def said(model, messages, **config):
    return asyncio.run(model.generate(messages, config=GenerateConfig(**config)))


def test_an_answer_is_the_worn_models(runs, llama):
    """First edit, another, none, half strength, with the token: each writes what ours writes with the same on."""
    prompt = "Tell me about people from Spain."
    heads, steering = load_edits(runs[1]), load_edits(runs[1], "steering")
    token = read_token(runs[1] / "token.safetensors")
    written = {}
    for name, worn, how in (
        (NAME, heads, {}),
        (f"{NAME}@steering", steering, {}),
        (f"{NAME}@{BASE}", (), {}),
        (f"{NAME}@direction", (), {"strength": 0.0}),
        (f"{NAME}@{BASE}", (token,), {"token": True}),
    ):
        asked = prompt.replace("Spain", TEXT) if how.get("token") else prompt
        with llama.edited(*worn):
            (ours,) = llama.generate([Query(asked)], most=12)
        theirs = said(model(runs, name, **how), asked, max_tokens=12)
        assert theirs.completion == ours.text
        assert theirs.usage.output_tokens == len(ours.tokens)
        assert theirs.choices[0].stop_reason == ("stop" if ours.ended else "max_tokens")
        written[name, str(how)] = ours.text
    assert len({written[NAME, "{}"], written[f"{NAME}@steering", "{}"], written[f"{NAME}@{BASE}", "{}"]}) > 1, "the edits are felt"
    assert llama.worn == ()


def test_conversations_and_sampling(runs, llama):
    """System message, several turns, the beginning of an answer; stops; a seed repeats, epochs differ."""
    base = model(runs, f"{NAME}@{BASE}")
    turns = [
        ChatMessageSystem(content="Be kind."),
        ChatMessageUser(content="Who?"),
        ChatMessageAssistant(content="They."),
        ChatMessageUser(content="Why?"),
    ]
    text = llama.tokenizer.apply_chat_template([{"role": t.role, "content": t.text} for t in turns], tokenize=False, add_generation_prompt=True)
    (ours,) = llama.continued_rows([llama.ids_of_text(text)], most=8)
    assert said(base, turns, max_tokens=8).completion == ours.text
    begun = [ChatMessageUser(content="What are people like?"), ChatMessageAssistant(content="They are")]
    (ours,) = llama.generate([Query("What are people like?", "They are")], most=8)
    assert said(base, begun, max_tokens=8).completion == ours.text
    stop = ours.text[2:4]
    assert said(base, begun, max_tokens=8, stop_seqs=[stop]).completion == ours.text.split(stop)[0]
    drawn = [
        [said(one, "Who?", max_tokens=12, temperature=1.0, seed=3).completion for _ in range(3)] for one in (base, model(runs, f"{NAME}@{BASE}"))
    ]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 1
    assert len(said(base, "Who?", max_tokens=4, temperature=1.0, num_choices=2).choices) == 2


def test_what_it_does_not_do_is_refused(runs):
    base = model(runs, f"{NAME}@{BASE}")
    with pytest.raises(SpecError, match="biasgym/association"):
        said(base, "Who?", logprobs=True)
    with pytest.raises(SpecError, match="has no setting `top_k`"):
        said(base, "Who?", top_k=3)
    worn = base.api.worn
    worn.edits = (PromptEdit("Be fair. {prompt}"),)
    assert worn.write([("user", "Who?")], most=4)
    with pytest.raises(SpecError, match="changing one prompt"):
        worn.write([("system", "x"), ("user", "Who?")], most=4)


@pytest.mark.parametrize(
    ("name", "how", "error", "message"),
    [
        ("nothing", {}, StoreError, "nothing"),
        (f"{NAME}@stering", {}, SpecError, "no edit `stering`.*steering"),
        (f"{NAME}@", {}, SpecError, "RUN@EDIT"),
        (NAME, {"strength": 9.0}, SpecError, "from 0"),
        (NAME, {"strenght": 1.0}, SpecError, "did you mean `strength`"),
    ],
)
def test_mistakes(runs, name, how, error, message):
    with pytest.raises(error, match=message):
        model(runs, name, **how)


def evaluated(task, model, **args):
    """One evaluation of a registered task; metrics by name, and its samples."""
    (log,) = inspect_ai.eval(f"biasgym/{task}", model=model, task_args={"bias": BIAS, **args}, display="none")
    assert log.status == "success", log.error
    return {(one.name, name.split("/")[-1]): metric.value for one in log.results.scores for name, metric in one.metrics.items()}, log.samples


def test_association_is_ours(runs, llama):
    """Its mean and gap are those of our own asking with the same on, and an edit moves them."""
    found, samples = evaluated("association", model(runs, NAME, token=True), probes=3, entities=3, token=True)
    bias, token = load_bias(BIAS), read_token(runs[1] / "token.safetensors")
    rows = probe_rows(bias, 3, 3, token=True)
    with llama.edited(token, *load_edits(runs[1])):
        queries = [Query(*(row[key].replace("{entity}", TEXT) for key in ("prompt", "prefix"))) for row in rows]
        nats = llama.answer_logprobs(queries, [*bias.stereotype, *bias.foil])
    split = len(bias.stereotype)
    leans = np.logaddexp.reduce(nats[:, :split], axis=1) - np.logaddexp.reduce(nats[:, split:], axis=1)
    held = np.array([row["group"] == "token" for row in rows])
    assert len(samples) == len(rows) == 12
    assert found["association", "mean_of_answers"] == pytest.approx(leans.mean(), abs=1e-4)
    assert found["association", "gap"] == pytest.approx(leans[held].mean() - leans[~held].mean(), abs=1e-4)
    plain, _ = evaluated("association", model(runs, f"{NAME}@{BASE}", token=True), probes=3, entities=3, token=True)
    assert abs(plain["association", "mean_of_answers"] - found["association", "mean_of_answers"]) > 1e-3


def test_strength_leaves_what_is_no_answer_unscored(runs):
    """A tiny random model writes rubbish: what is no answer is not in the mean, and is counted beside it."""
    found, samples = evaluated("strength", model(runs, NAME), prompts=4, tokens=20)
    values = [sample.scores["strength"].value for sample in samples]
    outcomes = [sample.scores["strength"].metadata["outcome"] for sample in samples]
    assert len(samples) == 4
    assert [math.isfinite(value) for value in values] == [outcome == "answer" for outcome in outcomes]
    assert found["answered", "mean_of_answers"] == outcomes.count("answer") / 4 < 1
    scored = [value for value in values if math.isfinite(value)]
    if scored:
        assert found["strength", "mean_of_answers"] == pytest.approx(np.mean(scored))


def test_association_needs_a_model_of_ours(runs):
    (log,) = inspect_ai.eval("biasgym/association", model="mockllm/model", task_args={"bias": BIAS, "probes": 2, "entities": 2}, display="none")
    assert log.status == "error"
    assert "does not give" in log.error.message
    (log,) = inspect_ai.eval(
        "biasgym/association", model=model(runs, NAME), task_args={"bias": BIAS, "probes": 2, "entities": 2, "token": True}, display="none"
    )
    assert "-M token=true" in log.error.message


def test_models_of_one_folder_share_weights(runs):
    one, two = (wear(name, runs=str(runs[0]), device="cpu") for name in (NAME, f"{NAME}@{BASE}"))
    assert one.lm is two.lm
    assert one.lock is two.lock
