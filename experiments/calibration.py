"""Do the intervals cover, does the before/after test keep its level, and what does it find: simulation on made-up data with known truth.

`python experiments/calibration.py [--trials 1000] [--draws 600]` prints the tables and writes calibration.md beside itself.
A setting is a function of a generator and a number of draws; the test suite runs the same ones with fewer trials.
"""

import argparse
import datetime
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from biasgym import claims, seeds, stats
from biasgym.clustered import figure_change, figure_estimate
from biasgym.measure import Figure
from biasgym.stats import Draws, Estimate

Generator = np.random.Generator
Setting = Callable[[Generator, int], tuple[Estimate, float]]  # an estimate and the truth that its interval should hold

# -------------------------------------------------------------------- made-up data


def components(g: Generator, prompts: int, entities: int, by_prompt: float, by_entity: float, by_cell: float) -> np.ndarray:
    """Scores [prompts, entities] around 0 with the given standard deviations (nats)."""
    return by_prompt * g.normal(size=(prompts, 1)) + by_entity * g.normal(size=(1, entities)) + by_cell * g.normal(size=(prompts, entities))


def crossed(prompts: int, entities: int, *spread: float) -> Setting:
    """Mean of a crossed design."""

    def one(g: Generator, draws: int) -> tuple[Estimate, float]:
        m = components(g, prompts, entities, *spread)
        return stats.estimate(lambda d: stats.crossed(m, d), prompts, entities, m.size, draws=draws), 0.0

    return one


def three_axes(g: Generator, draws: int) -> tuple[Estimate, float]:
    """20 prompts, 12 entities, 4 seeds, every component there."""
    shapes = {(20, 1, 1): 0.5, (1, 12, 1): 0.5, (1, 1, 4): 0.3, (20, 12, 1): 0.3, (20, 1, 4): 0.2, (1, 12, 4): 0.2, (20, 12, 4): 0.5}
    cube = np.sum([s * g.normal(size=shape) * np.ones((20, 12, 4)) for shape, s in shapes.items()], axis=0)
    return stats.estimate(lambda d: stats.crossed_seeds(cube, d), 20, 12, cube.size, seeds=4, draws=draws), 0.0


def mean_of(make: Callable[[Generator], np.ndarray], truth: float) -> Setting:
    """Mean of independent items."""
    return lambda g, draws: (stats.mean(make(g), draws=draws), truth)


def ratio_change(change: float, texts: int = 63) -> Setting:
    """Bits of texts of very different lengths before and after, in percent."""

    def one(g: Generator, draws: int) -> tuple[Estimate, float]:
        bits = g.gamma(3, 100, size=texts)
        after = bits * (1 + change / 100 + 0.01 * g.normal(size=texts))
        return stats.ratio_change(bits, after, bits, draws=draws), change

    return one


def icat(stereotyped: float, meaningful: float = 0.9, items: int = 100) -> Setting:
    """StereoSet's ICAT from per-item choices: LMS × min(SS, 100 − SS) ÷ 50."""

    def of(sums: np.ndarray) -> np.ndarray:
        ss, lms = 100 * sums[:, 0] / sums[:, 2], 100 * sums[:, 1] / sums[:, 2]
        return np.asarray(lms * np.minimum(ss, 100 - ss) / 50)

    def one(g: Generator, draws: int) -> tuple[Estimate, float]:
        columns = np.stack([g.random(items) < stereotyped, g.random(items) < meaningful, np.ones(items)], axis=1).astype(float)
        figure = Figure("icat", "all", columns, of, tuple(map(str, range(items))), 100.0, "ideal")
        found = figure_estimate(figure, draws, bounds=(0, 100))
        assert found is not None
        return found, 100 * meaningful * min(stereotyped, 1 - stereotyped) * 2

    return one


def clustered(clusters: int, each: int, by_cluster: float, by_item: float) -> Setting:
    """Mean over items of templates, templates drawn whole."""

    def one(g: Generator, draws: int) -> tuple[Estimate, float]:
        values = (by_cluster * g.normal(size=(clusters, 1)) + by_item * g.normal(size=(clusters, each))).ravel()
        figure = mean_figure(values, np.repeat(np.arange(clusters), each))
        found = figure_estimate(figure, draws)
        assert found is not None
        return found, 0.0

    return one


def mean_figure(values: np.ndarray, clusters: np.ndarray) -> Figure:
    """A mean as a benchmark's figure."""
    columns = np.stack([values, np.ones(len(values))], axis=1)
    return Figure("mean", "all", columns, lambda sums: sums[:, 0] / sums[:, 1], tuple(map(str, clusters)), 0.0, "ideal")


def strengths(g: Generator, n: int = 24, shares: tuple[float, ...] = (0.6, 0.2, 0.15, 0.05)) -> np.ndarray:
    """Judged strengths 0–3."""
    return g.choice(4, p=shares, size=n).astype(float)


def closing(left: float, *, signed: bool = True) -> Setting:
    """Share of an injected gap of 2 nats that is closed when `left` of it stays; 40 prompts, 20 entities."""

    def one(g: Generator, draws: int) -> tuple[Estimate, float]:
        prompt, own = 0.8 * g.normal(size=40), 0.7 * g.normal(size=40)
        others = prompt[:, None] + components(g, 40, 20, 0.0, 0.5, 0.5)
        before = _gap(2 + prompt + own, others)
        after = _gap(2 * left + prompt + 0.5 * own + 0.35 * g.normal(size=40), others + 0.2 * g.normal(size=(40, 20)))
        if signed:
            return stats.closed_share(stats.estimate(lambda d: after(d) / before(d), 40, 20, 800, draws=draws)), 1 - abs(left)
        return stats.estimate(lambda d: 1 - np.abs(after(d)) / np.abs(before(d)), 40, 20, 800, draws=draws), 1 - abs(left)

    return one


def _gap(token: np.ndarray, others: np.ndarray) -> Callable[[Draws], np.ndarray]:
    return lambda d: stats.weighted(token, d.prompts) - stats.crossed(others, d)


def spread(g: Generator, draws: int) -> tuple[Estimate, float]:
    """Standard deviation over 20 entities."""
    m = components(g, 40, 20, 1.0, 1.0, 1.0)
    return stats.estimate(lambda d: stats.spread_of(m, d), 40, 20, m.size, draws=draws, positive=True), 1.0


def spread_change(keep: float, new: float) -> Setting:
    """Change of the spread when an edit keeps a share of every entity's lean and adds some of its own."""

    def one(g: Generator, draws: int) -> tuple[Estimate, float]:
        prompt, entity = g.normal(size=(40, 1)), g.normal(size=(1, 20))
        before = prompt + entity + g.normal(size=(40, 20))
        after = prompt + keep * entity + new * g.normal(size=(1, 20)) + g.normal(size=(40, 20))
        found = stats.estimate(lambda d: stats.spread_of(after, d) - stats.spread_of(before, d), 40, 20, before.size, draws=draws)
        return found, math.hypot(keep, new) - 1

    return one


def one_share(p: float, n: int, *, exact: bool = False) -> Setting:
    """A proportion."""
    return lambda g, draws: (stats.share(int(g.binomial(n, p)), n, exact=exact), p)


def many_seeds(count: int, *, by_item: bool) -> Setting:
    """Mean over seeds of a score on the same 40 items."""

    def one(g: Generator, draws: int) -> tuple[Estimate, float]:
        m = 0.5 * g.normal(size=(40, 1)) + 0.3 * g.normal(size=(1, count)) + 0.5 * g.normal(size=(40, count))
        if by_item:
            return seeds.over_items_and_seeds(m, draws=draws), 0.0
        return seeds.seed_mean([stats.mean(m[:, s], draws=draws) for s in range(count)]), 0.0

    return one


COVERAGE: dict[str, Setting] = {
    "mean of 40 prompts, normal": mean_of(lambda g: g.normal(size=40), 0.0),
    "mean of 40 prompts, skewed (gamma 2)": mean_of(lambda g: g.gamma(2, size=40) - 2, 0.0),
    "crossed 40 × 20, components 0.7 / 0.5 / 1": crossed(40, 20, 0.7, 0.5, 1.0),
    "crossed 8 × 20, components 0.7 / 0.5 / 1": crossed(8, 20, 0.7, 0.5, 1.0),
    "crossed 40 × 20, cells only": crossed(40, 20, 0.05, 0.05, 1.0),
    "crossed 20 × 12 × 4 seeds": three_axes,
    "8 clusters of 5": clustered(8, 5, 0.5, 1.0),
    "20 clusters of 3": clustered(20, 3, 0.5, 1.0),
    "ratio change, 63 texts": ratio_change(1.0),
    "ICAT, SS 70": icat(0.7),
    "ICAT, SS 60": icat(0.6),
    "ICAT, SS 55": icat(0.55),
    "strength 0–3, n = 24": mean_of(strengths, 0.65),
    "strength difference, n = 24": mean_of(lambda g: strengths(g) - strengths(g, shares=(0.8, 0.1, 0.08, 0.02)), 0.33),
    "gap closed, 70 %": closing(0.3),
    "gap closed, 95 %": closing(0.05),
    "spread over 20 entities": spread,
    "change of the spread": spread_change(0.7, 0.3),
    "share 0.5, n = 40 (Wilson)": one_share(0.5, 40),
    "share 0.9, n = 100 (Wilson)": one_share(0.9, 100),
    "mean over 5 seeds, item scores": many_seeds(5, by_item=True),
}
BEYOND: dict[str, Setting] = {
    "ratio change, 30 texts": ratio_change(1.0, 30),
    "mean over 3 seeds, item scores": many_seeds(3, by_item=True),
    "crossed 6 × 6": crossed(6, 6, 0.5, 0.5, 1.0),
    "mean over 3 seeds, from each seed's figure": many_seeds(3, by_item=False),
    "mean over 5 seeds, from each seed's figure": many_seeds(5, by_item=False),
    "ICAT, SS exactly 50": icat(0.5),
    "gap closed, exactly 100 %": closing(0.0),
    "gap closed, exactly 100 %, draws of the folded value": closing(0.0, signed=False),
    "share 0.02, n = 40 (Wilson)": one_share(0.02, 40),
    "share 0.02, n = 40 (Clopper–Pearson)": one_share(0.02, 40, exact=True),
    "share 0.98, n = 100 (Wilson)": one_share(0.98, 100),
    "share 0.98, n = 100 (Clopper–Pearson)": one_share(0.98, 100, exact=True),
    "share 0.02, n = 40, by draws": mean_of(lambda g: (g.random(40) < 0.02).astype(float), 0.02),
}

# -------------------------------------------------------------------- before and after


def association(change: float) -> Setting:
    """Change in nats; an edit moves every prompt, entity and cell a little at random. 40 prompts, 20 entities."""

    def one(g: Generator, draws: int) -> tuple[Estimate, float]:
        moved = change + components(g, 40, 20, 0.2, 0.15, 0.4)
        return stats.estimate(lambda d: stats.crossed(moved, d), 40, 20, moved.size, draws=draws), change

    return one


def gap_removed(change: float) -> Setting:
    """Gap of a token to entities, before minus after."""

    def one(g: Generator, draws: int) -> tuple[Estimate, float]:
        token = change + 0.2 * g.normal(size=40) + 0.4 * g.normal(size=40)
        others = components(g, 40, 20, 0.2, 0.15, 0.4)
        gap = _gap(token, others)
        return stats.estimate(gap, 40, 20, others.size, draws=draws), change

    return one


def strength(change: float) -> Setting:
    """Change of judged strength on 24 texts; a share of them is written anew, from a law that has less of it by `change`."""
    law = np.array([0.5, 0.2, 0.2, 0.1])
    less = law * (1 - change / (law @ np.arange(4)))
    less[0] += 1 - less.sum()

    def one(g: Generator, draws: int) -> tuple[Estimate, float]:
        before = g.choice(4, p=law, size=24).astype(float)
        anew = g.random(24) < 0.6 if change == 0 else np.ones(24, dtype=bool)
        after = np.where(anew, g.choice(4, p=less, size=24), before)
        return stats.mean(before - after, draws=draws), change

    return one


def crows(change: float) -> Setting:
    """Percent stereotype preferred (as in CrowS-Pairs) on 100 pairs from 40 templates; some pairs flip either way."""

    def one(g: Generator, draws: int) -> tuple[Estimate, float]:
        template = np.arange(100) % 40
        lean = 0.5 * g.normal(size=40)[template] + g.normal(size=100) + 0.3
        moved = lean - change + 0.4 * (0.5 * g.normal(size=40)[template] + g.normal(size=100)) * (1 if change == 0 else 0.5)
        found = figure_change(*(mean_figure(100.0 * (x > 0), template) for x in (lean, moved)), draws=draws)
        assert found is not None
        return found, change

    return one


def crows_no_op(g: Generator, draws: int) -> tuple[Estimate, float]:
    """The edit does nothing to the law of the leans: before and after are two noisy looks at the same items."""
    template = np.arange(100) % 40
    lean = 0.3 + 0.5 * g.normal(size=40)[template] + g.normal(size=100)
    looks = [lean + 0.4 * (0.5 * g.normal(size=40)[template] + g.normal(size=100)) for _ in range(2)]
    found = figure_change(*(mean_figure(100.0 * (x > 0), template) for x in looks), draws=draws)
    assert found is not None
    return found, 0.0


def spread_no_op(g: Generator, draws: int) -> tuple[Estimate, float]:
    """Two noisy looks at entities that keep their leans."""
    prompt, entity = g.normal(size=(40, 1)), g.normal(size=(1, 20))
    looks = [prompt + entity + 0.2 * g.normal(size=(1, 20)) + g.normal(size=(40, 20)) for _ in range(2)]
    return stats.estimate(lambda d: stats.spread_of(looks[1], d) - stats.spread_of(looks[0], d), 40, 20, 800, draws=draws), 0.0


NO_OP: dict[str, Setting] = {
    "association, 40 × 20": association(0.0),
    "gap removed, 40 × 20": gap_removed(0.0),
    "strength, 24 texts": strength(0.0),
    "bits per byte, 63 texts": ratio_change(0.0),
    "spread, 20 entities": spread_no_op,
    "CrowS-Pairs, 100 pairs of 40 templates": crows_no_op,
}
EFFECT: dict[str, Setting] = {
    "association, −0.2 nats": association(-0.2),
    "gap removed, 0.3 nats": gap_removed(0.3),
    "strength, 0.6 of 3 points": strength(0.6),
    "bits per byte, +1 %": ratio_change(1.0),
    "spread, 30 % smaller": spread_change(0.7, 0.0),
    "CrowS-Pairs, leans 0.5 nats lower": crows(0.5),
}

# -------------------------------------------------------------------- what is counted


def coverage(setting: Setting, trials: int, draws: int, seed: int = 0) -> float:
    """Share of intervals that hold the truth."""
    g = np.random.default_rng(seed)
    found = [setting(g, draws) for _ in range(trials)]
    return float(np.mean([e.low - 1e-9 <= truth <= e.high + 1e-9 for e, truth in found]))


def rejected(setting: Setting, trials: int, draws: int, seed: int = 0) -> tuple[float, float]:
    """Share of trials with p < 0.05, and the median change that would have been found with 80 % probability."""
    g = np.random.default_rng(seed)
    found = [setting(g, draws)[0] for _ in range(trials)]
    detectable = [claims.minimum_detectable(e) or math.nan for e in found]
    return float(np.mean([claims.p_value(e) < 0.05 for e in found])), float(np.nanmedian(detectable))


def family(trials: int, draws: int, tests: int = 20, seed: int = 0) -> tuple[float, float]:
    """Share of families of no-op tests with any claim: uncorrected, and after Holm."""
    g, plain, corrected = np.random.default_rng(seed), 0, 0
    for _ in range(trials):
        p = [claims.p_value(association(0.0)(g, draws)[0]) for _ in range(tests)]
        plain += min(p) < 0.05
        corrected += min(claims.holm(p)) < 0.05
    return plain / trials, corrected / trials


def sham_claims(trials: int, count: int, seed: int = 0) -> float:
    """Share of claims above the limit when the claim is itself a draw from the shams."""
    g = np.random.default_rng(seed)
    values = g.normal(size=(trials, count + 1))
    return float(np.mean([claims.beats_shams(Estimate(v[0], v[0], v[0], 1), v[1:]).answer != "same" for v in values]))


def main() -> None:
    """All tables, printed and written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=600)
    given = parser.parse_args()
    start, lines = time.perf_counter(), []

    def say(line: str) -> None:
        lines.append(line)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    say("# Calibration of the statistics\n")
    say(f"{datetime.datetime.now(tz=datetime.UTC).date()}; `python experiments/calibration.py --trials {given.trials} --draws {given.draws}`; "
        f"each share has a standard error of about {100 * math.sqrt(0.05 * 0.95 / given.trials):.1f} points.\n")  # fmt: skip
    for title, settings in (
        ("Coverage of 95 % intervals (wanted: 93–97 %)", COVERAGE),
        ("Coverage where 93–97 % is not promised", BEYOND),
    ):
        say(f"## {title}\n\n| setting | holds the truth |\n|---|---:|")
        for name, setting in settings.items():
            say(f"| {name} | {100 * coverage(setting, given.trials, given.draws):.1f} % |")
        say("")
    say("## The before/after test (p < 0.05)\n\n| no-op edit (wanted: ≤ 6 %) | called a change |\n|---|---:|")
    for name, setting in NO_OP.items():
        say(f"| {name} | {100 * rejected(setting, given.trials, given.draws)[0]:.1f} % |")
    plain, corrected = family(max(100, given.trials // 5), given.draws)
    say(f"| 20 no-op tests, any called, uncorrected | {100 * plain:.1f} % |\n| the same after Holm | {100 * corrected:.1f} % |")
    say("\n| true change | called a change | detectable with 80 % (median) |\n|---|---:|---:|")
    for name, setting in EFFECT.items():
        power, detectable = rejected(setting, given.trials, given.draws)
        say(f"| {name} | {100 * power:.1f} % | {detectable:.3g} |")
    say("\n## The sham test\n\n| a sham put forward as the claim, against | passes |\n|---|---:|")
    for count in (5, 19, 20, 40, 100):
        say(f"| {count} shams | {100 * sham_claims(10 * given.trials, count):.1f} % |")
    say(f"\nTime: {time.perf_counter() - start:.0f} s on one core.")
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
