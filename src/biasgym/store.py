"""A folder per run and a folder per stage, shared by hash; a run is whole when record.json exists."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from biasgym.edits import ContrastEdit, Edit, PromptEdit, SiteEdit, TokenEdit, Twin, WeightEdit
from biasgym.errors import StoreError, unknown
from biasgym.files import json_of, json_text, locked, read_bytes, read_json, whole, write_json, write_text
from biasgym.records import RunRecord
from biasgym.sites import Attribution, Site, Unit

RECORD = "record.json"
DONE = "done.json"
PROOFS = "proofs.json"  # k curves of locators, left beside a run by `biasgym locate --proof`
SUMS = "sums.json"
ALTERED = (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, ArithmeticError)  # what altered contents lead to


@dataclass(frozen=True)
class RunStore:
    """The store under one root: `ID/` for runs, `stages/` for what they share.

    A patient one waits for a run that another process has in hand; else that is a StoreError.
    """

    root: Path
    patient: bool = False

    def run_folder(self, identity: str) -> Path:
        """Where a run lies."""
        return self.root / identity

    def stage_folder(self, stage: str, key: str) -> Path:
        """Where a stage's output lies, by the hash of its inputs."""
        return self.root / "stages" / f"{stage}-{key}"

    @contextmanager
    def run_lock(self, identity: str) -> Iterator[Path]:
        """The run's folder, for one process at a time."""
        folder = self.run_folder(identity)
        with locked(folder / ".lock", wait=self.patient):
            yield folder

    @contextmanager
    def stage_lock(self, stage: str, key: str) -> Iterator[Path]:
        """A stage's folder; a second process waits until the first is done with it."""
        folder = self.stage_folder(stage, key)
        with locked(folder / ".lock", wait=True):
            yield folder

    def runs(self) -> list[str]:
        """Ids of whole runs, the newest first."""
        if not self.root.is_dir():
            return []
        records = [path for path in self.root.glob(f"*/{RECORD}") if path.parent.name != "stages"]
        return [path.parent.name for path in sorted(records, key=lambda p: (-p.stat().st_mtime, p))]

    def find(self, name: str) -> Path:
        """The folder of a run by id, unique prefix, path or `latest`."""
        if (Path(name) / RECORD).is_file():
            return Path(name)
        runs = self.runs()
        if name == "latest" and runs:
            return self.root / runs[0]
        matches = [run for run in runs if run.startswith(name)] if name else []
        if len(matches) == 1:
            return self.root / matches[0]
        if len(matches) > 1:
            raise StoreError(f"`{name}` fits {len(matches)} runs: {', '.join(matches[:4])}; give more of the id")
        where = f"in `{self.root}`"
        raise StoreError(f"{unknown('run', name, runs)} {where}" if runs else f"no runs {where} yet; start with `biasgym run`")


def read_record(folder: Path) -> RunRecord:
    """A run's record; StoreError when it is truncated, altered or of another kind."""
    return record_of(read_bytes(folder / RECORD), folder)


def record_of(raw: bytes, folder: Path) -> RunRecord:
    """The record that a folder's bytes mean; StoreError as in `read_record`."""
    value = json_of(raw, folder / RECORD)
    with altered_in(folder / RECORD):
        json.dumps(value, ensure_ascii=False).encode()  # half a letter, which no page and no table can hold
    try:
        return RunRecord.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"`{folder / RECORD}` is altered or from another version: {where}: {first['msg'].lower()}") from None


def write_record(folder: Path, record: RunRecord) -> None:
    """Write the record, whole; this is what makes the run whole."""
    write_json(folder / RECORD, record.model_dump(mode="json", by_alias=True))


def write_arrays(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file whole."""
    ready = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with whole(path) as temporary:
        temporary.write_bytes(save(ready, metadata=metadata))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file; StoreError when it is missing, truncated or altered."""
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise StoreError(f"`{path}` is truncated or altered ({str(error)[:80]}); remove its folder and run again") from None
    except OSError as error:
        raise StoreError(f"cannot read `{path}`: {error.strerror or error}") from None


def finished(folder: Path) -> bool:
    """Whether a stage is whole; StoreError when one of its files is not what it was then."""
    if not (folder / DONE).is_file():
        return False
    sums = read_json(folder / SUMS) if (folder / SUMS).is_file() else {}  # older stages have none
    for name, digest in sums.items() if isinstance(sums, dict) else ():
        if hashlib.sha256(read_bytes(folder / Path(name).name)).hexdigest() != digest:
            raise StoreError(f"`{folder / Path(name).name}` is truncated or altered; remove its folder and run again")
    return True


def finish(folder: Path, about: dict[str, Any]) -> None:
    """Mark a stage as whole, with what it was made from; checksums of all its files lie beside it."""
    text = json_text(about)
    files = [path for path in sorted(folder.glob("[!.]*")) if path.is_file() and path.name not in (DONE, SUMS)]
    sums = {path.name: hashlib.sha256(read_bytes(path)).hexdigest() for path in files}
    write_json(folder / SUMS, sums | {DONE: hashlib.sha256(text.encode()).hexdigest()})
    write_text(folder / DONE, text)


def take(source: Path, to: Path) -> None:
    """Link a finished file into a run's folder, or copy it where linking is impossible."""
    with whole(to) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


# -------------------------------------------------------------------- edits, tokens and attributions as files


def write_edits(path: Path, edits: Sequence[Edit]) -> None:
    """Edits as tensors plus a small table of what each is; a bias token has a file of its own."""
    arrays, table = {}, []
    for number, edit in enumerate(edits):
        if isinstance(edit, SiteEdit):
            if edit.rows is not None:
                raise StoreError(f"the edit of {edit.site} holds for some rows of one batch; it is not kept in a file")
            site = [edit.site.unit, edit.site.layer, edit.site.index]
            row = {"kind": "site", "site": site, "op": edit.op, "strength": edit.strength}
            table.append(row | ({} if edit.when is None else {"when": edit.when}))
            arrays[f"{number}.value"] = np.atleast_1d(edit.value)
        elif isinstance(edit, WeightEdit):
            table.append({"kind": "weight", "parameter": edit.parameter})
            arrays |= _weight_arrays(f"{number}", edit)
        elif isinstance(edit, PromptEdit):
            table.append({"kind": "prompt", "template": edit.template, "then": edit.then, "opened": edit.opened, "most": edit.most})
        elif isinstance(edit, ContrastEdit):
            twins = [{"prefix": twin.prefix, "model": twin.model, "parameters": [e.parameter for e in twin.edits]} for twin in edit.twins]
            table.append({"kind": "contrast", "rule": edit.rule, "strength": edit.strength, "floor": edit.floor, "twins": twins})
            for t, twin in enumerate(edit.twins):
                for e, weight in enumerate(twin.edits):
                    arrays |= _weight_arrays(f"{number}.{t}.{e}", weight)
        else:
            raise StoreError(f"edits of kind {type(edit).__name__} have a file of their own")
    write_arrays(path, arrays or {"empty": np.zeros(1, np.float32)}, {"edits": json.dumps(table)})


def read_edits(path: Path) -> tuple[Edit, ...]:
    """Read what `write_edits` wrote; StoreError when it is truncated, altered, or of no kind that this version knows."""
    arrays, told = read_arrays(path), _metadata(path).get("edits", "null")
    with altered_in(path):
        table = json.loads(told)
        if table is None:
            raise StoreError(f"`{path}` holds no edits")
        return tuple(_edit_from(row, arrays, number, path) for number, row in enumerate(table))


def _edit_from(row: dict[str, Any], arrays: dict[str, np.ndarray], number: int, path: Path) -> Edit:
    kind = row["kind"]
    if kind == "site":
        unit, layer, index = row["site"]
        if unit not in get_args(Unit) or type(layer) is not int or type(index) is not int:
            raise StoreError(f"`{path}` is altered: {row['site']!r} is no place in a model; remove its folder and run again")
        value = arrays[f"{number}.value"]
        value = value[0] if value.shape == (1,) else value
        when = tuple(map(tuple, row["when"])) if "when" in row else None
        return SiteEdit(Site(unit, layer, index), row["op"], value, row["strength"], when=when)
    if kind == "weight":
        return _weight_from(arrays, f"{number}", row["parameter"])
    if kind == "prompt":
        return PromptEdit(row["template"], tuple(row["then"]), row["opened"], row["most"])
    if kind == "contrast":
        twins = [
            Twin(twin["prefix"], tuple(_weight_from(arrays, f"{number}.{t}.{e}", p) for e, p in enumerate(twin["parameters"])), twin["model"])
            for t, twin in enumerate(row["twins"])
        ]
        return ContrastEdit(row["rule"], tuple(twins), row["strength"], row["floor"])
    raise StoreError(f"`{path}` holds an edit of kind `{kind}`, which this version does not know")


def _metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="np") as opened:
            return dict(opened.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise StoreError(f"`{path}` is truncated or altered ({str(error)[:80]}); remove its folder and run again") from None


@contextmanager
def altered_in(where: str | Path) -> Iterator[None]:
    """Around what reads contents that only a record's own fields describe: StoreError where they are not as we write them."""
    try:
        yield
    except ALTERED as error:
        raise StoreError(f"`{where}` is altered or from another version ({first_words(error)}); remove it and run again") from None


def first_words(error: Exception) -> str:
    """The kind of an error and the beginning of what it says."""
    return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}" if str(error) else type(error).__name__


def _weight_arrays(name: str, edit: WeightEdit) -> dict[str, np.ndarray]:
    parts = {"left": edit.left, "right": edit.right, "dense": edit.dense}
    return {f"{name}.{part}": array for part, array in parts.items() if array is not None}


def _weight_from(arrays: dict[str, np.ndarray], name: str, parameter: str) -> WeightEdit:
    return WeightEdit(parameter, **{part: arrays.get(f"{name}.{part}") for part in ("left", "right", "dense")})


def write_token(path: Path, token: TokenEdit, metadata: dict[str, str]) -> None:
    """A token's vectors with its text."""
    arrays = {"vector": token.vector} | ({} if token.output is None else {"output": token.output})
    write_arrays(path, arrays, {"text": token.text, **metadata})


def read_token(path: Path) -> TokenEdit:
    """Read what `write_token` wrote; where a sidecar stands beside it, it has to be the token that the sidecar tells of."""
    arrays, text = read_arrays(path), _metadata(path).get("text", "")
    if sidecar_of(path).is_file():
        read_sidecar(path)
    if "vector" not in arrays:
        raise StoreError(f"`{path}` holds no token vector")
    return TokenEdit(text, arrays["vector"], arrays.get("output"))


def sidecar_of(token: Path) -> Path:
    """Where the JSON file beside a token's file lies."""
    return token.with_suffix(".json")


def read_sidecar(token: Path) -> dict[str, Any]:
    """What is told of a token beside its file: bias, base, hashes, seeds and the curves of its training.

    StoreError when it is missing, altered, or tells of another token than the one it stands beside.
    """
    path = sidecar_of(token)
    about = read_json(path)
    if not isinstance(about, dict) or "sha256" not in about:
        raise StoreError(f"`{path}` is altered: it tells of no token; remove it, or its folder, and run again")
    if about["sha256"] != sha256_of(token):
        raise StoreError(f"`{path}` tells of another token than `{token.name}` beside it; take both files from one run")
    return about


def sha256_of(path: Path) -> str:
    """A file's hash; StoreError where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise StoreError(f"cannot read `{path}`: {error.strerror or error}") from None


def attribution_of(arrays: dict[str, np.ndarray], method: str, unit: Unit = "head") -> Attribution:
    """An attribution from a stage's arrays."""
    return Attribution(method, unit, arrays["by_pair"])
