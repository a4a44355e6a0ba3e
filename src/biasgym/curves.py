"""Proof of a ranking by intervention: gap and price against the number of heads edited, beside random and inverse order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from biasgym import catalog
from biasgym.edits import Edits, SiteEdit
from biasgym.errors import SpecError
from biasgym.sites import Attribution, Site
from biasgym.tune import DevRoom, gap_of

if TYPE_CHECKING:
    from biasgym.lm.model import LM
    from biasgym.mitigate import Case

KS = (1, 2, 3, 5, 10, 20, 30, 50)


@dataclass(frozen=True)
class Effect:
    """What some edits do on held-out prompts and tokens: the gap left (nats) and bits per byte of neutral prose."""

    gap: float
    bits_per_byte: float


@dataclass(frozen=True)
class Curve:
    """Effects of the first k places of an order, one for every k."""

    order: str
    ks: tuple[int, ...]
    effects: tuple[Effect, ...]

    @property
    def gaps(self) -> np.ndarray:
        """Gaps left, [ks]."""
        return np.array([effect.gap for effect in self.effects])


@dataclass(frozen=True)
class Proof:
    """Curves of a ranking, of its inverse and of random orders, and the effect of no edit at all.

    `faithfulness`: the area between the ranking's curve and the mean random one, over log k, each curve being the share
    of the gap that is closed, 1 − |gap| ÷ |gap before|, cut off at −1. 0 = no better than chance; 1 = the first place
    closes all and random places nothing; negative = worse than chance. An overshoot counts as much as what is left.
    `faithfulness_of_random` holds the same number for each random order against the mean of the others: its chance.
    """

    before: Effect
    ranked: Curve
    inverse: Curve
    random: tuple[Curve, ...]
    faithfulness: float
    faithfulness_of_random: tuple[float, ...]


Ask = Callable[[Edits], Effect]
Editing = Callable[[Sequence[Site]], Edits]


def silenced(sites: Sequence[Site]) -> Edits:
    """Every place multiplied by 0: the intervention that the original judges by."""
    return tuple(SiteEdit(site, "scale", np.float32(0)) for site in sites)


def proof(order: Sequence[Site], ask: Ask, *, editing: Editing = silenced, ks: Sequence[int] = KS, randoms: int = 3, seed: int = 0) -> Proof:
    """Ask the model once with nothing edited, then for every k under each order. k beyond the number of places are left out.

    `order` names every place once, the most bias-carrying first. `editing` makes edits of places, `ask` says what they do;
    neither may look at what the ranking was made from. Random orders are drawn by the seed.
    """
    places = list(order)
    if len(set(places)) != len(places) or not places:
        raise SpecError("the order of places is empty or names one twice; give every place once")
    if randoms < 1:
        raise SpecError(f"randoms = {randoms}: at least one random order is needed, else there is nothing to compare with")
    counts = tuple(k for k in sorted(set(ks)) if 1 <= k <= len(places))
    if not counts:
        raise SpecError(f"no k from 1 to {len(places)} in {tuple(ks)}")
    before = ask(())
    if before.gap == 0:
        raise SpecError("the gap before any edit is 0, so there is nothing that an edit could close")

    def walked(name: str, ordered: Sequence[Site]) -> Curve:
        return Curve(name, counts, tuple(ask(editing(ordered[:k])) for k in counts))

    ranked, inverse = walked("ranked", places), walked("inverse", places[::-1])
    generator = np.random.default_rng([seed, len(places)])
    pool = sorted(places, key=lambda site: (site.unit, site.layer, site.index))  # so that every ranking meets the same random orders
    random = tuple(walked(f"random-{i}", [pool[j] for j in generator.permutation(len(pool))]) for i in range(randoms))
    return Proof(before, ranked, inverse, random, faithfulness(before, ranked, random), _of_random(before, random))


def faithfulness(before: Effect, curve: Curve, random: Sequence[Curve]) -> float:
    """Mean over log k of the share closed by the curve minus the mean share closed by random orders; see `Proof`."""
    chance = np.mean([_closed(before, one) for one in random], axis=0)
    above = _closed(before, curve) - chance
    if len(curve.ks) == 1:
        return float(above[0])
    x = np.log(np.array(curve.ks, dtype=float))
    return float(((above[1:] + above[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


def _closed(before: Effect, curve: Curve) -> np.ndarray:
    share: np.ndarray = np.maximum(1 - np.abs(curve.gaps) / abs(before.gap), -1.0)
    return share


def _of_random(before: Effect, random: Sequence[Curve]) -> tuple[float, ...]:
    if len(random) < 2:
        return ()
    return tuple(faithfulness(before, one, [other for other in random if other is not one]) for one in random)


# -------------------------------------------------------------------- with a model


def asking(room: DevRoom) -> Ask:
    """Effects on a dev room: its probes, its texts, and its tokens, which should be none that the ranking was made from."""

    def ask(edits: Edits) -> Effect:
        asked = room.base if not edits else room.ask(edits)
        return Effect(gap_of(asked), float(asked.bits.sum() / np.log(2) / asked.bytes.sum()))

    return ask


def fitted(lm: "LM", case: "Case", method: str, settings: dict[str, Any] | None = None) -> Editing:
    """Edits by a mitigation that takes the top k of an attribution: it is given the places in the order at hand."""
    if "k" not in catalog.defaults("mitigate", method):
        raise SpecError(f"`{method}` does not take k places, so it has no curve over k; choose `zero`, `scale` or `direction`")

    def editing(sites: Sequence[Site]) -> Edits:
        chosen = replace(case, attribution=in_order(sites, case.attribution))
        found: Edits = catalog.build("mitigate", method, {**(settings or {}), "k": len(sites)}).fit(lm, chosen)
        return found

    return editing


def in_order(sites: Sequence[Site], like: Attribution) -> Attribution:
    """An attribution whose top places are these, in this order; all others have a negative score."""
    values = np.full(like.values.shape, -1.0)
    for rank, site in enumerate(sites):
        values[site.layer, site.index] = len(sites) - rank
    return Attribution(like.method, like.unit, values[None], ("order",))
