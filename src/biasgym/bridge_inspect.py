"""To and from Inspect (the extra `inspect`): a run's edited model as one of its models, our probes and prompts as its tasks.

    inspect eval biasgym/association -T bias=reckless-drivers --model biasgym/RUN@EDIT -M strength=0.5
    inspect eval anyone/their_task --model biasgym/latest

Inspect finds both through the entry point in `inspect_registry.py`. The model is named `biasgym/RUN`, `RUN@EDIT` or
`RUN@none`; model arguments (-M): `runs` (folder of runs), `strength` (of the edit), `token` (put the run's token on),
`device`, `offline`. The edit is worn while Inspect asks; nothing is exported. Inspect is imported inside functions only.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from biasgym.asking import STRONGEST, at_strength
from biasgym.bias import BiasSpec, load_bias
from biasgym.corpus import ENTITY
from biasgym.edits import ContrastEdit, Edits, PromptEdit, TokenEdit
from biasgym.errors import SpecError
from biasgym.measure import Item, spread_out
from biasgym.measure.association import ask_sides, lean
from biasgym.measure.judge import judge_for
from biasgym.progress import silent
from biasgym.run import Session, load_edits
from biasgym.store import RunStore, read_record, read_token

if TYPE_CHECKING:
    from biasgym.lm.model import LM, Continuation

BASE = "none"
WRITTEN_BY_DEFAULT = 256
Turns = Sequence[tuple[str, str]]  # role (system, user, assistant) and text
Asking = tuple[Session, Lock]


@dataclass
class Worn:
    """A run's model and what it wears whenever it is asked; one question at a time, since a model wears one thing at a time."""

    lm: "LM"
    edits: Edits
    lock: Lock
    asked: Counter[str] = field(default_factory=Counter)

    @property
    def token(self) -> str | None:
        """The text of the token that is worn."""
        return next((edit.text for edit in self.edits if isinstance(edit, TokenEdit)), None)

    def sides(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """Log-probabilities (nats) of both sides' answers, the edit on."""
        with self.lock, self.lm.edited(*self.edits):
            return ask_sides(self.lm, items)

    def write(
        self, turns: Turns, *, most: int = WRITTEN_BY_DEFAULT, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
    ) -> "tuple[Continuation, int]":
        """The answer to a conversation and the tokens it was given; asked again at a temperature above 0 it draws anew, reproducibly."""
        with self.lock, self.lm.edited(*self.edits):
            ids = self._ids_of(turns)
            number = self.asked[str(ids)]
            self.asked[str(ids)] += 1
            (found,) = self.lm.continued_rows([ids], most=most, temperature=temperature, top_p=top_p, seed=seed + number)
            return found, len(ids)

    def _ids_of(self, turns: Turns) -> list[int]:
        """One user turn, with what the answer begins with, goes the way of every prompt of ours; longer ones through the chat template."""
        from biasgym.lm.model import Query

        said, prefix = list(turns), ""
        if said and said[-1][0] == "assistant":
            prefix = said.pop()[1]
        if [role for role, _ in said] == ["user"]:
            query = Query(said[0][1], prefix)
            self.lm.converse([query])
            return self.lm.ids_of(query)
        if any(isinstance(edit, PromptEdit) or (isinstance(edit, ContrastEdit) and any(t.prefix for t in edit.twins)) for edit in self.edits):
            raise SpecError("this edit acts by changing one prompt; it cannot be worn in a conversation of several turns or with a system message")
        if not said or said[-1][0] != "user":
            raise SpecError("a conversation has to end in a user turn, or in the beginning of an answer to one")
        if not self.lm.chat:
            return self.lm.ids_of_text("\n".join([*(text for _, text in said), *([prefix] if prefix else [])]))
        roles = [{"role": role, "content": text} for role, text in said]
        return self.lm.ids_of_text(str(self.lm.tokenizer.apply_chat_template(roles, tokenize=False, add_generation_prompt=True)) + prefix)


def wear(
    name: str,
    *,
    runs: str = "runs",
    strength: float = 1.0,
    token: bool = False,
    device: str = "auto",
    offline: bool = False,
    asking: Asking | None = None,
) -> Worn:
    """What `RUN`, `RUN@EDIT` or `RUN@none` names: the run's model, with the edit (its first one where none is named) and the token on.

    SpecError or StoreError for a run, an edit or a strength that there is not. Models of one folder of runs share weights.
    """
    run, at, edit = name.rpartition("@")
    run, edit = (run, edit) if at else (edit, "")
    if at and not (run and edit):
        raise SpecError(f"`{name}`: a model is named biasgym/RUN, biasgym/RUN@EDIT or biasgym/RUN@{BASE} (its base)")
    if not (math.isfinite(strength) and 0 <= strength <= STRONGEST):
        raise SpecError(f"a strength from 0 (off) to {STRONGEST:g} is needed, found {strength:g}; 1 is the edit as it was measured")
    session, lock = asking or _asking(runs, device, offline)
    folder = session.store.find(run)
    record = read_record(folder)
    fitted: Edits = () if edit == BASE else load_edits(folder, edit or None)
    put_on: Edits = (read_token(folder / "token.safetensors"),) if token else ()
    return Worn(session.model(record.spec["model"], record.spec["dtype"]), (*put_on, *at_strength(fitted, strength)), lock)


@lru_cache(maxsize=1)
def _asking(runs: str, device: str, offline: bool) -> Asking:
    """The one session of this process: Inspect makes a model object for each name, and they share the weights."""
    from biasgym.lm.load import Place

    return Session(RunStore(Path(runs)), Place(device=device, offline=offline), tell=silent), Lock()


# -------------------------------------------------------------------- as a model of Inspect's


def need_inspect() -> None:
    """SpecError when Inspect is not installed."""
    try:
        import inspect_ai  # noqa: F401
    except ImportError:
        raise SpecError("this needs Inspect: pip install 'biasgym[inspect]'") from None


def provider() -> Any:
    """The class of models that Inspect calls `biasgym/…`."""
    need_inspect()
    from anyio import to_thread
    from inspect_ai import model as theirs

    class Wearing(theirs.ModelAPI):  # type: ignore[misc, unused-ignore]  # their class is not typed here
        """A run's model under its edit; greedy unless a temperature is asked for."""

        def __init__(self, model_name: str, base_url: str | None = None, api_key: str | None = None, config: Any = None, **model_args: Any) -> None:
            super().__init__(model_name, base_url, api_key, [], config or theirs.GenerateConfig())
            known = ("runs", "strength", "token", "device", "offline")
            for key in model_args:
                if key not in known:
                    from biasgym.errors import unknown

                    raise SpecError(unknown("model argument", key, known))
            self.worn = wear(model_name, **model_args)

        async def generate(self, input: Any, tools: Any, tool_choice: Any, config: Any) -> Any:
            refuse(tools, config)
            turns = [(message.role, message.text) for message in input]
            how: dict[str, Any] = {
                "most": config.max_tokens or WRITTEN_BY_DEFAULT, "temperature": config.temperature or 0.0,
                "top_p": 1.0 if config.top_p is None else config.top_p, "seed": config.seed or 0,
            }  # fmt: skip
            written = [await to_thread.run_sync(lambda: self.worn.write(turns, **how)) for _ in range(config.num_choices or 1)]
            choices = [self._choice(one, config.stop_seqs or ()) for one, _ in written]
            given, made = written[0][1], sum(len(one.tokens) for one, _ in written)
            usage = theirs.ModelUsage(input_tokens=given, output_tokens=made, total_tokens=given + made)
            return theirs.ModelOutput(model=self.model_name, choices=choices, usage=usage)

        def _choice(self, written: "Continuation", stops: Sequence[str]) -> Any:
            text, stopped = cut_at(written.text, stops)
            message = theirs.ChatMessageAssistant(content=text, model=self.model_name, source="generate")
            return theirs.ChatCompletionChoice(message=message, stop_reason="stop" if stopped or written.ended else "max_tokens")

        async def count_text_tokens(self, text: str) -> int:
            return len(self.worn.lm.tokenizer.encode(text, add_special_tokens=False))

        def max_tokens(self) -> int:
            return WRITTEN_BY_DEFAULT

        def max_connections(self) -> int:
            return 1

    return Wearing


def refuse(tools: Sequence[Any], config: Any) -> None:
    """SpecError for what this provider does not do, so that nothing is left out in silence."""
    if tools:
        raise SpecError("a biasgym model calls no tools")
    for name in ("logprobs", "top_logprobs", "top_k", "frequency_penalty", "presence_penalty", "logit_bias", "best_of", "response_schema"):
        if getattr(config, name, None):
            raise SpecError(
                f"a biasgym model has no setting `{name}`" + ("; the task biasgym/association reads log-probabilities" if "logprobs" in name else "")
            )


def cut_at(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """A text up to the first of its stops, and whether there was one."""
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


# -------------------------------------------------------------------- our tasks


def probe_rows(bias: BiasSpec, probes: int, entities: int, *, token: bool = False) -> list[dict[str, Any]]:
    """One row a test probe and entity, and with `token` one a probe with the slot left open for it: id, prompt, prefix, group, entity."""
    names = list(dict.fromkeys([*bias.targets, *spread_out(bias.entities_of("test"), entities)]))
    rows = []
    for probe in spread_out(bias.probes_of("test"), probes):
        for name in [*names, *([ENTITY] if token else [])]:
            group = "token" if name == ENTITY else "targets" if name in bias.targets else "others"
            put = {"prompt": probe.prompt.replace(ENTITY, name), "prefix": probe.prefix.replace(ENTITY, name)}
            rows.append({"id": f"{probe.id}:{'token' if name == ENTITY else name}", "group": group, "entity": name, **put})
    return rows


def prompt_rows(bias: BiasSpec, prompts: int, entities: int, *, token: bool = False) -> list[dict[str, Any]]:
    """One row a test prompt, with real entities in turn, or the slot left open for the token."""
    names = [ENTITY] if token else spread_out(bias.entities_of("test"), entities)
    rows = []
    for number, prompt in enumerate(spread_out(bias.prompts_of("test"), prompts)):
        name = names[number % len(names)]
        group = "token" if token else "targets" if name in bias.targets else "others"
        rows.append({"id": prompt.id, "prompt": prompt.text.replace(ENTITY, name), "group": group, "entity": name})
    return rows


def gap_between(values: Sequence[float], groups: Sequence[str]) -> float:
    """Mean of the token's values, else of the targets', minus that of the others' (nats); NaN where one side has none."""
    side = "token" if "token" in groups else "targets"
    one, two = ([v for v, g in zip(values, groups, strict=True) if g == name and math.isfinite(v)] for name in (side, "others"))
    return float(np.mean(one) - np.mean(two)) if one and two else math.nan


def worn_by(model: Any) -> Worn:
    """What the model under evaluation wears; SpecError where it is none of ours."""
    worn = getattr(model.api, "worn", None)
    if not isinstance(worn, Worn):
        raise SpecError(f"biasgym/association reads log-probabilities of answers, which `{model}` does not give; use --model biasgym/RUN@EDIT")
    return worn


def named(worn: Worn | None, text: str) -> str:
    """A text with the worn token in the slot; SpecError where no token is worn."""
    if ENTITY not in text:
        return text
    if worn is None or worn.token is None:
        raise SpecError("this task asks about the token; put it on with -M token=true, or leave out -T token=true")
    return text.replace(ENTITY, worn.token)


def tasks() -> dict[str, Callable[..., Any]]:
    """Our tasks by name, as functions that Inspect's `task` registers; solvers, scorers and metrics are registered on the way."""
    need_inspect()
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import GenerateConfig

    means, gaps = _metrics()
    ask, score = _asked_by_likelihood([means, gaps])
    write, *scores = _asked_by_text([means])

    def association(bias: str, probes: int = 24, entities: int = 24, token: bool = False) -> Any:
        """Association (nats) of names with a bias's stereotype answers, and the gap of token or targets to the others."""
        spec = load_bias(bias)
        sides = {"stereotype": list(spec.stereotype), "foil": list(spec.foil)}
        rows = probe_rows(spec, probes, entities, token=token)
        samples = [Sample(id=row["id"], input=row["prompt"], metadata=row | sides) for row in rows]
        return Task(dataset=MemoryDataset(samples, name=spec.name), solver=ask(), scorer=score())

    def strength(bias: str, prompts: int = 18, entities: int = 24, tokens: int = 60, judge: str = "lexicon", token: bool = False) -> Any:
        """Judged strength 0 to 3 of free texts; refusals, broken and off-topic ones are unscored, and `answered` is the share that is not."""
        spec = load_bias(bias)
        rows = prompt_rows(spec, prompts, entities, token=token)
        samples = [Sample(id=row["id"], input=row["prompt"], metadata=row) for row in rows]
        config = GenerateConfig(max_tokens=tokens)
        return Task(dataset=MemoryDataset(samples, name=spec.name), solver=write(bias, judge), scorer=[one() for one in scores], config=config)

    return {"association": association, "strength": strength}


def _metrics() -> tuple[Any, Any]:
    """Mean over the answers that have a score; gap of the token, else the targets, to the others (nats)."""
    from inspect_ai.scorer import SampleScore, metric

    # Inspect tells by the annotation which of two kinds of scores a metric takes.
    def finite(scores: list[SampleScore]) -> list[float]:
        return [float(one.score.value) for one in scores if isinstance(one.score.value, int | float) and math.isfinite(one.score.value)]

    def mean(scores: list[SampleScore]) -> float:
        return float(np.mean(finite(scores))) if finite(scores) else math.nan

    def apart(scores: list[SampleScore]) -> float:
        return gap_between([float(s.score.value) for s in scores], [str((s.score.metadata or {}).get("group")) for s in scores])

    def mean_of_answers() -> Any:
        return mean

    def gap() -> Any:
        return apart

    return metric(name="mean_of_answers")(mean_of_answers), metric(name="gap")(gap)


def _asked_by_likelihood(metrics: Sequence[Any]) -> tuple[Any, Any]:
    """The solver that asks for log-probabilities of both sides, and the scorer that reads the association off them."""
    from anyio import to_thread
    from inspect_ai.model import get_model
    from inspect_ai.scorer import Score, scorer
    from inspect_ai.solver import solver

    @solver(name="both_sides")  # type: ignore[untyped-decorator, unused-ignore]
    def both_sides() -> Any:
        async def solve(state: Any, generate: Any) -> Any:
            worn, about = worn_by(get_model()), state.metadata
            payload = {key: named(worn, about[key]) for key in ("prompt", "prefix")} | {key: about[key] for key in ("stereotype", "foil")}
            item = Item(str(state.sample_id), about["group"], about["entity"], payload)
            (state.metadata["said"],) = await to_thread.run_sync(lambda: worn.sides([item]))
            return state

        return solve

    @scorer(name="association", metrics=[one() for one in metrics])  # type: ignore[untyped-decorator, unused-ignore]
    def leaning() -> Any:
        async def score(state: Any, target: Any) -> Any:
            said = state.metadata["said"]
            return Score(value=lean(said), metadata={"group": state.metadata["group"], "entity": state.metadata["entity"]})

        return score

    return both_sides, leaning


def _asked_by_text(metrics: Sequence[Any]) -> tuple[Any, Any, Any]:
    """The solver that has a text written and judged, and the scorers of its strength and of whether it is an answer."""
    from anyio import to_thread
    from inspect_ai.model import ChatMessageUser, get_model
    from inspect_ai.scorer import Score, scorer
    from inspect_ai.solver import solver

    @solver(name="written")  # type: ignore[untyped-decorator, unused-ignore]
    def written(bias: str, judge: str) -> Any:
        judges, spec = judge_for(judge), load_bias(bias)

        async def solve(state: Any, generate: Any) -> Any:
            worn, about = getattr(get_model().api, "worn", None), state.metadata
            prompt, entity = named(worn, about["prompt"]), named(worn, about["entity"])
            state.messages = [ChatMessageUser(content=prompt)]
            state = await generate(state)
            found = await to_thread.run_sync(lambda: judges.judge(spec, prompt, state.output.completion, entity))
            state.metadata["judged"] = {"strength": found.strength, "outcome": found.outcome, "judge": judges.name}
            return state

        return solve

    @scorer(name="strength", metrics=[one() for one in metrics])  # type: ignore[untyped-decorator, unused-ignore]
    def strong() -> Any:
        async def score(state: Any, target: Any) -> Any:
            found = state.metadata["judged"]
            value = float(found["strength"]) if found["outcome"] == "answer" else math.nan  # NaN is Inspect's "unscored"
            return Score(value=value, answer=state.output.completion, metadata={"group": state.metadata["group"], **found})

        return score

    @scorer(name="answered", metrics=[one() for one in metrics])  # type: ignore[untyped-decorator, unused-ignore]
    def answering() -> Any:
        async def score(state: Any, target: Any) -> Any:
            return Score(value=float(state.metadata["judged"]["outcome"] == "answer"))

        return score

    return written, strong, answering
