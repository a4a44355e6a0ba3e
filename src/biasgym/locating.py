"""The door to locators: several on one bias, where they agree, how stable each is, and what intervention says of each."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from biasgym import catalog
from biasgym.bias import load_bias
from biasgym.curves import KS, Ask, Effect, Proof, asking
from biasgym.curves import proof as prove
from biasgym.edits import Edits, TokenEdit, worn_digest
from biasgym.errors import BiasGymError, SpecError, unknown
from biasgym.figures import Line, Point, arms_figure, curve_figure, heat_map
from biasgym.files import append_rows, read_json, read_rows, write_json
from biasgym.pictures import write_svg
from biasgym.progress import Step
from biasgym.records import RunSpec, fingerprint
from biasgym.run import Job, Session
from biasgym.sites import Attribution
from biasgym.stability import DRAWS, Labels, Stability, jaccard, random_jaccard, spearman, stability, top
from biasgym.store import PROOFS, RECORD, attribution_of, read_arrays
from biasgym.tune import DevRoom

RANDOMS = 3


@dataclass(frozen=True)
class Wish:
    """Which locators, how many of the top places, and whether they are to be proven by intervention."""

    locators: tuple[str, ...]
    k: int = 10
    proof: bool = False

    @classmethod
    def of(cls, spec: RunSpec, locators: str | None, *, every: bool, k: int, proof: bool) -> "Wish":
        """From what was typed; an unknown name is a SpecError with the nearest one."""
        known = catalog.methods("locate")
        if locators is None:
            return cls(tuple(known) if every else (spec.locate.method,), k, proof)
        names = list(dict.fromkeys(name.strip() for name in locators.split(",") if name.strip()))
        if not names:
            raise SpecError(f"--locators names nothing; there is {', '.join(known)}")
        for name in names:
            if ":" not in name and name not in known:
                raise SpecError(unknown("locator", name, known))
            catalog.find("locate", name)
        return cls(tuple(names), k, proof)


@dataclass(frozen=True)
class Located:
    """One locator's answer, how stable its top k is, and its proof where that was asked for."""

    name: str
    attribution: Attribution
    stable: Stability
    proof: Proof | None

    @property
    def places(self) -> list[tuple[int, int]]:
        """The top k, as (layer, index)."""
        return [(site.layer, site.index) for site in self.attribution.top(self.stable.k)]


def locate_bias(session: Session, spec: RunSpec, wish: Wish, to: Path | None, console: Console | None) -> dict[str, Any]:
    """Tokens, attributions, agreement and proof, from the store where they are there; pictures into `to`; all as plain data.

    A locator that fails does not stop the others; where all fail, the first one's error is raised.
    """
    job = Job(session, spec, load_bias(spec.bias))
    if not spec.seeds:
        raise SpecError("`seeds` is empty; at least one token is needed to locate with")
    job.lm.check_answers(job.bias.stereotype, job.bias.foil)
    tokens = [job.token("trained", seed) for seed in spec.seeds]
    ask = _remembering(job) if wish.proof else None
    found: list[Located] = []
    failed: dict[str, str] = {}
    for name in wish.locators:
        try:
            found.append(_located(job, name, tokens, wish, ask))
        except BiasGymError as error:
            if len(wish.locators) == 1:
                raise
            failed[name] = str(error)
            session.say(f"{name}: {error}")
    if not found:
        raise SpecError(f"no locator gave an answer; {wish.locators[0]}: {failed[wish.locators[0]]}")
    data = _as_data(job, wish, found, failed)
    _leave_beside(job, data)
    if to is not None:
        data["pictures"] = [str(path) for path in draw(found, to)]
        write_json(to / "locate.json", data)
    if console is not None:
        _print(console, data)
    return data


def _leave_beside(job: Job, data: dict[str, Any]) -> None:
    """The proofs of a whole run's locators lie beside it, for its report; a run that is not there is not begun."""
    proofs = {name: one["proof"] for name, one in data["locators"].items() if "proof" in one}
    folder = job.session.store.run_folder(job.identity)
    if proofs and (folder / RECORD).is_file():
        known = read_json(folder / PROOFS) if (folder / PROOFS).is_file() else {}
        write_json(folder / PROOFS, known | proofs)


def _located(job: Job, name: str, tokens: Sequence[TokenEdit], wish: Wish, ask: Ask | None) -> Located:
    folder = job.located(name, tokens)
    about = read_json(folder / "done.json")
    attribution = attribution_of(read_arrays(folder / "attribution.safetensors"), name, about["unit"])
    attribution.top(wish.k)  # says what k may be
    labels = Labels(*(tuple(column) for column in zip(*about["labels"], strict=True)))
    stable = stability(attribution.by_pair, labels, wish.k)
    if ask is None:
        return Located(name, attribution, stable, None)
    places = attribution.values.size
    total = 1 + len([k for k in KS if k <= places]) * (2 + RANDOMS)
    return Located(name, attribution, stable, prove(attribution.ranked(), _counted(job, ask, name, total), randoms=RANDOMS))


def _counted(job: Job, ask: Ask, name: str, total: int) -> Ask:
    done = 0

    def counted(edits: Edits) -> Effect:
        nonlocal done
        effect = ask(edits)
        done += 1
        job.session.tell(Step("proof", done, total, name))
        return effect

    return counted


def _remembering(job: Job) -> Ask:
    """Effects on dev probes and on the token of `test_seed`, which no locator has seen; each edit asked once, on disk at once."""
    token = job.token("trained", job.spec.test_seed)
    plain = asking(DevRoom(job.lm, job.bias, (token,), job.spec.tune))
    key = fingerprint([job.base_key, job.token_key("trained", job.spec.test_seed), job.spec.tune.model_dump(mode="json")])
    with job.session.store.stage_lock("proof", key) as folder:
        journal = folder / "effects.jsonl"
    known = {row["worn"]: Effect(row["gap"], row["bits_per_byte"]) for row in read_rows(journal)}

    def ask(edits: Edits) -> Effect:
        worn = worn_digest(edits)
        if worn not in known:
            known[worn] = plain(edits)
            append_rows(journal, [{"worn": worn} | asdict(known[worn])])
        return known[worn]

    return ask


# -------------------------------------------------------------------- as plain data


def _as_data(job: Job, wish: Wish, found: Sequence[Located], failed: dict[str, str]) -> dict[str, Any]:
    return {
        "bias": job.bias.name,
        "model": job.spec.model,
        "seeds": list(job.spec.seeds),
        "held_out_seed": job.spec.test_seed if wish.proof else None,
        "k": wish.k,
        "locators": {one.name: _one(one) for one in found},
        "agreement": [_agreement(a, b, wish.k) for a, b in combinations(found, 2) if a.attribution.unit == b.attribution.unit],
        "failed": failed,
    }


def _one(one: Located) -> dict[str, Any]:
    values, stable = one.attribution.values, one.stable
    tops = [
        {"layer": layer, "index": index, "score": float(values[layer, index])}
        | dict(zip(("frequency", "low", "high"), (float(v[layer, index]) for v in (stable.frequency, stable.low, stable.high)), strict=True))
        for layer, index in one.places
    ]
    data = {
        "unit": one.attribution.unit,
        "places": int(values.size),
        "pairs": len(one.attribution.by_pair),
        "chance": stable.chance,
        "top": tops,
        "stability": [asdict(agreement) for agreement in stable.agreements],
    }
    return data | ({"proof": _proof(one.proof)} if one.proof else {})


def _proof(proof: Proof) -> dict[str, Any]:
    curves = {curve.order: {"gap": curve.gaps.tolist(), "bits_per_byte": [e.bits_per_byte for e in curve.effects]} for curve in _curves(proof)}
    return {
        "ks": list(proof.ranked.ks),
        "before": asdict(proof.before),
        "curves": curves,
        "faithfulness": proof.faithfulness,
        "faithfulness_of_random": list(proof.faithfulness_of_random),
    }


def _curves(proof: Proof) -> list[Any]:
    return [proof.ranked, proof.inverse, *proof.random]


def _agreement(one: Located, two: Located, k: int) -> dict[str, Any]:
    """Jaccard of the top k beside random rankings (mean and 97.5 % point), and Spearman over all places."""
    values = one.attribution.values, two.attribution.values
    tops = [top(v, k).tolist() for v in values]
    generator = np.random.default_rng([k, values[0].size])
    chance = [random_jaccard(2, values[0].size, k, generator) for _ in range(DRAWS)]
    return {
        "locators": [one.name, two.name],
        "jaccard": jaccard(*tops),
        "chance": float(np.mean(chance)),
        "chance_high": float(np.quantile(chance, 0.975)),
        "spearman": spearman(*values),
    }


# -------------------------------------------------------------------- pictures


def draw(found: Sequence[Located], to: Path) -> list[Path]:
    """Heat map, stability plot and, where proven, the k curves of every locator, as SVG files in a folder."""
    paths = []
    for one in found:
        name = one.name.replace(":", "-").replace("/", "-")
        unit, k = one.attribution.unit, one.stable.k
        title = f"{one.name}: scores of all {unit}s"
        paths.append(write_svg(to / f"heat-{name}.svg", heat_map(f"heat-{name}", title, one.attribution.values.tolist(), [(f"top {k}", one.places)])))
        paths.append(write_svg(to / f"stability-{name}.svg", _stability_plot(name, one)))
        if one.proof:
            paths += _draw_proof(name, one.name, one.proof, to)
    return paths


def _stability_plot(key: str, one: Located) -> str:
    stable, pairs = one.stable, len(one.attribution.by_pair)
    points = [
        Point(f"layer {layer} {one.attribution.unit} {index}", float(stable.frequency[layer, index]), float(stable.low[layer, index]),
              float(stable.high[layer, index]), pairs, "edited")
        for layer, index in one.places
    ]  # fmt: skip
    unit = f"share of draws in which it is among the top {stable.k}; a random ranking gives {stable.chance:.2f}"
    return arms_figure(f"stability-{key}", f"{one.name}: how often its top {stable.k} are chosen again", points, unit=unit)


def _draw_proof(key: str, name: str, proof: Proof, to: Path) -> list[Path]:
    kinds = {"ranked": "series0", "inverse": "series1"}
    readings: dict[str, tuple[str, Callable[[Effect], float]]] = {
        "gap": ("gap left, nats", lambda effect: effect.gap),
        "price": ("bits per byte of neutral prose", lambda effect: effect.bits_per_byte),
    }
    paths = []
    for what, (unit, of) in readings.items():
        lines = [Line(curve.order, tuple(of(e) for e in curve.effects), kinds.get(curve.order, "")) for curve in _curves(proof)]
        title = f"{name}: {unit}, against the number of places silenced; faithfulness {proof.faithfulness:+.2f}"
        picture = curve_figure(f"{what}-{key}", title, proof.ranked.ks, lines, unit=unit, level=of(proof.before))
        paths.append(write_svg(to / f"curve-{what}-{key}.svg", picture))
    return paths


# -------------------------------------------------------------------- text


def _print(console: Console, data: dict[str, Any]) -> None:
    console.print(Text(f"{data['bias']} in {data['model']}: top {data['k']} on tokens of seeds {', '.join(map(str, data['seeds']))}", style="bold"))
    for name, one in data["locators"].items():
        console.print()
        console.print(Text(name, style="bold"), Text(f"{one['places']} {one['unit']}s, {one['pairs']} pairs", style="dim"))
        console.print(_table(["layer", one["unit"], "score", "chosen again", "95 % interval"], [
            [str(t["layer"]), str(t["index"]), f"{t['score']:+.3f}", f"{t['frequency']:.0%}", f"[{t['low']:.0%}, {t['high']:.0%}]"] for t in one["top"]
        ]))  # fmt: skip
        for a in one["stability"]:
            verdict = "above chance" if a["value"] > a["chance_high"] else "NOT above chance"
            line = f"  Jaccard between {a['between']} {a['value']:.2f}; random rankings {a['chance']:.2f}, at most {a['chance_high']:.2f}: {verdict}"
            console.print(line, highlight=False, markup=False)
        if "proof" in one:
            console.print(_proof_line(one["proof"]), highlight=False, markup=False)
    if data["agreement"]:
        rows = [
            [" and ".join(a["locators"]), f"{a['jaccard']:.2f}", f"{a['chance']:.2f} (at most {a['chance_high']:.2f})", f"{a['spearman']:+.2f}"]
            for a in data["agreement"]
        ]
        console.print()
        console.print(_table(["agreement", f"Jaccard of top {data['k']}", "random rankings", "Spearman, all"], rows))
    for name, reason in data["failed"].items():
        console.print(Text(f"! {name} failed: {reason}", style="yellow"))
    for path in data.get("pictures", []):
        console.print(path, soft_wrap=True, highlight=False, markup=False)


def _proof_line(proof: dict[str, Any]) -> str:
    chance = proof["faithfulness_of_random"]
    spread = f" (random orders {min(chance):+.2f} to {max(chance):+.2f})" if chance else ""
    steps = ", ".join(f"k={k} {gap:+.2f}" for k, gap in zip(proof["ks"], proof["curves"]["ranked"]["gap"], strict=True))
    return f"  faithfulness {proof['faithfulness']:+.2f}{spread}; gap {proof['before']['gap']:+.2f} nats, silenced: {steps}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(head):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table
