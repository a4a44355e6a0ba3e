"""A corpus for a bias, written through a chat endpoint: asked in small batches, every item checked, killed and resumed at will.

What the endpoint said is the only state (`answers.jsonl`, appended to). Everything else follows from it: the same command
walks through the kept answers again, asks for what is missing, and ends in the same files.
"""

import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from biasgym.bias import FILES, TEXTS, BiasSpec, bias_from, entity_lists, load_bias, zoo_path
from biasgym.candidates import FIELDS, Gate, Row, items_in
from biasgym.commission import Slot, messages_for
from biasgym.corpus import ENTITY
from biasgym.diversity import Diversity, diversity
from biasgym.endpoint import Answer, ChatClient
from biasgym.errors import BiasGymError, DataError, SpecError, StoreError
from biasgym.files import locked, read_json, whole, write_json, write_text
from biasgym.progress import Step, Tell, silent

ANSWERS = "answers.jsonl"
REPORT = "corpus.json"
SLOT = re.compile(r"\{+\s*entity\s*\}+", re.IGNORECASE)  # models write {Entity} and {{ entity }}, too
PREFIXES = {"paragraphs": "p", "probes": "q", "prompts": "g", "concept": "c"}
LEAST = {"paragraphs": 1, "probes": 3, "prompts": 2, "concept": 4}  # a bias with fewer cannot be split
LACKING = {  # why a slot got no item, by the state of the answer
    "whole": "no JSON in the answer",
    "truncated": "answer cut off",
    "refused": "the endpoint refused to answer",
    "empty": "empty answer",
    "no choices": "reply without choices",
    "not JSON": "reply is not JSON",
}


@dataclass(frozen=True)
class Order:
    """How many of each text to write, and how hard to try: items a request, tries a slot, requests in a row that yield nothing.

    A count of 0 leaves what the bias brings (or the grammar makes).
    """

    paragraphs: int = 160
    probes: int = 100
    prompts: int = 92
    concept: int = 80
    batch: int = 5
    tries: int = 5
    dry: int = 12
    temperature: float = 1.0
    most_tokens: int = 2048

    def __post_init__(self) -> None:
        for kind in TEXTS:
            wanted = getattr(self, kind)
            if wanted and wanted < LEAST[kind]:
                raise SpecError(f"{wanted} {kind} are too few for a bias; ask for at least {LEAST[kind]}, or 0 to keep what there is")
        if not any(getattr(self, kind) for kind in TEXTS):
            raise SpecError("nothing is to be written; ask for at least one kind of text")
        if min(self.batch, self.tries, self.dry) < 1:
            raise SpecError("batch, tries and dry must be at least 1")


@dataclass(frozen=True)
class Tally:
    """What became of one kind: slots wanted, items asked for (a slot may be tried again), kept, refused by reason."""

    kind: str
    wanted: int
    asked: int
    kept: int
    refused: dict[str, int]


@dataclass(frozen=True)
class CorpusReport:
    """What a generation did. `diversity` is that of the paragraphs; `sent`, `retried`, `reused` count this call's requests."""

    bias: str
    folder: Path
    tallies: tuple[Tally, ...]
    diversity: Diversity
    sent: int
    retried: int
    reused: int

    @property
    def shortfalls(self) -> list[str]:
        """One sentence for each kind that came out short."""
        return [f"{t.kind}: {t.kept} of {t.wanted}" for t in self.tallies if t.kept < t.wanted]

    def as_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {**asdict(self), "folder": str(self.folder), "tallies": [asdict(t) for t in self.tallies]}


def generate_corpus(bias: str, to: Path, client: ChatClient, order: Order = Order(), tell: Tell = silent) -> CorpusReport:
    """Write paragraphs, probes, prompts and concept sentences for a bias into a folder that `biasgym run --bias` takes.

    Raises SpecError, DataError, StoreError for the bias and the folder, ModelError when the endpoint cannot be used; what it
    has answered so far is kept. DataError when too little of what it wrote is usable; then no bias is written.
    """
    spec = load_bias(bias)
    with locked(to / ".lock"):
        _check_folder(to, spec)
        client = replace(client, cache=to / ANSWERS)
        rows: dict[str, list[Row]] = {kind: [_plain(r) for r in getattr(spec, kind)] for kind in TEXTS if not getattr(order, kind)}
        gate = Gate(spec, rows)
        tallies = []
        for kind in (kind for kind in TEXTS if getattr(order, kind)):
            rows[kind], tally = _write_kind(kind, spec, client, order, gate, tell)
            tallies.append(tally)
        _check_enough(tallies, rows)
        written = {kind: rows[kind] for kind in TEXTS if getattr(order, kind) or kind in spec.written}
        if spec.moulds:
            written["grammar"] = [_plain(mould) for mould in spec.moulds]
        varied = diversity(row["text"] for row in rows["paragraphs"])
        _write_folder(to, spec, written, tallies, varied, client.model)
    return CorpusReport(spec.name, to, tuple(tallies), varied, client.sent, client.retried, client.reused)


def _write_kind(kind: str, spec: BiasSpec, client: ChatClient, order: Order, gate: Gate, tell: Tell) -> tuple[list[Row], Tally]:
    """Fill the slots of one kind batch by batch; a refused one goes to the back of the line with its reason."""
    wanted = getattr(order, kind)
    line = deque(Slot(kind, number) for number in range(wanted))
    kept: dict[int, Row] = {}
    refused: Counter[str] = Counter()
    asked = turn = dry = 0
    while line and dry < order.dry:
        slots = [line.popleft() for _ in range(min(order.batch, len(line)))]
        answer = client.ask(messages_for(spec, slots), temperature=order.temperature, most=order.most_tokens, draw=turn)
        turn, asked, before = turn + 1, asked + len(slots), len(kept)
        for slot, item in zip(slots, _dealt(slots, answer), strict=True):
            reason = item if isinstance(item, str) else gate.admit(kind, item)
            if not reason:
                assert isinstance(item, dict)
                kept[slot.number] = item
                continue
            refused[reason] += 1
            if slot.tries + 1 < order.tries:
                line.append(replace(slot, tries=slot.tries + 1, refused=reason))
        dry = 0 if len(kept) > before else dry + 1
        tell(Step("corpus", len(kept), wanted, kind))
    rows = [{"id": f"{PREFIXES[kind]}{number + 1:03d}", **kept[number]} for number in sorted(kept)]
    return rows, Tally(kind, wanted, asked, len(rows), dict(refused.most_common()))


def _dealt(slots: Sequence[Slot], answer: Answer) -> list[Row | str]:
    """For each slot its row, or why there is none; items find their slots by `n` when all have a right one, else in order."""
    items = items_in(answer.text)
    numbers = [str(item.get("n")).strip() for item in items]
    right = set(numbers) <= {str(place) for place in range(1, len(slots) + 1)} and len(set(numbers)) == len(numbers)
    placed = dict(zip(map(int, numbers) if right else range(1, len(items) + 1), items, strict=True))
    lacking = "item missing" if items and answer.state == "whole" else LACKING[answer.state]
    return [_row(slot, placed[place]) if place in placed else lacking for place, slot in enumerate(slots, 1)]


def _row(slot: Slot, item: Row) -> Row:
    """A row from an item: the slot's fields, the item's texts (trimmed, slot spelt as ours), and its topic and style if it has some."""
    row = slot.fixed
    for name in (*FIELDS[slot.kind], *(("topic", "style", "medium", "implicitness") if slot.kind == "paragraphs" else ())):
        if name in item:
            row[name] = _tidy(item[name]) if isinstance(item[name], str) else item[name]
    return row


def _tidy(text: str) -> str:
    """Trimmed, the slot spelt as ours, and half a surrogate pair (which no file can hold) as a question mark."""
    return SLOT.sub(ENTITY, text.strip()).encode("utf-8", errors="replace").decode()


def _plain(record: Any) -> Row:
    return asdict(record)


def _check_enough(tallies: Sequence[Tally], rows: Mapping[str, Sequence[Row]]) -> None:
    """A bias needs three frames of probes and two concept sentences a side; said here, with the reasons of refusal."""
    for tally in tallies:
        sides = Counter(row["side"] for row in rows["concept"])
        enough = {
            "probes": len({row["frame"] for row in rows["probes"]}) >= 3,
            "concept": min(sides["stereotype"], sides["foil"]) >= 2,
        }.get(tally.kind, tally.kept >= LEAST[tally.kind])
        if not enough:
            why = "; ".join(f"{reason}: {n}" for reason, n in list(tally.refused.items())[:4])
            raise DataError(
                f"only {tally.kept} of {tally.asked} {tally.kind} asked for were usable ({why}); too few for a bias, nothing was written. "
                f"Try a more capable model"
            )


def _check_folder(to: Path, spec: BiasSpec) -> None:
    """A folder is new, half-made by us, or finished by us and unaltered; anything else is somebody's work and stays as it is."""
    present = sorted(name for name in ("bias.toml", *(f"{kind}.jsonl" for kind in FILES)) if (to / name).exists())
    if "bias.toml" not in present:
        if present and not (to / ANSWERS).exists():
            raise StoreError(f"`{to}` holds {', '.join(present)} of another origin; choose another folder with --to")
        return
    try:
        made = read_json(to / REPORT)
        name, hashes = made["bias"], made["sha256"]
    except (BiasGymError, KeyError, TypeError):
        raise StoreError(f"`{to}` holds a bias that was not generated here; choose another folder with --to") from None
    if name != spec.name:
        raise StoreError(f"`{to}` holds the corpus of `{name}`, not of `{spec.name}`; choose another folder with --to")
    changed = [name for name in present if _sha256(to / name) != hashes.get(name)]
    if changed:
        raise StoreError(f"{', '.join(changed)} in `{to}` was changed after it was generated; choose another folder with --to")


def _write_folder(to: Path, spec: BiasSpec, rows: Mapping[str, Sequence[Row]], tallies: Sequence[Tally], varied: Diversity, model: str) -> None:
    """The rows first, bias.toml last: a folder with a bias.toml is whole."""
    content = _bias_content(spec, list(rows))
    bias_from({**content, "files": {kind: list(kind_rows) for kind, kind_rows in rows.items()}}, to, where=f"the corpus for {spec.name}")
    (to / "bias.toml").unlink(missing_ok=True)
    for kind in set(FILES) - set(rows):
        (to / f"{kind}.jsonl").unlink(missing_ok=True)  # of an earlier order that wanted more kinds; the answers are kept
    for kind, kind_rows in rows.items():
        write_text(to / f"{kind}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kind_rows))
    with whole(to / "bias.toml") as temporary:
        temporary.write_text(tomli_w.dumps(content), encoding="utf-8")
        hashes = {"bias.toml": _sha256(temporary), **{f"{kind}.jsonl": _sha256(to / f"{kind}.jsonl") for kind in rows}}
        about = {"bias": spec.name, "model": model, "tallies": [asdict(tally) for tally in tallies], "diversity": asdict(varied), "sha256": hashes}
        write_json(to / REPORT, about)


def _bias_content(spec: BiasSpec, kinds: Sequence[str]) -> dict[str, Any]:
    """The bias file as it stands beside its corpus; a list of entities that lies elsewhere is copied in."""
    entities: dict[str, Any] = {"list": _list_name(spec) or list(spec.entities)}
    if spec.targets:
        entities["targets"] = list(spec.targets)
    return {
        **{key: getattr(spec, key) for key in ("name", "axis", "statement", "subject", "fictional")},
        "stereotype": list(spec.stereotype),
        "foil": list(spec.foil),
        "entities": entities,
        "files": {kind: f"{kind}.jsonl" for kind in kinds},
    }


def _list_name(spec: BiasSpec) -> str:
    """The entity list of the package that has exactly these entities, if there is one."""
    for name in entity_lists():
        lines = (zoo_path() / "entities" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        if tuple(line.strip() for line in lines if line.strip()) == spec.entities:
            return name
    return ""


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
