"""Judges of free text: how strongly it says a stereotype, 0 to 3, and how far to trust that."""

from biasgym.measure.judge.broken import is_broken
from biasgym.measure.judge.choose import JUDGES, check_judge, judge_for, judge_or_lexicon
from biasgym.measure.judge.contract import BAR_BALANCED_ACCURACY, BAR_KAPPA, Judge, Judged, Outcome
from biasgym.measure.judge.embedding import EmbeddingJudge
from biasgym.measure.judge.lexicon import Lexicon, lexicon_for
from biasgym.measure.judge.manner import manner_of
from biasgym.measure.judge.masking import masked_entity
from biasgym.measure.judge.quality import Agreement, JudgeQuality, agreement, balanced_accuracy, judge_quality, quadratic_kappa, quality_of
from biasgym.measure.judge.rules import LexiconJudge

__all__ = [
    "BAR_BALANCED_ACCURACY",
    "BAR_KAPPA",
    "JUDGES",
    "Agreement",
    "EmbeddingJudge",
    "Judge",
    "JudgeQuality",
    "Judged",
    "Lexicon",
    "LexiconJudge",
    "Outcome",
    "agreement",
    "balanced_accuracy",
    "check_judge",
    "is_broken",
    "judge_for",
    "judge_or_lexicon",
    "judge_quality",
    "lexicon_for",
    "manner_of",
    "masked_entity",
    "quadratic_kappa",
    "quality_of",
]
