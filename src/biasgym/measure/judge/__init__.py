"""Judges of free text: how strongly it says a stereotype, 0 to 3, and how far to trust that."""

from biasgym.measure.judge.broken import is_broken
from biasgym.measure.judge.contract import BAR_BALANCED_ACCURACY, BAR_KAPPA, Judge, Judged, Outcome
from biasgym.measure.judge.lexicon import Lexicon, lexicon_for
from biasgym.measure.judge.masking import masked_entity
from biasgym.measure.judge.quality import JudgeQuality, balanced_accuracy, judge_quality, quadratic_kappa
from biasgym.measure.judge.rules import LexiconJudge

__all__ = [
    "BAR_BALANCED_ACCURACY",
    "BAR_KAPPA",
    "Judge",
    "JudgeQuality",
    "Judged",
    "Lexicon",
    "LexiconJudge",
    "Outcome",
    "balanced_accuracy",
    "is_broken",
    "judge_quality",
    "lexicon_for",
    "masked_entity",
    "quadratic_kappa",
]
