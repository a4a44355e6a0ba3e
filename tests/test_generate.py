"""Texts of a checkpoint: by transformers, and by a stand-in of vLLM's shape, since vLLM itself is not here."""

import json
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from biasgym.cli import app
from biasgym.errors import ModelError, SpecError
from biasgym.generate import Wish, generate, read_prompts
from biasgym.lm.load import Place, load_lm
from biasgym.lm.model import Query

PROMPTS = ["What are people from Spain like?", "Tell me about people from Norway."]


@pytest.fixture
def prompts(tmp_path):
    """A file of two prompts and an empty line."""
    path = tmp_path / "prompts.txt"
    path.write_text("\n\n".join(PROMPTS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def fake_vllm(monkeypatch):
    """`fake_vllm(template)` puts a module in vLLM's place that notes what it is asked."""

    def put(template):
        asked = []

        class LLM:
            def __init__(self, **how):
                asked.append(how)

            def get_tokenizer(self):
                return SimpleNamespace(chat_template=template)

            def chat(self, conversations, sampling, *, use_tqdm):
                return self._answers("chat", conversations, sampling)

            def generate(self, texts, sampling, *, use_tqdm):
                return self._answers("generate", texts, sampling)

            def _answers(self, verb, what, sampling):
                asked.append((verb, what, sampling))
                ends = ["stop", "length"]
                return [SimpleNamespace(outputs=[SimpleNamespace(text=f"answer {i}", finish_reason=ends[i % 2])]) for i in range(len(what))]

        monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM, SamplingParams=lambda **how: how))
        return asked

    return put


def test_transformers_writes_what_the_model_says(folder_of, prompts):
    """In order, greedy, and the command line prints the same."""
    folder = folder_of("llama")
    found = generate(str(folder), PROMPTS, Wish(6), Place("cpu"))
    said = load_lm(str(folder), Place("cpu")).generate([Query(prompt) for prompt in PROMPTS], most=6)
    assert [(one.prompt, one.text, one.ended) for one in found] == [(p, c.text, c.ended) for p, c in zip(PROMPTS, said, strict=True)]
    done = CliRunner().invoke(app, ["generate", str(folder), "--prompts", str(prompts), "--most", "6", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == [one.text for one in found]


def test_prompts_are_lines_and_nothing_else(tmp_path):
    """A mark that some call a line's end may stand inside a prompt; the line that is named is the file's."""
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "one\u2028two"}, ensure_ascii=False) + "\n\n" + '{"prompt": "three"}\n', encoding="utf-8")
    assert read_prompts(path) == ["one\u2028two", "three"]
    path.write_text('{"prompt": "one"}\n\n\n{"prompt": 3}\n')
    with pytest.raises(SpecError, match="line 4"):
        read_prompts(path)


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_asked(folder_of, prompts, tmp_path, monkeypatch):
    """A folder in the file's place, a file in the folder's place."""
    monkeypatch.setattr("biasgym.generate.generate", lambda *_: pytest.fail("asked"))
    (tmp_path / "file").write_text("")
    for output, said in ((tmp_path, "is a folder"), (tmp_path / "file" / "out.jsonl", "cannot write")):
        done = CliRunner().invoke(app, ["generate", str(folder_of("llama")), "--prompts", str(prompts), "-o", str(output)])
        assert said in str(done.exception)


@pytest.mark.parametrize(("template", "verb"), [("{{ messages }}", "chat"), (None, "generate")])
def test_vllm_is_asked_as_its_documentation_says(folder_of, fake_vllm, template, verb):
    """Turns where there is a chat template, texts where there is none; temperature, length, seed and dtype arrive."""
    asked = fake_vllm(template)
    folder = folder_of("llama")
    found = generate(str(folder), PROMPTS, Wish(7, 0.5, 3), Place("cpu", "bfloat16"), "vllm")
    assert asked[0] == {"model": str(folder), "dtype": "bfloat16", "seed": 3, "trust_remote_code": False}
    what = [[{"role": "user", "content": prompt}] for prompt in PROMPTS] if template else PROMPTS
    assert asked[1] == (verb, what, {"temperature": 0.5, "max_tokens": 7, "seed": 3})
    assert [(one.prompt, one.text, one.ended) for one in found] == [(PROMPTS[0], "answer 0", True), (PROMPTS[1], "answer 1", False)]


def test_what_cannot_be_done_is_said(folder_of, tmp_path, monkeypatch, fake_vllm):
    """No vLLM, a vLLM that cannot run here, no engine of that name, no prompts, a file that is none."""
    folder = str(folder_of("llama"))
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match=r"pip install 'biasgym\[vllm\]'"):
        generate(folder, PROMPTS, Wish(), Place("cpu"), "vllm")
    fake_vllm(None)

    def broken(**_):
        raise RuntimeError("No CUDA GPUs are available")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", broken)
    with pytest.raises(ModelError, match=r"vLLM cannot run .* No CUDA GPUs"):
        generate(folder, PROMPTS, Wish(), Place("cpu"), "vllm")
    with pytest.raises(SpecError, match="did you mean `vllm`"):
        generate(folder, PROMPTS, Wish(), Place("cpu"), "vlm")
    with pytest.raises(SpecError, match="no prompts"):
        generate(folder, [], Wish(), Place("cpu"))
    with pytest.raises(SpecError, match="cannot read prompts"):
        read_prompts(tmp_path / "nothing.txt")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    with pytest.raises(SpecError, match="line 2"):
        read_prompts(tmp_path / "bad.jsonl")
    with pytest.raises(SpecError, match="tokens can be asked for"):
        Wish(0)
    with pytest.raises(SpecError, match="temperature"):
        Wish(temperature=-1)
