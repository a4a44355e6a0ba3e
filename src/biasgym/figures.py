"""Figures of the report: pure functions from numbers to inline SVG, readable by eye, in the dark and by a screen reader.

Colours come from the page's style sheet by class, so one drawing serves light, dark and print. Every text is escaped.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH = 520
ROW = 56.0  # of a figure with a row for every name
MARKS = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Point:
    """A value with its interval and n; `kind` is the style it is drawn in."""

    label: str
    value: float
    low: float
    high: float
    n: int
    kind: str


@dataclass(frozen=True)
class Move:
    """A name's value before and after an edit, and the paired change with its interval."""

    label: str
    before: float
    after: float
    change: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Tried:
    """One trial on dev: its price (upper end), the share of the gap it closed, and whether it was picked."""

    edit: str
    price: float
    closed: float
    picked: bool
    label: str


def drawing(key: str, title: str, about: str, size: tuple[float, float], parts: Iterable[str]) -> str:
    """An SVG with a title and a description that a screen reader finds; `key` makes their ids unique in the page."""
    width, height = size
    key = escape(key)
    head = f'<svg class="figure" role="img" aria-labelledby="{key}-title {key}-about" viewBox="0 0 {width:g} {height:g}" style="--w:{width:g}px">'
    named = f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-about">{escape(about)}</desc>'
    return f"{head}{named}{''.join(parts)}</svg>"


def text(x: float, y: float, words: str, *, anchor: str = "start", style: str = "") -> str:
    """A line of text."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{style}">{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that cover a range."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]


@dataclass(frozen=True)
class _Scale:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def _scale(values: Sequence[float], start: float, end: float) -> _Scale:
    """A scale that holds the values and zero, with a little room."""
    low, high = min([0.0, *values]), max([0.0, *values])
    room = 0.05 * (high - low) or 1.0
    return _Scale(low - room, high + room, start, end)


def _axis(scale: _Scale, top: float, bottom: float, unit: str) -> list[str]:
    parts = []
    for tick in ticks(scale.low, scale.high):
        parts.append(_line(scale(tick), top, scale(tick), bottom, "zero" if tick == 0 else "grid"))
        parts.append(text(scale(tick), bottom + 15, f"{tick:+g}" if tick else "0", anchor="middle", style="small"))
    parts.append(text((scale.start + scale.end) / 2, bottom + 33, unit, anchor="middle", style="small"))
    return parts


def _words_of_row(top: float, label: str, figures: str) -> list[str]:
    """A row's name and, below it, its figures: both at the left, so that a telephone shows them. The lines of the axis are cleared away behind."""
    band = f'<rect x="0" y="{top + 3:g}" width="{WIDTH}" height="32" class="clear"/>'
    return [band, text(12, top + 16, label, style="label"), text(12, top + 31, figures, style="number")]


def _mark(shape: str, x: float, y: float, size: float, style: str) -> str:
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" class="{style}"/>'
    if shape == "square":
        return f'<rect x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size:g}" height="{2 * size:g}" class="{style}"/>'
    corners = [(0.0, -1.2), (1.1, 0.9), (-1.1, 0.9)] if shape == "triangle" else [(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)]
    path = " ".join(f"{x + a * size:.1f},{y + b * size:.1f}" for a, b in corners)
    return f'<polygon points="{path}" class="{style}"/>'


# -------------------------------------------------------------------- arms


def arms_figure(key: str, title: str, points: Sequence[Point], *, unit: str, digits: int = 2) -> str:
    """A bar from zero, a point and a 95 % interval for every arm; each with its figures written below its name."""
    scale = _scale([v for p in points for v in (p.low, p.high)], 12, WIDTH - 12)
    bottom = ROW * len(points) + 4
    parts = _axis(scale, 0, bottom, unit)
    for number, point in enumerate(points):
        parts += _arm(scale, point, ROW * number, digits)
    about = "; ".join(f"{p.label}: {_figures(p, digits)}" for p in points)
    return drawing(key, title, f"{unit}. {about}", (WIDTH, bottom + 42), parts)


def _arm(scale: _Scale, point: Point, top: float, digits: int) -> list[str]:
    middle = top + 44
    left, right = sorted((scale(0), scale(point.value)))
    return [
        *_words_of_row(top, point.label, _figures(point, digits)),
        f'<rect x="{left:.1f}" y="{middle - 5:.1f}" width="{right - left:.1f}" height="10" class="bar {point.kind}"/>',
        _line(scale(point.low), middle, scale(point.high), middle, f"whisker {point.kind}"),
        _mark("circle", scale(point.value), middle, 5, f"mark {point.kind}"),
    ]


def _figures(point: Point, digits: int) -> str:
    return f"{point.value:+.{digits}f} [{point.low:+.{digits}f}, {point.high:+.{digits}f}], n={point.n}"


# -------------------------------------------------------------------- entities


def moves_figure(key: str, title: str, moves: Sequence[Move], *, unit: str) -> str:
    """Before and after an edit for every name: hollow before, filled after, the paired change written below."""
    scale = _scale([v for m in moves for v in (m.before, m.after)], 16, WIDTH - 16)
    bottom = ROW * len(moves) + 4
    parts = _axis(scale, 0, bottom, unit)
    for number, move in enumerate(moves):
        top = ROW * number
        parts += [
            *_words_of_row(top, move.label, f"change {_change(move)}"),
            _line(scale(move.before), top + 43, scale(move.after), top + 43, "whisker edited"),
            _mark("circle", scale(move.before), top + 43, 5, "mark hollow"),
            _mark("circle", scale(move.after), top + 43, 5, "mark edited"),
        ]
    about = "; ".join(f"{m.label}: {m.before:+.2f} before, {m.after:+.2f} after, change {_change(m)}" for m in moves)
    return drawing(key, title, f"{unit}. {about}", (WIDTH, bottom + 42), parts)


def _change(move: Move) -> str:
    return f"{move.change:+.2f} [{move.low:+.2f}, {move.high:+.2f}], n={move.n}"


# -------------------------------------------------------------------- price


def front_of(tried: Sequence[Tried]) -> list[Tried]:
    """The trials that no other beats on both price and gap closed, the cheapest first."""
    front: list[Tried] = []
    for one in sorted(tried, key=lambda t: (t.price, -t.closed)):
        if not front or one.closed > front[-1].closed:
            front.append(one)
    return front


def price_figure(
    key: str,
    title: str,
    tried: Sequence[Tried],
    *,
    limit: float,
    unit: str,
    shams: Sequence[float] = (),
    tested: Sequence[tuple[str, Point, float]] = (),
) -> str:
    """Share of the gap closed against price. `tested` = the picked settings on test: edit, share with interval, price.

    The price axis is linear up to the budget and logarithmic beyond, so that a ruinous edit does not squeeze all others.
    """
    floor, height = -0.25, 300.0
    edits = list(dict.fromkeys([*(t.edit for t in tried), *(edit for edit, _, _ in tested)]))
    x = _PriceScale(
        limit, min([0.0, *(t.price for t in tried), *(p for _, _, p in tested)]), max([limit, *(t.price for t in tried), *(p for _, _, p in tested)])
    )
    y = _Scale(floor, 1.0, height - 50, 14)
    parts = _price_axes(x, y, limit, unit)
    parts += [_line(_LEFT - 8, y(value), _LEFT, y(value), "sham") for value in shams]
    parts += _front_line(front_of(tried), x, y)
    for one in tried:
        place = edits.index(one.edit)
        style = f"mark series{place % 4}" + (" picked" if one.picked else " tried")
        parts.append(_mark(MARKS[place % 4], x(one.price), y(max(floor, one.closed)), 7 if one.picked else 4.5, style))
    for edit, point, price in tested:
        place = edits.index(edit)
        parts.append(_line(x(price), y(max(floor, point.low)), x(price), y(max(floor, point.high)), f"whisker series{place % 4}"))
        parts.append(_mark(MARKS[place % 4], x(price), y(max(floor, point.value)), 6, f"mark series{place % 4} hollow"))
    parts += _legend(edits, height + 2, bool(shams), bool(tested))
    rows = -(-(len(edits) + bool(shams) + 2 + bool(tested)) // 2)
    return drawing(key, title, _price_words(tried, tested, shams, limit, unit), (WIDTH, height + 20 * rows + 6), parts)


_LEFT = 58.0


@dataclass(frozen=True)
class _PriceScale:
    """Pixels of a price: linear to the budget, a fifth of the width for every ten times of it beyond."""

    limit: float
    low: float
    high: float

    def _bent(self, price: float) -> float:
        share = price / self.limit
        return math.copysign(1 + math.log10(abs(share)), share) if abs(share) > 1 else share

    def __call__(self, price: float) -> float:
        low, high = min(-0.1, self._bent(self.low) - 0.1), max(1.3, self._bent(self.high) + 0.15)
        return _LEFT + (self._bent(price) - low) / (high - low) * (WIDTH - 20 - _LEFT)


def _price_axes(x: _PriceScale, y: _Scale, limit: float, unit: str) -> list[str]:
    start = x(min(0.0, x.low))
    parts = [f'<rect x="{start:.1f}" y="14" width="{x(limit) - start:.1f}" height="{y(-0.25) - 14:.1f}" class="inside"/>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_line(_LEFT, y(share), WIDTH - 20, y(share), "zero" if share == 0 else "grid"))
        parts.append(text(_LEFT - 12, y(share) + 4, f"{share:.0%}", anchor="end", style="small"))
    shown = [0.0, limit / 2, *(limit * 10**i for i in range(6) if limit * 10**i <= max(limit, x.high))]
    for price in shown:
        parts.append(text(x(price), y(-0.25) + 15, f"{price:g}", anchor="middle", style="small"))
    parts.append(_line(x(limit), 14, x(limit), y(-0.25), "limit"))
    parts.append(text(x(limit) + 6, y(-0.25) - 7, "budget", style="small strong"))
    parts.append(text((_LEFT + WIDTH - 20) / 2, y(-0.25) + 33, unit, anchor="middle", style="small"))
    parts.append(f'<text transform="translate(13 {y(0.4):.1f}) rotate(-90)" text-anchor="middle" class="small">gap closed</text>')
    return parts


def _front_line(front: Sequence[Tried], x: _PriceScale, y: _Scale) -> list[str]:
    if len(front) < 2:
        return []
    points = " ".join(f"{x(one.price):.1f},{y(max(-0.25, one.closed)):.1f}" for one in front)
    return [f'<polyline points="{points}" class="front"/>']


def _legend(edits: Sequence[str], top: float, shams: bool, tested: bool) -> list[str]:
    entries = [(_mark(MARKS[i % 4], 0, 0, 5, f"mark series{i % 4} tried"), f"{edit}, a trial on dev") for i, edit in enumerate(edits)]
    entries.append((_mark("circle", 0, 0, 7, "mark picked neutral"), "picked (thick rim)"))
    entries.append((_line(-7, 0, 7, 0, "front"), "front: nothing is better on both"))
    if tested:
        entries.append((_mark("circle", 0, 0, 6, "mark hollow neutral"), "picked, on test, with interval"))
    if shams:
        entries.append((_line(-5, 0, 5, 0, "sham"), "shams, on test (price not asked)"))
    parts = []
    for number, (mark, words) in enumerate(entries):
        left, y = 20 + 255 * (number % 2), top + 20 * (number // 2)
        parts.append(f'<g transform="translate({left} {y:g})">{mark}</g>{text(left + 14, y + 4, words, style="small")}')
    return parts


def _price_words(tried: Sequence[Tried], tested: Sequence[tuple[str, Point, float]], shams: Sequence[float], limit: float, unit: str) -> str:
    words = [f"Share of the gap closed against {unit}; the budget is {limit:g}."]
    words += [f"{t.label} picked on dev: closes {t.closed:.0%} at {t.price:.4g}." for t in tried if t.picked]
    words += [f"{e} on test: closes {p.value:.0%} [{p.low:.0%}, {p.high:.0%}], n={p.n}, at {price:.4g}." for e, p, price in tested]
    if shams:
        words.append(f"{len(shams)} shams on test close {min(shams):.0%} to {max(shams):.0%}.")
    return " ".join([*words, f"{len(tried)} trials in all."])


# -------------------------------------------------------------------- heads


Heads = Sequence[tuple[int, int]]  # (layer, head)


def heat_map(key: str, title: str, values: Sequence[Sequence[float]], chosen: Sequence[tuple[str, Heads]], steady: Heads = ()) -> str:
    """Scores of all heads, layers from left to right; colour is symmetric about zero.

    `chosen` = edits and their heads, outlined; `steady` = heads that are among the strongest oftener than chance has it, dotted.
    """
    layers, heads = len(values), max((len(row) for row in values), default=0)
    chosen = [(edit, sites) for edit, sites in chosen if sites]
    cell, left, top = heat_grid(layers)
    most = max((abs(v) for row in values for v in row), default=0.0) or 1.0
    width, bottom = max(WIDTH, left + layers * cell + 10), top + heads * cell
    parts = [f'<rect x="{left:g}" y="{top:g}" width="{layers * cell:.1f}" height="{heads * cell:.1f}" class="ground"/>']
    parts += _cells(values, most, cell, left, top)
    for place, (_, sites) in enumerate(chosen):
        parts += [_outline(left + layer * cell, top + head * cell, cell, place) for layer, head in sites]
    parts += [_mark("circle", left + (layer + 0.5) * cell, top + (head + 0.5) * cell, max(1.6, cell / 7), "steady") for layer, head in steady]
    parts += [text(left + (i + 0.5) * cell, bottom + 14, str(i), anchor="middle", style="small") for i in _every(layers, cell, 22)]
    parts += [text(left - 6, top + (i + 0.5) * cell + 4, str(i), anchor="end", style="small") for i in _every(heads, cell, 14)]
    parts += [text(left, bottom + 32, "layer", style="small"), text(left - 6, 11, "head", anchor="end", style="small")]
    parts += _colour_bar(width - 190, bottom + 22, most)
    for place, (edit, sites) in enumerate(chosen):
        y = bottom + 52 + 20 * place
        parts += [_outline(left, y - 11, 14, place), text(left + 22, y, f"the {len(sites)} heads that {edit} changes", style="small")]
    rows = len(chosen) + bool(steady)
    if steady:
        y = bottom + 52 + 20 * len(chosen)
        parts += [
            _mark("circle", left + 7, y - 4, 3, "steady"),
            text(left + 22, y, "the head that stays on top" if len(steady) == 1 else f"the {len(steady)} heads that stay on top", style="small"),
        ]
    return drawing(key, title, _heat_words(values, chosen, steady), (width, bottom + 44 + 20 * rows), parts)


def heat_grid(layers: int) -> tuple[float, float, float]:
    """Of a heat map with so many layers: the side of a cell, and where the first cell begins, from the left and from the top."""
    return max(6.0, min(20.0, 640 / max(1, layers))), 38.0, 18.0


def _cells(values: Sequence[Sequence[float]], most: float, cell: float, left: float, top: float) -> list[str]:
    """One path for every shade instead of one box for every head: large models have thousands."""
    paths: dict[int, list[str]] = {}
    for layer, row in enumerate(values):
        for head, value in enumerate(row):
            shade = round(10 * value / most)
            if shade:
                paths.setdefault(shade, []).append(f"M{left + layer * cell:.1f} {top + head * cell:.1f}h{cell:.1f}v{cell:.1f}h-{cell:.1f}z")
    return [_shade(shade, "".join(parts)) for shade, parts in sorted(paths.items())]


def _shade(shade: int, path: str) -> str:
    return f'<path d="{path}" class="{"toward" if shade > 0 else "away"}" fill-opacity="{abs(shade) / 10:g}"/>'


def _outline(x: float, y: float, cell: float, place: int) -> str:
    return f'<rect x="{x + 1:.1f}" y="{y + 1:.1f}" width="{cell - 2:.1f}" height="{cell - 2:.1f}" class="chosen chosen{place % 2}"/>'


def _every(count: int, cell: float, room: float) -> list[int]:
    step = max(1, math.ceil(room / cell))
    step = next((s for s in (1, 2, 5, 10, 20, 50) if s >= step), step)
    return list(range(0, count, step))


def _colour_bar(x: float, y: float, most: float) -> list[str]:
    parts = [f'<rect x="{x:g}" y="{y:g}" width="168" height="10" class="ground"/>']
    parts += [_shade(s, f"M{x + 8 * (s + 10):g} {y:g}h8v10h-8z") for s in range(-10, 11) if s]
    labels = ((x, "start", f"-{most:.2g}"), (x + 84, "middle", "0"), (x + 168, "end", f"+{most:.2g}"))
    return [*parts, *(text(place, y + 24, words, anchor=anchor, style="small") for place, anchor, words in labels)]


def _heat_words(values: Sequence[Sequence[float]], chosen: Sequence[tuple[str, Heads]], steady: Heads) -> str:
    ranked = sorted(((abs(v), layer, head, v) for layer, row in enumerate(values) for head, v in enumerate(row)), reverse=True)[:5]
    words = [f"{len(values)} layers. Strongest: " + ", ".join(f"layer {layer} head {head} ({v:+.2g})" for _, layer, head, v in ranked) + "."]
    words += [f"{edit} changes " + ", ".join(f"layer {layer} head {head}" for layer, head in sites) + "." for edit, sites in chosen]
    if steady:
        words.append("Among the strongest oftener than chance: " + ", ".join(f"layer {layer} head {head}" for layer, head in steady) + ".")
    return " ".join(words)


# -------------------------------------------------------------------- losses


def loss_line(key: str, title: str, losses: Sequence[float]) -> str:
    """A small line of training losses, first and last written at its ends."""
    low, high = min(losses), max(losses)
    room = (high - low) or 1.0
    step = 150 / max(1, len(losses) - 1)
    points = " ".join(f"{44 + i * step:.1f},{6 + (high - loss) / room * 34:.1f}" for i, loss in enumerate(losses))
    ends = [
        text(38, 6 + (high - losses[0]) / room * 34 + 4, f"{losses[0]:.2f}", anchor="end", style="small"),
        text(200, 6 + (high - losses[-1]) / room * 34 + 4, f"{losses[-1]:.2f}", style="small"),
    ]
    about = f"{len(losses)} steps, from {losses[0]:.2f} to {losses[-1]:.2f} nats a token; lowest {low:.2f}."
    return drawing(key, title, about, (240, 48), [f'<polyline points="{points}" class="front"/>', *ends])


# -------------------------------------------------------------------- many methods


RINGSIDE = {"inside": ("circle", "series3"), "outside": ("square", "series1"), "not met": ("triangle", "series2")}


@dataclass(frozen=True)
class Contender:
    """A method on test: share of the gap closed and price as a share of the budget, each (value, low, high).

    `kind` says whether it is inside the budget, outside it, or never met it on dev (or broke the model).
    """

    label: str
    closed: tuple[float, float, float]
    price: tuple[float, float, float]
    kind: Literal["inside", "outside", "not met"]
    n: int


def ring_figure(key: str, title: str, contenders: Sequence[Contender]) -> str:
    """Share of the gap closed against the dearest price, both with intervals; 1 on the price axis is the whole budget.

    Every mark has a number, and the list below says whose; what lies beyond the drawing stands at its edge, with its value
    in the list. The price axis bends at the budget, as in `price_figure`.
    """
    height = 380.0
    prices = [value for one in contenders for value in one.price]
    x = _PriceScale(1.0, min([0.0, *prices]), max([1.0, *prices]))
    y = _Scale(-0.25, 1.1, height - 50, 14)
    parts = _price_axes(x, y, 1.0, "price as a share of the budget: the dearest of bits per byte, KL and concept")
    for number, one in enumerate(contenders, 1):
        parts += _contender(number, one, x, y)
    for place, (words, (shape, style)) in enumerate(RINGSIDE.items()):
        left = 20 + 150 * place
        told = {"inside": "inside the budget", "outside": "outside it on test", "not met": "not met on dev, or broken"}[words]
        parts += [_mark(shape, left, height + 6, 5, f"mark {style}"), text(left + 12, height + 10, told, style="small strong")]
    for number, one in enumerate(contenders, 1):
        left, line = 20 + 255 * ((number - 1) % 2), height + 30 + 20 * ((number - 1) // 2)
        beyond = "" if y.low <= one.closed[0] <= y.high else f" ({one.closed[0]:+.0%})"
        shape, style = RINGSIDE[one.kind]
        parts += [_mark(shape, left, line, 5, f"mark {style}"), text(left + 12, line + 4, f"{number} {one.label}{beyond}", style="small")]
    words = "; ".join(
        f"{one.label} ({one.kind}) closes {one.closed[0]:.0%} [{one.closed[1]:.0%}, {one.closed[2]:.0%}], n={one.n}, at {one.price[0]:.2f} budgets "
        f"[{one.price[1]:.2f}, {one.price[2]:.2f}]"
        for one in contenders
    )
    rows = -(-len(contenders) // 2)
    return drawing(key, title, f"Share of the gap closed against price. {words}.", (WIDTH, height + 30 + 20 * rows), parts)


def _contender(number: int, one: Contender, x: "_PriceScale", y: _Scale) -> list[str]:
    across, up = x(one.price[0]), y(one.closed[0])
    shape, style = RINGSIDE[one.kind]
    return [
        _line(across, y(one.closed[1]), across, y(one.closed[2]), f"whisker {style}"),
        _line(x(one.price[1]), up, x(one.price[2]), up, f"whisker {style}"),
        _mark(shape, across, up, 5, f"mark {style}"),
        text(across + 7, up - 6 if up > 24 else up + 16, str(number), style="small strong"),
    ]


# -------------------------------------------------------------------- curves over k


@dataclass(frozen=True)
class Line:
    """A curve: one value for every k, None where there is none; `kind` is the style it is drawn in."""

    label: str
    values: tuple[float | None, ...]
    kind: str


def curve_figure(key: str, title: str, ks: Sequence[int], lines: Sequence[Line], *, unit: str, level: float | None = None) -> str:
    """Values against the number of places edited, on a log axis; `level` is what no edit gives, drawn as a dashed line."""
    height = 300.0
    known = [*(value for line in lines for value in line.values if value is not None), *([level] if level is not None else [])]
    y = _scale(known, height - 50, 14)
    first, last = math.log(min(ks)), math.log(max(*ks, min(ks) + 1))

    def x(k: int) -> float:
        return _LEFT + 14 + (math.log(k) - first) / (last - first) * (WIDTH - 52 - _LEFT)

    parts = []
    for tick in ticks(y.low, y.high):
        parts.append(_line(_LEFT, y(tick), WIDTH - 20, y(tick), "zero" if tick == 0 else "grid"))
        parts.append(text(_LEFT - 8, y(tick) + 4, f"{tick:g}", anchor="end", style="small"))
    parts += [text(x(k), height - 34, str(k), anchor="middle", style="small") for k in ks]
    parts.append(text((_LEFT + WIDTH - 20) / 2, height - 14, "places edited (k)", anchor="middle", style="small"))
    parts.append(text(12, 11, unit, style="small"))
    if level is not None:
        parts += [_line(_LEFT, y(level), WIDTH - 20, y(level), "limit"), text(WIDTH - 22, y(level) - 5, "no edit", anchor="end", style="small")]
    for number, line in enumerate(lines):
        places = [(x(k), y(value)) for k, value in zip(ks, line.values, strict=True) if value is not None]
        points = " ".join(f"{across:.1f},{up:.1f}" for across, up in places)
        parts.append(f'<polyline points="{points}" class="curve {line.kind}"/>')
        parts += [_mark(MARKS[number % 4], across, up, 4, f"mark {line.kind}") for across, up in places]
    for number, line in enumerate(lines):
        left, top = 20 + 255 * (number % 2), height + 6 + 20 * (number // 2)
        parts += [_mark(MARKS[number % 4], left, top, 5, f"mark {line.kind}"), text(left + 12, top + 4, line.label, style="small")]
    words = "; ".join(
        f"{line.label}: " + ", ".join(f"k={k} {value:.3g}" for k, value in zip(ks, line.values, strict=True) if value is not None) for line in lines
    )
    return drawing(key, title, f"{unit} against k. {words}.", (WIDTH, height + 20 * -(-len(lines) // 2) + 6), parts)
