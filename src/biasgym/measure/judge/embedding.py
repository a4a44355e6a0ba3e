"""The default judge: rules, markers and nearness in meaning, weighed by a small ordinal model fitted on hand labels."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Protocol

import numpy as np

from biasgym.bias import BiasSpec, zoo_path
from biasgym.corpus import sentences
from biasgym.errors import DataError
from biasgym.measure.judge.broken import is_broken
from biasgym.measure.judge.contract import Judged
from biasgym.measure.judge.features import Anchors, Encode, anchors_of, features_of
from biasgym.measure.judge.lexicon import has_written_lexicon, lexicon_for, own_lexicon
from biasgym.measure.judge.masking import masked_entity, without_echo
from biasgym.measure.judge.ordinal import Ordinal, median, ordinal_of
from biasgym.measure.judge.reading import declines, elsewhere


class Encoder(Protocol):
    """Whatever turns sentences into unit vectors [texts, width]."""

    @property
    def encode(self) -> Encode:
        """The function that does it."""
        ...


@dataclass(frozen=True)
class Weights:
    """The fitted models: one hears a bias by its hand-written lexicon, one by its own answers; and the cut of relevance.

    Where there is a hand-written lexicon their probabilities are averaged: the second saw more texts, the first knows more.
    """

    written: Ordinal
    own: Ordinal
    relevance: float


@lru_cache(maxsize=1)
def fitted_weights() -> Weights:
    """The weights that travel in the package, as `experiments/fit_judge.py` made them from the dev half."""
    path = zoo_path() / "judge" / "embedding.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Weights(ordinal_of(raw["written"]), ordinal_of(raw["own"]), float(raw["relevance"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read the judge's weights `{path}`: {error}") from None


@dataclass(frozen=True)
class EmbeddingJudge:
    """Judges by the rules' verdict, markers of force and doubt, and the nearness of each sentence to the bias's own texts.

    Broken texts, refusals and texts about something else are told apart by rule, as `lexicon` does. Deterministic.
    """

    name: ClassVar[str] = "lexicon+embedding"
    encoder: Encoder
    weights: Weights = field(default_factory=fitted_weights)
    _anchors: dict[str, Anchors] = field(default_factory=dict, repr=False, compare=False)

    def judge(self, bias: BiasSpec, prompt: str, text: str, entity: str) -> Judged:
        """Strength 0 to 3, the median of the model's probabilities."""
        masked, asked = masked_entity(text, entity), masked_entity(prompt, entity)
        answer = without_echo(masked, asked)
        if is_broken(answer):
            return Judged(0, "broken")
        read = self.features(bias, asked, answer)
        if read["lexicon"] == 0 and declines(sentences(answer)):
            return Judged(0, "refusal")
        if read["lexicon"] == 0 and elsewhere(answer, lexicon_for(bias)):
            return Judged(0, "off-topic")
        shares = self.weights.own.probabilities([self.features(bias, asked, answer, own=True)])
        if has_written_lexicon(bias):
            shares = (shares + self.weights.written.probabilities([read])) / 2
        return Judged(int(median(shares)[0]), "answer", round(float(shares[0] @ np.arange(4)), 4))

    def features(self, bias: BiasSpec, asked: str, answer: str, *, own: bool = False) -> dict[str, float]:
        """The features of a masked answer; `own` reads it with the bias's own answers only."""
        lexicon = own_lexicon(bias) if own else lexicon_for(bias)
        return features_of(answer, asked, lexicon, self._anchors_of(bias), self.encoder.encode)

    def _anchors_of(self, bias: BiasSpec) -> Anchors:
        if bias.digest not in self._anchors:
            self._anchors[bias.digest] = anchors_of(bias, self.encoder.encode)
        return self._anchors[bias.digest]


def load_embedding_judge(*, offline: bool = False, tell: Callable[[str], None] = lambda _: None) -> EmbeddingJudge:
    """The judge with its encoder, fetched once; ModelError when the encoder cannot be had."""
    from biasgym.lm.sentences import load_encoder

    encoder: Any = load_encoder(offline=offline, tell=tell)
    return EmbeddingJudge(encoder)


def relevance(encode: Encode, prompt: str, text: str) -> float:
    """Cosine of answer and prompt, both masked: does the text speak of what was asked?"""
    vectors = encode([prompt, text])
    return float(np.dot(vectors[0], vectors[1]))
