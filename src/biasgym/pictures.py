"""Pictures and small pages as files of their own, in the report's colours."""

import re
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from biasgym.errors import StoreError
from biasgym.files import write_text

# What the report's style sheet leaves to the page, and the lines of a curve, which the report does not have.
_ALONE = """
svg { font: 13px/1.4 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; background: var(--paper); }
svg .curve { fill: none; stroke: var(--soft); stroke-width: 2; } svg .curve.series0 { fill: none; stroke: var(--blue); }
svg .curve.series1 { fill: none; stroke: var(--orange); } svg .curve.series2 { fill: none; stroke: var(--violet); }
svg .curve.series3 { fill: none; stroke: var(--good); }
"""


def style() -> str:
    """The report's style sheet, from its template, and what a picture needs when it stands alone."""
    page = files("biasgym").joinpath("report.html.jinja").read_text(encoding="utf-8")
    sheet = page.partition("<style>")[2].partition("</style>")[0]
    if not sheet or "{{" in sheet:
        raise StoreError("the report's template has no plain style sheet; install biasgym again")
    return sheet + _ALONE


def standalone(svg: str) -> str:
    """A figure of `figures` as an SVG document that a viewer opens without a page around it."""
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    width, height = size.groups() if size else ("520", "400")
    head, sign, rest = svg.partition(">")
    named = head.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" ', 1)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{named}{sign}<style>/*<![CDATA[*/{style()}/*]]>*/</style>{rest}\n'


@dataclass(frozen=True)
class Picture:
    """A figure that a notebook shows as it is; `svg` is what a function of `figures` made."""

    svg: str

    def _repr_svg_(self) -> str:
        return standalone(str(self.svg)).partition("?>")[2].lstrip()  # a template's string escapes what is put into it


def write_svg(path: Path, svg: str) -> Path:
    """Write a figure as a file of its own."""
    write_text(path, standalone(svg))
    return path


def page(title: str, body: str) -> str:
    """A self-contained page; `body` is HTML, already escaped."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{escape(title)}</title><style>{style()}</style></head>\n<body><main>\n<h1>{escape(title)}</h1>\n{body}\n</main></body></html>\n"
    )
