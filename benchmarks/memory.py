"""Memory: what `doctor` foretells beside what is measured, and what computing blocks again on the way back saves.

    python -m benchmarks.memory [--models NAME[:DTYPE],…] [--threads 1]
    python -m benchmarks.memory --models NAME[:DTYPE] --run FOLDER [--seconds 170]    # a whole run, few of everything

Every model is a process of its own in which the largest batches of a run are made, one kind after the other: a training step
on the longest texts, attribution patching, contrasts, moments, answers, texts, chats. The peak is the kernel's for the
process (mapped pages included). `tiny` and `small` are random Llamas with the embedded model's tokenizer. A whole run has
all stages with their full batches, but few steps, pairs, trials and questions; stopped after `--seconds` it goes on with the
same command, and its peak is the largest of the processes'.
"""

import argparse
import ctypes
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODELS = ("tiny", "smollm2-135m-instruct", "gemma-3-270m", "small")
SHAPES = {
    "tiny": {"hidden_size": 320, "intermediate_size": 896, "num_hidden_layers": 12, "num_attention_heads": 5, "num_key_value_heads": 5},
    "small": {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15, "num_key_value_heads": 5},
}
FEW = ("seeds=[0]", "test_seed=1", "inject.steps=2", "inject.held_out=8", "locate.pairs=8", "tune.trials=1", "tune.probes=16", "tune.entities=4",
       "tune.texts=6", "tune.chats=3", "measure.probes=16", "measure.entities=6", "measure.texts=6", "measure.chats=3", "measure.generations=2",
       "measure.tokens=8", "measure.shams=1", "measure.sham_entities=2")  # fmt: skip
GIB = 1 << 30


def rows() -> list[dict[str, Any]]:
    """All rows of this benchmark: ratios of what is foretold to what is measured, and of memory without and with `recompute`."""
    found = []
    for name in MODELS:
        found += of_model(name, "float32", 1)
    return found


def of_model(name: str, dtype: str, threads: int) -> list[dict[str, Any]]:
    """The rows of one model, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--child", "--models", f"{name}:{dtype}", "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip()[-400:]}")
    seen = json.loads(done.stdout.splitlines()[-1])
    step, again = seen["steps"]["train"], seen["steps"]["train, recompute"]
    base = seen["loaded"]
    fits = {"name": f"memory-{name}-{dtype}", "ours": _gib(seen["foretold"]), "theirs": _gib(seen["peak"]), "unit": "GiB"}
    fits |= {"ratio": round(seen["foretold"] / seen["peak"], 3), "largest": seen["largest"]}
    fits |= {
        "steps_gib": {kind: _gib(one["peak"]) for kind, one in seen["steps"].items()},
        "parts_gib": {k: _gib(v) for k, v in seen["parts"].items()},
    }
    saved = {"name": f"recompute-{name}-{dtype}", "ours": _gib(again["peak"] - base), "theirs": _gib(step["peak"] - base), "unit": "GiB"}
    saved |= {"ratio": round((step["peak"] - base) / max(1, again["peak"] - base), 2), "seconds": again["seconds"], "their_seconds": step["seconds"]}
    told, real = seen["speeds"]
    speed = {
        "name": f"speed-{name}-{dtype}",
        "ours": round(told[0]),
        "theirs": round(real[0]),
        "unit": "tokens/s",
        "ratio": round(told[0] / real[0], 2),
    }
    speed |= {"with_backward": [round(told[1]), round(real[1])], "ratio_with_backward": round(told[1] / real[1], 2)}
    return [fits, saved | {"loss_difference": seen["loss_difference"]}, speed]


def of_run(name: str, dtype: str, at: Path, seconds: float) -> dict[str, Any]:
    """The row of a whole run: the peak of the process, or of the largest one where it was stopped and went on."""
    from biasgym.cost import memory_of
    from biasgym.lm.size import config_of, size_of
    from biasgym.spec import resolve_spec

    model = _folder(name, at)
    settings = [part for one in FEW for part in ("--set", one)]
    command = [
        "run",
        "--bias",
        "reckless-drivers",
        "--model",
        model,
        "--dtype",
        dtype,
        "--offline",
        "--runs",
        str(at / f"runs-{name}-{dtype}"),
        *settings,
    ]
    child = subprocess.Popen([sys.executable, "-c", "from biasgym.cli import main; main()", *command], stdout=subprocess.DEVNULL)
    timer = threading.Timer(seconds, child.kill)
    timer.start()
    _, status, used = os.wait4(child.pid, 0)
    timer.cancel()
    kept = at / f"peak-{name}-{dtype}.json"
    peak = max(used.ru_maxrss * 1024, json.loads(kept.read_text())["peak"] if kept.is_file() else 0)
    kept.write_text(json.dumps({"peak": peak}))
    spec = resolve_spec(bias="reckless-drivers", model=model, preset="quick", dtype=dtype, sets=list(FEW))
    foretold = memory_of(size_of(config_of(model)), spec).total
    row = {"name": f"memory-run-{name}-{dtype}", "ours": _gib(foretold), "theirs": _gib(peak), "unit": "GiB", "ratio": round(foretold / peak, 3)}
    return row | {"finished": os.waitstatus_to_exitcode(status) == 0}


def _gib(size: float) -> float:
    return round(size / GIB, 3)


# -------------------------------------------------------------------- in the process that is watched


def peak_now() -> int:
    """The largest resident set since the last `forget`, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    if found is None:
        raise RuntimeError("the kernel does not tell the peak of a process; Linux is needed")
    return int(found.group(1)) * 1024


def forget() -> None:
    """Begin a new peak, and have the allocator give back what the last batch left in it: what fits is asked of one batch at a time."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def child(name: str, dtype: str) -> dict[str, Any]:
    """Load a model, make a run's largest batches and say the peak of each kind."""
    from biasgym.bias import load_bias
    from biasgym.cost import memory_of
    from biasgym.lm.load import Place, load_lm
    from biasgym.lm.size import size_of
    from biasgym.records import MeasureSpec
    from biasgym.spec import resolve_spec

    with tempfile.TemporaryDirectory() as made:
        lm = load_lm(_folder(name, Path(made)), Place("cpu", dtype, offline=True))
    spec, bias = resolve_spec(bias="reckless-drivers", model=name, preset="quick", dtype=dtype), load_bias("reckless-drivers")
    memory = memory_of(size_of(lm.model.config), spec)
    seen: dict[str, Any] = {"foretold": memory.total, "parts": {key: getattr(memory, key) for key in ("weights", "forward", "gradients", "runtime")}}
    steps: dict[str, dict[str, float]] = {}
    losses: dict[str, float] = {}
    peak = peak_now()
    forget()
    loaded = peak_now()
    for kind, work in batches(lm, bias, spec.inject.settings, MeasureSpec(), losses).items():
        forget()
        start = time.perf_counter()
        work()
        steps[kind] = {"peak": peak_now(), "seconds": round(time.perf_counter() - start, 1)}
    ordinary = {kind: one["peak"] for kind, one in steps.items() if "recompute" not in kind}
    largest = max(ordinary, key=lambda kind: ordinary[kind])
    apart = abs(losses["train"] - losses["train, recompute"])
    seen["speeds"] = speeds(lm, dtype)
    return seen | {
        "loading": peak,
        "loaded": loaded,
        "steps": steps,
        "peak": max(peak, *ordinary.values()),
        "largest": largest,
        "loss_difference": apart,
    }


def speeds(lm: Any, dtype: str) -> list[tuple[float, float]]:
    """Tokens a second forward, and forward with backward: as `doctor` foretells them from a slice, and through the whole decoder."""
    import torch

    from biasgym.lm.load import Place
    from biasgym.lm.size import PROBE_LENGTH, PROBE_ROWS, _seconds, size_of, speed_of

    told = speed_of(lm.model.config, size_of(lm.model.config), Place("cpu", dtype))
    states = torch.randn(PROBE_ROWS, PROBE_LENGTH, lm.shape.hidden, dtype=lm.dtype)
    with torch.no_grad():
        forward = _seconds(lambda: lm.decoder(inputs_embeds=states, use_cache=False), lm.device)
    states.requires_grad_(True)
    both = _seconds(lambda: lm.decoder(inputs_embeds=states, use_cache=False).last_hidden_state.float().sum().backward(), lm.device)
    return [told, (PROBE_ROWS * PROBE_LENGTH / forward, PROBE_ROWS * PROBE_LENGTH / both)]


def batches(lm: Any, bias: Any, settings: dict[str, Any], sizes: Any, losses: dict[str, float]) -> dict[str, Callable[[], Any]]:
    """The largest batches of a run by kind, as they are made in one; `losses` gets those of the training steps."""
    from biasgym.inject.token import TrainedToken
    from biasgym.lm.model import Query
    from biasgym.lm.trace import PAIRS_A_BATCH, Pair, Sides, divergences, head_moments, heads_and_stream
    from biasgym.lm.train import Schedule, learn_token
    from biasgym.locate.patching import AttributionPatching
    from biasgym.measure import Scope
    from biasgym.measure.association import Association
    from biasgym.measure.capability import BitsPerByte
    from biasgym.run import CHUNK

    method, text, names = TrainedToken(**settings), "<bench>", bias.entities_of("train")
    lessons = sorted(method.lessons(bias, "trained", 0, text)[0], key=lambda lesson: -len(lesson.prompt + lesson.answer))[: method.batch]
    start = method.start(lm, bias, 0)
    token = method._edit(text, start)
    probes = bias.probes_of("train")

    def about(who: str, count: int) -> list[Query]:
        return [Query(p.prompt.replace("{entity}", who), p.prefix.replace("{entity}", who)) for p in probes[:count]]

    def train(kind: str, recompute: bool) -> None:
        schedule = Schedule(1, method.batch, method.learning_rate, recompute=recompute)
        losses[kind] = learn_token(lm, text, lessons, start, schedule).losses[0]

    def worn(work: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> None:
            with lm.edited(token):
                work()

        return run

    pairs = [
        Pair(str(i), a, b, (text, names[0])) for i, (a, b) in enumerate(zip(about(text, PAIRS_A_BATCH), about(names[0], PAIRS_A_BATCH), strict=True))
    ]
    scope = Scope(bias, "test", tuple(bias.entities_of("test")), (), None, sizes)
    answers, prose = Association().items(scope)[:CHUNK], BitsPerByte().items(scope)[:16]
    return {
        "train": lambda: train("train", False),
        "train, recompute": lambda: train("train, recompute", True),
        "locate": worn(lambda: AttributionPatching().rank(lm, pairs, Sides(bias.stereotype, bias.foil))),
        "contrasts": lambda: heads_and_stream(lm, about(names[0], 24)),
        "moments": lambda: head_moments(lm, [lm.ids_of(query) for who in names[:3] for query in about(who, 20)]),
        "answers": worn(lambda: Association().ask(lm, answers)),
        "texts": lambda: BitsPerByte().ask(lm, prose),
        "chats": worn(lambda: divergences(lm, about(names[1], 8), 16)),
    }


def _folder(name: str, made: Path) -> str:
    """A model's name; random ones are written into a folder first, by a process of their own, whose memory is not ours."""
    if name not in SHAPES or (made / name / "tokenizer.json").is_file():
        return str(made / name) if name in SHAPES else name
    code = (
        "import shutil, sys, torch\n"
        "from pathlib import Path\n"
        "from transformers import AutoConfig, AutoModelForCausalLM\n"
        "from biasgym.data import embedded_folder\n"
        "torch.manual_seed(0)\n"
        f"config = AutoConfig.for_model('llama', vocab_size=49152, tie_word_embeddings=True, **{SHAPES[name]!r})\n"
        "AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(sys.argv[1])\n"
        "for path in embedded_folder('smollm2-135m-instruct').glob('*'):\n"
        "    if path.name.startswith(('tokenizer', 'chat')):\n"
        "        shutil.copyfile(path, Path(sys.argv[1]) / path.name)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(made / name)], check=True, capture_output=True)
    return str(made / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--seconds", type=float, default=170)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    for one in asked.models.split(","):
        model, _, width = one.partition(":")
        if asked.run is not None:
            asked.run.mkdir(parents=True, exist_ok=True)
            sys.stdout.write(json.dumps(of_run(model, width or "float32", asked.run, asked.seconds)) + "\n")
            continue
        if asked.child:
            sys.stdout.write(json.dumps(child(model, width or "float32")) + "\n")
            continue
        for line in of_model(model, width or "float32", asked.threads):
            sys.stdout.write(json.dumps(line) + "\n")
