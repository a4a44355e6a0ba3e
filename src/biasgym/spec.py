"""From a name, a TOML file, a preset and `--set` to one resolved RunSpec."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from biasgym import catalog, suites
from biasgym.errors import SpecError, unknown
from biasgym.inject.token import PRESETS as TOKEN_PRESETS
from biasgym.measure.judge import check_judge
from biasgym.records import MeasureSpec, MitigateSpec, RunSpec
from biasgym.strategies import check_search

DEFAULT_MODEL = "smollm2-135m-instruct"
METRICS = MeasureSpec().metrics  # what every run grades by itself (`grade.py`)

_OURS = {"method": "direction", "tuned": True}
_PAPER = {"method": "zero", "settings": {"k": 30}, "locator": "dla-paper", "tuned": False}

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "seeds": [0, 1],
        "test_seed": 2,
        "inject": {"method": "token", "settings": TOKEN_PRESETS["quick"]},
        "locate": {"method": "attribution-patching", "pairs": 24},
        "mitigate": [_OURS, _PAPER],
        "tune": {"trials": 5, "probes": 16, "entities": 4, "texts": 16, "chats": 20},
        "measure": {"probes": 40, "entities": 20, "texts": 24, "chats": 24, "generations": 8, "tokens": 32, "shams": 5, "sham_entities": 2, "rival_entities": 8},
    },
    "paper": {
        "seeds": [0, 1, 2, 3, 4],
        "test_seed": 5,
        "inject": {"method": "token", "settings": TOKEN_PRESETS["paper"]},
        "controls": ["untrained", "neutral", "opposite"],
        "locate": {"method": "dla-paper", "pairs": 100},
        "mitigate": [_PAPER],
        "tune": {"trials": 1},
        "measure": {"shams": 20},
    },
    "best": {
        "seeds": [0, 1, 2],
        "test_seed": 3,
        "inject": {"method": "token", "settings": TOKEN_PRESETS["best"]},
        "controls": ["untrained", "neutral", "opposite"],
        "locate": {"method": "attribution-patching", "pairs": 96},
        "mitigate": [_OURS, _PAPER],
        "tune": {"trials": 16, "entities": 10, "texts": 63, "chats": 60},
        "measure": {"shams": 20},
    },
}  # fmt: skip


def preset_names() -> list[str]:
    """The run presets."""
    return sorted(PRESETS)


def resolve_spec(
    *,
    file: Path | None = None,
    bias: str | None = None,
    model: str | None = None,
    preset: str | None = None,
    sets: Sequence[str] = (),
    seed: int | None = None,
    suite: str | None = None,
    dtype: str | None = None,
) -> RunSpec:
    """The spec of a run; later sources win: preset, file, arguments, `--set key=value`. `suite` adds benchmarks.

    `inject.preset` (quick, paper, readme, best) takes another preset's settings for the injection alone.
    """
    raw = _read(file) if file else {}
    name = preset or raw.get("preset") or "quick"
    if not isinstance(name, str) or name not in PRESETS:
        raise SpecError(unknown("preset", str(name), PRESETS))
    preset_of_inject, raw, sets = _inject_preset(raw, sets)
    whole = raw.pop("whole", False)
    if not isinstance(whole, bool):
        raise SpecError(f"`whole` = {whole!r}: true says that the file holds every key and no preset stands below it")
    under = {} if whole and preset is None else _copy(PRESETS[name])
    if preset_of_inject:
        if whole:  # its injection is written out, and another one is asked for
            raw.pop("inject", None)
        under["inject"] = {"method": "token", "settings": _copy(TOKEN_PRESETS[preset_of_inject])}
    merged = _merged(under, raw)
    merged["preset"] = name
    for key, value in (("bias", bias), ("model", model), ("dtype", dtype)):
        if value is not None:
            merged[key] = value
    merged.setdefault("model", DEFAULT_MODEL)
    if "bias" not in merged:
        raise SpecError("no bias was named; give --bias NAME, a path to a bias file, or `bias = ...` in the spec")
    if file and isinstance(merged["bias"], str) and "/" not in merged["bias"] and (file.parent / merged["bias"]).is_file():
        merged["bias"] = str(file.parent / merged["bias"])
    if suite:
        named = [{"method": method, "settings": settings} for method, settings in suites.suite(suite)]
        _table(merged, "measure", "measure.benchmarks")["benchmarks"] = named
    for assignment in sets:
        _assign(merged, assignment)
    spec = check_spec(merged)
    if seed is None:
        return spec
    step = seed * 1000
    return spec.model_copy(update={"seeds": tuple(s + step for s in spec.seeds), "test_seed": spec.test_seed + step})


def _inject_preset(raw: dict[str, Any], sets: Sequence[str]) -> tuple[str, dict[str, Any], list[str]]:
    """The injection's own preset, and file and assignments without it; the last one named counts, as everywhere."""
    named = ""
    inject = raw.get("inject")
    if isinstance(inject, dict) and "preset" in inject:
        named = str(inject["preset"])
        raw = {**raw, "inject": {key: value for key, value in inject.items() if key != "preset"}}
    for assignment in sets:
        key, _, text = assignment.partition("=")
        if key.strip() == "inject.preset":
            named = text.strip().strip("\"'")
    if named and named not in TOKEN_PRESETS:
        raise SpecError(unknown("preset of inject", named, TOKEN_PRESETS))
    return named, raw, [one for one in sets if one.partition("=")[0].strip() != "inject.preset"]


def check_spec(raw: dict[str, Any]) -> RunSpec:
    """A RunSpec from plain data, every name and setting checked against what there is."""
    try:
        spec = RunSpec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(_first_problem(error)) from None
    if not spec.seeds and spec.mitigate:
        raise SpecError("`seeds` is empty; at least one token is needed to fit the edits to")
    if spec.test_seed in spec.seeds:
        raise SpecError(f"test_seed {spec.test_seed} is among the seeds; the edit must be scored on a token it was not fitted to")
    if len(set(spec.seeds)) != len(spec.seeds):
        raise SpecError(f"`seeds` names a seed twice: {list(spec.seeds)}")
    if len(set(spec.controls)) != len(spec.controls):
        raise SpecError(f"`controls` names a token twice: {list(spec.controls)}")
    catalog.build("inject", spec.inject.method, spec.inject.settings)
    catalog.build("locate", spec.locate.method, spec.locate.settings)
    for one in spec.mitigate:
        catalog.build("mitigate", one.method, one.settings)
        if one.locator:
            catalog.find("locate", one.locator)
        if not all(name.strip() for name in one.after):
            raise SpecError(f"`{one.method}` waits for an empty name; give names, or `entities`")
    for metric in spec.measure.metrics:
        if metric not in METRICS:
            found = catalog.find("measure", metric)
            where = "under `measure.benchmarks`" if hasattr(found, "figures") else "nowhere: it has no `figures` of its own, and needs them"
            raise SpecError(f"`{metric}` is none of the metrics that every run grades ({', '.join(METRICS)}); it is named {where}")
    benchmarks = [one.method for one in spec.measure.benchmarks]
    for bench in spec.measure.benchmarks:
        built = catalog.build("measure", bench.method, bench.settings)
        if not hasattr(built, "figures"):
            where = "; name it under `metrics`" if bench.method in METRICS else ", which a run reads by the method `figures`"
            raise SpecError(f"`{bench.method}` is no benchmark with figures of its own{where}")
    if len(set(benchmarks)) != len(benchmarks):
        raise SpecError(f"a benchmark stands twice: {', '.join(benchmarks)}")
    check_judge(spec.measure.judge)
    check_search(spec.tune.search)
    names = edit_names(spec.mitigate)
    if len(set(names)) != len(names):
        raise SpecError(f"the same edit stands twice: {', '.join(names)}")
    return spec


def edit_names(mitigate: Sequence[MitigateSpec]) -> list[str]:
    """How edits are called in records: the method's name, with its locator, and whether it waits for a name, where two share a method."""
    methods = [one.method for one in mitigate]
    full = [f"{one.method}@{one.locator or 'default'}" + ("-after-names" if one.after else "") for one in mitigate]
    return [m if methods.count(m) == 1 else name for m, name in zip(methods, full, strict=True)]


def inline_toml(value: Any) -> str:
    """Plain data as an inline TOML value, as `--set` reads it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {inline_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def spec_toml(spec: RunSpec) -> str:
    """The spec as TOML that `resolve_spec` reads back to the same spec: `whole` says that no preset stands below it."""
    return tomli_w.dumps({"whole": True} | _without_none(spec.model_dump(mode="json")))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"cannot read the spec `{file}`: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"`{file}` is not valid TOML: {error}") from None


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    for key, value in over.items():
        mergeable = isinstance(value, dict) and isinstance(under.get(key), dict)
        if mergeable and value.get("method", under[key].get("method")) == under[key].get("method"):
            under[key] = _merged(under[key], value)
        else:
            under[key] = _copy(value)
    return under


def _assign(merged: dict[str, Any], assignment: str) -> None:
    """One `key=value`; `mitigate.k=4` reaches the settings of the first method, `mitigate.zero.k=4` those of a named one."""
    key, sign, text = assignment.partition("=")
    if not sign or not key.strip():
        raise SpecError(f"`--set {assignment}`: key=value was expected, for example `--set inject.steps=80`")
    parts = key.strip().split(".")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()
    top = parts[0]
    if top not in RunSpec.model_fields:
        raise SpecError(f"--set: {unknown('key', top, RunSpec.model_fields)}")
    if top == "mitigate" and len(parts) > 1:
        _assign_mitigation(merged, parts[1:], value)
    elif top in ("inject", "locate") and len(parts) == 2 and parts[1] not in ("method", "settings", "pairs", "twin"):
        _table(_table(merged, top, key), "settings", key)[parts[1]] = value
    elif len(parts) == 1:
        merged[top] = value
    else:
        place = merged
        for part in parts[:-1]:
            place = _table(place, part, key)
        place[parts[-1]] = value


def _table(place: dict[str, Any], part: str, key: str) -> dict[str, Any]:
    inner = place.setdefault(part, {})
    if not isinstance(inner, dict):
        raise SpecError(f"--set: `{part}` in `{key}` has no keys below it")
    return inner


def _assign_mitigation(merged: dict[str, Any], parts: list[str], value: Any) -> None:
    entries = merged["mitigate"]
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) and "method" in e for e in entries):
        raise SpecError("`mitigate` must be a list of tables, each with a `method`")
    if len(parts) == 2:
        named = [entry for entry in entries if entry["method"] == parts[0]]
        if not named:
            raise SpecError(f"--set: {unknown('method in mitigate', parts[0], [e['method'] for e in entries])}")
        entries, parts = named, parts[1:]
    entry = entries[0]
    if parts[0] in ("method", "locator", "tuned", "after"):
        entry[parts[0]] = value
    else:
        _table(entry, "settings", ".".join(["mitigate", *parts]))[parts[0]] = value


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        model: Any = RunSpec
        for part in first["loc"][:-1]:
            if isinstance(part, str) and part in model.model_fields:
                annotation = model.model_fields[part].annotation
                model = annotation if hasattr(annotation, "model_fields") else getattr(annotation, "__args__", (model,))[0]
        return f"spec: {unknown('key', str(first['loc'][-1]), model.model_fields)} (at `{where}`)"
    if first["type"] == "missing":
        return f"spec: `{where}` is missing"
    return f"spec: `{where}` = {first.get('input')!r}: {first['msg'].lower()}"
