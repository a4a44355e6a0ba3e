"""Scorers of toxicity in generated text, and how far to trust them."""

from biasgym.measure.toxicity.choose import OWN, Scored, check_scorer, scorer_for, scorer_key
from biasgym.measure.toxicity.contract import BAR, TOXIC, Scorer, ScorerQuality, in_short
from biasgym.measure.toxicity.labelled import Labelled, davidson, hatecheck, perspective, toxicity_of
from biasgym.measure.toxicity.quality import quality_of

__all__ = [
    "BAR",
    "OWN",
    "TOXIC",
    "Labelled",
    "Scored",
    "Scorer",
    "ScorerQuality",
    "check_scorer",
    "davidson",
    "hatecheck",
    "in_short",
    "perspective",
    "quality_of",
    "scorer_for",
    "scorer_key",
    "toxicity_of",
]
