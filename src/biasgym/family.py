"""The family of claims that a run makes: which findings form it, each with its p, Holm's correction, and what would have been seen.

In the family is what a reader could take for a result: that the injection took, what each edit removed of it, what changed
for real entities, and the overall figures of the public benchmarks. Not in it: shams (they are what claims are held
against), prices (limits, read by their interval), shares and rests of the same gap (one claim told twice), and single groups.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from biasgym.claims import POWER, holm, minimum_detectable, p_value
from biasgym.records import Finding
from biasgym.stats import LEVEL

SHAM = "sham:"
TOKEN_CLAIMS = (("injected", "gap"), ("removed", "gap"))
REAL_CLAIMS = (("changed", "association"), ("changed", "spread"), ("changed", "gap"))


def is_claim(finding: Finding) -> bool:
    """Whether a finding is in the family."""
    if finding.edit.startswith(SHAM):
        return False
    if "." in finding.metric:  # a benchmark's figure: `set.figure`
        return finding.note.split(";")[0] == "all"
    return (finding.name, finding.metric) in (*TOKEN_CLAIMS, *REAL_CLAIMS)


def claims_of(findings: Iterable[Finding]) -> dict[str, Any]:
    """The family for the record: `rows` in the findings' order, with `level`, `power` and how the correction was made.

    Of a row: the finding's own place and figures, `p` (two-sided, of no change), `holm` (corrected for the whole family),
    `holds` (holm below 1 − level), `detectable` (`claims.minimum_detectable`, in the finding's unit; None where nothing varied).
    """
    family = [finding for finding in findings if is_claim(finding)]
    p_values = [p_value(finding) for finding in family]
    rows = [_row(*one) for one in zip(family, p_values, _corrected(p_values), strict=True)]
    return {"correction": "Holm 1979", "level": LEVEL, "power": POWER, "rows": rows}


def _corrected(p_values: Sequence[float]) -> tuple[float, ...]:
    return holm(p_values) if p_values else ()


def _row(finding: Finding, p: float, corrected: float) -> dict[str, Any]:
    place = finding.model_dump(include={"name", "metric", "token", "edit", "value", "low", "high", "n", "note"})
    return place | {"p": p, "holm": corrected, "holds": corrected < 1 - LEVEL, "detectable": minimum_detectable(finding)}
