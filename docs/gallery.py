"""Writes the gallery from records: `python docs/gallery.py RUNS [-o docs/gallery.md]`; RUNS are run folders, or stores of runs.

Nothing in it is typed by hand: a run's verdict, figures and pictures are what its record says, bad ones included.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from biasgym.files import write_text
from biasgym.pictures import write_svg
from biasgym.readings import edit_names_of, p_text
from biasgym.records import RunRecord, RunSpec
from biasgym.report import arms_picture, claims_view, finding_rows, heat_maps, k_figures, price_figures, real_view, sham_rows
from biasgym.spec import resolve_spec, spec_toml
from biasgym.store import RECORD, RunStore, read_record
from biasgym.verdict import verdict_of

HEAD = """<!-- Written by docs/gallery.py from the records of runs (`make gallery RUNS=FOLDER`); change nothing here. -->

# Gallery

Real runs, as their records tell of them: verdict, figures and pictures, good or bad. Every interval is a 95 % one.
[How to read them](how/read-the-report.md); [what each figure is](figures.md).
"""
STAMPS = {"good": "It works here", "mixed": "It works in part", "bad": "Not shown to work", "plain": "No verdict"}
MARKS = {"good": "✓ ", "bad": "✕ "}


def folders_of(given: Sequence[Path]) -> list[Path]:
    """Run folders as they are named; of a store all whole runs, the newest first."""
    found = []
    for path in given:
        found += [path] if (path / RECORD).is_file() else [path / name for name in RunStore(path).runs()]
    return found


def write_gallery(folders: Sequence[Path], page: Path) -> list[Path]:
    """Write the page, and beside it a folder of its name with the pictures; gives back all that was written."""
    pictures = page.with_suffix("")
    written, sections = [], []
    for folder in folders:
        record = read_record(folder)
        drawn = [write_svg(pictures / f"{record.id}-{name}.svg", svg) for name, svg in drawings(record)]
        sections.append(section(record, {path.stem.removeprefix(f"{record.id}-"): path.relative_to(page.parent).as_posix() for path in drawn}))
        written += drawn
    write_text(page, "\n".join([HEAD, *sections]) if sections else f"{HEAD}\nNo runs yet.\n")
    return [page, *written]


def drawings(record: RunRecord) -> list[tuple[str, str]]:
    """The pictures of a run by name; a part that it does not have is left out."""
    found = [("arms", arms_picture(record, "arms"))]
    found += [(f"price-{place}", figure) for place, figure in enumerate(price_figures(record, "price"))]
    found += [(f"heads-{place}", figure) for place, (_, figure) in enumerate(heat_maps(record, "heads"))]
    found += [(f"k-{place}", figure) for place, figure in enumerate(k_figures(record, "k"))]
    found += [("groups", figure) for figure in real_view(record, [], "real")["group_figures"]]
    return [(name, str(figure)) for name, figure in found if figure]


def section(record: RunRecord, pictures: dict[str, str]) -> str:
    """One run: what it asked, its verdict in words and answers, its pictures, its figures, and how to do it again."""
    bias, verdict = record.extras.get("bias") or {}, verdict_of(record)
    checks = "".join(f"| {c.question} | {MARKS.get(c.tone, '')}{c.answer} | {cell(c.detail)} |\n" for c in verdict.checks)
    said = f"“{bias['statement'].replace('{entity}', '…')}” " if bias.get("statement") else ""
    parts = [
        f"## {bias.get('name', record.id)} in {record.spec.get('model', 'unknown model')}\n",
        f"{said}Run `{record.id}`, preset `{record.spec.get('preset', 'none')}`.\n",
        f"**{STAMPS[verdict.tone]}.** {verdict.paragraph}\n",
        f"| question | answer | figures |\n|---|---|---|\n{checks}",
        *(f"![{about}]({pictures[name]})\n\n*{about}*\n" for name, about in captions(record, pictures)),
        figures_table(record),
        claims_table(record),
        again(record),
    ]
    return "\n".join(part for part in parts if part)


def captions(record: RunRecord, pictures: dict[str, str]) -> list[tuple[str, str]]:
    """What stands under each picture, in order."""
    locators = [name for name, _ in heat_maps(record, "heads")]
    words = {
        "arms": "The four arms: how far each leans to the stereotype beyond other real entities.",
        "price-0": "Gap closed against KL: every trial on dev, the front, and the picked setting on test. Up is better, left is cheaper.",
        "price-1": "The same against bits per byte of neutral prose.",
        "groups": "Real entities without any token, by group, before and after.",
    }
    words |= {f"heads-{place}": f"Head scores by `{name}`: orange pushes toward the stereotype." for place, name in enumerate(locators)}
    words |= {name: "What is closed and what it costs, against the number of heads edited." for name in pictures if name.startswith("k-")}
    return [(name, words[name]) for name in pictures if name in words]


def figures_table(record: RunRecord) -> str:
    """Findings with intervals and n, shams last."""
    rows = [*finding_rows(record), *sham_rows(record)]
    lines = "".join(f"| {r.label} | {r.edit or '–'} | {r.value} | {cell(r.interval)} | {r.n} | {r.unit} |\n" for r in rows)
    return f"| finding | edit | value | interval | n | unit |\n|---|---|--:|--:|--:|---|\n{lines}" if rows else ""


def claims_table(record: RunRecord) -> str:
    """How many claims hold when tested together."""
    found = claims_view(record)
    if not found["rows"]:
        return ""
    broken = any(row["standing"] == "broken" for row in found["rows"])
    note = " What an edit that breaks the model does is held for nothing." if broken else ""
    return f"{found['held']} of {len(found['rows'])} claims hold when all are tested together (Holm, p below {p_text(0.05)}).{note}\n"


def again(record: RunRecord) -> str:
    """How to do it again, on what it was done, and how long it took."""
    environment = record.environment
    known = ("biasgym", "commit", "torch", "transformers", "dtype", "device", "threads")
    told = ", ".join(f"{name} {environment[name]}" for name in known if environment.get(name))
    took = f" Took {sum(record.timings.values()):,.0f} s." if record.timings else ""
    edits = ", ".join(f"`{name}`" for name in edit_names_of(record)) or "none"
    seeds = ", ".join(map(str, record.spec.get("seeds", ())))
    return f"{command(record)}\nEdits {edits}; seeds {seeds}, tested on {record.spec.get('test_seed')}. {told}.{took}\n"


def command(record: RunRecord) -> str:
    """One command where bias, model and preset say all of the spec; else the spec and the command that takes it."""
    spec = RunSpec.model_validate(record.spec)
    named = {"bias": spec.bias, "model": spec.model, "preset": spec.preset}
    if resolve_spec(**named) == spec:
        return f"```\nbiasgym run --bias {spec.bias} --model {spec.model} --preset {spec.preset}\n```\n"
    return f"```\nbiasgym run spec.toml\n```\n\n```toml\n{spec_toml(spec)}```\n"


def cell(words: str) -> str:
    """Words in a cell of a table."""
    return words.replace("|", "\\|")


def main(arguments: Sequence[str]) -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_suffix(".md"))
    asked = parser.parse_args(arguments)
    sys.stdout.write("".join(f"wrote {path}\n" for path in write_gallery(folders_of(asked.runs), asked.output)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
