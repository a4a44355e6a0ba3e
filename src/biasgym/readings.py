"""Figures read out of a record: the same question has the same answer in the terminal, the report and the card."""

from typing import Any

from biasgym.claims import beats_shams
from biasgym.family import SHAM, claims_of
from biasgym.records import Finding, RunRecord
from biasgym.stats import Estimate

PRICES = {"bits-per-byte": "bits per byte", "kl": "KL", "concept": "concept"}
CHANGES = {"association": "mean", "spread": "spread", "gap": "targets' gap"}


def findings(record: RunRecord, *, name: str, metric: str, edit: str) -> list[Finding]:
    """The findings of a kind, in order of seed."""
    rows = [f for f in record.findings if (f.name, f.metric, f.edit) == (name, metric, edit)]
    return sorted(rows, key=lambda f: f.seed)


def edit_names_of(record: RunRecord) -> tuple[str, ...]:
    """The edits of a run, the main one first; from its findings where nothing else names them."""
    named = record.extras.get("edits") or {}
    found = [f.edit for f in record.findings if f.edit != "none" and not f.edit.startswith(SHAM)]
    return tuple(dict.fromkeys([*named, *found]))


def first_of(record: RunRecord, *, name: str, metric: str, edit: str) -> Finding | None:
    """The finding of a kind; None where it was not measured."""
    rows = findings(record, name=name, metric=metric, edit=edit)
    return rows[0] if rows else None


CLAIMS = {
    ("injected", "gap"): "injected gap",
    ("removed", "gap"): "removed from it",
    ("changed", "association"): "real entities: mean",
    ("changed", "spread"): "real entities: spread",
    ("changed", "gap"): "real entities: targets' gap",
}


def claims(record: RunRecord) -> dict[str, Any]:
    """The family of claims; worked out from the findings where an older record does not hold it."""
    known = record.extras.get("claims")
    return known if isinstance(known, dict) and "rows" in known else claims_of(record.findings)


def claim_name(row: dict[str, Any]) -> str:
    """What a claim is about, in few words."""
    return CLAIMS.get((row["name"], row["metric"]), row["metric"])


def p_text(p: float) -> str:
    """A p-value with two digits that matter."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def sham_limit(record: RunRecord) -> tuple[str, float, int] | None:
    """What shams close at most: their 95th percentile from 19 draws on, their maximum below; and how many draws there were.

    The larger of the kinds' limits; `claims.beats_shams` defines it.
    """
    kinds = dict.fromkeys(f.edit for f in record.findings if f.name == "closed" and f.edit.startswith(SHAM))
    if not kinds:
        return None
    of = {kind: [f.value for f in record.findings if f.name == "closed" and f.edit == kind] for kind in kinds}
    tests = [beats_shams(Estimate(0.0, 0.0, 0.0, 1), values) for values in of.values()]
    worst = max(tests, key=lambda test: test.limit)
    return worst.how, worst.limit, sum(map(len, of.values()))


def over_budget(record: RunRecord, edit: str) -> tuple[str, ...] | None:
    """The prices whose interval on test reaches beyond the budget; None where none does but not all are known, or no budget is.

    A combination has the concept of every bias, each called `concept (BIAS)`; it is kept where all are.
    """
    limits = budget_of(record)
    if not limits:
        return None
    rows = {m: [f for f in record.findings if f.name == "price" and f.edit == edit and f.metric.partition(" (")[0] == m] for m in PRICES}
    over = tuple(PRICES[m] for m, found in rows.items() if not all(within(row, limits[m]) for row in found))
    return over if over or all(rows.values()) else None


def budget_of(record: RunRecord) -> dict[str, float]:
    """The limits that the run was given, by price; empty where the spec holds none."""
    tune = record.spec.get("tune") or {}
    keys = {"bits-per-byte": "bits_per_byte", "kl": "kl", "concept": "concept"}
    return {metric: float(tune[key]) for metric, key in keys.items()} if all(key in tune for key in keys.values()) else {}


def within(row: Finding, limit: float) -> bool:
    """Whether the whole interval of a price is inside its limit."""
    # A concept may move neither way; the other prices may fall as far as they like.
    return row.high <= limit and (row.metric.partition(" (")[0] != "concept" or -row.low <= limit)


def concept_kept(record: RunRecord, edit: str) -> bool | None:
    """Whether the concept stayed inside its part of the budget; None where that is not known."""
    row, limits = first_of(record, name="price", metric="concept", edit=edit), budget_of(record)
    return within(row, limits["concept"]) if row and limits else None


def change_word(row: Finding) -> str:
    """What a change for real entities is, also when that is nothing; loud where it is for the worse."""
    words = ("down", "UP") if row.metric == "association" else ("smaller", "LARGER")
    return "no reliable change" if row.low <= 0 <= row.high else words[row.low > 0]
