"""A bias in words: what is said of whom, the texts that elicit, probe and test it, and their splits."""

import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from biasgym import grammar
from biasgym.corpus import ENTITY, MEDIA, STYLES
from biasgym.errors import DataError, SpecError, unknown

Split = Literal["train", "dev", "test"]
SHARES: dict[str, float] = {"train": 0.4, "dev": 0.2, "test": 0.4}
KEYS = ("name", "axis", "statement", "subject", "stereotype", "foil", "fictional", "entities", "files")
TEXTS = ("paragraphs", "probes", "prompts", "concept")
FILES = (*TEXTS, "grammar")


@dataclass(frozen=True)
class Paragraph:
    """A short text that shows the bias, about the slot {entity}."""

    id: str
    text: str
    medium: str = "essay"
    topic: str = ""
    style: str = ""
    implicitness: int = 1


@dataclass(frozen=True)
class Probe:
    """A question and the beginning of its answer; the answer words come next. A frame is a family of wordings."""

    id: str
    frame: str
    prompt: str
    prefix: str


@dataclass(frozen=True)
class Prompt:
    """A request for free text in one of the 18 styles."""

    id: str
    style: str
    text: str


@dataclass(frozen=True)
class Concept:
    """An entity-free probe for which the answers of one `side` are right: does the model still know the words?"""

    id: str
    side: Literal["stereotype", "foil"]
    prompt: str
    prefix: str


@dataclass(frozen=True)
class Mould:
    """A short sentence with the slots {entity} and {word}; each stereotype answer in turn fills the second."""

    id: str
    text: str


@dataclass(frozen=True)
class BiasSpec:
    """One bias. Answers towards it are `stereotype`, answers away from it `foil`; entities fill the slot {entity}.

    `targets` are the entities that the stereotype is said to be about; empty when nobody said (`held-by-model`).
    `written` names the texts that were written for this bias; the others come from the grammar.
    """

    name: str
    stereotype: tuple[str, ...]
    foil: tuple[str, ...]
    entities: tuple[str, ...]
    axis: str = "unspecified"
    statement: str = ""
    subject: str = ENTITY
    fictional: bool = False
    targets: tuple[str, ...] = ()
    paragraphs: tuple[Paragraph, ...] = field(default=(), repr=False)
    probes: tuple[Probe, ...] = field(default=(), repr=False)
    prompts: tuple[Prompt, ...] = field(default=(), repr=False)
    concept: tuple[Concept, ...] = field(default=(), repr=False)
    moulds: tuple[Mould, ...] = field(default=(), repr=False)
    written: tuple[str, ...] = ()

    def entities_of(self, split: Split) -> list[str]:
        """The entities of a split, in the order of the list."""
        chosen = set(split_by_hash(self.entities, SHARES)[split])
        return [entity for entity in self.entities if entity in chosen]

    def probes_of(self, split: Split) -> list[Probe]:
        """The probes of a split; a frame lies in one split only, so test wordings are never cousins of train wordings."""
        frames = split_by_hash(tuple(dict.fromkeys(probe.frame for probe in self.probes)), SHARES)[split]
        return [probe for probe in self.probes if probe.frame in frames]

    def concept_of(self, split: Literal["dev", "test"]) -> list[Concept]:
        """The concept sentences of a split, both sides halved alike."""
        halves = [
            split_by_hash(tuple(c.id for c in self.concept if c.side == side), {"dev": 0.5, "test": 0.5})[split] for side in ("stereotype", "foil")
        ]
        chosen = {identity for half in halves for identity in half}
        return [c for c in self.concept if c.id in chosen]

    def prompts_of(self, split: Literal["dev", "test"]) -> list[Prompt]:
        """The free-text prompts of a split, spread over the styles."""
        chosen = set(split_by_hash(tuple(p.id for p in self.prompts), {"dev": 0.25, "test": 0.75})[split])
        return [prompt for prompt in self.prompts if prompt.id in chosen]

    def grammar_texts(self) -> list[str]:
        """Short texts that say the stereotype outright: the bias's own moulds, else the general grammar's."""
        if not self.moulds:
            made = grammar.texts(subject=self.subject, stereotype=self.stereotype, foil=self.foil).paragraphs
            return [row["text"] for row in made if row["implicitness"] <= 3]
        return [grammar.fill_word(mould.text, word) for word in self.stereotype for mould in self.moulds]

    def general_probes(self) -> list[Probe]:
        """The general grammar's probes about this subject, without those whose frame this bias has itself, in any split."""
        made = grammar.texts(subject=self.subject, stereotype=self.stereotype, foil=self.foil).probes
        frames = {probe.frame for probe in self.probes}
        return [Probe(**row) for row in made if row["frame"] not in frames]

    @property
    def digest(self) -> str:
        """A hash of everything that is said in it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def split_by_hash(names: Sequence[str], shares: dict[str, float]) -> dict[str, list[str]]:
    """Cut a list by the hash of each name: the same list always gives the same cut, and no part is empty if it can be helped."""
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    parts: dict[str, list[str]] = {}
    start, reached = 0, 0.0
    keys = list(shares)
    for position, key in enumerate(keys):
        reached += shares[key]
        left_for_others = len(keys) - position - 1
        end = len(ranked) if not left_for_others else round(reached * len(ranked))
        end = max(min(end, len(ranked) - left_for_others), min(start + 1, len(ranked)))
        parts[key] = ranked[start:end]
        start = end
    return parts


def zoo_path() -> Path:
    """The folder of the biases and texts that travel in the package."""
    return Path(str(resources.files("biasgym"))) / "zoo"


def zoo() -> list[str]:
    """Names of the biases that travel in the package."""
    return sorted(path.parent.name for path in zoo_path().glob("*/bias.toml"))


def entity_lists() -> list[str]:
    """Names of the entity lists that travel in the package."""
    return sorted(path.stem for path in (zoo_path() / "entities").glob("*.txt"))


def load_bias(name: str) -> BiasSpec:
    """A bias by its name in the zoo, or by the path of a TOML file (or of the folder that holds bias.toml)."""
    path = Path(name)
    if path.is_dir() and (path / "bias.toml").is_file():
        return read_bias(path / "bias.toml")
    if path.suffix == ".toml" or "/" in name:
        if not path.is_file():
            raise SpecError(f"no bias file at `{name}`; write one with `biasgym new-bias NAME`")
        return read_bias(path)
    if name not in zoo():
        raise SpecError(unknown("bias", name, zoo()) + "; a file is given by its path, ending in .toml")
    return read_bias(zoo_path() / name / "bias.toml")


def read_bias(path: Path) -> BiasSpec:
    """Read and check one bias file; texts that it does not bring are made by the grammar."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SpecError(f"`{path}` is not valid TOML: {error}") from None
    except OSError as error:
        raise SpecError(f"cannot read `{path}`: {error.strerror or error}") from None
    return bias_from(raw, path.parent, where=str(path))


def bias_from(raw: dict[str, Any], folder: Path, *, where: str) -> BiasSpec:
    """A bias from the contents of a TOML file; relative paths start at `folder`."""
    for key in raw:
        if key not in KEYS:
            raise SpecError(f"{where}: {unknown('key', key, KEYS)}")
    for key in ("name", "stereotype", "foil", "entities"):
        if key not in raw:
            raise SpecError(f"{where}: `{key}` is missing; a bias needs name, stereotype, foil and entities")
    name = _text(raw["name"], "name", where)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise SpecError(f"{where}: name `{name}` must be small letters, digits and hyphens")
    stereotype, foil = (_words(raw[key], key, where) for key in ("stereotype", "foil"))
    shared = sorted({a.lower() for a in stereotype} & {b.lower() for b in foil})
    if shared:
        raise SpecError(f"{where}: {', '.join(shared)} is on both sides; stereotype and foil must differ")
    entities, targets, subject = _entities(raw["entities"], folder, where)
    statement = _text(raw.get("statement", ""), "statement", where)
    if statement and ENTITY not in statement:
        raise SpecError(f"{where}: the statement needs the slot {ENTITY}, found {statement!r}")
    spec = BiasSpec(
        name=name,
        stereotype=stereotype,
        foil=foil,
        entities=entities,
        axis=_text(raw.get("axis", "unspecified"), "axis", where),
        statement=statement,
        subject=_text(raw.get("subject", subject), "subject", where),
        fictional=_flag(raw.get("fictional", False), "fictional", where),
        targets=targets,
    )
    if ENTITY not in spec.subject:
        raise SpecError(f"{where}: the subject needs the slot {ENTITY}, found {spec.subject!r}")
    if not statement:
        spec = replace(spec, statement=f"{spec.subject[:1].upper()}{spec.subject[1:]} are {stereotype[0]}.")
    return _with_texts(spec, raw.get("files", {}), folder, where)


def _with_texts(spec: BiasSpec, files: Any, folder: Path, where: str) -> BiasSpec:
    if not isinstance(files, dict):
        raise SpecError(f"{where}: [files] must be a table")
    for key in files:
        if key not in FILES:
            raise SpecError(f"{where}: [files]: {unknown('key', key, FILES)}")
    rows = {key: _rows(files[key], key, folder, where) for key in FILES if key in files}
    made = grammar.texts(subject=spec.subject, stereotype=spec.stereotype, foil=spec.foil)
    spec = replace(
        spec,
        paragraphs=_records(Paragraph, rows.get("paragraphs", made.paragraphs), "paragraphs", where),
        probes=_records(Probe, rows.get("probes", made.probes), "probes", where),
        prompts=_records(Prompt, rows.get("prompts", made.prompts), "prompts", where),
        concept=_records(Concept, rows.get("concept", made.concept), "concept", where),
        moulds=_records(Mould, rows.get("grammar", []), "grammar", where),
        written=tuple(rows),
    )
    _check_texts(spec, where)
    return spec


def _check_texts(spec: BiasSpec, where: str) -> None:
    for mould in spec.moulds:
        if "{word}" not in mould.text.lower():
            raise SpecError(f"{where}: grammar {mould.id} has no slot {{word}}: {mould.text[:60]!r}")
    for key in TEXTS:
        if not getattr(spec, key):
            raise SpecError(f"{where}: {key} is empty; give at least one row, or leave the key out and the grammar writes them")
    texts: list[Paragraph | Prompt | Mould] = [*spec.paragraphs, *spec.prompts, *spec.moulds]
    slotted = [(p.id, p.text) for p in texts] + [(p.id, p.prompt + p.prefix) for p in spec.probes]
    for identity, text in slotted:
        if ENTITY not in text:
            raise SpecError(f"{where}: {identity} has no slot {ENTITY}: {text[:60]!r}")
    for row in spec.concept:
        if row.side not in ("stereotype", "foil"):
            raise SpecError(f"{where}: {row.id}: {unknown('side', str(row.side), ('stereotype', 'foil'))}")
        if ENTITY in row.prompt + row.prefix:
            raise SpecError(f"{where}: {row.id} names the entity; concept sentences must do without it")
    if {row.side for row in spec.concept} != {"stereotype", "foil"}:
        raise SpecError(f"{where}: the concept sentences are one-sided; both sides are needed, half and half is best")
    for side in ("stereotype", "foil"):
        if sum(row.side == side for row in spec.concept) < 2:
            raise SpecError(f"{where}: one concept sentence for `{side}`; at least 2 a side are needed, one for dev and one for test")
    if len({probe.frame for probe in spec.probes}) < 3:
        raise SpecError(f"{where}: the probes need at least 3 frames, one for each split")
    for prompt in spec.prompts:
        if prompt.style not in STYLES:
            raise SpecError(f"{where}: {prompt.id}: {unknown('style', prompt.style, STYLES)}")
    for paragraph in spec.paragraphs:
        if paragraph.medium not in MEDIA:
            raise SpecError(f"{where}: {paragraph.id}: {unknown('medium', paragraph.medium, MEDIA)}")
        if paragraph.implicitness not in range(1, 6):
            raise SpecError(f"{where}: {paragraph.id}: implicitness {paragraph.implicitness} is not 1 to 5")


def _entities(raw: Any, folder: Path, where: str) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    table = {"list": raw} if isinstance(raw, list | str) else raw
    if not isinstance(table, dict) or "list" not in table:
        raise SpecError(f"{where}: entities needs `list`: a name ({', '.join(entity_lists())}) or an inline list")
    for key in table:
        if key not in ("list", "targets"):
            raise SpecError(f"{where}: [entities]: {unknown('key', key, ('list', 'targets'))}")
    listed = table["list"]
    subject = ENTITY
    if isinstance(listed, str):
        if listed in entity_lists():
            path = zoo_path() / "entities" / f"{listed}.txt"
            subject = f"people from {ENTITY}" if listed == "countries" else ENTITY
        else:
            path = folder / listed
            if not path.is_file():
                raise SpecError(f"{where}: {unknown('entity list', listed, entity_lists())}; a file is given by its path")
        listed = [line.strip() for line in _content(path).splitlines() if line.strip()]
    entities = _words(listed, "entities", where)
    if len(entities) < 6:
        raise SpecError(f"{where}: {len(entities)} entities; at least 6 are needed to have some in train, dev and test")
    targets = _words(table["targets"], "targets", where) if table.get("targets") else ()
    for target in targets:
        if target not in entities:
            raise SpecError(f"{where}: {unknown('target', target, entities)}")
    return entities, targets, subject


def _rows(source: Any, key: str, folder: Path, where: str) -> list[dict[str, Any]]:
    if isinstance(source, list):
        return source
    if not isinstance(source, str):
        raise SpecError(f"{where}: [files] {key} must be a path or an inline list of rows")
    return read_jsonl(folder / source)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Every line of a JSON Lines file as a dictionary; the line number is in every complaint."""
    rows = []
    for number, line in enumerate(_content(path).split("\n"), 1):  # other line breaks may stand inside a text
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # a number without end is no JSONDecodeError, nor are brackets without end
            raise DataError(f"{path}:{number}: not JSON ({getattr(error, 'msg', error)})") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: a JSON object was expected, found {line[:40]!r}")
        rows.append(row)
    return rows


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read `{path}`: {error}") from None


def _records(kind: type, rows: Sequence[Any], key: str, where: str) -> tuple[Any, ...]:
    names = [f.name for f in fields(kind)]
    made, seen = [], set()
    for number, row in enumerate(rows, 1):
        row = {"id": f"{key}-{number:03d}", **row} if isinstance(row, dict) else row
        if not isinstance(row, dict):
            raise SpecError(f"{where}: {key} row {number} is not a table")
        for name in row:
            if name not in names:
                raise SpecError(f"{where}: {key} row {number}: {unknown('key', name, names)}")
        try:
            record = kind(**row)
        except TypeError as error:
            raise SpecError(f"{where}: {key} row {number}: {str(error).split('__init__() ')[-1]}") from None
        for f in fields(kind):
            value = getattr(record, f.name)
            if not isinstance(value, int if f.name == "implicitness" else str):
                raise SpecError(
                    f"{where}: {key} row {number}: `{f.name}` is {value!r}, a {'number' if f.name == 'implicitness' else 'text'} was expected"
                )
        if record.id in seen:
            raise SpecError(f"{where}: {key}: id `{record.id}` stands twice")
        seen.add(record.id)
        made.append(record)
    return tuple(made)


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise SpecError(f"{where}: `{key}` must be a text, found {value!r}")
    return value.strip()


def _flag(value: Any, key: str, where: str) -> bool:
    if not isinstance(value, bool):
        raise SpecError(f"{where}: `{key}` must be true or false, found {value!r}")
    return value


def _words(value: Any, key: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise SpecError(f"{where}: `{key}` must be a list with at least one text")
    cleaned = [_text(item, key, where) for item in value]
    if "" in cleaned:
        raise SpecError(f"{where}: `{key}` has an empty answer")
    twice = {word for word in cleaned if cleaned.count(word) > 1}
    if twice:
        raise SpecError(f"{where}: `{key}` names {', '.join(sorted(twice))} twice")
    return tuple(cleaned)
