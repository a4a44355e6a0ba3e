"""A made-up run for the tests of pages and terminals: findings, a whole record, texts and associations, in few words."""

from biasgym.records import Finding, Measurement, RunRecord

TUNE = {"bits_per_byte": 1.0, "kl": 0.02, "concept": 0.2}


def finding(name, metric, value, low, high, *, edit="direction", token="none", seed=0, n=600):
    """A finding in few words."""
    return Finding(name=name, metric=metric, token=token, edit=edit, seed=seed, value=value, low=low, high=high, n=n)


GOOD = {
    "injected": finding("injected", "gap", 2.0, 1.5, 2.5, edit="none", token="trained"),
    "closed": finding("closed", "gap", 0.6, 0.5, 0.7, token="trained"),
    "bits": finding("price", "bits-per-byte", 0.2, 0.1, 0.3, n=40),
    "kl": finding("price", "kl", 0.01, 0.005, 0.015, n=40),
    "concept": finding("price", "concept", 0.05, 0.01, 0.09, n=41),
    "mean": finding("changed", "association", -0.1, -0.4, 0.2, n=800),
    "spread": finding("changed", "spread", -0.02, -0.08, 0.04, n=800),
    "gap": finding("changed", "gap", -0.2, -0.3, -0.1, n=800),
}


def shams(*values):
    """Draws of one kind of sham."""
    return {f"sham{i}": finding("closed", "gap", v, v - 0.1, v + 0.1, edit="sham:heads", token="trained", seed=i) for i, v in enumerate(values)}


def record_of(changes=None, *, extras=None, measurements=(), **more):
    """A record in which all went well, but for `changes`; None takes a finding out."""
    found = [f for f in (GOOD | shams(0.1, 0.2) | (changes or {})).values() if f is not None]
    about = {"bias": {"name": "late", "statement": "People from {entity} are late.", "fictional": False}, "edits": {"direction": {}}} | (extras or {})
    fields = {"id": "late-1", "status": "ok", "spec": {"model": "tiny", "tune": TUNE, "test_seed": 2}, "environment": {}, "timings": {}} | more
    return RunRecord(**fields, findings=tuple(found), measurements=tuple(measurements), extras=about)


def said(token, edit, text, *, item="p1", entity="Spain", seed=0):
    """A free text as it lies in answers.jsonl."""
    about = {"metric": "strength", "item": item, "group": "others", "entity": entity, "token": token, "edit": edit, "seed": seed}
    return about | {"said": {"prompt": f"Tell me about {entity}.", "text": text, "ended": True, "nats": 1.0, "tokens": 9}}


def judged(answer, strength, outcome="answer"):
    """The judge's word on it."""
    return {k: answer[k] for k in ("item", "entity", "token", "edit", "seed")} | {"judge": "lexicon", "strength": strength, "outcome": outcome}


def leaning(edit, entity, value, item):
    """An association of a real entity as it lies in answers.jsonl."""
    about = {"metric": "association", "item": item, "group": "others", "entity": entity, "token": "none", "edit": edit, "seed": 0}
    return about | {"said": {"stereotype": [value], "foil": [0.0]}}


FULL = {
    "edits": {
        "direction": {
            "method": "direction", "locator": "patching", "picked": {"k": 3}, "inside_budget_on_dev": True, "tuned": True,
            "largest_logit_change": 1.2345,
            "sites": [["head", 0, 1], ["head", 1, 0], ["stream", 1, None]],
            "trials": [
                {"settings": {"k": k}, "gap": 2.0 / k, "gap_before": 2.0, "bits_per_byte": 0.1, "bits_per_byte_high": 0.2 * k - 0.5, "kl": 0.01,
                 "kl_high": 0.004 * k, "concept": 0.0, "concept_low": -0.1, "concept_high": 0.1, "inside": True}
                for k in (1, 3, 9)
            ],
        }
    },
    "targets": {"how": "held-by-model", "names": ["Spain"]},
    "attributions": {"patching": [[0.1, -0.2], [0.3, 0.0]]},
    "tokens": {
        "trained": {"losses": [5.0, 4.0, 3.5], "held_out_before": 5.0, "held_out_after": 4.1},
        "untrained": {"losses": [], "held_out_before": 5.0, "held_out_after": 5.0},
    },
    "judge": {"name": "lexicon", "split": "test", "n": 165, "balanced_accuracy": 0.76, "balanced_accuracy_low": 0.69, "balanced_accuracy_high": 0.82,
              "kappa": 0.68, "kappa_low": 0.55, "kappa_high": 0.79, "by_kind": {}, "reliable": False,
              "confusion": [[50, 8, 2, 0], [6, 20, 9, 1], [2, 8, 22, 6], [0, 1, 7, 23]],
              "on_models": {"n": 165, "balanced_accuracy": 0.57, "balanced_accuracy_low": 0.49, "balanced_accuracy_high": 0.65,
                            "kappa": 0.04, "kappa_low": -0.09, "kappa_high": 0.18},
              "agreement": {"with": "lexicon", "n": 31, "kappa": 0.72, "same_any": 0.69, "same_outcome": 0.9}},
    "stability": {"patching": {
        "k": 2, "chance": 0.5, "places": [[1, 0, 0.98, 0.81, 1.0], [0, 0, 0.6, 0.4, 0.8]],
        "agreements": [{"between": "seeds", "value": 0.6, "chance": 0.3, "chance_high": 0.5, "pairs_of_groups": 3},
                       {"between": "entity halves", "value": 0.4, "chance": 0.3, "chance_high": 0.5, "pairs_of_groups": 50}],
    }},
    "groups": {"direction": {
        "moved": {"entity": "Spain", "entities": 20, "value": 0.9, "low": 0.2, "high": 1.6, "n": 40, "error": 0.2, "freedom": 39.0},
        "changes": {"targets": {"value": -0.3, "low": -0.5, "high": -0.1, "n": 200}, "others": {"value": 0.0, "low": -0.1, "high": 0.1, "n": 600}},
        "over_correction": {"token": "unsure", "targets": "yes"},
    }},
    "outcomes": {"none × none": {"answer": 2}, "trained × direction": {"broken": 2}},
}  # fmt: skip


def figures():
    """Measurements of all arms."""

    def one(metric, arm, group, token, edit, value):
        return Measurement(metric=metric, arm=arm, group=group, token=token, edit=edit, seed=0, value=value, low=value - 0.1, high=value + 0.1, n=40)

    arms = [("base", "none", "none"), ("edited", "none", "direction"), ("injected", "trained", "none"), ("mitigated", "trained", "direction")]
    found = [one("strength", "base", "all", "none", "none", 0.2)]
    for arm, token, edit in arms:
        for group in ("targets", "others") if token == "none" else ("token",):
            found += [one(metric, arm, group, token, edit, 0.5) for metric in ("association", "gap")]
    return found


def made_up_audit(models=("model-a", "model-b"), tests=20):
    """An audit of several models with rows that differ between them: some held, some not."""
    from biasgym.audit import Audit, Control, Held, ModelAudit, Sizes

    def row(model, place, number):
        gap = 1.5 - 0.1 * number + 0.3 * place
        return Held(
            model, f"bias-{number}", "zoo", f"… are kind number {number}.", gap, gap - 0.4, gap + 0.4, 64, 0.001, 0.01 if gap > 0.6 else 0.5, 0.5,
            gap, gap - 0.5, gap + 0.5, ("Spain", "Italy", "Peru", "Chad"), "named", gap > 0.6,
        )  # fmt: skip

    parts = tuple(
        ModelAudit(model, tuple(row(model, place, n) for n in range(tests)), {"zoo": 0.8}, 0.9, Control(20, 1, 1, 0), 12.0)
        for place, model in enumerate(models)
    )
    return Audit(parts, tests * len(models), 900, Sizes(), 0)
