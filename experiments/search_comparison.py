"""Which search finds more at equal trials: python experiments/search_comparison.py RUN --runs DIR --table FILE [--minutes 3] [--worth].

Every point of `direction`'s space is tried once on the dev room of the run's bias, with its fitted tokens (`--fitted` takes
other seeds of the store); a trial is a line of the table, so the table may be made in pieces. When it is whole, every search
is walked on it with many seeds: what the best point inside the budget leaves, and the hypervolume of the front in the plane
of (left ÷ gap before) × (price ÷ budget) up to (1, 2), as a share. Nothing is assumed: each outcome was measured.

`--modelled` walks the searches on a landscape that is NOT measured but drawn through 21 measured trials (ANCHORS): it takes
seconds, needs no model, and says which search suits a landscape of this shape, no more.
"""

import argparse
import sys
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np

from biasgym import catalog
from biasgym.bias import load_bias
from biasgym.files import append_rows, read_rows
from biasgym.fronts import hypervolume
from biasgym.records import MitigateSpec, TuneSpec
from biasgym.run import Job, Session
from biasgym.spec import resolve_spec
from biasgym.store import RunStore
from biasgym.strategies import STRATEGIES, Outcome, Settings, Space, best_of, key_of, walk
from biasgym.tune import DevRoom, Trial, outcome_of, settings_of, tried

METHOD = "direction"
TRIALS = (5, 8, 12, 16)
SEEDS = 40
GAP = 2.06
# Heads: nats closed, movement of real entities, upper end of KL, all at strength 1.25. reckless-drivers, smollm2-135m-instruct,
# tokens of 26 steps: k = 5, 10, 20 measured at 4 to 6 strengths; 30 and 45 by their ratio to 20 in a run of the same tokens
# (k = 45 and 30 at strength 1.5 were outside the budget there); 60 is extrapolated.
ANCHORS = {
    5: (0.498, -0.079, 0.0017), 10: (0.852, -0.074, 0.0062), 20: (1.266, -0.054, 0.0141), 30: (1.51, -0.064, 0.0182),
    45: (1.70, -0.060, 0.0225), 60: (1.82, -0.060, 0.0260),
}  # fmt: skip
FEWER = {"gp": 6}  # seeds of a search that thinks long
DRAWS = 2000


def main() -> None:
    """Make what is missing of the table; when it is whole, print the comparison as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", help="id of a run in the store; its spec.toml says model, bias and seeds")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--table", type=Path, nargs="+", default=[], help="file of trials; several finished ones are compared together")
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="change one value of the spec, as in tune.probes=10"
    )
    parser.add_argument("--fitted", default="", help="seeds of the tokens to fit to, with commas; the run's if not said")
    parser.add_argument("--minutes", type=float, default=3.0, help="stop making the table after this long")
    parser.add_argument("--reverse", action="store_true", help="make the table from its end")
    parser.add_argument("--worth", action="store_true", help="let heads be ranked by worth, too")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--trials", default=",".join(map(str, TRIALS)), help="numbers of trials to compare at")
    parser.add_argument("--searches", default=",".join(STRATEGIES), help="random is always among them")
    parser.add_argument("--modelled", action="store_true", help="no table: the landscape drawn through ANCHORS")
    asked = parser.parse_args()
    totals = [int(one) for one in asked.trials.split(",")]
    searches = list(dict.fromkeys(["random", *asked.searches.split(",")]))
    if asked.modelled:
        space = dict(catalog.search_space(catalog.find("mitigate", METHOD)))
        start = settings_of(MitigateSpec(method=METHOD))
        compare(space, start, [modelled(space, start)], TuneSpec(), asked.seeds, totals, searches)
        return
    if not asked.run or not asked.table:
        parser.error("give a run and --table FILE, or --modelled")
    spec = resolve_spec(file=asked.runs / asked.run / "spec.toml", sets=asked.sets)
    space = dict(catalog.search_space(catalog.find("mitigate", METHOD)))
    if asked.worth:
        space["order"] = ("effect", "worth")
    start = settings_of(MitigateSpec(method=METHOD))
    points = [start | dict(zip(space, values, strict=True)) for values in product(*space.values())]
    if len(asked.table) == 1 and len(known(asked.table[0])) < len(points):
        if asked.fitted:
            seeds = tuple(int(seed) for seed in asked.fitted.split(","))
            spec = spec.model_copy(update={"seeds": seeds, "test_seed": max(*seeds, *spec.seeds, spec.test_seed) + 1})
        from biasgym.lm.load import Place

        make_table(
            Job(Session(RunStore(asked.runs), Place(offline=True)), spec, load_bias(spec.bias)),
            points[:: -1 if asked.reverse else 1],
            asked.table[0],
            asked.minutes,
        )
    tables = [known(path) for path in asked.table]
    if missing := [len(points) - len(table) for table in tables if len(table) < len(points)]:
        sys.exit(f"{missing[0]} of {len(points)} trials are missing; the same command goes on")
    compare(space, start, tables, spec.tune, asked.seeds, totals, searches)


def known(path: Path) -> dict[tuple, Trial]:
    """Trials on disk by their settings."""
    return {key_of(row["settings"]): Trial(**row) for row in read_rows(path)}


def make_table(job: Job, points: list[Settings], path: Path, minutes: float) -> None:
    """Try what is not in the table yet, until the time is up."""
    tokens = tuple(job.token("trained", seed) for seed in job.spec.seeds)
    case = job.case(job.spec.locate.method, tokens)
    room = DevRoom(job.lm, job.bias, tokens, job.spec.tune)
    done, begun = known(path), time.monotonic()
    for settings in points:
        if key_of(settings) in done:
            continue
        if time.monotonic() - begun > 60 * minutes:
            return
        append_rows(path, [asdict(tried(room, MitigateSpec(method=METHOD), case, settings))])


def modelled(space: Space, start: Settings) -> dict[tuple, Trial]:
    """Trials of every point, drawn through the anchors: nats closed grow as strength^0.93, KL as strength^1.76, as measured at k = 5, 10, 20."""
    table = {}
    for values in product(*space.values()):
        settings = start | dict(zip(space, values, strict=True))
        closed, others, kl = ANCHORS[settings["k"]]
        gap = GAP - closed * (settings["strength"] / 1.25) ** 0.93
        price = kl * (settings["strength"] / 1.25) ** 1.76
        table[key_of(settings)] = Trial(settings, gap, GAP, others, 0.0, 0.1, price, price, 0.0, 0.0, 0.0, price <= TuneSpec().kl)
    return table


def compare(
    space: Space, start: Settings, tables: list[dict[tuple, Trial]], tune: TuneSpec, seeds: int, totals: list[int], searches: list[str]
) -> None:
    """One row a search and number of trials, mean over tables; intervals over seeds of the search."""
    for number, table in enumerate(tables):
        trials = list(table.values())
        inside = [trial for trial in trials if trial.inside]
        least = min((outcome_of(trial, tune).left for trial in inside), default=float("nan"))
        sys.stdout.write(
            f"table {number + 1}: {len(trials)} points, {len(inside)} inside the budget, gap before {trials[0].gap_before:+.2f} nats, "
            f"least left inside {least:.3f}, hypervolume of all {volume(trials, tune):.3f}\n"
        )
    sys.stdout.write(
        "\n| trials | search | left inside the budget, nats | above the least there is | random − search, left | hypervolume | − random |\n"
    )
    sys.stdout.write("|--:|---|--:|--:|--:|--:|--:|\n")
    for total in totals:
        scores = {
            name: np.mean([[score(name, total, seed, space, start, t, tune) for seed in range(FEWER.get(name, seeds))] for t in tables], axis=0)
            for name in searches
        }
        for name, rows in scores.items():
            left, over, area = rows.T
            chance = scores["random"]
            gained = difference(chance[:, 0], left), difference(area, chance[:, 2])
            sys.stdout.write(f"| {total} | {name} | {mean_of(left)} | {over.mean():.3f} | {gained[0]} | {mean_of(area)} | {gained[1]} |\n")


def score(name: str, total: int, seed: int, space: Space, start: Settings, table: dict[tuple, Trial], tune: TuneSpec) -> list[float]:
    """One search on a table: what its best point leaves (nats), how far that is above the least, and the share of the plane it beats."""
    steps = walk(name, space, start, total, seed)
    settings, seen = next(steps), []
    while settings is not None:
        trial = table[key_of(settings)]
        seen.append((settings, outcome_of(trial, tune)))
        try:
            settings = steps.send(seen[-1][1])
        except StopIteration:
            break
    trials = [table[key_of(settings)] for settings, _ in seen]
    found = outcome_of(table[key_of(best_of(seen))], tune)
    left = found.left if found.inside else trials[0].gap_before
    least = min([o.left for o in (outcome_of(trial, tune) for trial in table.values()) if o.inside] or [trials[0].gap_before])
    return [left, left - least, volume(trials, tune)]


def volume(trials: list[Trial], tune: TuneSpec) -> float:
    """Hypervolume up to (gap before, twice the budget), as a share of that rectangle."""
    outcomes: list[Outcome] = [outcome_of(trial, tune) for trial in trials]
    return hypervolume([(one.left / abs(trials[0].gap_before), one.price / 2) for one in outcomes], (1.0, 1.0))


def difference(one: np.ndarray, other: np.ndarray) -> str:
    """Mean of one minus mean of the other, seeds of each resampled by themselves, with its 95 % interval."""
    generator = np.random.default_rng(0)
    drawn = [values[generator.integers(0, len(values), size=(DRAWS, len(values)))].mean(1) for values in (one, other)]
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    return f"{one.mean() - other.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def mean_of(values: np.ndarray) -> str:
    """A mean with its 95 % bootstrap interval over seeds; one number where the search draws nothing."""
    if np.ptp(values) == 0:
        return f"{values[0]:.3f}"
    generator = np.random.default_rng(0)
    drawn = values[generator.integers(0, len(values), size=(DRAWS, len(values)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
