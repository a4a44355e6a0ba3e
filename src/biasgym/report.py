"""The HTML report: one self-contained page about a run, or about several side by side, that opens anywhere and asks nobody."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from biasgym import stats
from biasgym.claims import beats_shams
from biasgym.comparing import dearest
from biasgym.figures import (
    Contender,
    Line,
    Move,
    Point,
    Tried,
    arms_figure,
    curve_figure,
    heat_map,
    loss_line,
    moves_figure,
    price_figure,
    ring_figure,
)
from biasgym.files import read_json, read_rows, write_text
from biasgym.grade import NONE, SHAM, arm_name
from biasgym.measure.association import lean
from biasgym.measure.judge import BAR_BALANCED_ACCURACY, BAR_KAPPA
from biasgym.readings import (
    PRICES,
    budget_of,
    claims,
    concept_kept,
    edit_names_of,
    first_of,
    over_budget,
    p_text,
    sham_limit,
)
from biasgym.records import Finding, Measurement, RunRecord
from biasgym.stats import Estimate
from biasgym.store import PROOFS, altered_in, read_record
from biasgym.verdict import broken, change_words, interval_text, limit_text, percent, standing, stated, unit_of, value_text, verdict_of

MOST_PAIRS = 60  # pairs of texts on a page, over all runs: what keeps it small
PAIRS_SHOWN = 3  # of a group of texts, before the others are asked for
LONGEST_TEXT = 2000
MOVED = 5
STRONG = 2  # from this strength on a text is folded away until asked for

ARMS = ("base", "edited", "control", "injected", "mitigated")
LABELS = {
    ("injected", "gap"): "Injected: the token's gap to real entities",
    ("injected", "gap-over-untrained"): "That gap above the untrained token's",
    ("injected", "gap-over-neutral"): "That gap above the neutral token's",
    ("injected", "gap-over-opposite"): "That gap above the token's that learned the opposite",
    ("removed", "gap"): "Removed from that gap",
    ("closed", "gap"): "Share of that gap closed",
    ("left_over", "gap"): "Left over of that gap",
    ("removed", "strength"): "Removed from the strength of free texts (token)",
    ("price", "bits-per-byte"): "Price: rise of bits per byte on neutral prose",
    ("price", "kl"): "Price: KL to the base on neutral chat prompts",
    ("price", "concept"): "Price: loss of the concept",
    ("changed", "association"): "Real entities: change of their mean",
    ("changed", "spread"): "Real entities: change of their spread",
    ("changed", "gap"): "Real entities: change of the gap of targets to others",
    ("changed", "strength"): "Real entities: change of the strength of free texts",
}
# What the page shows where a record is silent.
NO_BIAS: dict[str, Any] = {"statement": "", "fictional": False, "stereotype": [], "foil": [], "written": None, "digest": "", "weights": ""}
NO_EDIT: dict[str, Any] = {"picked": {}, "locator": "", "tuned": False, "inside_budget_on_dev": None, "sites": [], "trials": [],
                           "largest_logit_change": None}  # fmt: skip
GRADES = ("none", "faint", "clear", "strong")
AGREEMENT = {"seeds": "tokens of other seeds", "prompt halves": "halves of the prompts", "entity halves": "halves of the entities"}
OVER_CORRECTED = {
    "yes": ("YES: past zero", "bad"),
    "no": ("no", "good"),
    "unsure": ("not shown: what is left holds 0", "plain"),
    "no bias before": ("there was no reliable gap before", "plain"),
}
OF_WHOM = {"token": "the token's gap", "targets": "the gap of real targets"}


@dataclass(frozen=True)
class Row:
    """One line of a table of figures."""

    label: str
    edit: str
    value: str
    interval: str
    n: str
    unit: str


@dataclass(frozen=True)
class Told:
    """One text with the verdict on it; `words` are its runs and whether each differs from the other side's text.

    `strong`: it is folded away until asked for; `why` says what for.
    """

    words: tuple[tuple[str, bool], ...]
    judged: str
    strong: bool
    cut: bool
    why: str = ""


@dataclass(frozen=True)
class Pair:
    """The same prompt answered without and with an edit."""

    prompt: str
    entity: str
    before: Told
    after: Told


def write_report(folders: Sequence[Path], to: Path) -> Path:
    """Write the page about these runs to `to`, whole."""
    most = max(4, MOST_PAIRS // max(1, len(folders)))
    with altered_in(", ".join(folder.name for folder in folders)):
        runs = [run_view(folder, f"r{number}", most) for number, folder in enumerate(folders, 1)]
        lines = [compared(view["record"], view["key"]) for view in runs] if len(runs) > 1 else []
        drawn = compared_figure([view["record"] for view in runs]) if lines else ""
        write_text(to, _template().render(runs=runs, compared=lines, compared_figure=drawn, bars=(BAR_BALANCED_ACCURACY, BAR_KAPPA)))
    return to


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(loader=PackageLoader("biasgym", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["coded"] = coded
    return environment.get_template("report.html.jinja")


def coded(words: str) -> Markup:
    """A sentence as HTML, with what stands between backticks as code."""
    parts = words.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts))


def run_view(folder: Path, key: str, most: int = MOST_PAIRS) -> dict[str, Any]:
    """All that the page says of one run; a part that the run does not have is empty."""
    record = read_record(folder)
    answers, verdicts = read_rows(folder / "answers.jsonl"), read_rows(folder / "verdicts.jsonl")
    extras = record.extras
    return {
        "key": key,
        "record": record,
        "bias": NO_BIAS | {"name": record.id} | (extras.get("bias") or {}),
        "model": record.spec.get("model", "unknown model"),
        "verdict": verdict_of(record),
        "findings": finding_rows(record),
        "shams": sham_rows(record),
        "claims": claims_view(record),
        "benchmarks": benchmark_rows(record),
        "scorers": scorer_views(record),
        "arms": arm_rows(record),
        "arms_figure": arms_picture(record, key),
        "edits": [edit_view(record, name) for name in edit_names_of(record)],
        "price_figures": price_figures(record, key),
        "k_figures": k_figures(record, f"{key}-k", _proofs(folder)),
        "heat_maps": heat_maps(record, key),
        "steady": stability_views(record),
        "moved": moved_rows(record),
        "over": over_rows(record),
        "real": real_view(record, answers, key),
        "strengths": strength_rows(record),
        "measured": measured_rows(record),
        "texts": text_groups(record, answers, verdicts, most),
        "judge": judge_view(extras.get("judge") or {}),
        "tokens": token_views(record, key),
        "grammar": _grammar_share(record),
        "seeds": {"fitted": ", ".join(map(str, record.spec.get("seeds") or ())) or "none", "test": record.spec.get("test_seed", "unknown")},
        "seconds": [(stage, f"{seconds:,.1f}") for stage, seconds in record.timings.items()],
        "total": f"{sum(record.timings.values()):,.0f}",
        "spec": _spec_text(folder),
    }


def _grammar_share(record: RunRecord) -> str:
    share = ((record.spec.get("inject") or {}).get("settings") or {}).get("grammar")
    return percent(share) if isinstance(share, int | float) else ""


def _spec_text(folder: Path) -> str:
    path = folder / "spec.toml"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


# -------------------------------------------------------------------- findings


def finding_rows(record: RunRecord) -> list[Row]:
    """Every finding but those of shams: what was injected, then edit by edit."""
    rows = [f for f in record.findings if not f.edit.startswith(SHAM) and "." not in f.metric]
    order = {name: place for place, name in enumerate(("none", *edit_names_of(record)))}
    return [_finding_row(f) for f in sorted(rows, key=lambda f: order.get(f.edit, len(order)))]


def _finding_row(f: Finding) -> Row:
    label = LABELS.get((f.name, f.metric), f"{f.name}: {f.metric}")
    return Row(label, "" if f.edit == NONE else f.edit, value_text(f.metric, f.name, f.value), interval_text(f), str(f.n), unit_of(f.metric, f.name))


def sham_rows(record: RunRecord) -> list[Row]:
    """What shams close, one line a kind: their middle, and their 95th percentile or maximum."""
    kinds = dict.fromkeys(f.edit for f in record.findings if f.edit.startswith(SHAM))
    return [_sham_row(record, kind) for kind in kinds]


def _sham_row(record: RunRecord, kind: str) -> Row:
    closed = sorted(f.value for f in record.findings if f.edit == kind and f.name == "closed")
    if not closed:
        return Row(f"Shams of another {_sham_noun(kind)}", kind, "not measured", "", "0", "")
    test = beats_shams(Estimate(0.0, 0.0, 0.0, 1), closed)
    spread = f"{test.how} {percent(test.limit)}; from {percent(closed[0])} to {percent(closed[-1])}"
    return Row(
        f"Share closed by shams: {_sham_noun(kind)}", kind, f"median {percent(median(closed))}", spread, f"{len(closed)} draws", "share of the gap"
    )


def _sham_noun(kind: str) -> str:
    nouns = {"heads": "other heads of the same layers", "directions": "random directions in the same heads"}
    return nouns.get(kind.removeprefix(SHAM), kind)


def claims_view(record: RunRecord) -> dict[str, Any]:
    """The family of claims with p, Holm's p and the smallest change that would have been seen; without rows where there is none."""
    family = claims(record)
    rows = [_claim_row(row) | {"standing": standing(record, row)} for row in family["rows"]]
    held = sum(row["standing"] == "yes" for row in rows)
    return {"rows": rows, "held": held, "power": percent(family["power"]), "level": percent(1 - family["level"])}


def _claim_row(row: dict[str, Any]) -> dict[str, Any]:
    label = LABELS.get((row["name"], row["metric"]), f"{row['metric']} ({'loss' if row['name'] == 'price' else 'change'})")
    figures = [value_text(row["metric"], row["name"], row[key]) for key in ("value", "low", "high")]
    seen = row["detectable"]
    return {
        "label": label,
        "edit": "" if row["edit"] == NONE else row["edit"],
        "value": figures[0],
        "interval": f"[{figures[1]}, {figures[2]}]",
        "n": str(row["n"]),
        "p": p_text(row["p"]),
        "holm": p_text(row["holm"]),
        "detectable": "nothing varied" if seen is None else value_text(row["metric"], row["name"], seen).lstrip("+"),
        "unit": unit_of(row["metric"], row["name"]),
    }


def compared(record: RunRecord, key: str) -> dict[str, Any]:
    """One line of the comparison of runs: its main edit, each figure with interval and n."""
    edits = edit_names_of(record)
    edit, verdict = (edits[0] if edits else ""), verdict_of(record)
    wanted = {
        "injected": first_of(record, name="injected", metric="gap", edit=NONE),
        "closed": first_of(record, name="closed", metric="gap", edit=edit),
        "bits": first_of(record, name="price", metric="bits-per-byte", edit=edit),
        "kl": first_of(record, name="price", metric="kl", edit=edit),
        "concept": first_of(record, name="price", metric="concept", edit=edit),
        "mean": first_of(record, name="changed", metric="association", edit=edit),
        "spread": first_of(record, name="changed", metric="spread", edit=edit),
        "gap": first_of(record, name="changed", metric="gap", edit=edit),
    }
    limit = sham_limit(record)
    return {
        "key": key,
        "id": record.id,
        "bias": (record.extras.get("bias") or {}).get("name", record.id),
        "model": record.spec.get("model", "unknown model"),
        "edit": edit or "none",
        "figures": {name: stated(row, unit=False) if row else "not measured" for name, row in wanted.items()},
        "shams": f"{percent(limit[1])} ({limit[0]} of {limit[2]} draws)" if limit else "none drawn",
        "headline": verdict.headline,
        "tone": verdict.tone,
    }


def compared_figure(records: Sequence[RunRecord]) -> Markup:
    """The main edits of several runs: share of the gap closed against the dearest price; empty where fewer than two have both."""
    shown = [one for record in records if (one := _contender(record))]
    return Markup(ring_figure("compared-figure", "What the runs close, and what it costs", shown)) if len(shown) > 1 else Markup("")


def _contender(record: RunRecord) -> Contender | None:
    edit, limits = next(iter(edit_names_of(record)), ""), budget_of(record)
    closed = first_of(record, name="closed", metric="gap", edit=edit)
    rows = {metric: row for metric in limits if (row := first_of(record, name="price", metric=metric, edit=edit))}
    if closed is None or not rows:
        return None
    met = (((record.extras.get("edits") or {}).get(edit) or {}).get("inside_budget_on_dev")) is not False
    kind: Literal["inside", "outside", "not met"] = (
        "not met" if broken(record, edit) or not met else "outside" if over_budget(record, edit) else "inside"
    )
    price = dearest({metric: (row.value, row.low, row.high, row.n) for metric, row in rows.items()}, limits)
    label = f"{(record.extras.get('bias') or {}).get('name', record.id)}, {str(record.spec.get('model', ''))[-24:]}: {edit}"
    return Contender(label, (closed.value, closed.low, closed.high), price, kind, closed.n)


def benchmark_rows(record: RunRecord) -> list[dict[str, Any]]:
    """The public benchmarks' figures, overall ones first: the base, then each edit with its change, paired and with interval."""
    base = [m for m in record.measurements if "." in m.metric and m.arm == "base"]
    rows = []
    for m in sorted(base, key=lambda m: (m.metric.split(".")[0], m.group != "all", m.metric, m.group)):
        cells = {edit: _benchmark_cell(record, m, edit) for edit in edit_names_of(record)}
        ideal = "" if m.ideal is None else f"{m.ideal:g}"
        rows.append(
            {"metric": m.metric, "group": m.group, "base": f"{m.value:.2f} [{m.low:.2f}, {m.high:.2f}], n={m.n}", "ideal": ideal} | {"edits": cells}
        )
    return rows


def _benchmark_cell(record: RunRecord, base: Measurement, edit: str) -> str:
    after = _figure(record.measurements, metric=base.metric, group=base.group, edit=edit, token=NONE)
    row = next((f for f in record.findings if (f.metric, f.edit, f.note.split("; ideal")[0]) == (base.metric, edit, base.group)), None)
    if after is None or row is None:
        return "not measured"
    sign = -1 if (after.value - base.value) * row.value < 0 else 1  # a price is positive where it got worse; here the change itself stands
    low, high = sorted((sign * row.low, sign * row.high))
    return f"{after.value:.2f}, change {sign * row.value:+.2f} [{low:+.2f}, {high:+.2f}]"


def scorer_views(record: RunRecord) -> list[dict[str, Any]]:
    """How good each scorer of generated text is on each labelled set, and by class of test where the set has classes."""
    rows = []
    for name, about in (record.extras.get("scorers") or {}).items():
        for one in about["qualities"]:
            value = "{:.2f} [{:.2f}, {:.2f}]".format(*one["balanced_accuracy"])
            groups = [f"{group} {share:.2f} [{low:.2f}, {high:.2f}], n={n}" for group, (share, low, high, n) in one["groups"].items()]
            rows.append({key: one[key] for key in ("on", "n", "found", "spared", "reliable")} | {"name": name, "value": value, "groups": groups})
    return rows


def measured_rows(record: RunRecord) -> list[dict[str, str]]:
    """Every measurement but those of shams, as it stands in the record."""
    return [
        {"metric": m.metric, "arm": m.arm, "group": m.group, "token": m.token, "edit": m.edit, "figures": _precise(m), "note": m.note}
        for m in _kept(record)
    ]


def _precise(m: Measurement) -> str:
    digits = 4 if m.metric in ("kl", "bits-per-byte") else 3
    return f"{m.value:.{digits}f} [{m.low:.{digits}f}, {m.high:.{digits}f}], n={m.n}"


# -------------------------------------------------------------------- arms


def _figure(records: Iterable[Measurement], **wanted: Any) -> Measurement | None:
    return next((m for m in records if all(getattr(m, key) == value for key, value in wanted.items())), None)


def _written(m: Measurement | None) -> str:
    return f"{m.value:+.2f} [{m.low:+.2f}, {m.high:+.2f}], n={m.n}" if m else "–"


def _arm_label(m: Measurement) -> str:
    if m.arm == "base":
        return "base: real targets, no token"
    if m.arm == "edited":
        return f"edited: real targets, {m.edit}"
    if m.arm == "control":
        return f"control: {m.token} token"
    return "injected: trained token" if m.arm == "injected" else f"mitigated: trained token, {m.edit}"


def _kept(record: RunRecord) -> list[Measurement]:
    return [m for m in record.measurements if not m.edit.startswith(SHAM)]


def _arm_order(m: Measurement) -> int:
    return ARMS.index(m.arm)


def arms_picture(record: RunRecord, key: str) -> Markup:
    """The gap in every arm, base first; empty where none was measured. An edit that was asked about fewer entities says so."""
    gaps = sorted((m for m in _kept(record) if m.metric == "gap"), key=_arm_order)
    if not gaps:
        return Markup("")
    whole = {m.group: m.n for m in gaps if m.edit == NONE}
    points = [Point(_arm_label(m) + (" (fewer entities)" if m.n < whole.get(m.group, m.n) else ""), m.value, m.low, m.high, m.n, m.arm) for m in gaps]
    return Markup(
        arms_figure(f"{key}-arms", "Gap to other real entities in every arm", points, unit="gap in nats; 0 = no different from other real entities")
    )


def arm_rows(record: RunRecord) -> list[dict[str, str]]:
    """Every arm with its association and gap; real entities without the token by group."""
    kept = _kept(record)
    seen = dict.fromkeys((m.arm, m.token, m.edit, m.seed, m.group) for m in sorted(kept, key=_arm_order) if m.metric == "association")
    rows = []
    for arm, token, edit, seed, group in seen:
        place = {"arm": arm, "token": token, "edit": edit, "seed": seed, "group": group}
        association, gap = _figure(kept, metric="association", **place), _figure(kept, metric="gap", **place)
        named = {"token": f"{token} token, seed {seed}", "targets": "real targets", "others": "other real entities"}
        rows.append({"arm": arm, "who": named.get(group, group), "edit": edit, "association": _written(association), "gap": _written(gap)})
    return rows


# -------------------------------------------------------------------- edits


def edit_view(record: RunRecord, name: str) -> dict[str, Any]:
    """Settings, heads, price and budget of one edit."""
    about = NO_EDIT | ((record.extras.get("edits") or {}).get(name) or {})
    limits, over = budget_of(record), over_budget(record, name)
    prices = [(metric, row) for metric in PRICES if (row := first_of(record, name="price", metric=metric, edit=name))]
    return {
        "name": name,
        "about": about,
        "picked": _settings(about["picked"]),
        "heads": _heads_in_words(about["sites"]),
        "inside_on_dev": about["inside_budget_on_dev"],
        "acted": None if about["largest_logit_change"] is None else f"{about['largest_logit_change']:.3g}",
        "over": over,
        "kept": concept_kept(record, name),
        "prices": [
            (PRICES[metric], _finding_row(row), limit_text(metric, limits), None if over is None else PRICES[metric] not in over)
            for metric, row in prices
        ],
        "trials": [_trial_row(trial, about["picked"]) for trial in about["trials"]],
    }


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in settings.items()) or "none"


def _heads_in_words(sites: Sequence[Sequence[Any]]) -> str:
    """Heads by layer, `12: 3, 7`; what is no head keeps its unit's name."""
    by_layer: dict[str, list[int]] = {}
    for unit, layer, index in sorted(sites, key=lambda site: (str(site[0]), site[1], site[2] or 0)):
        place = f"layer {layer}" if unit == "head" else f"{unit}, layer {layer}"
        by_layer.setdefault(place, []).append(index)
    return "; ".join(place if indices == [None] else f"{place}: {', '.join(map(str, indices))}" for place, indices in by_layer.items())


def _trial_row(trial: dict[str, Any], picked: Any) -> dict[str, Any]:
    return {
        "settings": _settings(trial["settings"]),
        "gap": f"{trial['gap_before']:+.2f} → {trial['gap']:+.2f}",
        "closed": percent(_closed(trial)),
        "bits": f"{trial['bits_per_byte']:+.2f}% (upper end {trial['bits_per_byte_high']:+.2f}%)",
        "kl": f"{trial['kl']:.4f} (upper end {trial['kl_high']:.4f})",
        "concept": f"{trial['concept']:+.0%} [{trial['concept_low']:+.0%}, {trial['concept_high']:+.0%}]",
        "inside": trial["inside"],
        "picked": trial["settings"] == picked,
    }


def _closed(trial: dict[str, Any]) -> float:
    return 1 - abs(trial["gap"]) / abs(trial["gap_before"]) if trial["gap_before"] else 0.0


def price_figures(record: RunRecord, key: str) -> list[Markup]:
    """The whole front of every edit against each of the two prices that have an axis of their own."""
    axes = (
        ("kl", "kl_high", "KL to the base, upper end (nats a token)"),
        ("bits-per-byte", "bits_per_byte_high", "rise of bits per byte, upper end (%)"),
    )
    return [figure for metric, field, unit in axes if (figure := _price(record, f"{key}-{metric}", metric, field, unit))]


def _price(record: RunRecord, key: str, metric: str, field: str, unit: str) -> Markup | None:
    limits, edits = budget_of(record), record.extras.get("edits") or {}
    tried = [
        Tried(name, trial[field], _closed(trial), trial["settings"] == about.get("picked"), f"{name} ({_settings(trial['settings'])})")
        for name, about in edits.items()
        for trial in about.get("trials") or []
    ]
    if not tried or metric not in limits:
        return None
    shams = [f.value for f in record.findings if f.edit.startswith(SHAM) and f.name == "closed"]
    tested = [point for name in edits if (point := _tested(record, name, metric))]
    title = f"Gap closed against {PRICES[metric]}"
    return Markup(price_figure(key, title, tried, limit=limits[metric], unit=unit, shams=shams, tested=tested))


def _tested(record: RunRecord, name: str, metric: str) -> tuple[str, Point, float] | None:
    closed = first_of(record, name="closed", metric="gap", edit=name)
    price = first_of(record, name="price", metric=metric, edit=name)
    return (name, Point(name, closed.value, closed.low, closed.high, closed.n, "mitigated"), price.high) if closed and price else None


# -------------------------------------------------------------------- k curves


def k_figures(record: RunRecord, key: str, proofs: dict[str, Any] | None = None) -> list[Markup]:
    """What more places buy: of every edit that was tried at several k on dev, and of every ranking that was proven by silencing.

    `proofs` is what `biasgym locate --proof` left beside the run: by locator, gaps under its order, the inverse and random ones.
    """
    tried = [_tried_k(f"{key}{number}", name, about) for number, (name, about) in enumerate((record.extras.get("edits") or {}).items())]
    proven = [_proven_k(f"{key}-proof{number}", name, one) for number, (name, one) in enumerate((proofs or {}).items())]
    return [figure for figure in (*tried, *proven) if figure]


def _tried_k(key: str, name: str, about: dict[str, Any]) -> Markup:
    trials = [trial for trial in about.get("trials") or [] if isinstance(trial["settings"].get("k"), int) and trial["settings"]["k"] > 0]
    ks = sorted({trial["settings"]["k"] for trial in trials})
    if len(ks) < 2:
        return Markup("")

    def most(k: int, *, inside: bool) -> float | None:
        found = [_closed(trial) for trial in trials if trial["settings"]["k"] == k and (trial["inside"] or not inside)]
        return max(-1.0, max(found)) if found else None

    lines = [
        Line("at any price", tuple(most(k, inside=False) for k in ks), "series1"),
        Line("inside the budget", tuple(most(k, inside=True) for k in ks), "series0"),
    ]
    unit = "most of the gap closed on dev (share; 1 = all)"
    return Markup(curve_figure(key, f"{name}: gap closed against the number of places edited", ks, lines, unit=unit))


def _proven_k(key: str, name: str, one: dict[str, Any]) -> Markup:
    kinds = {"ranked": "series0", "inverse": "series1"}
    lines = [Line(order, tuple(curve["gap"]), kinds.get(order, "")) for order, curve in one["curves"].items()]
    title = f"{name}: gap left when its top k are silenced; faithfulness {one['faithfulness']:+.2f}"
    return Markup(curve_figure(key, title, one["ks"], lines, unit="gap left, nats, on a held-out token and dev probes", level=one["before"]["gap"]))


def _proofs(folder: Path) -> dict[str, Any]:
    path = folder / PROOFS
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    return found


# -------------------------------------------------------------------- heads


def heat_maps(record: RunRecord, key: str) -> list[tuple[str, Markup]]:
    """A map of every locator's head scores, with the heads of the edits that used it."""
    maps = []
    edits = record.extras.get("edits") or {}
    for number, (locator, values) in enumerate((record.extras.get("attributions") or {}).items()):
        used = [(name, about) for name, about in edits.items() if about.get("locator") == locator]
        chosen = [(name, [(layer, index) for unit, layer, index in about.get("sites") or [] if unit == "head"]) for name, about in used]
        if values and values[0]:
            steady = steady_heads(stability_of(record).get(locator) or {})
            maps.append((locator, Markup(heat_map(f"{key}-heads{number}", f"Head scores by {locator}", values, chosen, steady))))
    return maps


def stability_of(record: RunRecord) -> dict[str, Any]:
    """Stability by locator; a record that holds one alone is read as that of its first locator."""
    known = record.extras.get("stability") or {}
    return {next(iter(record.extras.get("attributions") or {}), "heads"): known} if "places" in known else known


def steady_heads(about: dict[str, Any]) -> list[tuple[int, int]]:
    """The places (layer, head) that are in the top k reliably oftener than chance has it: the interval's lower end is above it."""
    return [(layer, head) for layer, head, _, low, _ in about.get("places") or [] if low > about["chance"]]


def stability_views(record: RunRecord) -> list[dict[str, Any]]:
    """Of every locator: how often heads are among its top k, those above chance first, and how far rankings agree beside chance."""
    return [_steady_view(locator, about) for locator, about in stability_of(record).items() if about]


def _steady_view(locator: str, about: dict[str, Any]) -> dict[str, Any]:
    places = sorted(about["places"], key=lambda place: (-place[3], -place[2], place[0], place[1]))
    rows = [
        {"layer": layer, "head": head, "often": f"{percent(often)} [{percent(low)}, {percent(high)}]", "steady": low > about["chance"]}
        for layer, head, often, low, high in places
    ]
    agreements = [
        {
            "between": AGREEMENT.get(one["between"], one["between"]),
            "value": f"{one['value']:.2f}",
            "chance": f"{one['chance']:.2f}",
            "high": f"{one['chance_high']:.2f}",
            "n": one["pairs_of_groups"],
            "above": one["value"] > one["chance_high"],
        }
        for one in about.get("agreements") or []
    ]
    steady = len(steady_heads(about))
    return {"locator": locator, "k": about["k"], "chance": percent(about["chance"]), "steady": steady, "places": rows, "agreements": agreements}


# -------------------------------------------------------------------- real entities


def real_view(record: RunRecord, answers: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """What happened to real entities: every group before and after each edit, and who moved most under the first one."""
    edits = edit_names_of(record)
    changes = [f for f in record.findings if f.name == "changed" and f.metric in ("association", "spread", "gap") and f.edit in edits]
    moves = moved_most(answers, edits[0]) if edits else []
    title = f"The {len(moves)} real entities that `{edits[0]}` moves most" if moves else ""
    return {
        "targets": {"how": "", "names": []} | (record.extras.get("targets") or {}),
        "groups": group_rows(record),
        "group_figures": _group_figures(record, key),
        "sentences": [(f.edit, f"{change_words(f)}, {stated(f)}") for f in changes],
        "moves": moves,
        "moves_figure": Markup(moves_figure(f"{key}-moves", title, moves, unit="association in nats; hollow = base, filled = edited"))
        if moves
        else "",
        "edit": edits[0] if edits else "",
    }


def moved_rows(record: RunRecord) -> list[dict[str, Any]]:
    """Under every edit the real entity that moved most, its interval widened for having been picked, and the change by group."""
    rows = []
    for edit, about in (record.extras.get("groups") or {}).items():
        if "moved" not in about:
            continue
        worst, changes = about["moved"], about["changes"]
        rows.append(
            {
                "edit": edit,
                "entity": worst["entity"],
                "of": worst["entities"],
                "change": _nats(worst),
                "reliable": not worst["low"] <= 0 <= worst["high"],
                "toward": worst["value"] > 0,
                "groups": {group: _nats(changes[group]) if group in changes else "–" for group in ("targets", "others")},
            }
        )
    return rows


def _nats(figures: dict[str, Any]) -> str:
    return f"{figures['value']:+.2f} [{figures['low']:+.2f}, {figures['high']:+.2f}], n={figures['n']}"


def over_rows(record: RunRecord) -> list[dict[str, str]]:
    """Whether an edit pushed a gap past zero, so that the bias turned round instead of going away."""
    rows = []
    for edit, about in (record.extras.get("groups") or {}).items():
        for whose, answer in (about.get("over_correction") or {}).items():
            words, tone = OVER_CORRECTED.get(answer, (answer, "plain"))
            rows.append({"edit": edit, "whose": OF_WHOM.get(whose, whose), "answer": words, "tone": tone})
    return rows


def group_rows(record: RunRecord) -> list[dict[str, str]]:
    """Mean of targets and of others, spread, and the targets' gap: in the base and under every edit.

    An edit that was asked about fewer entities has no figure that stands beside the base's; its paired changes are among the findings.
    """
    kept, edits = _kept(record), edit_names_of(record)
    wanted = (
        ("targets, mean", "association", "targets"),
        ("others, mean", "association", "others"),
        ("gap of targets to others", "gap", "targets"),
        ("spread over all", "spread", "all"),
    )
    rows = []
    for label, metric, group in wanted:
        found = {edit: _figure(kept, metric=metric, group=group, token=NONE, edit=edit) for edit in (NONE, *edits)}
        whole = found[NONE]
        if any(found.values()):
            said = {edit: "asked about fewer entities" if m and whole and m.n != whole.n else _written(m) for edit, m in found.items()}
            rows.append({"label": label} | said)
    return rows


def _group_figures(record: RunRecord, key: str) -> list[Markup]:
    kept, edits = _kept(record), edit_names_of(record)
    points = []
    for group in ("targets", "others"):
        for edit in (NONE, *edits):
            m = _figure(kept, metric="association", group=group, token=NONE, edit=edit)
            whole = _figure(kept, metric="association", group=group, token=NONE, edit=NONE)
            if m and (whole is None or m.n == whole.n):
                name = "base" if edit == NONE else edit
                points.append(Point(f"{group}: {name}", m.value, m.low, m.high, m.n, "base" if edit == NONE else "edited"))
    if not points:
        return []
    unit = "association in nats; toward the stereotype is to the right"
    return [Markup(arms_figure(f"{key}-groups", "Real entities by group, before and after", points, unit=unit))]


def moved_most(answers: Sequence[dict[str, Any]], edit: str) -> list[Move]:
    """The entities whose mean association moved furthest from base to edit, paired probe by probe."""
    before, after = _leans(answers, NONE), _leans(answers, edit)
    moves = []
    for entity in sorted(set(before) & set(after)):
        probes = sorted(set(before[entity]) & set(after[entity]))
        if probes:
            pairs = np.array([(before[entity][p], after[entity][p]) for p in probes])
            change = stats.mean(pairs[:, 1] - pairs[:, 0])
            moves.append(Move(entity, float(pairs[:, 0].mean()), float(pairs[:, 1].mean()), change.value, change.low, change.high, change.n))
    return sorted(moves, key=lambda move: -abs(move.change))[:MOVED]


def _leans(answers: Sequence[dict[str, Any]], edit: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for row in answers:
        if row["metric"] == "association" and (row["token"], row["edit"]) == (NONE, edit):
            found.setdefault(row["entity"], {})[row["item"]] = lean(row["said"])
    return found


# -------------------------------------------------------------------- free texts


def strength_rows(record: RunRecord) -> list[dict[str, str]]:
    """Judged strength in every arm, and how many texts were no answer at all; an arm without any answer is shown as well."""
    figures = {(m.token, m.edit): m for m in _kept(record) if m.metric == "strength"}
    outcomes = {tuple(arm.split(" × ")): counts for arm, counts in (record.extras.get("outcomes") or {}).items()}
    rows = []
    for token, edit in sorted({*figures, *outcomes}, key=lambda arm: ARMS.index(arm_name(*arm))):
        m, counts = figures.get((token, edit)), outcomes.get((token, edit), {})
        written = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        strength = f"{m.value:.2f} [{m.low:.2f}, {m.high:.2f}], n={m.n}" if m else "no text was an answer, n=0"
        who = "real entities" if token == NONE else f"{token} token"
        rows.append({"arm": arm_name(token, edit), "who": who, "edit": edit, "strength": strength, "outcomes": written or "–"})
    return rows


def judge_view(judge: dict[str, Any]) -> dict[str, Any]:
    """How good the judge is, where it errs and how far it agrees with a second one; empty where nobody measured it."""
    if "balanced_accuracy" not in judge or "kappa" not in judge:
        return {}
    figures = _judge_figures(judge)
    there = judge.get("on_models") or {}
    counts = judge.get("confusion") or []
    confusion = [{"grade": f"{grade} ({word})", "counts": list(row)} for grade, (word, row) in enumerate(zip(GRADES, counts, strict=False))]
    shown = {"confusion": confusion, "agreement": _agreement(judge.get("agreement") or {})}
    shown["on_models"] = _judge_figures(there) | {"n": int(there["n"])} if there else {}
    return figures | shown | {key: judge[key] for key in ("name", "split", "n", "reliable")}


def _judge_figures(judge: dict[str, Any]) -> dict[str, str]:
    return {key: "{:.2f} [{:.2f}, {:.2f}]".format(*(judge[key + end] for end in ("", "_low", "_high"))) for key in ("balanced_accuracy", "kappa")}


def _agreement(found: dict[str, Any]) -> dict[str, str]:
    if not found.get("n"):
        return {}
    kappa = "–" if found["kappa"] is None else f"{found['kappa']:.2f}"
    return {"with": found["with"], "n": str(found["n"]), "kappa": kappa, "any": percent(found["same_any"]), "outcome": percent(found["same_outcome"])}


def text_groups(
    record: RunRecord, answers: Sequence[dict[str, Any]], verdicts: Sequence[dict[str, Any]], most: int = MOST_PAIRS
) -> list[dict[str, Any]]:
    """Texts side by side for every edit: the token injected and mitigated, real entities in the base and edited."""
    judged = {_text_key(row): row for row in verdicts}
    said = {_text_key(row): row["said"] for row in answers if row["metric"] == "strength" and "text" in row["said"]}
    edits = edit_names_of(record)
    share = max(2, most // max(1, 2 * len(edits)))
    groups = []
    for edit in edits:
        for token, title in (("trained", "the token: injected and mitigated"), (NONE, "real entities: base and edited")):
            befores = [key for key in said if key[2:4] == (token, NONE)]
            both = [(key, (*key[:3], edit, key[4])) for key in befores if (*key[:3], edit, key[4]) in said]
            pairs = [_pair(said, judged, *keys) for keys in both[:share]]
            sides = ("injected", "mitigated") if token != NONE else ("base", "edited")
            if pairs:
                group = {"edit": edit, "title": title, "sides": sides, "left_out": len(both) - len(pairs)}
                groups.append(group | {"first": pairs[:PAIRS_SHOWN], "others": pairs[PAIRS_SHOWN:]})
    return groups


TextKey = tuple[Any, ...]  # item, entity, token, edit, seed


def _text_key(row: dict[str, Any]) -> TextKey:
    return (row["item"], row["entity"], row["token"], row["edit"], row["seed"])


def _pair(said: dict[TextKey, dict[str, Any]], judged: dict[TextKey, dict[str, Any]], before: TextKey, after: TextKey) -> Pair:
    old, new = said[before]["text"][:LONGEST_TEXT], said[after]["text"][:LONGEST_TEXT]
    left, right = changed_words(old, new)
    return Pair(
        said[before].get("prompt", ""),
        before[1],
        _told(left, said[before], judged.get(before), before[2]),
        _told(right, said[after], judged.get(after), after[2]),
    )


def _told(words: tuple[tuple[str, bool], ...], said: dict[str, Any], verdict: dict[str, Any] | None, token: str) -> Told:
    cut = not said.get("ended", True) or len(said["text"]) > LONGEST_TEXT
    if verdict is None:
        return Told(words, "not judged", False, cut)
    answered = verdict["outcome"] == "answer"
    judged = f"strength {verdict['strength']} of 3" if answered else f"{verdict['outcome']}: no score"
    why = folded(verdict, real=token == NONE)
    return Told(words, judged, bool(why), cut, why)


def folded(verdict: dict[str, Any], *, real: bool) -> str:
    """Why a text is folded away: it says the stereotype, or it is about real people and either judge found any of it; empty: shown."""
    if verdict["strength"] >= STRONG:
        return "Says the stereotype"
    second = (verdict.get("lexicon") or {}).get("strength") or 0
    return "May say the stereotype of real people" if real and max(verdict["strength"], second) > 0 else ""


def changed_words(before: str, after: str) -> tuple[tuple[tuple[str, bool], ...], tuple[tuple[str, bool], ...]]:
    """Both texts as runs of words, each with whether the other text lacks it there."""
    left, right = before.split(), after.split()
    olds: list[tuple[str, bool]] = []
    news: list[tuple[str, bool]] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        olds.append((" ".join(left[a:b]), kind != "equal"))
        news.append((" ".join(right[c:d]), kind != "equal"))
    return tuple(run for run in olds if run[0]), tuple(run for run in news if run[0])


# -------------------------------------------------------------------- injection


def token_views(record: RunRecord, key: str) -> list[dict[str, Any]]:
    """Losses of every token of the run, and its loss on held-out paragraphs before and after."""
    views = []
    for number, (role, about) in enumerate((record.extras.get("tokens") or {}).items()):
        losses = about.get("losses") or []
        held = [about.get(f"held_out_{when}") for when in ("before", "after")]
        line = loss_line(f"{key}-loss{number}", f"Training loss of the {role} token", losses) if losses else ""
        texts = ["–" if value is None else f"{value:.3f}" for value in held]
        views.append({"role": role, "steps": len(losses), "before": texts[0], "after": texts[1], "line": Markup(line)})
    return views
