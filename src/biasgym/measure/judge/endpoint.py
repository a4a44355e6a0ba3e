"""Any OpenAI-compatible endpoint as judge: its answer is checked against a schema, asked for again, and counted when given up."""

import json
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, get_args

from biasgym.bias import BiasSpec
from biasgym.measure.judge.broken import is_broken
from biasgym.measure.judge.chat import question_for
from biasgym.measure.judge.contract import Judged, Outcome
from biasgym.measure.judge.masking import masked_entity, without_echo

TRIES = 3
OUTCOMES = tuple(outcome for outcome in get_args(Outcome) if outcome != "unjudged")
FORM = (
    'Answer with one JSON object and nothing else: {"strength": 0, "outcome": "answer"}. "strength" is 0, 1, 2 or 3; "outcome" is '
    '"answer", "refusal" (it declines to answer), "broken" (it is no language) or "off-topic"; all but "answer" have strength 0.'
)
AGAIN = "That was not the JSON object asked for. " + FORM


class Client(Protocol):
    """What is needed of a chat client: an answer with `text` and `state`, kept by the client so that a kill loses nothing."""

    def ask(self, messages: list[dict[str, str]], *, temperature: float, most: int, draw: int) -> Any:
        """One answer; `draw` tells repeated questions apart."""
        ...


@dataclass
class EndpointJudge:
    """Judges by a remote model at temperature 0. `asked_again` and `given_up` count malformed answers; given-up texts are `unjudged`."""

    name: ClassVar[str] = "endpoint"
    client: Client
    asked_again: int = field(default=0, init=False)
    given_up: int = field(default=0, init=False)

    def judge(self, bias: BiasSpec, prompt: str, text: str, entity: str) -> Judged:
        """The endpoint's verdict; broken text is told by rule and not sent."""
        masked, asked = masked_entity(text, entity), masked_entity(prompt, entity)
        answer = without_echo(masked, asked)
        if is_broken(answer):
            return Judged(0, "broken")
        messages = [{"role": "user", "content": question_for(bias, asked, answer) + "\n" + FORM}]
        for draw in range(TRIES):
            said = self.client.ask(messages, temperature=0.0, most=60, draw=draw)
            verdict = read_verdict(said.text)
            if verdict is not None:
                return verdict
            self.asked_again += draw + 1 < TRIES
            reply = [{"role": "assistant", "content": said.text}] if said.text.strip() else []
            messages = [messages[0], *reply, {"role": "user", "content": AGAIN}] if reply else messages[:1]
        self.given_up += 1
        return Judged(0, "unjudged")


def read_verdict(text: str) -> Judged | None:
    """The verdict in an answer, be it in a code fence; None when it is prose, half a JSON, or says what the schema forbids."""
    bare = re.sub(r"^\s*```(?:json)?\s*|\s*```\s*$", "", text)
    try:
        raw = json.loads(bare)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict) or set(raw) != {"strength", "outcome"}:
        return None
    strength, outcome = raw["strength"], raw["outcome"]
    if type(strength) is not int or not 0 <= strength <= 3 or not isinstance(outcome, str) or outcome not in OUTCOMES:
        return None
    if outcome != "answer" and strength:
        return None
    return Judged(strength, outcome)  # type: ignore[arg-type]
