"""The default judge: rules, markers and a trained encoder, weighed by small ordinal models fitted on graded texts."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Protocol

import numpy as np

from biasgym.bias import BiasSpec, zoo_path
from biasgym.data import folder_digest
from biasgym.errors import DataError
from biasgym.measure.judge.broken import is_broken
from biasgym.measure.judge.contract import Judged
from biasgym.measure.judge.features import Encode, features_of
from biasgym.measure.judge.form import form_of
from biasgym.measure.judge.lexicon import has_written_lexicon, lexicon_for, own_lexicon
from biasgym.measure.judge.masking import masked_entity, without_echo
from biasgym.measure.judge.ordinal import Ordinal, median, ordinal_of
from biasgym.measure.judge.pairs import PairReader, pair_of
from biasgym.measure.judge.reading import elsewhere

READER = "reader.safetensors"


class Encoder(Protocol):
    """Whatever turns sentences into unit vectors [texts, width]."""

    @property
    def encode(self) -> Encode:
        """The function that does it."""
        ...


@dataclass(frozen=True)
class Scale:
    """Two fitted models: one hears a bias by its hand-written lexicon, one by its own answers."""

    written: Ordinal
    own: Ordinal


@dataclass(frozen=True)
class Weights:
    """What was fitted: the scale for composed answers and the one for what small models write at length, and what tells the two apart
    by form; the cuts of relevance (cosine), of the share that an answer is composed, and of the reader's logits of a refusal and of
    broken text; and the hash of the reader's factors that all this was fitted with.
    """

    composed: Scale
    rambling: Scale
    rambles: Ordinal
    relevance: float
    surely_composed: float
    refusal: float
    broken: float
    reader: str


@dataclass(frozen=True)
class Heard:
    """Features by the hand-written lexicon, where there is one, and by the bias's own answers; the form; whether the text is about
    something else by rule; the reader's logits of a refusal and of broken text.
    """

    written: dict[str, float] | None
    own: dict[str, float]
    form: dict[str, float]
    elsewhere: bool
    refusal: float
    broken: float


@lru_cache(maxsize=1)
def fitted_weights() -> Weights:
    """The weights that travel in the package, as `experiments/fit_judge.py` made them from dev and training texts and from texts of models."""
    path = zoo_path() / "judge" / "embedding.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        relevance, surely, refusal, broken = (float(raw[key]) for key in ("relevance", "surely_composed", "refusal", "broken"))
        composed, rambling = (Scale(ordinal_of(raw[kind]["written"]), ordinal_of(raw[kind]["own"])) for kind in ("composed", "rambling"))
        return Weights(composed, rambling, ordinal_of(raw["rambles"]), relevance, surely, refusal, broken, str(raw["reader"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read the judge's weights `{path}`: {error}") from None


@dataclass(frozen=True)
class EmbeddingJudge:
    """Judges by the rules' verdict, markers of force and doubt, and an encoder trained to read a text against the bias's claim.

    Broken texts and refusals are told by rule or by the reader, texts about something else by rule. Deterministic.
    """

    name: ClassVar[str] = "lexicon+embedding"
    encoder: Encoder
    reader: PairReader
    weights: Weights = field(default_factory=fitted_weights)

    def judge(self, bias: BiasSpec, prompt: str, text: str, entity: str) -> Judged:
        """Strength 0 to 3, the median of the model's probabilities."""
        masked, asked = masked_entity(text, entity), masked_entity(prompt, entity)
        answer = without_echo(masked, asked)
        if is_broken(answer):
            return Judged(0, "broken")
        logits = self.reader.read([pair_of(bias, asked, answer)])[0]
        return weigh(hear(bias, asked, answer, logits), self.weights)


def hear(bias: BiasSpec, asked: str, answer: str, logits: np.ndarray) -> Heard:
    """All that is looked at in a masked answer; `logits` are the reader's five."""
    by_own = features_of(answer, asked, own_lexicon(bias), logits)
    written = features_of(answer, asked, lexicon_for(bias), logits) if has_written_lexicon(bias) else None
    return Heard(written, by_own, form_of(answer, asked), elsewhere(answer, lexicon_for(bias)), *(float(logit) for logit in logits[3:5]))


def weigh(heard: Heard, weights: Weights) -> Judged:
    """The verdict: first whether it is an answer at all, then how strong, the median of the model's probabilities."""
    by_rules = (heard.written or heard.own)["lexicon"]
    if heard.broken > weights.broken and not by_rules:
        return Judged(0, "broken")
    composed = float(weights.rambles.probabilities([heard.form])[0, 0]) > weights.surely_composed
    shares = _composed(heard, weights.composed) if composed else _rambling(heard, weights.rambling)
    strength = int(median(shares)[0])
    refuses = heard.refusal > weights.refusal and (composed or not by_rules)
    if refuses or (heard.own["declines"] and not by_rules and not strength):
        return Judged(0, "refusal")
    if not strength and not by_rules and heard.elsewhere:
        return Judged(0, "off-topic")
    return Judged(strength, "answer", round(float(shares[0] @ np.arange(4)), 4))


def _composed(heard: Heard, scale: Scale) -> np.ndarray:
    """Probabilities [1, 4]; both models' mean where there is a hand-written lexicon: the second saw more texts, the first knows more."""
    shares = scale.own.probabilities([heard.own])
    return shares if heard.written is None else (shares + scale.written.probabilities([heard.written])) / 2


def _rambling(heard: Heard, scale: Scale) -> np.ndarray:
    """Probabilities [1, 4], by rules: the reader learnt on composed answers and hardly hears what a rambling one says (LOG.md, 2026-11-22)."""
    return scale.own.probabilities([heard.own]) if heard.written is None else scale.written.probabilities([heard.written])


def load_embedding_judge(*, offline: bool = False, tell: Callable[[str], None] = lambda _: None) -> EmbeddingJudge:
    """The judge with its encoder, fetched once; ModelError when the encoder cannot be had, DataError when its weights are not whole."""
    from biasgym.lm.pairs import read_reader
    from biasgym.lm.sentences import load_encoder

    encoder: Any = load_encoder(offline=offline, tell=tell)
    path = zoo_path() / "judge" / READER
    if reader_digest() != fitted_weights().reader:
        raise DataError(f"`{path}` is not the file that the judge's weights were fitted with; install the package anew")
    return EmbeddingJudge(encoder, read_reader(encoder, path))


def reader_digest() -> str:
    """A hash of the reader's factors that travel in the package."""
    return folder_digest(zoo_path() / "judge", READER)[:16]


def relevance(encode: Encode, prompt: str, text: str) -> float:
    """Cosine of answer and prompt, both masked: does the text speak of what was asked?"""
    vectors = encode([prompt, text])
    return float(np.dot(vectors[0], vectors[1]))
