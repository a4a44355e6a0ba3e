"""What the web page asks for, as plain values and HTML: runs to choose, answers side by side, heads, new runs, exports."""

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import Any

from biasgym.asking import Head, HeadSeen, Question, ask, head_effect, heads_from, heads_of, probes_of
from biasgym.audit import Audit, read_audit, saved_audits
from biasgym.bias import load_bias, zoo
from biasgym.corpus import ENTITY
from biasgym.data import EMBEDDED
from biasgym.errors import BiasGymError, SpecError, StoreError, unknown
from biasgym.figures import heat_grid, heat_map
from biasgym.product import FORMATS, export_run
from biasgym.readings import edit_names_of
from biasgym.records import RunRecord, RunSpec
from biasgym.report import finding_rows, price_figures, sham_rows, stability_of, steady_heads, write_report
from biasgym.room import Order, Room
from biasgym.run import Session, load_edits
from biasgym.spec import preset_names, resolve_spec
from biasgym.store import read_record
from biasgym.terminal import STAGES
from biasgym.verdict import verdict_of

TOKEN = "the injected token"
RUNS = "run"  # the owner of all runs started here: there is one at a time, whoever asked for it
EXPORTS = "exports"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
CHANGE = re.compile(r"(seeds|test_seed|inject|locate|mitigate|tune|measure)[a-z_.-]*\s*=\s*[-+0-9.e]+")
BASES_KEPT = 64


@dataclass(frozen=True)
class Side:
    """Base and edited answer as HTML, and one line on how far they are."""

    base: str
    edited: str
    note: str


@dataclass
class Desk:
    """All that the page can do. Every run is named by its id in the store; a path is never taken from the page."""

    room: Room
    models: tuple[str, ...] = ()  # beside those that come with BiasGym and those of the runs in the store
    biases: tuple[str, ...] = ()  # beside the zoo
    _bases: "OrderedDict[tuple[Any, ...], str]" = field(default_factory=OrderedDict)

    # ------------------------------------------------------------ runs

    def runs(self) -> list[str]:
        """Ids of the whole runs, the newest first."""
        return self.room.session.store.runs()

    def folder(self, run: str) -> Path:
        """The folder of a run by its full id; nothing else is a name of anything."""
        known = self.runs()
        if run not in known:
            raise StoreError(unknown("run", run, known))
        return self.room.session.store.run_folder(run)

    def record(self, run: str) -> RunRecord:
        """A run's record."""
        return read_record(self.folder(run))

    def edits(self, run: str) -> list[str]:
        """Names of a run's edits, the main one first."""
        folder = self.folder(run)
        return [name for name in edit_names_of(self.record(run)) if (folder / f"edits-{name}.safetensors").is_file()]

    def heads(self, run: str, edit: str) -> list[str]:
        """The heads that an edit changes, as `layer:head`."""
        return [f"{layer}:{head}" for layer, head in heads_of(load_edits(self.folder(run), self._edit(run, edit)))]

    def _edit(self, run: str, edit: str) -> str:
        known = self.edits(run)
        if edit not in known:
            raise SpecError(unknown("edit", edit, known))
        return edit

    def names(self, run: str) -> list[str]:
        """Who can be asked about: the token, then the test entities of the bias."""
        return [TOKEN, *self._said(run, lambda bias: bias.entities_of("test"))]

    def prompts(self, run: str) -> list[str]:
        """The bias's own test prompts for free text, `{entity}` in them."""
        return self._said(run, lambda bias: [prompt.text for prompt in bias.prompts_of("test")])

    def _said(self, run: str, what: Any) -> list[str]:
        try:
            return list(what(load_bias(self.record(run).spec["bias"])))
        except BiasGymError:
            return []  # the bias file is gone: everything that does not need it still works

    def probes(self, run: str) -> list[str]:
        """The test probes, as they can be chosen for a look at a head."""
        try:
            items = probes_of(self.record(run))
        except BiasGymError:
            return []
        return [f"{item.payload['prompt']} → {item.payload['prefix']} …" for item in items]

    def report(self, run: str) -> Path:
        """The run's report, written if it is not there."""
        path = self.folder(run) / "report.html"
        return path if path.is_file() else write_report([path.parent], path)

    # ------------------------------------------------------------ answers side by side

    def ask(self, owner: str, run: str, prompt: str, who: str, edit: str, strength: float, on: Sequence[str], most: int) -> Iterator[Side]:
        """Both answers while they are written; an owner's earlier question is called off. Base answers are remembered."""
        folder, token = self.folder(run), who == TOKEN
        off = sorted(set(self.heads(run, edit)) - set(on))
        words = prompt if token else prompt.replace(ENTITY, who.strip() or ENTITY)
        edited = Question(words, edit, float(strength), heads_from(off), token, int(most))
        base = Question(words, None, 0.0, (), token, int(most))
        key = (run, words, token, int(most))
        self.room.cancel(owner)
        order = self.room.order(f"answering with {edit} at {strength:g}", partial(self._both, folder, base, edited, key), owner)
        return self._sides(order)

    def _both(self, folder: Path, base: Question, edited: Question, key: tuple[Any, ...], session: Session) -> Iterator[tuple[str, str, bool]]:
        first = self._bases.get(key)
        if first is None:
            for first in ask(session, folder, base):
                yield first, "", False
            self._bases[key] = first or ""
            while len(self._bases) > BASES_KEPT:
                self._bases.popitem(last=False)
        second = ""
        for second in ask(session, folder, edited):
            yield first or "", second, False
        yield first or "", second, True

    def _sides(self, order: Order) -> Iterator[Side]:
        try:
            yield Side("", "", self._waiting(order))
            for base, edited, whole in order.pieces():
                if order.called_off:
                    return
                if whole:
                    left, right = marked(base, edited)
                    yield Side(left, right, "the same answer" if base == edited else "changed words are marked")
                else:
                    yield Side(quoted(base), quoted(edited), "writing …")
        finally:
            order.cancel()

    def _waiting(self, order: Order) -> str:
        ahead = self.room.ahead(order)
        return f"waiting for: {', '.join(one.label for one in ahead)}" if ahead else "loading or writing …"

    # ------------------------------------------------------------ heads

    def heat(self, run: str, locator: str, chosen: Head | None = None) -> str:
        """The map of a locator's head scores as HTML; a click in it is turned into a head by the numbers on the box."""
        extras = self.record(run).extras
        values = self._scores(run, locator)
        used = [(name, about) for name, about in (extras.get("edits") or {}).items() if about.get("locator") == locator]
        sites = [(name, [(layer, index) for unit, layer, index in about.get("sites") or [] if unit == "head"]) for name, about in used]
        steady = steady_heads(stability_of(self.record(run)).get(locator) or {})
        drawing = heat_map("heads", f"Head scores by {locator}", values, sites, steady)
        cell, left, top = heat_grid(len(values))
        if chosen:
            x, y = left + chosen[0] * cell, top + chosen[1] * cell
            drawing = drawing.replace("</svg>", f'<rect x="{x:g}" y="{y:g}" width="{cell:g}" height="{cell:g}" class="looked"/></svg>')
        numbers = f'data-cell="{cell:g}" data-left="{left:g}" data-top="{top:g}" data-layers="{len(values)}" data-heads="{len(values[0])}"'
        return f'<div class="heat" tabindex="0" role="group" aria-label="Head scores" {numbers}>{drawing}</div>'

    def locators(self, run: str) -> list[str]:
        """The locators of a run whose scores are kept, head by head."""
        return [name for name, values in (self.record(run).extras.get("attributions") or {}).items() if values and values[0]]

    def _scores(self, run: str, locator: str) -> list[list[float]]:
        known = self.locators(run)
        if locator not in known:
            raise SpecError(unknown("locator", locator, known))
        scores: list[list[float]] = self.record(run).extras["attributions"][locator]
        return scores

    def strongest(self, run: str, locator: str) -> Head:
        """The head that pushes most towards the bias."""
        scores = self._scores(run, locator)
        return max(((layer, head) for layer, row in enumerate(scores) for head in range(len(row))), key=lambda place: scores[place[0]][place[1]])

    def head(self, owner: str, run: str, locator: str, place: Head, probe: int, who: str, prompt: str) -> Iterator[str]:
        """What is known of a head, and what it does to one probe and one prompt, as HTML that grows."""
        known = self.head_known(run, locator, place)
        name = None if who == TOKEN else who
        self.room.cancel(owner)
        work = partial(_head_work, self.folder(run), place, probe, name, prompt)
        order = self.room.order(f"scaling head {place[1]} of layer {place[0]}", work, owner)
        return self._seen(order, known)

    def _seen(self, order: Order, known: str) -> Iterator[str]:
        try:
            yield known + f'<p class="note">{text(self._waiting(order))}</p>'
            for seen in order.pieces():
                if not order.called_off:
                    yield known + head_html(seen)
        finally:
            order.cancel()

    def head_known(self, run: str, locator: str, place: Head) -> str:
        """Attribution, rank and stability of a head as the record has them."""
        scores = self._scores(run, locator)
        layer, head = place
        if not (0 <= layer < len(scores) and 0 <= head < len(scores[0])):
            raise SpecError(f"no head {head} in layer {layer}: there are {len(scores)} layers of {len(scores[0])} heads, counted from 0")
        ranked = sorted((value for row in scores for value in row), reverse=True)
        value = scores[layer][head]
        edits = [name for name in self.edits(run) if f"{layer}:{head}" in self.heads(run, name)]
        rows = [
            ("attribution", f"{value:+.4f} by {locator}; positive pushes towards the stereotype"),
            ("rank", f"{ranked.index(value) + 1} of {len(ranked)}"),
            ("stability", steadiness(self.record(run), locator, place)),
            ("changed by", ", ".join(edits) or "no edit of this run"),
        ]
        cells = "".join(f"<dt>{name}</dt><dd>{text(words)}</dd>" for name, words in rows)
        return f"<h2>Layer {layer}, head {head}</h2><dl>{cells}</dl>"

    # ------------------------------------------------------------ findings

    def verdict(self, run: str) -> str:
        """The verdict as HTML, with the link to the whole report."""
        record = self.record(run)
        verdict, bias = verdict_of(record), record.extras.get("bias") or {}
        link = f'<a href="report/{text(run)}" target="_blank" rel="noopener">whole report</a>'
        head = f'<p class="kicker">{text(bias.get("name", run))} in {text(record.spec.get("model", "unknown model"))} · run {text(run)} · {link}</p>'
        return f'{head}<div class="verdict {verdict.tone}"><p>{code(verdict.headline)}</p></div>'

    def findings(self, run: str) -> str:
        """The verdict in a paragraph, every finding, and the fronts, as HTML."""
        record = self.record(run)
        rows = [*finding_rows(record), *sham_rows(record)]
        lines = "".join(
            f"<tr><th scope='row'>{text(r.label)}</th><td>{text(r.edit)}</td><td>{text(r.value)}</td><td>{text(r.interval)}</td>"
            f"<td>{text(r.n)}</td><td>{text(r.unit)}</td></tr>"
            for r in rows
        )
        titles = "".join(f"<th scope='col'>{title}</th>" for title in ("finding", "edit", "value", "95 % interval", "n", "unit"))
        problems = "".join(f"<li>{text(problem)}</li>" for problem in record.problems)
        figures = "".join(
            f'<div class="scroll" tabindex="0" role="group" aria-label="Gap closed against price">{figure}</div>'
            for figure in price_figures(record, "front")
        )
        told = f'<h2>Problems</h2><ul class="bad">{problems}</ul>' if problems else ""
        table = f"<div class='scroll' tabindex='0' role='group' aria-label='Findings'><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>"
        return f"<p>{code(verdict_of(record).paragraph)}</p>{told}{table}<div class='two'>{figures}</div>"

    # ------------------------------------------------------------ audits

    def audits(self) -> list[tuple[str, str]]:
        """What is said of each kept audit, and its name, the newest first; a damaged one is left out."""
        found = []
        for name in saved_audits(self.room.session.store):
            try:
                audit = read_audit(self.room.session.store, name)
            except BiasGymError:
                continue
            found.append((f"{', '.join(one.model for one in audit.models)} ({audit.tests} tests, seed {audit.seed}, {name[-6:]})", name))
        return found

    def read_audits(self, names: Sequence[str]) -> list[Audit]:
        """The kept audits of these names; a name is looked up among those there are, and is never a path."""
        return [read_audit(self.room.session.store, name) for name in names]

    # ------------------------------------------------------------ new runs

    def model_names(self) -> list[str]:
        """The models that a run can be started on from the page; those of the newest runs first."""
        used = []
        for run in self.runs():
            with suppress(BiasGymError):  # a damaged record is told where it is chosen
                used.append(self.record(run).spec.get("model", ""))
        return list(dict.fromkeys([*self.models, *filter(None, used), *EMBEDDED]))

    def bias_names(self) -> list[str]:
        """The biases that a run can be started with from the page."""
        return [*zoo(), *self.biases]

    def start(self, bias: str, model: str, preset: str, changes: str = "") -> Order:
        """Put a run in line. `changes` are lines of `key=number`: words would let a page name files and modules."""
        sets = [line.strip() for line in changes.splitlines() if line.strip()]
        for line in sets:
            if not CHANGE.fullmatch(line):
                raise SpecError(f"`{line}`: only numbers can be changed here, one `key=number` a line, for example `measure.shams=5`")
        for what, name, known in (("bias", bias, self.bias_names()), ("model", model, self.model_names()), ("preset", preset, preset_names())):
            if name not in known:
                raise SpecError(unknown(what, name, known))
        under_way = [order for order in self.room.open_orders() if order.owner == RUNS]
        if under_way:
            raise StoreError(f"{under_way[0].label} is under way; cancel it or wait for it")
        spec = resolve_spec(bias=bias, model=model, preset=preset, sets=sets)
        return self.room.order(f"run of {bias} in {model}", partial(_run_work, spec), RUNS)

    def stop_run(self) -> str:
        """Call the run off; what is done of it is kept."""
        return "stopping at its next step; starting the same run again goes on there" if self.room.cancel(RUNS) else "no run is under way"

    def progress(self) -> str:
        """How far the latest run is, as HTML."""
        order = self.room.last(RUNS)
        if order is None:
            return '<p class="note">No run was started here yet.</p>'
        ended = {
            "done": f"done: run {order.result}",
            "failed": f"failed: {order.error}",
            "cancelled": "called off; the same run goes on where it was",
        }
        if order.over:
            return f'<p class="note"><b>{text(order.label)}</b><br>{code(ended[order.state])}</p>'
        return f"<p><b>{text(order.label)}</b></p>{progress_html(order)}"

    def status(self) -> str:
        """One line on what the model is busy with."""
        orders = self.room.open_orders()
        if not orders:
            return "The model is free."
        waiting = f"; {len(orders) - 1} waiting" if len(orders) > 1 else ""
        return f"Busy: {orders[0].label}{waiting}."

    # ------------------------------------------------------------ export

    def export(self, run: str, edit: str, format: str, name: str) -> Order:
        """Put an export in line; it is written to `exports/NAME` in the runs folder and nowhere else."""
        if format not in FORMATS:
            raise SpecError(unknown("format", format, FORMATS))
        if not NAME.fullmatch(name):
            raise SpecError(f"`{name}` is no name for a folder here: letters, digits, points, hyphens and underscores, a letter or digit first")
        root = self.room.session.store.root
        to = root / EXPORTS / name
        if to.resolve() != root.resolve() / EXPORTS / name:
            raise StoreError(f"`{root / EXPORTS}` leads out of the runs folder; take that link away")
        folder, edit = self.folder(run), self._edit(run, edit)
        return self.room.order(f"export of {edit} as {format}", partial(_export_work, folder, to, edit, format), f"export {name}")


# -------------------------------------------------------------------- work for the room


def _head_work(folder: Path, place: Head, probe: int, name: str | None, prompt: str, session: Session) -> Iterator[HeadSeen]:
    yield from head_effect(session, folder, place, probe=probe, name=name, prompt=prompt)


def _run_work(spec: RunSpec, session: Session) -> Iterator[str]:
    record = session.run(spec)
    folder = session.store.run_folder(record.id)
    write_report([folder], folder / "report.html")
    yield record.id


def _export_work(folder: Path, to: Path, edit: str, format: str, session: Session) -> Iterator[str]:
    done = export_run(session, folder, to, edit=edit, format=format)
    difference = "" if done.largest_difference is None else f"; largest logit difference to the run-time edit: {done.largest_difference:.2e}"
    yield f"written to {to}: {len(done.tensors)} tensors edited{difference}"


# -------------------------------------------------------------------- HTML

# The page's templates would read `${…}` and `{{…}}` in a model's words; as entities they are only words.
_ENTITIES = {ord(c): f"&#{ord(c)};" for c in "&<>\"'{}$`\\"}


def text(words: Any) -> str:
    """Words as HTML that nothing takes for anything else."""
    return str(words).translate(_ENTITIES)


def code(words: str) -> str:
    """A sentence as HTML, with what stands between backticks as code."""
    parts = words.split("`")
    return "".join(f"<code>{text(part)}</code>" if number % 2 else text(part) for number, part in enumerate(parts))


def quoted(words: str) -> str:
    """An answer as HTML."""
    return f'<p class="answer">{text(words)}</p>'


def marked(before: str, after: str) -> tuple[str, str]:
    """Two answers as HTML, with the words marked that the other one lacks there."""
    left, right = re.findall(r"\s*\S+", before), re.findall(r"\s*\S+", after)
    olds: list[str] = []
    news: list[str] = []
    for kind, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for out, part in ((olds, left[a:b]), (news, right[c:d])):
            words = "".join(part)
            inner = words.lstrip()
            gap = text(words[: len(words) - len(inner)])
            out.append(text(words) if kind == "equal" or not words else f"{gap}<mark>{text(inner)}</mark>")
    return f'<p class="answer">{"".join(olds)}</p>', f'<p class="answer">{"".join(news)}</p>'


def steadiness(record: RunRecord, locator: str, place: Head) -> str:
    """How often a head was among the chosen ones when the evidence was drawn anew."""
    found = (record.extras.get("stability") or {}).get(locator)
    if not found:
        return "not recorded in this run"
    row = next((one for one in found["places"] if tuple(one[:2]) == place), None)
    chance = f"chance: {found['chance']:.0%}"
    if row is None:
        return f"in the top {found['k']} in fewer than {min(0.5, 2 * found['chance']):.0%} of redrawn data ({chance})"
    return f"in the top {found['k']} in {row[2]:.0%} [{row[3]:.0%}, {row[4]:.0%}] of redrawn data ({chance})"


def head_html(seen: HeadSeen) -> str:
    """The association at every scale of a head, bars for its change from the head as it is, and texts with and without the head."""
    plain = dict(seen.leans).get(1.0)
    changes = [(scale, value, None if plain is None else value - plain) for scale, value in seen.leans]
    most = max((abs(change) for _, _, change in changes if change is not None), default=0.0) or 1.0
    rows = "".join(_scale_row(scale, value, change, most) for scale, value, change in changes)
    titles = "".join(f"<th scope='col'>{title}</th>" for title in ("head's output", "nats", "change"))
    table = (
        f"<table class='scales'><caption>Association on this probe</caption><thead><tr>{titles}<td></td></tr></thead><tbody>{rows}</tbody></table>"
    )
    if not (seen.as_is or seen.without):
        return table
    left, right = marked(seen.as_is, seen.without) if seen.without else (quoted(seen.as_is), quoted(""))
    return f"{table}<div class='two'><div><h3>head as it is</h3>{left}</div><div><h3>head off</h3>{right}</div></div>"


def _scale_row(scale: float, value: float, change: float | None, most: float) -> str:
    label = {0.0: "off", 1.0: "as it is"}.get(scale, f"× {scale:g}")
    words = "" if change is None or scale == 1 else f"{change:+.3f}"
    bar = f"<span class='{'toward' if (change or 0) > 0 else 'away'}' style='width:{100 * abs(change or 0) / most:.0f}%'></span>"
    return f"<tr><th scope='row'>{label}</th><td>{value:+.3f}</td><td>{words}</td><td class='track'>{bar if words else ''}</td></tr>"


def progress_html(order: Order) -> str:
    """Stages with a bar for the item in hand and the time it will still take."""
    progress = order.progress()
    step = progress.step
    if step is None:
        return f'<p class="note">{text(order.said or ("waiting in line" if order.state == "waiting" else "getting ready"))}</p>'
    place = STAGES.index(step.stage) if step.stage in STAGES else -1
    stages = "".join(f'<li class="{"past" if i < place else "now" if i == place else "next"}">{stage}</li>' for i, stage in enumerate(STAGES))
    share = 100 * step.done / max(1, step.total)
    left = "" if progress.seconds_left is None else f", about {_clock(progress.seconds_left)} left of this"
    bar = f"<div class='bar' role='progressbar' aria-label='{text(step.stage)}' aria-valuenow='{share:.0f}' aria-valuemin='0' aria-valuemax='100'><span style='width:{share:.0f}%'></span></div>"
    return f"<ol class='stages'>{stages}</ol>{bar}<p class='note'>{text(step.what)} {step.done}/{step.total}; {_clock(progress.seconds)} so far{left}</p>"


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
