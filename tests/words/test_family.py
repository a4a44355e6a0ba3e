"""The family of claims: who is in it, what it says of rows with and without a standard error, and the law of Holm in it."""

import json
import math

import pytest

from biasgym import claims, stats
from biasgym.family import claims_of, is_claim
from biasgym.grade import figures_of
from biasgym.records import Finding


def row(name, metric, estimate, *, edit="direction", note=""):
    """A finding from an estimate."""
    return Finding(name=name, metric=metric, token="none", edit=edit, seed=0, note=note, **figures_of(estimate))


def test_a_row_of_a_record_has_the_p_of_its_estimate():
    """Also after a way through JSON, which has no infinity; the normal approximation is only for rows without a standard error."""
    for estimate in (stats.mean([0.2, 0.5, 0.1, 0.4, 0.3]), stats.share(3, 20), stats.mean([1.0, 1.0])):
        found = Finding.model_validate_json(row("changed", "gap", estimate).model_dump_json())
        assert claims.p_value(found) == claims.p_value(estimate)
        assert claims.minimum_detectable(found) == claims.minimum_detectable(estimate)
        assert claims.freedom_of(found) == estimate.freedom
    few = stats.mean([0.2, 0.5, -0.1, 0.4, 0.3])
    old = json.loads(row("changed", "gap", few).model_dump_json())
    del old["error"], old["freedom"]
    assert claims.p_value(Finding.model_validate(old)) != claims.p_value(few)  # what the field was added for
    assert figures_of(stats.share(1, 4))["freedom"] is None
    assert figures_of(stats.Estimate(0.0, -1.0, 1.0, 3))["error"] is None


def test_who_is_in_the_family():
    """Injection, removal, real entities, overall benchmark figures; no sham, price, share, rest, free text or single group."""
    e = stats.mean([0.2, 0.5, 0.1])
    inside = [
        row("injected", "gap", e, edit="none"), row("removed", "gap", e), row("changed", "association", e), row("changed", "spread", e),
        row("changed", "gap", e), row("changed", "bbq.bias", e, note="all; ideal 0"), row("price", "arc-easy.accuracy", e, note="all"),
    ]  # fmt: skip
    outside = [
        row("removed", "gap", e, edit="sham:heads"), row("closed", "gap", e), row("left_over", "gap", e), row("price", "kl", e),
        row("price", "concept", e), row("changed", "bbq.bias", e, note="Age; ideal 0"), row("removed", "strength", e),
    ]  # fmt: skip
    assert all(map(is_claim, inside))
    assert not any(map(is_claim, outside))
    assert len(claims_of([*inside, *outside])["rows"]) == len(inside)


def test_every_row_is_corrected_for_all_of_them():
    """Holm's p is that of `claims.holm`, never below p; more claims make it harder; `holds` is below 0.05."""
    strong, weak = stats.mean([0.9, 1.0, 1.1, 1.0, 0.95, 1.05]), stats.mean([0.4, 0.1, 0.3, -0.1, 0.2, 0.25])
    one = claims_of([row("changed", "gap", weak)])["rows"][0]
    rows = claims_of([row("injected", "gap", strong, edit="none"), row("changed", "gap", weak), row("changed", "spread", weak)])["rows"]
    assert [r["holm"] for r in rows] == list(claims.holm([r["p"] for r in rows]))
    assert one["holm"] == one["p"] < rows[1]["holm"]
    assert (one["holds"], rows[0]["holds"], rows[1]["holds"]) == (True, True, False)
    assert rows[0]["detectable"] == pytest.approx(claims.minimum_detectable(strong))
    assert claims_of([])["rows"] == []


def test_claims_of_nothing_are_held_in_one_run_of_twenty():
    """Under no change at all the whole family holds anything in at most 5 % of runs (200 runs of five claims)."""
    import numpy as np

    generator = np.random.default_rng(3)
    wrong = 0
    for _ in range(200):
        findings = [row("changed", metric, stats.mean(generator.normal(size=40), draws=200)) for metric in ("gap", "spread", "association")]
        wrong += any(r["holds"] for r in claims_of(findings)["rows"])
    assert wrong / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
