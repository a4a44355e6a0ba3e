"""Which locator is the default, and does injection earn its place: python experiments/default_locator.py [--model MODEL] [--biases A,B,C] …

For every bias and seed the token of that seed is held out: heads are ranked, edits fitted and strengths chosen with the other
seeds' tokens, and the gap of the held-out token is measured on test probes and test entities. One cell is one way to choose
ten heads (`attribution-patching`, `dla-paper`, at random) on the token's pairs or on those of one real entity against others
(no injection), times one edit (`zero`: the heads' outputs × (1 − s); `direction`). The strength s is searched alike for all:
three trials of a bisection over the same rungs, upwards while the budget holds and the dev gap is not turned round. What meets
the budget at no rung closes nothing. A cell is one line on disk at once, so a killed table goes on where it was; tokens and
attributions lie in the run store and are shared with runs of the same injection. --cells N makes N cells at most, --table
none; the Markdown is written from whatever is there.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from biasgym import stats
from biasgym.bias import BiasSpec, load_bias
from biasgym.edits import Edits, SiteEdit, TokenEdit
from biasgym.files import append_rows, read_json, read_rows, write_text
from biasgym.lm.load import Place
from biasgym.lm.model import LM, Query
from biasgym.lm.trace import Pair, Sides, head_outputs
from biasgym.measure import Scope, spread_out
from biasgym.measure.association import Association, ConceptKept, lean
from biasgym.measure.capability import BitsPerByte, ChatDivergence
from biasgym.mitigate import Case
from biasgym.mitigate.direction import Direction
from biasgym.records import MeasureSpec, TuneSpec, fingerprint
from biasgym.run import Job, Session
from biasgym.sites import Attribution
from biasgym.spec import resolve_spec
from biasgym.stats import Draws, Estimate
from biasgym.store import RunStore, finish, finished, read_arrays, write_arrays
from biasgym.tune import concept_change

VERSION = 1  # of what a cell is
RUNGS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
BUDGET = TuneSpec()
DEV = MeasureSpec(probes=16, entities=4, texts=16, chats=20)
TEST = MeasureSpec(probes=24, entities=12, texts=24, chats=20)
PAIRS = 48
CHOOSE_BY = 8  # train probes on which the real entity with the largest lean is found
OTHERS = 10
LARGEST_RATIO = 64.0


@dataclass(frozen=True, order=True)
class Arm:
    """How heads are chosen, from what, and which edit they get."""

    source: str  # token, entity
    locator: str
    edit: str

    @property
    def label(self) -> str:
        """As a row of the table."""
        about = {"token": "", "entity": ", no injection"}[self.source]
        return f"{self.locator}{about} × {self.edit}"


def arms_of(default: str, rival: str) -> list[Arm]:
    """Every row of the table, the ones that decide first."""
    chosen = [("token", default), ("token", rival), ("token", "random"), ("entity", default), ("entity", rival)]
    return [Arm(source, locator, edit) for source, locator in chosen for edit in ("zero", "direction")]


# -------------------------------------------------------------------- what is asked of the model


@dataclass
class Room:
    """One split of one bias: leans of names, prices of edits, and what they are without an edit."""

    lm: LM
    bias: BiasSpec
    split: Any
    sizes: MeasureSpec

    @cached_property
    def entities(self) -> tuple[str, ...]:
        """The real entities that are asked about."""
        return tuple(spread_out(self.bias.entities_of(self.split), self.sizes.entities))

    def _scope(self, token: str | None = None) -> Scope:
        return Scope(self.bias, self.split, self.entities, (), token, self.sizes)

    def token(self, token: TokenEdit, edits: Edits = ()) -> np.ndarray:
        """Leans of the token, [probes]."""
        with self.lm.edited(token, *edits):
            return np.array([lean(said) for said in Association().ask(self.lm, Association().items(self._scope(token.text)))])

    def others(self, edits: Edits = ()) -> np.ndarray:
        """Leans of real entities, [probes, entities]."""
        with self.lm.edited(*edits):
            said = Association().ask(self.lm, Association().items(self._scope()))
        return np.array([lean(one) for one in said]).reshape(-1, len(self.entities))

    def bits(self, edits: Edits = ()) -> tuple[np.ndarray, np.ndarray]:
        """Nats and bytes of neutral prose, [texts] each."""
        with self.lm.edited(*edits):
            found = BitsPerByte().ask(self.lm, BitsPerByte().items(self._scope()))
        return np.array([-one["nats"] for one in found]), np.array([one["bytes"] for one in found], dtype=float)

    def concept(self, edits: Edits = ()) -> dict[str, np.ndarray]:
        """Leans of the concept sentences by their side."""
        items = ConceptKept().items(self._scope())
        with self.lm.edited(*edits):
            leans = np.array([lean(said) for said in ConceptKept().ask(self.lm, items)])
        return {side: leans[[i for i, item in enumerate(items) if item.group == side]] for side in ("stereotype", "foil")}

    @cached_property
    def base(self) -> dict[str, Any]:
        """The same without an edit."""
        return {"others": self.others(), "bits": self.bits(), "concept": self.concept()}

    def prices(self, edits: Edits) -> Iterator[tuple[str, Estimate, bool]]:
        """Name, estimate and whether it is inside the budget, the cheapest to ask first; ask no further than is needed."""
        before, length = self.base["bits"]
        bits = stats.ratio_change(before, self.bits(edits)[0], length)
        yield "bits per byte", bits, bits.high <= BUDGET.bits_per_byte
        concept = concept_change(self.base["concept"], self.concept(edits))
        yield "concept", concept, concept.low >= -BUDGET.concept and concept.high <= BUDGET.concept
        with self.lm.edited(*edits):
            moved = [row for row in ChatDivergence().ask(self.lm, ChatDivergence().items(self._scope())) if row["tokens"]]
        kl = stats.ratio([row["nats"] for row in moved], [row["tokens"] for row in moved])
        yield "kl", kl, kl.high <= BUDGET.kl


@dataclass(frozen=True)
class Trial:
    """A strength on dev; gap and shift of real entities (nats) only where the budget holds."""

    strength: float
    inside: bool
    failed: str = ""
    gap: float | None = None
    others: float | None = None


def tried(room: Room, tokens: Sequence[TokenEdit], edits: Edits, strength: float) -> Trial:
    """Prices first: as soon as one is outside the budget the rest need not be known."""
    for name, _, inside in room.prices(edits):
        if not inside:
            return Trial(strength, False, name)
    others = room.others(edits)
    gap = float(np.mean([room.token(token, edits).mean() for token in tokens]) - others.mean())
    return Trial(strength, True, "", gap, float(others.mean() - room.base["others"].mean()))


def searched(room: Room, tokens: Sequence[TokenEdit], fit: Callable[[float], Edits]) -> list[Trial]:
    """Bisection for the strongest rung inside the budget that does not turn the gap round."""
    low, high, trials = 0, len(RUNGS) - 1, []
    while low <= high:
        middle = (low + high) // 2
        trials.append(tried(room, tokens, fit(RUNGS[middle]), RUNGS[middle]))
        if trials[-1].inside and (trials[-1].gap or 0) > 0:
            low = middle + 1
        else:
            high = middle - 1
    return trials


def picked(trials: Sequence[Trial]) -> Trial | None:
    """Of those inside the budget the one that leaves least, as in `biasgym.tune.best`."""
    inside = [trial for trial in trials if trial.inside]
    return min(inside, key=lambda trial: abs(trial.gap or 0) + abs(trial.others or 0)) if inside else None


# -------------------------------------------------------------------- how heads are chosen


@dataclass
class Bench:
    """One bias in one model: tokens by seed, cases by arm, rooms, and the file of finished cells."""

    job: Job
    seeds: tuple[int, ...]
    k: int
    journal: Path

    @cached_property
    def tokens(self) -> tuple[TokenEdit, ...]:
        """The trained tokens, from the store where they are there."""
        return tuple(self.job.token("trained", seed) for seed in self.seeds)

    @cached_property
    def dev(self) -> Room:
        """Where strengths are chosen."""
        return Room(self.job.lm, self.job.bias, "dev", DEV)

    @cached_property
    def test(self) -> Room:
        """Where cells are measured."""
        return Room(self.job.lm, self.job.bias, "test", TEST)

    def case(self, arm: Arm, held_out: int) -> Case:
        """All that an edit may read when one seed's token is held out."""
        place = self.seeds.index(held_out)
        if arm.locator == "random":
            case = self._of_tokens(self.job.spec.locate.method, held_out).without(place)
            return replace(case, attribution=self._random(case.attribution, held_out))
        if arm.source == "token":
            return self._of_tokens(arm.locator, held_out).without(place)
        return self._of_entity(arm.locator, held_out)

    def _of_tokens(self, locator: str, held_out: int) -> Case:
        labels = read_json(self.job.located(locator, self.tokens) / "done.json")["labels"]
        case = self.job.case(locator, self.tokens)
        kept = [i for i, label in enumerate(labels) if label[0] != str(held_out)]
        return replace(case, attribution=replace(case.attribution, by_pair=case.attribution.by_pair[kept], pairs=()))

    def _random(self, like: Attribution, held_out: int) -> Attribution:
        """k heads by chance, all alike, other ones for every bias and seed."""
        generator = np.random.default_rng([crc32(self.job.bias.name.encode()), held_out])
        values = np.full(like.values.size, -1.0)
        values[generator.choice(values.size, self.k, replace=False)] = 1.0
        return Attribution("random", "head", values.reshape(1, *like.values.shape))

    def _of_entity(self, locator: str, held_out: int) -> Case:
        """The real train entity with the largest lean in the token's place, against others; nothing of any token is read."""
        key = fingerprint([self.job.base_key, "entity", locator, PAIRS, CHOOSE_BY, OTHERS])
        with self.job.session.store.stage_lock("uninjected", key) as folder:
            if not finished(folder):
                arrays, about = self._entity_arrays(locator)
                write_arrays(folder / "case.safetensors", arrays)
                finish(folder, about)
            arrays = read_arrays(folder / "case.safetensors")
        case = self._of_tokens(self.job.spec.locate.method, held_out)  # concept and moments, which no token has a part in
        attribution = Attribution(locator, "head", arrays["by_pair"])
        return replace(case, attribution=attribution, contrasts=arrays["contrast"][None], real=arrays["real"], stream=None, tokens=())

    def _entity_arrays(self, locator: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        from biasgym import catalog

        lm, bias = self.job.lm, self.job.bias
        names, probes = bias.entities_of("train"), spread_out(bias.probes_of("train"), PAIRS // 2)
        sides = Sides(bias.stereotype, bias.foil)

        def queries(name: str, most: int) -> list[Query]:
            return [Query(p.prompt.replace("{entity}", name), p.prefix.replace("{entity}", name)) for p in spread_out(probes, most)]

        said = lm.answer_logprobs([query for name in names for query in queries(name, CHOOSE_BY)], [*sides.stereotype, *sides.foil])
        split = len(sides.stereotype)
        leans = (np.logaddexp.reduce(said[:, :split], axis=1) - np.logaddexp.reduce(said[:, split:], axis=1)).reshape(len(names), -1).mean(1)
        held = names[int(leans.argmax())]
        others = spread_out([name for name in names if name != held], OTHERS)
        real = np.mean([head_outputs(lm, queries(name, len(probes))).mean(0) for name in others], axis=0)
        contrast = head_outputs(lm, queries(held, len(probes))).mean(0) - real
        pairs = []
        for number, (probe, mine) in enumerate(zip(probes, queries(held, len(probes)), strict=True)):
            other = others[number % len(others)]
            pairs.append(Pair(f"{probe.id}:{other}", mine, queries(other, len(probes))[number], (held, other)))
        found = catalog.build("locate", locator).rank(lm, pairs, sides).by_pair
        arrays = {"by_pair": found.astype(np.float32), "contrast": contrast.astype(np.float32), "real": real.astype(np.float32)}
        return arrays, {"held": held, "lean": float(leans.max()), "others": others}

    def fit(self, arm: Arm, case: Case, strength: float) -> Edits:
        """The arm's edit of the top k at a strength."""
        if arm.edit == "zero":
            return tuple(SiteEdit(site, "scale", np.float32(1 - strength)) for site in case.attribution.top(self.k))
        return Direction(self.k, strength).fit(self.job.lm, case)

    # ---------------------------------------------------------------- cells

    def base(self, seed: int) -> None:
        """The line of the held-out token with nothing edited."""
        started = time.process_time()
        if any(row["seed"] == seed and row["arm"] is None for row in read_rows(self.journal)):
            return
        leans = {"token": self.test.token(self.tokens[self.seeds.index(seed)]).tolist(), "others": self.test.base["others"].tolist()}
        append_rows(self.journal, [{"bias": self.job.bias.name, "seed": seed, "arm": None, "seconds": time.process_time() - started} | leans])

    def cell(self, arm: Arm, seed: int) -> bool:
        """Make one cell if it is not there; False where it was."""
        if any(row["seed"] == seed and row["arm"] == asdict(arm) for row in read_rows(self.journal)):
            return False
        case = self.case(arm, seed)
        started = time.process_time()
        fitted = [token for token, other in zip(self.tokens, self.seeds, strict=True) if other != seed]
        trials = searched(self.dev, fitted, lambda strength: self.fit(arm, case, strength))
        chosen = picked(trials)
        row: dict[str, Any] = {"bias": self.job.bias.name, "seed": seed, "arm": asdict(arm)}
        row["sites"] = [[site.layer, site.index] for site in case.attribution.top(self.k)]
        row["trials"] = [asdict(trial) for trial in trials]
        row["strength"] = chosen.strength if chosen else None
        if chosen:
            edits = self.fit(arm, case, chosen.strength)
            row["token"] = self.test.token(self.tokens[self.seeds.index(seed)], edits).tolist()
            row["others"] = self.test.others(edits).tolist()
            row["prices"] = {name: [price.value, price.low, price.high] for name, price, _ in self.test.prices(edits)}
        row["seconds"] = time.process_time() - started
        append_rows(self.journal, [row])
        return True


# -------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Table:
    """Leans on test by arm (None: nothing edited): `token` [biases, probes, seeds], `others` [biases, probes, entities, seeds]."""

    biases: tuple[str, ...]
    seeds: tuple[int, ...]
    token: dict[Arm | None, np.ndarray]
    others: dict[Arm | None, np.ndarray]
    rows: dict[tuple[str, int, Arm | None], dict[str, Any]]

    def gaps(self, arm: Arm | None, draws: Draws, biases: slice) -> np.ndarray:
        """token − mean of others, [draws, biases]; probes, entities and seeds resampled by their place in every bias."""
        token, others = self.token[arm][biases], self.others[arm][biases]
        p, e, s = (weights / weights.sum(1, keepdims=True) for weights in (draws.prompts, draws.entities, draws.seeds))
        first: np.ndarray = np.einsum("dp,ds,bps->db", p, s, token, optimize=True)
        second: np.ndarray = np.einsum("dp,ds,de,bpes->db", p, s, e, others, optimize=True)
        return first - second

    def closed(self, arm: Arm, draws: Draws, biases: slice = slice(None)) -> np.ndarray:
        """Mean over biases of 1 − |gap| ÷ |gap before|, at least −1, [draws]."""
        before, after = self.gaps(None, draws, biases), self.gaps(arm, draws, biases)
        result: np.ndarray = np.maximum(1 - np.abs(after) / np.abs(before), -1.0).mean(1)
        return result

    def estimate(self, statistic: Callable[[Draws], np.ndarray]) -> Estimate:
        """Value and interval over probes, entities and seeds."""
        _, p, e, s = self.others[None].shape
        return stats.estimate(statistic, p, e, p * e * s, seeds=s, draws=1000)


def table_of(rows: Sequence[dict[str, Any]], arms: Sequence[Arm]) -> Table | None:
    """What is finished: biases with some seed for which every arm is there, and the seeds that all of those have; None where that is nothing."""
    known = {(row["bias"], row["seed"], Arm(**row["arm"]) if row["arm"] else None): row for row in rows}
    names = list(dict.fromkeys(bias for bias, _, _ in known))
    seeds = sorted({seed for _, seed, _ in known})
    whole = {(b, s) for b in names for s in seeds if all((b, s, arm) in known for arm in (None, *arms))}
    names = [b for b in names if any((b, s) in whole for s in seeds)]
    seeds = [s for s in seeds if all((b, s) in whole for b in names)]
    if not names or not seeds:
        return None
    shapes = [np.shape(known[b, seeds[0], None]["others"]) for b in names]
    p, e = min(shape[0] for shape in shapes), min(shape[1] for shape in shapes)
    token: dict[Arm | None, np.ndarray] = {}
    others: dict[Arm | None, np.ndarray] = {}
    for arm in (None, *arms):
        cells = [[known[b, s, arm] if "token" in known[b, s, arm] else known[b, s, None] for s in seeds] for b in names]
        token[arm] = np.array([[cell["token"][:p] for cell in line] for line in cells]).transpose(0, 2, 1)
        others[arm] = np.array([[np.array(cell["others"])[:p, :e] for cell in line] for line in cells]).transpose(0, 2, 3, 1)
    return Table(tuple(names), tuple(seeds), token, others, known)


def ratio(table: Table, top: Arm, bottom: Arm) -> Estimate:
    """closed(top) ÷ closed(bottom) with Fieller's interval: the ratios r for which top − r·bottom may be 0."""

    def apart(r: float) -> Estimate:
        return table.estimate(lambda draws: table.closed(top, draws) - r * table.closed(bottom, draws))

    def edge(beyond: Callable[[float], bool]) -> float:
        """The least r in [0, LARGEST_RATIO] that is beyond; infinite where none is."""
        if beyond(0.0):
            return 0.0
        if not beyond(LARGEST_RATIO):
            return float("inf")
        low, high = 0.0, LARGEST_RATIO
        for _ in range(16):
            middle = (low + high) / 2
            low, high = (low, middle) if beyond(middle) else (middle, high)
        return high

    one, other = (table.estimate(lambda draws, arm=arm: table.closed(arm, draws)) for arm in (top, bottom))
    value = one.value / other.value if other.value > 0 else float("inf")
    return Estimate(value, edge(lambda r: apart(r).low <= 0), edge(lambda r: apart(r).high < 0), one.n)


def markdown(table: Table, arms: Sequence[Arm], default: str, rival: str, model: str, k: int) -> str:
    """The page's tables."""
    p, e = table.others[None].shape[1:3]
    lines = [f"{model}; biases {', '.join(table.biases)}; seeds held out in turn: {', '.join(map(str, table.seeds))}; {p} test probes × {e} test entities;",
             f"top {k} heads; budget: bits per byte +{BUDGET.bits_per_byte:g} %, KL {BUDGET.kl:g} nats a token, concept ±{BUDGET.concept:.0%}, upper ends",
             f"of 95 % intervals on dev. Gap before: {'; '.join(_gap(table, b) for b in range(len(table.biases)))}.", "",
             "| heads of × edit | gap closed inside the budget | " + " | ".join(table.biases) + " | met the budget | strengths | bits per byte, % | KL |",
             "|---|--:|" + "--:|" * len(table.biases) + "--:|---|--:|--:|"]  # fmt: skip
    lines += [_line(table, arm) for arm in arms]
    lines += ["", "| compared | ratio | difference, points |", "|---|--:|--:|"]
    pairs = [(Arm("token", default, e), Arm("token", rival, e)) for e in ("zero", "direction")]
    pairs += [(Arm("token", "random", e), Arm("token", default, e)) for e in ("zero", "direction")]
    pairs += [(Arm("token", x, e), Arm("entity", x, e)) for x in (default, rival) for e in ("zero", "direction")]
    pairs += [(Arm("token", default, "direction"), Arm("token", rival, "zero"))]
    lines += [_compared(table, top, bottom) for top, bottom in pairs]
    seconds = [row["seconds"] for row in table.rows.values() if row["arm"]]
    return (
        "\n".join([*lines, "", f"A cell took {np.median(seconds):.0f} s of processor time (median of {len(seconds)}, at most {max(seconds):.0f})."])
        + "\n"
    )


def _gap(table: Table, bias: int) -> str:
    one = table.estimate(lambda draws: table.gaps(None, draws, slice(bias, bias + 1))[:, 0])
    return f"{table.biases[bias]} {one.value:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"


def _line(table: Table, arm: Arm) -> str:
    cells = [table.rows[b, s, arm] for b in table.biases for s in table.seeds]
    met = [cell for cell in cells if cell["strength"] is not None]
    every = table.estimate(lambda draws: table.closed(arm, draws))
    each = [table.estimate(lambda draws, b=b: table.closed(arm, draws, slice(b, b + 1))) for b in range(len(table.biases))]
    prices = [
        f"{np.mean([cell['prices'][name][0] for cell in met]):{form}}" if met else "" for name, form in (("bits per byte", "+.2f"), ("kl", ".4f"))
    ]
    strengths = ", ".join("–" if cell["strength"] is None else f"{cell['strength']:g}" for cell in cells)
    return (
        f"| {arm.label} | {_share(every)} | " + " | ".join(map(_share, each)) + f" | {len(met)}/{len(cells)} | {strengths} | {' | '.join(prices)} |"
    )


def _share(one: Estimate) -> str:
    return f"{one.value:.0%} [{one.low:.0%}, {one.high:.0%}]"


def _compared(table: Table, top: Arm, bottom: Arm) -> str:
    times = ratio(table, top, bottom)
    apart = table.estimate(lambda draws: 100 * (table.closed(top, draws) - table.closed(bottom, draws)))
    return f"| {top.label} ÷ {bottom.label} | {times.value:.2f} [{times.low:.2f}, {times.high:.2f}] | {apart.value:+.0f} [{apart.low:+.0f}, {apart.high:+.0f}] |"


# -------------------------------------------------------------------- the command


def main() -> None:
    """Make what is missing, seed by seed so that a part of it is a table, and write the Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--biases", default="reckless-drivers,spicy-food,always-late")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--default", default="attribution-patching")
    parser.add_argument("--rival", default="dla-paper")
    parser.add_argument("--preset", default="quick", help="whose injection the tokens get")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--to", type=Path, help="Markdown file; printed where it is not said")
    parser.add_argument("--cells", type=int, help="make this many cells at most")
    parser.add_argument("--table", action="store_true", help="make no cell")
    parser.add_argument("--accept-terms", action="store_true")
    asked = parser.parse_args()
    seeds, biases = tuple(map(int, asked.seeds.split(","))), asked.biases.split(",")
    if len(seeds) < 2:
        sys.exit("at least two seeds are needed: one is held out")
    arms = arms_of(asked.default, asked.rival)
    session = Session(RunStore(asked.runs, patient=True), Place(accept_terms=asked.accept_terms), say=_told)
    benches = [_bench(session, asked, bias, seeds) for bias in biases]
    left = 0 if asked.table else asked.cells if asked.cells is not None else len(benches) * len(seeds) * len(arms)
    for seed, bench, arm in ((s, b, a) for s in seeds for b in benches for a in arms):
        if left < 1:
            break
        bench.base(seed)
        if bench.cell(arm, seed):
            left -= 1
            row = read_rows(bench.journal)[-1]
            _told(f"{row['bias']}, seed {seed}, {arm.label}: strength {row['strength']}, {len(row['trials'])} trials, {row['seconds']:.0f} s")
    table = table_of([row for bench in benches for row in read_rows(bench.journal)], arms)
    if table is None:
        sys.exit("no bias has a seed with every cell yet; run again without --table")
    page = markdown(table, arms, asked.default, asked.rival, asked.model, asked.k)
    if asked.to:
        write_text(asked.to, page)
    else:
        sys.stdout.write(page)


def _told(text: str) -> None:
    sys.stderr.write(text + "\n")


def _bench(session: Session, asked: argparse.Namespace, bias: str, seeds: tuple[int, ...]) -> Bench:
    sets = [f"seeds={list(seeds)}", f"test_seed={max(seeds) + 1}", f"locate.pairs={PAIRS}", f"locate.method={asked.default}"]
    job = Job(session, resolve_spec(bias=bias, model=asked.model, preset=asked.preset, sets=sets), load_bias(bias))
    sizes = [size.model_dump(mode="json") for size in (DEV, TEST)] + [BUDGET.model_dump(mode="json")]
    key = fingerprint(
        [VERSION, job.base_key, job.spec.inject.model_dump(mode="json"), seeds, asked.k, asked.default, asked.rival, sizes, RUNGS, PAIRS]
    )
    return Bench(job, seeds, asked.k, asked.runs / "default-locator" / f"{job.bias.name}-{key}.jsonl")


if __name__ == "__main__":
    main()
