"""Kept audits as HTML for the web app: every model's ranking and picture, and several models side by side."""

from collections.abc import Sequence

from biasgym.audit import Audit, Held, ModelAudit
from biasgym.audit_page import DRAWN, drawn
from biasgym.desk import text

NONE = '<p class="note">No audit is kept here yet: <code>biasgym audit --model NAME</code> ranks which stereotypes a model holds.</p>'


def audit_html(audits: Sequence[Audit]) -> str:
    """The chosen audits: what each model holds, all models in one table where there are several, then each ranking and picture."""
    parts = [(audit, one) for audit in audits for one in audit.models]
    if not parts:
        return NONE
    told = "".join(f"<li>{_summary(audit, one)}</li>" for audit, one in parts)
    side = _side_by_side([one for _, one in parts]) if len(parts) > 1 else ""
    each = "".join(_ranking(one, f"audit{number}") for number, (_, one) in enumerate(parts))
    return f"<ul>{told}</ul>{side}<div class='two'>{each}</div>"


def _summary(audit: Audit, one: ModelAudit) -> str:
    held, control = sum(row.holds for row in one.rows), one.control
    shuffled = f"with labels shuffled {control.runs_with_claims} of {control.runs} audits claimed anything" if control.runs else "no shuffled control"
    return f"<b>{text(one.model)}</b>: {held} of {len(one.rows)} stereotypes held, corrected for {audit.tests} tests; {shuffled}."


def by_stereotype(parts: Sequence[ModelAudit]) -> list[tuple[str, str, list[Held | None]]]:
    """Name, statement and every model's row of each stereotype (None where it was not asked), the largest gap of any model first."""
    tables = [{row.name: row for row in one.rows} for one in parts]
    names = dict.fromkeys(row.name for one in parts for row in one.rows)
    cells = {name: [table.get(name) for table in tables] for name in names}
    largest = {name: max(row.gap for row in found if row) for name, found in cells.items()}
    statements = {name: next(row.statement for row in found if row) for name, found in cells.items()}
    return [(name, statements[name], cells[name]) for name in sorted(names, key=lambda name: -largest[name])]


def _side_by_side(parts: Sequence[ModelAudit]) -> str:
    heads = "".join(f"<th scope='col'>{text(one.model)}</th>" for one in parts)
    lines = "".join(
        f"<tr><th scope='row'>{text(statement)}</th>{''.join(_cell(row) for row in cells)}</tr>" for _, statement, cells in by_stereotype(parts)
    )
    caption = "Gap in nats with its 95 % interval; ✓ where it is held"
    return _table("Side by side", caption, f"<th scope='col'>stereotype</th>{heads}", lines)


def _cell(row: Held | None) -> str:
    if row is None:
        return "<td>not asked</td>"
    return f"<td class='{'good' if row.holds else ''}'>{'✓ ' if row.holds else ''}{row.gap:+.2f} [{row.low:+.2f}, {row.high:+.2f}]</td>"


def _ranking(one: ModelAudit, key: str) -> str:
    titles = ("stereotype", "held", "gap, nats", "n", "p, Holm", "swapped halves", "about")
    heads = "".join(f"<th scope='col'>{title}</th>" for title in titles)
    first, rest = one.rows[:DRAWN], one.rows[DRAWN:]
    more = _table("", f"The other {len(rest)}", heads, "".join(map(_line, rest))) if rest else ""
    folded = f"<details><summary>{len(rest)} more</summary>{more}</details>" if rest else ""
    caption = "Those that are held first, then by gap"
    picture = str(drawn(one, key)).translate({ord("{"): "&#123;", ord("}"): "&#125;", ord("$"): "&#36;"})  # the page's templates read these
    table = _table("", caption, heads, "".join(map(_line, first)))
    return f"<div><h2>{text(one.model)}</h2><div class='scroll' tabindex='0' role='group' aria-label='Largest gaps in {text(one.model)}'>{picture}</div>{table}{folded}</div>"


def _line(row: Held) -> str:
    about = ", ".join(row.about[:3]) + (f" and {len(row.about) - 3} more" if len(row.about) > 3 else "")
    return (
        f"<tr><th scope='row'>{text(row.statement)}</th><td class='{'good' if row.holds else ''}'>{'yes' if row.holds else 'no'}</td>"
        f"<td>{row.gap:+.2f} [{row.low:+.2f}, {row.high:+.2f}]</td><td>{row.n}</td><td>{row.p_holm:.2g}</td>"
        f"<td>{row.again:+.2f} [{row.again_low:+.2f}, {row.again_high:+.2f}]</td><td>{text(about)} ({text(row.chosen_by)})</td></tr>"
    )


def _table(title: str, caption: str, heads: str, lines: str) -> str:
    head = f"<h2>{title}</h2>" if title else ""
    return (
        f"{head}<div class='scroll' tabindex='0' role='group' aria-label='{text(caption)}'><table class='ranking'><caption>{text(caption)}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )
