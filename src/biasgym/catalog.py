"""Name → method. The folder is the registry: every frozen dataclass with a `name` and its station's verb is a method."""

import importlib
import importlib.util
import inspect
import pkgutil
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from biasgym.errors import SpecError, unknown

STATIONS = {"inject": "injector", "locate": "locator", "mitigate": "mitigation", "measure": "metric"}
VERBS = {"inject": "train", "locate": "rank", "mitigate": "fit", "measure": "ask"}


def methods(station: str) -> dict[str, type]:
    """Every method of a station by name."""
    package = importlib.import_module(f"biasgym.{station}")
    found: dict[str, type] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"biasgym.{station}.{info.name}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__ and _is_method(station, kind):
                found[kind.name] = kind  # type: ignore[attr-defined]
    return dict(sorted(found.items()))


def _is_method(station: str, kind: type) -> bool:
    named = is_dataclass(kind) and isinstance(getattr(kind, "name", None), str)
    return named and callable(getattr(kind, VERBS[station], None))


def find(station: str, name: str) -> type:
    """A method's class by its name, or by `module:Class` from anywhere on the import path."""
    if ":" in name:
        module_name, _, class_name = name.partition(":")
        try:
            kind = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
            raise SpecError(
                f"cannot import {STATIONS[station]} `{name}`: {error}; it is named `module:Class`, the module being on the import path (PYTHONPATH), not a file"
            ) from None
        if not (inspect.isclass(kind) and _is_method(station, kind)):
            raise SpecError(f"`{name}` is not a frozen dataclass with a `name` and the verb `{VERBS[station]}`")
        return kind
    known = methods(station)
    if name not in known:
        raise SpecError(unknown(STATIONS[station], name, known))
    return known[name]


def build(station: str, name: str, settings: dict[str, Any] | None = None) -> Any:
    """A method with its settings; an unknown key or a value of the wrong kind is refused."""
    kind = find(station, name)
    settings = dict(settings or {})
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]
    for key, value in settings.items():
        if key not in names:
            raise SpecError(f"{name}: {unknown('setting', key, names)}")
        try:
            settings[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            raise SpecError(f"{name}.{key} = {value!r}: {error.errors()[0]['msg'].lower()}") from None
    try:
        return kind(**settings)
    except TypeError as error:  # a field that has no default and was not given
        raise SpecError(f"{name}: {error}; give it in the settings, or a default in the class") from None


def defaults(station: str, name: str) -> dict[str, Any]:
    """A method's settings at their defaults."""
    return {f.name: f.default for f in fields(find(station, name)) if f.default is not MISSING}


def search_space(kind: Any) -> dict[str, tuple[Any, ...]]:
    """The settings of a method that a search may choose, with their candidate values."""
    return {f.name: tuple(f.metadata["search"]) for f in fields(kind) if "search" in f.metadata}


def described(station: str) -> list[dict[str, Any]]:
    """Every method with its first docstring line and defaults, for lists and docs."""
    rows = []
    for name, kind in methods(station).items():
        rows.append({"station": station, "name": name, "what": (kind.__doc__ or "").strip().splitlines()[0], "settings": defaults(station, name)})
    return rows
