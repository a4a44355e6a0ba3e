"""What is asked of a run and what comes out of it: specs, answers, scores, measurements, findings; read and written as JSON."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1
Token = Literal["none", "trained", "untrained", "neutral", "opposite"]
Control = Literal["untrained", "neutral", "opposite"]
Group = Literal["token", "targets", "others", "all"]


class Record(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MethodSpec(Record):
    """A method by its name and its own parameters; what is not given has the method's default."""

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)


class LocateSpec(MethodSpec):
    """A locator, on how many pairs of queries it is asked, over all fitted tokens, and whom the token is compared with.

    `twin`: a random real entity, the one closest by embedding, or a control token (untrained).
    """

    pairs: int = Field(64, ge=1)
    twin: Literal["random", "closest", "control"] = "random"


class MitigateSpec(MethodSpec):
    """A mitigation; `locator` names its own locator where it is not the run's, `tuned` lets the search set what it may.

    `after` names entities: in every text the edit acts from the end of the first of them on, and nowhere before. `entities`
    stands for all that the bias file knows; the run's own tokens count as named always. No weight can say this, so such an
    edit is run-time only, and an export refuses it by that reason.
    """

    locator: str | None = None
    tuned: bool = True
    after: tuple[str, ...] = ()


class TuneSpec(Record):
    """A search on dev data for strength and number of heads, inside a budget.

    `aim` is whose gap to other real entities is to be closed: that of the fitted tokens, or that of the bias's real `targets`
    (the bias file's, else the quarter of dev entities that the model itself holds it about on train probes).
    `search` is how the next setting is chosen: `ladder`, `random`, or Optuna's `tpe`, `nsga2` or `gp`; `seed` is what the
    last four draw from.
    The budget: rise of bits per byte in percent, mean KL to the base in nats a token, change of the concept as a share
    of its base value. The upper end of the 95 % interval has to be inside.
    """

    trials: int = Field(12, ge=1, le=1000)
    search: Literal["ladder", "random", "tpe", "nsga2", "gp"] = "ladder"
    seed: int = Field(0, ge=0)
    aim: Literal["token", "targets"] = "token"
    bits_per_byte: float = Field(1.0, gt=0)
    kl: float = Field(0.02, gt=0)
    concept: float = Field(0.2, gt=0)
    entities: int = Field(8, ge=2)
    probes: int = Field(20, ge=3)
    texts: int = Field(30, ge=3)
    chats: int = Field(24, ge=3)


class MeasureSpec(Record):
    """What is measured on test, and on how much of it. Names of metrics; sizes are upper limits.

    `rival_entities` is how many real entities every edit but the first is asked about, `sham_entities` the same for
    shams; each is compared with the base on the same ones. `benchmarks` are public sets, asked with the token off, with
    and without every edit. `judge` reads the free texts of `strength`: `lexicon+embedding`, `lexicon`, `chat[:MODEL]` or
    `endpoint:MODEL@URL`.
    """

    metrics: tuple[str, ...] = ("association", "concept", "bits-per-byte", "kl", "strength")
    benchmarks: tuple[MethodSpec, ...] = ()
    probes: int = Field(60, ge=2)
    entities: int = Field(24, ge=2)
    texts: int = Field(63, ge=2)
    chats: int = Field(60, ge=2)
    generations: int = Field(24, ge=0)
    tokens: int = Field(48, ge=1)
    shams: int = Field(20, ge=0)
    sham_entities: int = Field(6, ge=2)
    rival_entities: int = Field(24, ge=2)
    draws: int = Field(2000, ge=100)
    judge: str = "lexicon+embedding"


class RunSpec(Record):
    """One question: this bias in this model, elicited, located, mitigated and measured like this.

    `bias` is a name of the zoo or a path; `seeds` are the tokens that edits are fitted to, `test_seed` the token that
    they are scored on. `preset` only remembers where the other values came from. `controls` are the tokens of `test_seed`
    that the trained one is compared with.
    """

    model: str
    bias: str
    preset: str = "quick"
    dtype: str = "float32"
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1)
    test_seed: int = Field(2, ge=0)
    inject: MethodSpec
    controls: tuple[Control, ...] = ("untrained", "neutral")
    locate: LocateSpec
    mitigate: tuple[MitigateSpec, ...]
    tune: TuneSpec = TuneSpec()
    measure: MeasureSpec = MeasureSpec()


class Answer(Record):
    """What the model said to one item in one arm; everything that is needed to grade it again."""

    metric: str
    item: str
    group: str
    entity: str = ""
    token: Token
    edit: str
    seed: int
    said: dict[str, Any]


@dataclass(frozen=True)
class ItemScore:
    """What one answer scores; `value` is None when the model gave no answer, and is then counted, never zero.

    `parts` are further named numbers of the item, for metrics whose figures are not means of one value.
    """

    metric: str
    item: str
    group: str
    entity: str
    token: str
    edit: str
    seed: int
    value: float | None
    weight: float = 1.0
    parts: Mapping[str, float] = field(default_factory=dict)


class Measurement(Record):
    """A figure of one arm with its 95 % interval, its n and the value it should have.

    `error` is the standard error behind the interval and `freedom` its degrees of freedom. JSON has no infinity: a
    `freedom` of None beside an error is the normal's; an `error` of None is not known (older records).
    """

    metric: str
    arm: str
    group: str
    token: Token
    edit: str
    seed: int
    split: str = "test"
    value: float
    low: float
    high: float
    n: int
    error: float | None = None
    freedom: float | None = None
    ideal: float | None = None
    note: str = ""


class Finding(Record):
    """A before/after difference, paired item by item, with its 95 % interval; `error` and `freedom` as in `Measurement`."""

    name: Literal["injected", "removed", "closed", "left_over", "changed", "price"]
    metric: str
    token: Token
    edit: str
    seed: int
    value: float
    low: float
    high: float
    n: int
    error: float | None = None
    freedom: float | None = None
    note: str = ""


class RunRecord(Record):
    """The answer to a RunSpec."""

    schema_: int = Field(SCHEMA, alias="schema")
    id: str
    status: Literal["ok", "failed"]
    problems: tuple[str, ...] = ()
    spec: dict[str, Any]
    environment: dict[str, Any]
    timings: dict[str, float]
    measurements: tuple[Measurement, ...] = ()
    findings: tuple[Finding, ...] = ()
    extras: dict[str, Any] = Field(default_factory=dict)

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def fingerprint(value: Any) -> str:
    """Sixteen hex digits of the hash of a JSON value, the same on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
