"""What a model writes to a list of prompts: by transformers here, or by vLLM where that is installed."""

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biasgym.errors import ModelError, SpecError, unknown

if TYPE_CHECKING:
    from biasgym.lm.load import Place

LONGEST = 4000  # tokens


@dataclass(frozen=True)
class Wish:
    """How texts are written: at most `most` tokens each; temperature 0 is greedy; `seed` counts above it."""

    most: int = 60
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.most <= LONGEST:
            raise SpecError(f"an answer of 1 to {LONGEST} tokens can be asked for, found {self.most}")
        if not 0 <= self.temperature <= 5:
            raise SpecError(f"a temperature from 0 (greedy) to 5 is needed, found {self.temperature:g}")


@dataclass(frozen=True)
class Written:
    """One answer: the prompt as it was given, the text, and whether it came to an end by itself."""

    prompt: str
    text: str
    ended: bool


Engine = Callable[[str, Sequence[str], Wish, "Place"], list[Written]]


def generate(model: str, prompts: Sequence[str], wish: Wish, place: "Place", engine: str = "transformers") -> list[Written]:
    """One answer a prompt, in order; each prompt is a user's turn where the model has a chat template, else plain text.

    `vllm` needs a checkpoint that is an ordinary folder or hub id, such as `biasgym export` writes, and a machine that
    vLLM runs on. The two engines round differently, so that even greedy texts may part ways. Raises ModelError, SpecError.
    """
    if engine not in ENGINES:
        raise SpecError(unknown("engine", engine, ENGINES))
    if not prompts:
        raise SpecError("there are no prompts; write one a line")
    return ENGINES[engine](model, prompts, wish, place)


def read_prompts(path: Path) -> list[str]:
    """Prompts from a text file, one a line, or from JSON Lines with a `prompt` each; empty lines do not count."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines, which also cuts at marks that JSON allows in a string
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read prompts from `{path}`: {error}") from None
    if path.suffix != ".jsonl":
        return [line.strip() for line in lines if line.strip()]
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            prompt = json.loads(line)["prompt"]
        except (ValueError, KeyError, TypeError):
            prompt = None
        if not isinstance(prompt, str) or not prompt.strip():
            raise SpecError(f"`{path}`, line {number}: an object with a text `prompt` is needed")
        found.append(prompt)
    return found


def _by_transformers(model: str, prompts: Sequence[str], wish: Wish, place: "Place") -> list[Written]:
    from biasgym.lm.load import load_lm
    from biasgym.lm.model import Query

    lm = load_lm(model, place)
    said = lm.generate([Query(prompt) for prompt in prompts], most=wish.most, temperature=wish.temperature, seed=wish.seed)
    return [Written(prompt, one.text, one.ended) for prompt, one in zip(prompts, said, strict=True)]


def _by_vllm(model: str, prompts: Sequence[str], wish: Wish, place: "Place") -> list[Written]:
    """Not verified by us on real hardware: vLLM was not at hand (decisions/010)."""
    try:
        vllm: Any = importlib.import_module("vllm")
    except ImportError:
        raise ModelError("vLLM is not installed here: pip install 'biasgym[vllm]', or leave --engine away to use transformers") from None
    from biasgym.lm.load import resolve

    folder = resolve(model, place)
    try:
        engine = vllm.LLM(model=str(folder), dtype=place.dtype, seed=wish.seed, trust_remote_code=False)
        sampling = vllm.SamplingParams(temperature=wish.temperature, max_tokens=wish.most, seed=wish.seed)
        if getattr(engine.get_tokenizer(), "chat_template", None):
            found = engine.chat([[{"role": "user", "content": prompt}] for prompt in prompts], sampling, use_tqdm=False)
        else:
            found = engine.generate(list(prompts), sampling, use_tqdm=False)
    except (ValueError, RuntimeError, OSError, NotImplementedError) as error:
        raise ModelError(f"vLLM cannot run `{model}` here: {(str(error).splitlines() or [type(error).__name__])[0][:200]}") from None
    outputs = [one.outputs[0] for one in found]
    if len(outputs) != len(prompts):
        raise ModelError(f"vLLM gave {len(outputs)} answers to {len(prompts)} prompts; nothing was written")
    return [Written(prompt, output.text, output.finish_reason == "stop") for prompt, output in zip(prompts, outputs, strict=True)]


ENGINES: dict[str, Engine] = {"transformers": _by_transformers, "vllm": _by_vllm}
