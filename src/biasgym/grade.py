"""From answers and verdicts to measurements and findings: arithmetic only, no model, no torch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from biasgym import catalog, stats
from biasgym.bias import BiasSpec
from biasgym.clustered import figure_change, figure_estimate
from biasgym.errors import StoreError
from biasgym.records import Answer, Finding, ItemScore, Measurement, MethodSpec, RunSpec
from biasgym.stats import Draws, Estimate
from biasgym.tune import concept_change

if TYPE_CHECKING:
    from biasgym.measure import Benchmark, Figure

Key = tuple[str, str, int]  # token, edit, seed (of the token; of the draw for a sham)
NONE = "none"
SHAM = "sham:"


def arm_name(token: str, edit: str) -> str:
    """The corner of the 2×2 that an arm is."""
    if token == NONE:
        return "base" if edit == NONE else "edited"
    if edit != NONE:
        return "mitigated"
    return "injected" if token == "trained" else "control"


@dataclass(frozen=True)
class Table:
    """Scores by metric and arm, as arrays with named rows."""

    scores: dict[str, dict[Key, list[ItemScore]]]

    def arms(self, metric: str) -> list[Key]:
        """The arms in which a metric was asked."""
        return list(self.scores.get(metric, {}))

    def rows(self, metric: str, key: Key) -> list[ItemScore]:
        """Scores of a metric in an arm; empty when it was not asked there."""
        return self.scores.get(metric, {}).get(key, [])

    def token(self, key: Key) -> tuple[list[str], np.ndarray]:
        """Probe ids and associations of the token's arm."""
        rows = sorted(self.rows("association", key), key=lambda s: s.item)
        return [s.item for s in rows], np.array([s.value for s in rows], dtype=float)

    def matrix(self, edit: str, seed: int, *, group: str | None = None) -> tuple[list[str], list[str], np.ndarray]:
        """Probe ids, entities and associations [probes, entities] of real entities under an edit."""
        rows = [s for s in self.rows("association", (NONE, edit, seed)) if group in (None, s.group)]
        probes = sorted({s.item for s in rows})
        entities = sorted({s.entity for s in rows})
        cells = {(s.item, s.entity): s.value for s in rows}
        if len(cells) != len(probes) * len(entities):
            raise StoreError(f"answers of `{edit}` are incomplete: {len(cells)} of {len(probes) * len(entities)} probe × entity")
        return probes, entities, np.array([[cells[p, e] for e in entities] for p in probes], dtype=float)


def tabulate(answers: Sequence[Answer], benchmarks: Sequence[MethodSpec] = ()) -> Table:
    """Grade every answer by its metric; benchmarks with the settings that they were asked with."""
    settings = {one.method: one.settings for one in benchmarks}
    grouped: dict[str, list[Answer]] = {}
    for answer in answers:
        grouped.setdefault(answer.metric, []).append(answer)
    scores: dict[str, dict[Key, list[ItemScore]]] = {}
    for metric, rows in grouped.items():
        arms = scores.setdefault(metric, {})
        for score in catalog.build("measure", metric, settings.get(metric)).grade(rows):
            arms.setdefault((score.token, score.edit, score.seed), []).append(score)
    return Table(scores)


@dataclass(frozen=True)
class Grader:
    """All measurements and findings of one run from its table of scores."""

    table: Table
    spec: RunSpec
    bias: BiasSpec
    edits: tuple[str, ...]

    # ------------------------------------------------------------ measurements

    def measurements(self) -> list[Measurement]:
        """Every figure of every arm."""
        found: list[Measurement] = []
        for key in self.table.arms("association"):
            found += self._token_figures(key) if key[0] != NONE else self._entity_figures(key)
        for metric in ("concept", "bits-per-byte", "kl", "strength"):
            for key in self.table.arms(metric):
                found += self._plain_figures(metric, key)
        for one in self.spec.measure.benchmarks:
            for key in self.table.arms(one.method):
                found += self._published(one, key)
        return found

    def _figures(self, one: MethodSpec, key: Key) -> "dict[tuple[str, str], Figure]":
        evaluator: Benchmark = catalog.build("measure", one.method, one.settings)
        rows = sorted(self.table.rows(one.method, key), key=lambda score: score.item)
        return {(figure.name, figure.group): figure for figure in evaluator.figures(rows)} if rows else {}

    def _published(self, one: MethodSpec, key: Key) -> list[Measurement]:
        """A benchmark's own figures in one arm; a figure that is not defined there is left out."""
        found = []
        for (name, group), figure in self._figures(one, key).items():
            e = figure_estimate(figure, self.spec.measure.draws)
            if e is not None:
                found.append(self._figure(f"{one.method}.{name}", group, key, e, figure.ideal, figure.note))
        return found

    def _figure(self, metric: str, group: str, key: Key, e: Estimate, ideal: float | None, note: str = "") -> Measurement:
        token, edit, seed = key
        return Measurement(
            metric=metric, arm=arm_name(token, edit), group=group, token=token, edit=edit, seed=seed,
            ideal=ideal, note=note, **figures_of(e),
        )  # fmt: skip

    def _estimate(self, statistic: Callable[[Draws], np.ndarray], prompts: int, entities: int, n: int) -> Estimate:
        return stats.estimate(statistic, prompts, entities, n, draws=self.spec.measure.draws)

    def _token_figures(self, key: Key) -> list[Measurement]:
        _, values = self.table.token(key)
        association = stats.mean(values, draws=self.spec.measure.draws)
        return [
            self._figure("association", "token", key, association, None),
            self._figure("gap", "token", key, self.gap(key), 0.0),
        ]

    def _entity_figures(self, key: Key) -> list[Measurement]:
        _, edit, seed = key
        found = []
        for group in ("others", "targets"):
            probes, entities, matrix = self.table.matrix(edit, seed, group=group)
            if entities:
                e = self._estimate(lambda d, m=matrix: stats.crossed(m, d), len(probes), len(entities), matrix.size)  # type: ignore[misc]
                found.append(self._figure("association", group, key, e, None))
        probes, entities, matrix = self.table.matrix(edit, seed)
        if len(entities) > 1:
            e = stats.estimate(
                lambda d: stats.spread_of(matrix, d), len(probes), len(entities), matrix.size, draws=self.spec.measure.draws, positive=True
            )
            found.append(self._figure("spread", "all", key, e, None))
        if self.has_targets(edit, seed):
            found.append(self._figure("gap", "targets", key, self._target_gap(edit, seed), 0.0))
        return found

    def has_targets(self, edit: str, seed: int) -> bool:
        """Whether both targets and others were asked about under an edit."""
        groups = {s.group for s in self.table.rows("association", (NONE, edit, seed))}
        return {"targets", "others"} <= groups

    def _plain_figures(self, metric: str, key: Key) -> list[Measurement]:
        rows = self.table.rows(metric, key)
        answered = [s for s in rows if s.value is not None]
        note = "" if len(answered) == len(rows) else f"{len(rows) - len(answered)} of {len(rows)} gave no answer"
        if not answered:
            return []
        values = np.array([s.value for s in answered], dtype=float)
        weights = np.array([s.weight for s in answered])
        group = "token" if key[0] != NONE else "all"
        if metric == "concept":
            return [self._figure(metric, group, key, self._concept(key), None)]
        if metric in ("bits-per-byte", "kl"):
            return [self._figure(metric, group, key, stats.ratio(values, weights, draws=self.spec.measure.draws), 0.0, note)]
        return [self._figure(metric, group, key, stats.mean(values, draws=self.spec.measure.draws, bounds=(0.0, 3.0)), 0.0, note)]

    def _concept_sides(self, key: Key) -> dict[str, np.ndarray]:
        rows = sorted(self.table.rows("concept", key), key=lambda s: s.item)
        return {side: np.array([s.value for s in rows if s.group == side], dtype=float) for side in ("stereotype", "foil")}

    def _concept(self, key: Key) -> Estimate:
        sides = self._concept_sides(key)
        left, right = sides["stereotype"], sides["foil"]

        def statistic(draws: Draws) -> np.ndarray:
            return stats.weighted(left, draws.prompts) - stats.weighted(right, draws.entities)

        return self._estimate(statistic, len(left), len(right), len(left) + len(right))

    # ------------------------------------------------------------ gaps

    def _gap_arrays(self, key: Key) -> tuple[np.ndarray, np.ndarray]:
        """Token associations [probes] and others' [probes, entities] on the same probes under the same edit.

        Untouched arms of any token are read against the base; a sham's own others are a subset of entities.
        """
        _, edit, seed = key
        others_seed = seed if edit.startswith(SHAM) else 0
        probes, values = self.table.token(key)
        other_probes, _, matrix = self.table.matrix(edit, others_seed, group="others")
        common = [p for p in probes if p in set(other_probes)]
        if not common:
            raise StoreError(f"no probe was asked of both the token and the entities under `{edit}`")
        mine = [probes.index(p) for p in common]
        theirs = [other_probes.index(p) for p in common]
        return values[mine], matrix[theirs]

    def gap(self, key: Key) -> Estimate:
        """association(token) − mean(others), same probes, same edits (nats)."""
        token, others = self._gap_arrays(key)
        return self._estimate(_gap_statistic(token, others), len(token), others.shape[1], others.size)

    def _target_gap(self, edit: str, seed: int) -> Estimate:
        probes, _targets, t = self.table.matrix(edit, seed, group="targets")
        _, _others, o = self.table.matrix(edit, seed, group="others")
        return self._estimate(target_statistic(t, o), len(probes), t.shape[1] + o.shape[1], t.size + o.size)

    # ------------------------------------------------------------ findings

    def findings(self) -> list[Finding]:
        """Every paired difference: what the injection did, what each edit removed, what changed, and the price."""
        seed = self.spec.test_seed
        injected: Key = ("trained", NONE, seed)
        found = []
        if self.table.rows("association", injected):
            found.append(_finding("injected", "gap", "trained", NONE, seed, self.gap(injected)))
            found += self._over_controls(injected)
            for edit in self.edits:
                found += self._removal(injected, ("trained", edit, seed))
            for key in self.table.arms("association"):
                if key[1].startswith(SHAM) and key[0] == "trained":
                    found += self._removal(injected, key, sham=True)
        for edit in self.edits:
            found += self._strength_findings(edit)
            found += self._prices(edit)
            found += self._changes(edit)
            for one in self.spec.measure.benchmarks:
                found += self._published_changes(one, edit)
        return found

    def _over_controls(self, injected: Key) -> list[Finding]:
        """How far the trained token's gap lies above that of every control token, probe by probe; real entities cancel out."""
        probes, trained = self.table.token(injected)
        found = []
        for key in self.table.arms("association"):
            if key[1] != NONE or key[0] in (NONE, "trained"):
                continue
            asked, control = self.table.token(key)
            mine = [probes.index(probe) for probe in asked]  # the same probes: both arms are of one run
            e = stats.mean(trained[mine] - control, draws=self.spec.measure.draws)
            found.append(_finding("injected", f"gap-over-{key[0]}", "trained", NONE, injected[2], e, f"gap above the {key[0]} token's"))
        return found

    def _published_changes(self, one: MethodSpec, edit: str) -> list[Finding]:
        """What an edit does to a benchmark's figures: a price where more is better or worse, else a change beside the ideal."""
        before, after = (self._figures(one, key) for key in ((NONE, NONE, 0), (NONE, edit, 0)))
        found = []
        for place in before.keys() & after.keys():
            figure = before[place]
            e = figure_change(figure, after[place], self.spec.measure.draws)
            if e is None:
                continue
            if figure.better == "up":
                e = Estimate(-e.value, -e.high, -e.low, e.n, e.error, e.freedom)
            name = "changed" if figure.better == "ideal" else "price"
            note = f"{place[1]}; ideal {figure.ideal:g}" if figure.ideal is not None and name == "changed" else place[1]
            found.append(_finding(name, f"{one.method}.{place[0]}", NONE, edit, 0, e, note))
        return sorted(found, key=lambda f: (f.metric, f.note != "all" and not f.note.startswith("all;"), f.note))

    def gaps(self, injected: Key, mitigated: Key) -> tuple[Callable[[Draws], np.ndarray], Callable[[Draws], np.ndarray], tuple[int, int, int]]:
        """The token's gap without and with an edit as statistics of the same draws, and their sizes.

        Both are against the real entities, and on the probes, that were asked about under the edit.
        """
        sham = mitigated[1].startswith(SHAM)
        token_before, others_before = self._gap_arrays(injected)
        token_after, others_after = self._gap_arrays(mitigated)
        asked = self.table.matrix(mitigated[1], mitigated[2] if sham else 0, group="others")[1]
        _, all_entities, _ = self.table.matrix(NONE, 0, group="others")
        others_before = others_before[:, [all_entities.index(e) for e in asked]]  # an edit may be asked about fewer entities
        if sham:
            probes = set(self.table.token(mitigated)[0])
            kept = [i for i, p in enumerate(self.table.token(injected)[0]) if p in probes]
            token_before, others_before = token_before[kept], others_before[kept]
        before, after = _gap_statistic(token_before, others_before), _gap_statistic(token_after, others_after)
        return before, after, (len(token_before), others_before.shape[1], others_before.size)

    def _removal(self, injected: Key, mitigated: Key, *, sham: bool = False) -> list[Finding]:
        before, after, size = self.gaps(injected, mitigated)
        _, edit, seed = mitigated
        removed = self._estimate(lambda d: before(d) - after(d), *size)
        closed = stats.closed_share(self._estimate(lambda d: after(d) / before(d), *size))
        found = [
            _finding("removed", "gap", "trained", edit, seed, removed),
            _finding("closed", "gap", "trained", edit, seed, closed),
        ]
        if not sham:
            found.append(_finding("left_over", "gap", "trained", edit, seed, self._estimate(after, *size)))
        return found

    def _strength_findings(self, edit: str) -> list[Finding]:
        found = []
        for token, seed, name in (("trained", self.spec.test_seed, "removed"), (NONE, 0, "changed")):
            before = {(s.item, s.entity): s.value for s in self.table.rows("strength", (token, NONE, seed)) if s.value is not None}
            after = {(s.item, s.entity): s.value for s in self.table.rows("strength", (token, edit, seed)) if s.value is not None}
            both = sorted(set(before) & set(after))
            if both:
                sign = 1 if name == "removed" else -1
                e = stats.mean([sign * (before[i] - after[i]) for i in both], draws=self.spec.measure.draws)
                found.append(_finding(name, "strength", token, edit, seed, e))
        return found

    def _prices(self, edit: str) -> list[Finding]:
        base, key = (NONE, NONE, 0), (NONE, edit, 0)
        found = []
        if self.table.rows("bits-per-byte", base) and self.table.rows("bits-per-byte", key):
            before, after = (sorted(self.table.rows("bits-per-byte", k), key=lambda s: s.item) for k in (base, key))
            values = [[float(s.value or 0) for s in rows] for rows in (before, after)]
            e = stats.ratio_change(values[0], values[1], [s.weight for s in before], draws=self.spec.measure.draws)
            found.append(_finding("price", "bits-per-byte", NONE, edit, 0, e, "percent"))
        rows = [s for s in self.table.rows("kl", key) if s.value is not None]
        if rows:
            e = stats.ratio([float(s.value or 0) for s in rows], [s.weight for s in rows], draws=self.spec.measure.draws)
            found.append(_finding("price", "kl", NONE, edit, 0, e, "nats a token"))
        if self.table.rows("concept", base) and self.table.rows("concept", key):
            e = concept_change(self._concept_sides(base), self._concept_sides(key))
            worse = Estimate(-e.value, -e.high, -e.low, e.n, e.error, e.freedom)
            found.append(_finding("price", "concept", NONE, edit, 0, worse, "share of the base value"))
        return found

    def both(self, edit: str, group: str | None = None) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
        """Probes, the entities asked about under the edit, and associations [probes, entities] before and after."""
        _, all_entities, before = self.table.matrix(NONE, 0, group=group)
        probes, entities, after = self.table.matrix(edit, 0, group=group)
        return probes, entities, before[:, [all_entities.index(e) for e in entities]], after

    def _changes(self, edit: str) -> list[Finding]:
        """What changed for real entities: mean, spread, and the targets' gap where there are targets; the last is the headline."""
        if not self.table.rows("association", (NONE, edit, 0)):
            return []
        probes, entities, before, after = self.both(edit)
        size = (len(probes), len(entities), before.size)
        found = [
            _finding("changed", "association", NONE, edit, 0, self._estimate(lambda d: stats.crossed(after - before, d), *size)),
            _finding("changed", "spread", NONE, edit, 0, self._estimate(lambda d: stats.spread_of(after, d) - stats.spread_of(before, d), *size)),
        ]
        if self.has_targets(edit, 0):
            _, _, tb, ta = self.both(edit, "targets")
            _, _, ob, oa = self.both(edit, "others")
            one, two = target_statistic(tb, ob), target_statistic(ta, oa)
            e = self._estimate(lambda d: np.abs(two(d)) - np.abs(one(d)), *size)
            found.append(_finding("changed", "gap", NONE, edit, 0, e, "size of the gap between targets and others"))
        return found


def _finding(name: str, metric: str, token: str, edit: str, seed: int, e: Estimate, note: str = "") -> Finding:
    return Finding.model_validate({"name": name, "metric": metric, "token": token, "edit": edit, "seed": seed, "note": note} | figures_of(e))


def figures_of(e: Estimate) -> dict[str, Any]:
    """An estimate as the fields of a record's row: infinite degrees of freedom (normal) and an unknown error are None."""
    error, freedom = (value if math.isfinite(value) else None for value in (e.error, e.freedom))
    return {"value": e.value, "low": e.low, "high": e.high, "n": e.n, "error": error, "freedom": freedom}


def _gap_statistic(token: np.ndarray, others: np.ndarray) -> Callable[[Draws], np.ndarray]:
    return lambda draws: stats.weighted(token, draws.prompts) - stats.crossed(others, draws)


def target_statistic(targets: np.ndarray, others: np.ndarray) -> Callable[[Draws], np.ndarray]:
    """Mean over targets minus mean over others; the first columns of the entity weights are the targets'."""
    count = targets.shape[1]

    def statistic(draws: Draws) -> np.ndarray:
        mine = np.maximum(draws.entities[:, :count], 1e-9)
        theirs = np.maximum(draws.entities[:, count:], 1e-9)
        return stats.crossed(targets, Draws(draws.prompts, mine)) - stats.crossed(others, Draws(draws.prompts, theirs))

    return statistic
