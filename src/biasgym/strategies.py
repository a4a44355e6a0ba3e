"""Which setting to try next: a ladder along one setting after the other, random points, Optuna's samplers. Knows no model.

A strategy is a generator: it yields settings and is sent what came of them. It draws from its seed and from what it was
sent alone, so a search that was killed is walked again with the outcomes on disk and goes on where it was.
"""

import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from typing import Any

import numpy as np

from biasgym.errors import SpecError, unknown

Settings = dict[str, Any]
Space = dict[str, tuple[Any, ...]]
ASKS_A_TRIAL = 20  # how often a sampler may name points that were tried before a search over a small space is given up
PRICIEST = 10.0  # a ruined model is not ten times more informative than a broken one


@dataclass(frozen=True)
class Outcome:
    """What a setting leaves (nats, less is better), its price as a share of the budget, and whether that is inside it."""

    left: float
    price: float
    inside: bool


Walk = Generator[Settings, Outcome, None]
Strategy = Callable[[Space, Settings, int, int], Walk]
Tried = Sequence[tuple[Settings, Outcome]]


def walk(name: str, space: Space, start: Settings, total: int, seed: int) -> Walk:
    """A search by its name over a space of candidate values, from the method's own settings on, of at most `total` trials.

    A space without candidates has one point, `start`.
    """
    check_search(name)
    return STRATEGIES[name](space, start, total, seed) if space else _once(start)


def check_search(name: str) -> None:
    """Refuse a search by an unknown name, or one of Optuna's where Optuna is not installed."""
    if name not in STRATEGIES:
        raise SpecError(unknown("search", name, STRATEGIES))
    if name not in ("ladder", "random") and find_spec("optuna") is None:
        raise SpecError(f'tune.search = "{name}" is Optuna\'s, which is not installed: pip install \'biasgym[search]\', or take "ladder"')


def best_of(tried: Tried) -> Settings:
    """The settings that leave least inside the budget; the cheapest where none is inside."""
    inside = [(outcome.left, number) for number, (_, outcome) in enumerate(tried) if outcome.inside]
    priced = [(outcome.price, number) for number, (_, outcome) in enumerate(tried)]
    return tried[min(inside or priced)[1]][0]


def key_of(settings: Settings) -> tuple[tuple[str, Any], ...]:
    """Settings as a key: equal settings, equal keys, lists and tables among them."""
    return tuple((name, _hashable(settings[name])) for name in sorted(settings))


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return key_of(value)
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _once(start: Settings) -> Walk:
    yield start


# -------------------------------------------------------------------- ladder


def ladder(space: Space, start: Settings, total: int, _seed: int) -> Walk:
    """First along the first setting, from the method's own value outwards, then along the others around the best so far."""
    tried: list[tuple[Settings, Outcome]] = []
    while len(tried) < total and (settings := _rung(space, start, total, tried)) is not None:
        outcome = yield settings
        tried.append((settings, outcome))


def _rung(space: Space, start: Settings, total: int, tried: Tried) -> Settings | None:
    keys = {key_of(settings) for settings, _ in tried}
    first = next(iter(space))
    for value in _from_middle(space[first], start[first]):
        if key_of(start | {first: value}) not in keys and len(tried) < max(1, (total + 1) // 2):
            return start | {first: value}
    centre = best_of(tried)
    others_first = [*list(space)[1:], first]
    candidates = [centre | {name: value} for name in others_first for value in _from_middle(space[name], centre[name])[:4]]
    return next((settings for settings in [*candidates, *_everything(space, start)] if key_of(settings) not in keys), None)


def _everything(space: Space, start: Settings) -> list[Settings]:
    return [start | dict(zip(space, values, strict=True)) for values in product(*space.values())]


def _from_middle(values: Sequence[Any], middle: Any) -> list[Any]:
    """Values by their distance in rank from the middle one."""
    ordered = sorted(values)
    place = _rank(ordered, middle)
    return sorted(ordered, key=lambda value: (abs(ordered.index(value) - place), ordered.index(value)))


def _rank(ordered: Sequence[Any], value: Any) -> int:
    """The place of a value among ordered candidates, or of the nearest one."""
    if value in ordered:
        return list(ordered).index(value)
    return min(range(len(ordered)), key=lambda i: abs(float(ordered[i]) - float(value)))


# -------------------------------------------------------------------- random points


def random_points(space: Space, start: Settings, total: int, seed: int) -> Walk:
    """Points of the space drawn without replacement, each as likely as any other: what a search has to beat."""
    points = _everything(space, start)
    for place in np.random.default_rng(seed).permutation(len(points))[:total]:
        yield points[int(place)]


# -------------------------------------------------------------------- Optuna


def sampled(make: Callable[[Any, int, int], Any]) -> Strategy:
    """A search by one of Optuna's samplers, with two aims: what is left, and the price. The method's own settings come first.

    Candidates of a setting that have an order are drawn by their rank, so that their spacing does not matter; others are
    categories. A point that was tried already is told again and costs nothing.
    """

    def follow(space: Space, start: Settings, total: int, seed: int) -> Walk:
        optuna = _optuna()
        size = int(np.prod([len(values) for values in space.values()]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is experimental in Optuna is pinned down by our tests
            study = optuna.create_study(directions=["minimize", "minimize"], sampler=make(optuna, seed, total))
        study.enqueue_trial({name: _first(values, start[name]) for name, values in space.items()})
        known: dict[tuple[tuple[str, Any], ...], Outcome] = {}
        for _ in range(ASKS_A_TRIAL * total):
            if len(known) >= min(total, size):
                return
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trial = study.ask()
                settings = start | {name: _drawn(trial, name, values) for name, values in space.items()}
            if key_of(settings) not in known:
                known[key_of(settings)] = yield settings
            outcome = known[key_of(settings)]
            study.tell(trial, [outcome.left, min(outcome.price, PRICIEST)])

    return follow


def _drawn(trial: Any, name: str, values: Sequence[Any]) -> Any:
    if any(isinstance(value, str) for value in values):
        return trial.suggest_categorical(name, list(values))
    ordered = sorted(values)
    return ordered[trial.suggest_int(name, 0, len(ordered) - 1)]


def _first(values: Sequence[Any], start: Any) -> Any:
    """The start as the sampler names it: a category, or the rank of the nearest candidate."""
    return start if any(isinstance(value, str) for value in values) else _rank(sorted(values), start)


def _optuna() -> Any:
    import optuna  # a third of a second

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


STRATEGIES: dict[str, Strategy] = {
    "ladder": ladder,
    "random": random_points,
    "tpe": sampled(lambda optuna, seed, total: optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(3, total // 3))),
    "nsga2": sampled(lambda optuna, seed, total: optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, total // 4))),
    "gp": sampled(lambda optuna, seed, total: optuna.samplers.GPSampler(seed=seed, n_startup_trials=max(3, total // 3))),
}
