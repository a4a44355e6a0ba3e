"""An audit as one self-contained HTML page, and as lines for a terminal."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from biasgym.audit import Audit, Held, ModelAudit
from biasgym.figures import Point, arms_figure
from biasgym.files import write_text

DRAWN = 15


def write_audit_page(audit: Audit, to: Path) -> Path:
    """Write the page to `to`, whole."""
    environment = Environment(loader=PackageLoader("biasgym", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    parts = [(one, drawn(one, f"m{number}")) for number, one in enumerate(audit.models)]
    page = environment.get_template("audit.html.jinja").render(audit=audit, parts=parts, lines=side_by_side(audit), shown=DRAWN)
    write_text(to, page)
    return to


def drawn(one: ModelAudit, key: str) -> Markup:
    """The first rows of a model's ranking, as a picture; `key` makes its ids unique in the page."""
    points = [Point(row.name, row.gap, row.low, row.high, row.n, "edited") for row in one.rows[:DRAWN]]
    return Markup(arms_figure(key, f"Gaps in {one.model}", points, unit="gap in nats; 0 = no different from the others"))  # the drawing is escaped


def side_by_side(audit: Audit) -> list[tuple[str, str, list[Held]]]:
    """Name, statement and every model's row of each stereotype, the largest gap of any model first."""
    by_model = [{row.name: row for row in one.rows} for one in audit.models]
    lines = [(row.name, row.statement, [rows[row.name] for rows in by_model]) for row in audit.models[0].rows]
    return sorted(lines, key=lambda line: -max(cell.gap for cell in line[2]))


def audit_lines(audit: Audit, most: int = 12) -> list[str]:
    """What a terminal shows: the first rows of each model, correlations, the control and the time."""
    lines = [f"left out: {reason}" for reason in audit.left_out]
    for one in audit.models:
        held = sum(row.holds for row in one.rows)
        lines += ["", f"{one.model}: {held} of {len(one.rows)} stereotypes held (corrected for {audit.tests} tests, and again on the swapped halves)"]
        for row in one.rows[:most]:
            mark = "held" if row.holds else "-"
            lines.append(
                f"  {mark:<5}{row.gap:+.2f} [{row.low:+.2f}, {row.high:+.2f}] n={row.n} p={row.p_holm:.2g} again {row.again:+.2f}  {row.statement}"
            )
        told = ", ".join(f"{source} {value:+.2f}" for source, value in one.quarters.items())
        control = one.control
        lines.append(f"  rank correlation of gaps on disjoint prompts: {told}; swapped halves {one.halves:+.2f}")
        lines.append(f"  labels shuffled: {control.runs_with_claims} of {control.runs} runs claimed anything, {control.claims} claims in all")
        lines.append(f"  {one.seconds:.0f} s, {audit.queries} prompts")
    return lines
