"""Writes the reference pages from the code: methods and metrics from their docstrings, the command line from typer."""

import inspect
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

from biasgym import catalog

TITLES = {"inject": "Injectors: elicit a bias", "locate": "Locators: find what carries it", "mitigate": "Mitigations: remove it"}
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
    """Write the three pages into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"methods": methods_page(), "metrics": metrics_page(), "cli": cli_page()}
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return [folder / f"{name}.md" for name in pages]


if __name__ == "__main__":
    sys.stdout.write("".join(f"wrote {path}\n" for path in write_pages(Path(__file__).parent / "reference")))
