"""Writes the reference from the code (methods, metrics, public names, command line), and the notebooks as pages."""

import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import biasgym
from biasgym import catalog

TITLES = {"inject": "Injectors: elicit a bias", "locate": "Locators: find what carries it", "mitigate": "Mitigations: remove it"}
NOTEBOOKS = Path(__file__).parent / "notebooks"
HEAD = "<!-- Written by docs/generate.py; change the docstrings instead. -->\n\n"


def methods_page() -> str:
    """Every injector, locator and mitigation, with formula, source and limits as its author states them."""
    parts = [
        HEAD
        + "# Methods\n\nFrom the docstrings. A setting with a *search* range may be set by the search on dev; *neutral* is where it does nothing.\n"
    ]
    for station, title in TITLES.items():
        parts.append(f"\n## {title}\n")
        parts += [method_section(name, kind) for name, kind in catalog.methods(station).items()]
    return "".join(parts)


def metrics_page() -> str:
    """Every metric, what it is for, and where its value should sit."""
    parts = [
        HEAD
        + "# Metrics\n\nFrom the docstrings. *Ideal* is where a value should sit; many have no such place and mean something in comparison only.\n"
    ]
    for name, kind in catalog.methods("measure").items():
        ideal = "none" if kind.ideal is None else f"{kind.ideal:g}"
        parts.append(method_section(name, kind, f"About {kind.role}; ideal: {ideal}."))
    return "".join(parts)


def method_section(name: str, kind: Any, note: str = "") -> str:
    """One method: its docstring and its settings."""
    text = prose(inspect.cleandoc(kind.__doc__ or ""))
    rows = "".join(setting_row(kind, field) for field in fields(kind))
    table = f"| setting | kind | default | search | neutral |\n|---|---|---|---|---|\n{rows}\n" if rows else "No settings.\n\n"
    return f"\n### {name}\n\n" + (f"{note}\n\n" if note else "") + f"{text}\n\n{table}In `{kind.__module__}`.\n"


PARTS = {
    "load_lm": "Models",
    "zoo": "Biases",
    "resolve_spec": "Runs",
    "build": "Methods, places and edits",
    "Scope": "Measuring",
    "RunRecord": "What a run leaves behind",
    "export_run": "Taking it along",
    "BiasGymError": "Errors",
}


def python_page() -> str:
    """Every public name: signature, docstring, and for classes what can be called on them."""
    parts = [
        HEAD + "# From Python\n\n`from biasgym import …`. Each name is imported when it is first asked for; `import biasgym` alone loads nothing "
        "else. [Worked through from end to end](../how/from-python.md).\n"
    ]
    for name in biasgym.PUBLIC:
        if name in PARTS:
            parts.append(f"\n## {PARTS[name]}\n")
        parts.append(name_section(name, getattr(biasgym, name)))
    return "".join(parts)


def name_section(name: str, thing: Any) -> str:
    """One public name."""
    about = prose(inspect.cleandoc(thing.__doc__ or ""))
    text = f"\n### {name}\n\n```python\n{'class ' if inspect.isclass(thing) else ''}{name}{signature(thing)}\n```\n\n{about}\n\nIn `{thing.__module__}`.\n"
    methods = (
        [(f"{one}{signature(of, bound=True)}".replace("|", "\\|"), first_line(of)) for one, of in callables(thing)] if inspect.isclass(thing) else []
    )
    rows = "".join(f"| `{call}` | {what} |\n" for call, what in methods)
    return text + (f"\n| | |\n|---|---|\n{rows}" if rows else "")


def callables(kind: Any) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class defines itself, in the order of its source."""
    for name, of in vars(kind).items():
        if not name.startswith("_") and inspect.isroutine(of if not is_value(of) else plain_of(of)) and plain_of(of).__doc__:
            yield name, of


def is_value(of: Any) -> bool:
    """Whether it is read like a field."""
    return isinstance(of, property | cached_property)


def plain_of(of: Any) -> Any:
    """The function under a property, a class method or a static method."""
    return getattr(of, "fget", None) or getattr(of, "func", None) or getattr(of, "__func__", of)


def signature(thing: Any, *, bound: bool = False) -> str:
    """Parameters with their types as they stand in the source; nothing for a property."""
    if is_value(thing):
        return ""
    try:
        found = inspect.signature(plain_of(thing))
    except ValueError:  # an exception class has none
        return ""
    kept = [p.replace(default=shown_default(p.default)) for p in found.parameters.values() if not (bound and p.name in ("self", "cls"))]
    words = str(found.replace(parameters=[p for p in kept if not p.name.startswith("_")], return_annotation=found.return_annotation))
    words = words.partition(" -> ")[0] if inspect.isclass(thing) else words
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Za-z])", "", words.replace("'", "").replace("numpy.", "np_")).replace("np_", "np.")


class Words(str):
    """Text that stands in a signature as it is."""

    __repr__ = str.__str__


def shown_default(default: Any) -> Any:
    """A default as a reader types it; a function, or what holds nothing but its own defaults, in short."""
    if (callable(default) and not inspect.isclass(default)) or repr(default) == "<factory>":
        return Words("…")
    if is_dataclass(default) or hasattr(type(default), "model_fields"):
        return Words(f"{type(default).__name__}()")
    return Words(json.dumps(default)) if isinstance(default, str) else default


def first_line(of: Any) -> str:
    """The first sentence of a docstring, for a table."""
    return prose(inspect.cleandoc(plain_of(of).__doc__).splitlines()[0])


def notebook_page(path: Path) -> str:
    """A notebook's cells as a page, with a link to the notebook itself."""
    cells = [("".join(cell["source"]), cell["cell_type"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    told = [text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in cells]
    link = f"[This page as a notebook](../notebooks/{path.name}). It is executed by the tests, at a small size.\n"
    return HEAD + "\n\n".join([told[0], link, *told[1:]]) + "\n"


def prose(text: str) -> str:
    """A docstring as Markdown: its words as they are, what Markdown would read as markup left alone."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def setting_row(kind: Any, field: Any) -> str:
    """One row of the table of settings."""
    hint = get_type_hints(kind)[field.name]
    named = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    default = "" if field.default is MISSING else repr(field.default)
    search = ", ".join(map(str, field.metadata.get("search", ()))) or "–"
    cells = (f"`{field.name}`", f"`{named}`".replace("|", "or"), f"`{default}`".replace("|", "\\|"), search, str(field.metadata.get("neutral", "–")))
    return f"| {' | '.join(cells)} |\n"


def commands() -> Iterator[tuple[str, Any]]:
    """Every command of the command line by name, as click has it."""
    import typer

    from biasgym.cli import app

    group: Any = typer.main.get_command(app)
    yield from sorted(group.commands.items())


def cli_page() -> str:
    """Every command with its arguments and options."""
    parts = [HEAD + "# Command line\n\n`biasgym --help` and `biasgym COMMAND --help` say the same.\n"]
    for name, command in commands():
        parameters = [p for p in command.params if p.name != "help"]
        arguments = " ".join(argument_word(p) for p in parameters if p.param_type_name == "argument")
        parts.append(f"\n## {name}\n\n{prose(inspect.cleandoc(command.help or ''))}\n\n```\nbiasgym {name} {arguments}\n```\n")
        rows = "".join(parameter_row(p) for p in parameters)
        parts.append(f"\n| | default | what |\n|---|---|---|\n{rows}" if rows else "")
    return "".join(parts)


def argument_word(argument: Any) -> str:
    """An argument as usage lines have it; in brackets where it may be left out."""
    word = argument.metavar or argument.name.upper()
    return word if argument.required else f"[{word}]"


def parameter_row(parameter: Any) -> str:
    """One row of the table of arguments and options."""
    option = parameter.param_type_name == "option"
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts)) if option else f"`{parameter.name.upper()}`"
    default = "required" if parameter.required else "" if parameter.default in (None, "", False) else f"`{parameter.default}`"
    return f"| {names} | {default} | {prose(getattr(parameter, 'help', None) or '')} |\n"


def write_pages(folder: Path) -> list[Path]:
    """Write the pages into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"methods": methods_page(), "metrics": metrics_page(), "cli": cli_page(), "python": python_page()}
    pages |= {path.stem: notebook_page(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return [folder / f"{name}.md" for name in pages]


if __name__ == "__main__":
    sys.stdout.write("".join(f"wrote {path}\n" for path in write_pages(Path(__file__).parent / "reference")))
