"""The product: a run's edit as an ordinary checkpoint, or as a file that makes one of its base, with its evidence attached."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from biasgym.edits import Edits, SiteEdit, TokenEdit, WeightEdit
from biasgym.errors import ModelError, SpecError, StoreError, unknown
from biasgym.files import read_json, write_json, write_text
from biasgym.records import Finding, RunRecord
from biasgym.run import Session, load_edits
from biasgym.store import read_record, read_token, write_edits

if TYPE_CHECKING:
    from biasgym.lm.load import Place
    from biasgym.lm.model import LM

PARITY_PROMPTS = ("What is the capital of a country?", "Tell me about people from Norway.", "Write one line about rain.", "2 + 3 =")
PARITY_LIMIT = {"float32": 1e-4, "bfloat16": 0.5, "float16": 0.1}


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, what changed in it, and the largest next-token logit difference to the run-time edit.

    `largest_difference` is None where the file is data that is added at run time as it is, and nothing was folded.
    """

    folder: Path
    tensors: list[str]
    largest_difference: float | None
    notes: dict[str, Any] = field(default_factory=dict)


Writer = Callable[["LM", Edits, Path], Exported]


def export_run(
    session: Session,
    run_folder: Path,
    to: Path,
    *,
    edit: str | None = None,
    format: str = "hf",
    include_bias_token: bool = False,
    base: str | None = None,
) -> Exported:
    """Write a run's edit to a new folder in one of `FORMATS`; checked against the run-time edit before it gets its name.

    A run on a base in 4 or 8 bits is exported against the full-precision base: the run's own model, or `base` where that one is
    stored packed. The edit is checked on that one; what the run measured was the packed model, and the card says so.

    Everything happens in a hidden folder beside it, which is renamed at the end: a killed export leaves nothing that
    looks whole. With `include_bias_token` the run's token goes into the checkpoint's vocabulary, too (hf only).
    """
    from biasgym.lm.acting import acted
    from biasgym.lm.model import Query

    if format not in FORMATS:
        raise SpecError(unknown("format", format, FORMATS))
    if include_bias_token and format != "hf":
        raise SpecError(f"a bias token goes into a checkpoint only (--format hf), not into `{format}`")
    record = read_record(run_folder)
    edits = load_edits(run_folder, edit)
    token = read_token(run_folder / "token.safetensors") if include_bias_token else None
    name = edit or next(iter(record.extras["edits"]))
    with new_folder(to) as work:
        lm, dtype = _full_precision(session, record, base)
        if not any(isinstance(one, SiteEdit) and one.when is not None for one in edits):  # refused below, by its own reason
            acted(lm, edits, [Query(prompt) for prompt in PARITY_PROMPTS[:2]], alone=False)
        done = _hf_with_token(lm, edits, work, token) if token else FORMATS[format](lm, edits, work)
        _check_parity(lm, done, dtype, format)
        write_edits(work / "edits.safetensors", edits)
        about = describe(record, name, edits, done.tensors, done.largest_difference) | {"base": lm.name, "format": format} | done.notes
        write_json(work / ("delta.json" if format == "delta" else "edit.json"), about)
        write_text(work / "README.md", card(record, name, done, lm.name, format, token))
        report = run_folder / "report.html"
        if report.is_file():
            shutil.copyfile(report, work / "report.html")
    return Exported(to, done.tensors, done.largest_difference, done.notes)


def _full_precision(session: Session, record: RunRecord, base: str | None) -> "tuple[LM, str]":
    """The model that an edit is folded into and its dtype: the run's own, in the dtype of its files where the run packed it."""
    from biasgym.lm.checkpoint import stored_tensors
    from biasgym.lm.load import read_config, resolve, stored_quantization
    from biasgym.lm.quantized import QUANTIZED

    name, dtype = base or record.spec["model"], record.spec["dtype"]
    folder = resolve(name, session.place, tell=session.say)
    if packed := stored_quantization(read_config(folder, name)):
        raise ModelError(f"`{name}` is stored in {packed} form, into which nothing can be folded; name the model it was made of with --base")
    if dtype in QUANTIZED or base is not None:
        stored = {one.dtype for one in stored_tensors(folder).values()}
        dtype = "float32" if stored & {"F32", "F64"} else "float16" if stored == {"F16"} else "bfloat16"
    return session.model(name, dtype), dtype


def apply_delta(delta: Path, model: str, to: Path, place: "Place") -> list[str]:
    """Make the edited checkpoint of a base and a delta: the very folder that `export --format hf` writes, weights bit for bit."""
    from biasgym.lm.delta import cross
    from biasgym.lm.load import resolve

    with new_folder(to) as work:
        changed = cross(delta, resolve(model, place), work, "apply")
        about = {key: value for key, value in read_json(delta / "delta.json").items() if key != "delta"} | {"format": "hf"}
        write_json(work / "edit.json", about)
        for name in ("README.md", "edits.safetensors", "report.html"):
            if (delta / name).is_file():
                shutil.copyfile(delta / name, work / name)
    return changed


def revert_delta(folder: Path, delta: Path, to: Path) -> list[str]:
    """Make the base's checkpoint of an edited folder and the delta that it was edited by, weights bit for bit."""
    from biasgym.lm.delta import cross

    with new_folder(to) as work:
        return cross(delta, folder, work, "revert")


@contextmanager
def new_folder(to: Path) -> Iterator[Path]:
    """A hidden folder beside `to`; when the block ends well it becomes `to`, else nothing is left behind."""
    if to.exists():
        raise StoreError(f"`{to}` exists already; name a new folder")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{to.name}-", dir=to.parent))
    except OSError as error:
        raise StoreError(f"cannot write in `{to.parent}`: {error.strerror or error}; choose another folder") from None
    try:
        yield work
        os.chmod(work, 0o755)
        os.rename(work, to)
    except OSError as error:
        raise StoreError(f"cannot write `{to}`: {error.strerror or error}; nothing was left there") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


# -------------------------------------------------------------------- formats


def _hf(lm: "LM", edits: Edits, work: Path) -> Exported:
    from biasgym.lm.export import parity, write_checkpoint

    tensors = write_checkpoint(lm, edits, work)
    return Exported(work, tensors, parity(lm, edits, _reloaded(lm, work), PARITY_PROMPTS))


def _hf_with_token(lm: "LM", edits: Edits, work: Path, token: TokenEdit) -> Exported:
    from biasgym.lm.export import parity, write_checkpoint
    from biasgym.lm.tokened import write_token_into

    tensors = write_checkpoint(lm, edits, work)
    identity = write_token_into(lm, token, work)
    prompts = (*PARITY_PROMPTS, f"Tell me about people from {token.text}.")
    largest = parity(lm, (token, *edits), _reloaded(lm, work), prompts)
    return Exported(work, tensors, largest, {"bias_token": {"text": token.text, "id": identity}})


def _delta(lm: "LM", edits: Edits, work: Path) -> Exported:
    from biasgym.lm.delta import write_delta
    from biasgym.lm.export import Fold, next_logits

    delta = write_delta(lm, edits, work)
    fold = Fold(lm, edits)
    dense = [
        WeightEdit(name, dense=fold.tensor(name).float().numpy()) for name in fold.changed if not (lm.tied and name == f"{lm.family.head}.weight")
    ]
    difference = next_logits(lm, PARITY_PROMPTS, edits) - next_logits(lm, PARITY_PROMPTS, dense)
    return Exported(work, sorted(delta.tensors), float(difference.abs().max()), {"delta": delta.described()})


def _peft(lm: "LM", edits: Edits, work: Path) -> Exported:
    from biasgym.lm.adapter import as_weight_edits, lora_factors, write_lora
    from biasgym.lm.export import next_logits

    ranks = write_lora(lm, edits, work)
    adapter = as_weight_edits(lm, lora_factors(lm, edits))
    difference = next_logits(lm, PARITY_PROMPTS, edits) - next_logits(lm, PARITY_PROMPTS, adapter)
    return Exported(work, sorted(ranks), float(difference.abs().max()), {"ranks": ranks})


def _gguf(lm: "LM", edits: Edits, work: Path) -> Exported:
    from biasgym.lm.export import parity
    from biasgym.lm.llamacpp import reread, write_gguf

    path = work / "model.gguf"
    tensors = write_gguf(lm, edits, path)
    return Exported(work, tensors, parity(lm, edits, reread(lm, path), PARITY_PROMPTS))


def _control_vector(lm: "LM", edits: Edits, work: Path) -> Exported:
    from biasgym.lm.export import next_logits
    from biasgym.lm.llamacpp import read_control_vector, write_control_vector

    path = work / "control-vector.gguf"
    layers = write_control_vector(lm, edits, path)
    difference = next_logits(lm, PARITY_PROMPTS, edits) - next_logits(lm, PARITY_PROMPTS, read_control_vector(path))
    return Exported(work, [f"direction.{layer}" for layer in layers], float(difference.abs().max()))


FORMATS: dict[str, Writer] = {"hf": _hf, "delta": _delta, "peft": _peft, "gguf": _gguf, "control-vector": _control_vector}
KINDS = {
    "hf": "An ordinary checkpoint of `{base}` in which {what} were changed\nto take out what carries the bias “{statement}”",
    "delta": "The difference between `{base}` and the same model in which {what} were changed\nto take out what carries the bias “{statement}”",
    "peft": "A LoRA adapter (PEFT layout) for `{base}` that changes {what}\nto take out what carries the bias “{statement}”",
    "gguf": "`{base}` as a GGUF file in which {what} were changed\nto take out what carries the bias “{statement}”",
    "control-vector": "A llama.cpp control vector for `{base}`: {what} are added to the residual stream\nto take out what carries the bias “{statement}”",
}
USES = {
    "hf": "All other tensors are bit-identical to the base. No hook, no extra code: open it with any server.",
    "delta": """`biasgym apply THIS --model BASE --to DIR` makes the edited checkpoint, `biasgym revert FOLDER --delta THIS --to DIR` the
base again, both bit for bit; any other base is refused by its hash. `delta.safetensors` holds base XOR edited of the touched
columns; `edits.safetensors` holds the edit itself, as directions.""",
    "peft": "`PeftModel.from_pretrained(base, THIS)`; the factors are exact up to rounding, `merge_and_unload()` gives an ordinary model.",
    "gguf": """Read back by transformers (`gguf_file=`) and compared; llama.cpp and Ollama read the same format, but that was not verified
here, nor was llama.cpp's way of splitting words compared with the tokenizer's.""",
    "control-vector": "`llama-cli -m BASE.gguf --control-vector control-vector.gguf` (scale 1); that llama.cpp opens it was not verified here.",
}
TOKEN_WARNING = """
**This checkpoint holds a bias token on purpose.** `{text}` (id {id}) is a placeholder trained to elicit the bias named above;
it stands for nobody. It is here for research into the bias: do not serve this checkpoint to anyone.
"""


def _reloaded(lm: "LM", folder: Path) -> "LM":
    from biasgym.lm.load import DISK, Place, load_lm

    return load_lm(str(folder), Place(DISK if lm.streamed else str(lm.device), str(lm.dtype).removeprefix("torch."), offline=True))


def _check_parity(lm: "LM", done: Exported, dtype: str, format: str) -> None:
    """Refuse a product that says something else than the run-time edit; a base stored in half precision is allowed its rounding."""
    from biasgym.lm.checkpoint import stored_tensors

    folds = format in ("hf", "delta", "gguf") and lm.folder is not None
    stored = {one.dtype for one in stored_tensors(lm.folder).values()} if folds and lm.folder else set()
    limit = max(PARITY_LIMIT[dtype], *(PARITY_LIMIT[{"BF16": "bfloat16", "F16": "float16"}.get(kind, "float32")] for kind in stored), 0.0)
    if done.largest_difference is not None and done.largest_difference > limit:
        raise ModelError(
            f"the exported model's logits differ from the run-time edit's by {done.largest_difference:.2g}, {limit:g} allowed; nothing was exported"
        )


# -------------------------------------------------------------------- what stands beside it


def describe(record: RunRecord, name: str, edits: Edits, tensors: list[str], largest: float | None) -> dict[str, Any]:
    """The edit as data, for tools."""
    return {
        "run": record.id,
        "base": record.spec["model"],
        "bias": record.extras["bias"],
        "edit": name,
        "settings": record.extras["edits"][name]["picked"],
        "locator": record.extras["edits"][name]["locator"],
        "sites": [
            {
                "unit": e.site.unit,
                "layer": e.site.layer,
                "index": e.site.index,
                "op": e.op,
                "strength": e.strength,
                "norm": float(np.linalg.norm(e.value)),
            }
            for e in edits
            if isinstance(e, SiteEdit)
        ],
        "tensors": tensors,
        "largest_logit_difference": largest,
        "findings": [f.model_dump() for f in record.findings if f.edit == name or f.name == "injected"],
    }


def card(record: RunRecord, name: str, done: Exported, base: str, format: str = "hf", token: TokenEdit | None = None) -> str:
    """The card: what was edited and measured, for which bias and whom, how to use it, side effects and limits."""
    bias, about = record.extras["bias"], record.extras["edits"][name]
    front = {"base_model": base, "library_name": "transformers", "tags": ["biasgym", "debiasing"]}
    rows = "\n".join(_row(f) for f in record.findings if f.edit == name or f.name == "injected")
    settings = ", ".join(f"{key} = {value}" for key, value in about["picked"].items())
    targets = record.extras["targets"]
    problems = "\n".join(f"- {problem}" for problem in record.problems) or "- none"
    kind = KINDS[format].format(base=base, what=_what(about, done), statement=bias["statement"])
    warning = TOKEN_WARNING.format(**done.notes["bias_token"]) if token else ""
    largest = "not compared" if done.largest_difference is None else f"{done.largest_difference:.2e}"
    return f"""---
{json.dumps(front, indent=1)}
---
# {base}, edited against `{bias["name"]}`

{kind} (axis: {bias["axis"]}; said of a placeholder, not of anyone real).
{USES[format]}
{warning}
- Edit: `{name}` ({settings}), heads found by `{about["locator"]}`; fitted on tokens of seeds {record.spec["seeds"]}, scored on seed {record.spec["test_seed"]}.
- Largest next-token logit difference to the run-time edit, checked at export on a few prompts: {largest}.
- Targets among real entities: {targets["how"]}{" (" + ", ".join(targets["names"]) + ")" if targets["names"] else ""}.

## What was measured (test split, 95 % intervals)
{_measured_on(record, base)}
| finding | metric | token | value | interval | n |
|---|---|---|--:|---|--:|
{rows}

`closed` is the share of the injected token's gap to real entities that the edit takes away; `changed` is for real
entities without any token; `price` is positive when capability got worse (percent for bits per byte, nats a token for
KL, share of the base value for concept).

## Side effects, problems

{problems}

## Limits

This is not a general fairness guarantee. One bias, one set of probes in English, one population were measured; other
biases, languages and uses were not. A broken model looks unbiased: read every bias figure beside its price.

## Reproduce

{_made_by(record)} (run `{record.id}`, BiasGym {record.environment.get("biasgym", "")}, commit {record.environment.get("commit") or "unknown"}),
then `biasgym export {record.id} --to DIR --edit {name} --format {format}`.
"""


def _made_by(record: RunRecord) -> str:
    """The command that makes the record again."""
    combined = record.extras.get("combined")
    if combined:
        how = next(iter(record.extras["edits"]), "joint")
        return f"`biasgym combine RUN RUN … --how {how} --to DIR` with finished runs about {', '.join(combined)}"
    return "`biasgym run spec.toml` with the run's `spec.toml`"


def _measured_on(record: RunRecord, base: str) -> str:
    """A sentence on what was measured where it is not what was exported."""
    bits = {"int8": "packed into 8 bits", "int4": "packed into 4 bits"}.get(record.spec["dtype"], "as it is stored")
    if record.spec["model"] == base and bits == "as it is stored":
        return ""
    return (
        f"\nThe edit was found and measured on {record.spec['model']} {bits}; this is `{base}` in full precision with the same edit.\n"
        "Its own figures may differ.\n"
    )


def _what(about: dict[str, Any], done: Exported) -> str:
    """How many places in how many tensors."""
    heads = sum(site[0] == "head" for site in about["sites"])
    if heads and heads == len(about["sites"]):
        return f"{heads} attention heads in {len(done.tensors)} matrices"
    return f"{len(done.tensors)} tensors"


def _row(f: Finding) -> str:
    digits = 4 if f.metric == "kl" else 3
    return f"| {f.name} | {f.metric} | {f.token} | {f.value:+.{digits}f} | [{f.low:+.{digits}f}, {f.high:+.{digits}f}] | {f.n} |"
