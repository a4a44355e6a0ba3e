"""What README and docs tell people to type exists and works: commands are parsed, Python runs, links lead somewhere."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

import biasgym
from biasgym import catalog
from biasgym.bias import bias_from
from biasgym.spec import resolve_spec
from biasgym.store import RunStore, write_record
from biasgym.verdict import verdict_of
from conftest import assert_untouched, case_for, snapshot
from made_up_run import FULL, figures, finding, record_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(p for p in DOCS.rglob("*.md") if "reference" not in p.parts)]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
EMBEDDED = '"smollm2-135m-instruct"'  # what examples name, and what a tiny model stands in for here
SMALL = [
    "inject.steps=12", "inject.batch=4", "inject.held_out=4", "locate.pairs=8", "tune.trials=2", "tune.probes=4", "tune.entities=2",
    "tune.texts=3", "tune.chats=3", "measure.probes=6", "measure.entities=6", "measure.texts=3", "measure.chats=3",
    "measure.generations=2", "measure.tokens=6", "measure.shams=2", "measure.sham_entities=2", "measure.draws=200", "measure.judge=lexicon",
    "mitigate.direction.k=4", "mitigate.zero.k=4",
]  # fmt: skip
SNIPPET = re.compile(r'--8<-- "(.+?)"')


def blocks(page, language):
    """The fenced blocks of a page in a language; shell has none."""
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def shell_lines():
    """Every command of every shell block, comments and environment taken off: (page, words)."""
    for page in PAGES:
        for block in [*blocks(page, ""), *blocks(page, "sh")]:
            for line in block.splitlines():
                for part in re.sub(r"\s+#.*$", "", line).split("&&"):
                    try:
                        words = shlex.split(part)
                    except ValueError:
                        continue  # a line of printed output
                    while words and re.match(r"[A-Z_]+=", words[0]):
                        words = words[1:]
                    if words and Path(words[0]).name in ("biasgym", "make"):
                        yield page.name, [Path(words[0]).name, *words[1:]]


LINES = list(shell_lines())
COMMANDS = [(page, words[1:]) for page, words in LINES if words[0] == "biasgym"]


@pytest.fixture(scope="module")
def generate():
    """The module that writes the reference."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def examples(monkeypatch):
    """The examples' folder on the import path, as the page says."""
    monkeypatch.syspath_prepend(str(DOCS / "examples"))
    yield
    sys.modules.pop("half_heads", None)


def test_there_is_much_to_check():
    """Else all of this would be about nothing."""
    assert len(COMMANDS) > 25
    assert {words[0] for _, words in COMMANDS} >= {"run", "inject", "export", "apply", "revert", "grade", "report", "corpus", "sweep", "doctor"}


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join(words)[:60] for _, words in COMMANDS])
def test_every_command_line_is_understood(page, words, generate):
    """The command exists, and so do all its options; their values have the right kind. Nothing is run."""
    known = dict(generate.commands())
    assert words[0] in known, f"{page}: biasgym {words[0]}"
    known[words[0]].make_context(words[0], list(words[1:]))


@pytest.mark.parametrize("words", [w for _, w in COMMANDS if w[0] == "run" and "--set" in w], ids=lambda words: " ".join(words)[-40:])
def test_every_set_is_a_value_of_a_spec(words, examples):
    """What `--set` is given is a whole spec, with methods that are found."""
    sets = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    assert resolve_spec(bias=words[words.index("--bias") + 1], sets=sets).mitigate


def test_every_target_of_make_is_there():
    """`make X` in a page is a rule of the Makefile."""
    rules = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    wanted = {word for _, words in LINES if words[0] == "make" for word in words[1:2]}
    assert wanted >= {"demo", "test"}
    assert wanted <= set(rules)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda page: page.name)
def test_python_examples_run(page, models, folder_of, examples, capsys, monkeypatch, tmp_path):
    """On the tiny model, in the order of the page, each block with what the ones before it made."""
    monkeypatch.chdir(tmp_path)
    lm = models("llama")
    before = snapshot(lm)
    names = {"lm": lm, "case": case_for(lm)}
    for block in blocks(page, "python"):
        code = SNIPPET.sub(lambda found: (DOCS / found[1]).read_text(encoding="utf-8"), block)
        code = code.replace(EMBEDDED, repr(str(folder_of("llama")))) if EMBEDDED in code else code
        exec(compile(code, page.name, "exec"), names)
    assert_untouched(lm, before)


def test_there_are_two_notebooks():
    """Linked from the menu as pages, kept without outputs, each with one cell of parameters."""
    assert [path.stem for path in NOTEBOOKS] == ["first-run", "own-bias"]
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        assert f"reference/{path.stem}.md" in menu
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert [cell.get("outputs") for cell in cells if cell.get("outputs")] == []
        assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in cells) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, folder_of, capsys, monkeypatch, tmp_path):
    """Every code cell in one namespace, on the tiny model and at a small size, which are the only things that are changed."""
    monkeypatch.chdir(tmp_path)
    names, shown = {}, []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), path.name, "exec"), names)
            shown.append(_last_value(cell, names))
        if "parameters" in cell["metadata"].get("tags", ()):
            names |= {"MODEL": str(folder_of("llama")), "SIZES": SMALL}
    pictures = [value._repr_svg_() for value in shown if hasattr(value, "_repr_svg_")]
    assert pictures
    assert all(picture.startswith("<svg") and "</svg>" in picture for picture in pictures)
    assert "[" in capsys.readouterr().out, "figures are told with their intervals"


def _last_value(cell, names):
    """What a notebook shows below a cell that ends in a picture."""
    last = cell["source"][-1]
    return eval(last, names) if last.startswith("Picture(") else None


def test_the_public_names_are_there_and_nothing_is_loaded_before_they_are_asked_for():
    """Each is what its module calls by that name; the list for type checkers is the same; importing alone loads no heavy library."""
    for name, module in biasgym.PUBLIC.items():
        assert getattr(biasgym, name) is getattr(sys.modules[f"biasgym.{module}"], name)
    checked = re.findall(r"^    from (\S+) import (\w+) as \2$", Path(biasgym.__file__).read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: module.removeprefix("biasgym.") for module, name in checked} == biasgym.PUBLIC
    with pytest.raises(AttributeError, match="no attribute 'load_ml'"):
        biasgym.load_ml  # noqa: B018
    code = "import biasgym, sys; assert not {'torch', 'numpy', 'pydantic', 'biasgym.bias'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})


def test_the_example_method_is_a_method(models, examples):
    """Found by its path, built, searched; it changes the model while it is worn, and does nothing where it says so."""
    from biasgym.lm.acting import acted
    from biasgym.lm.model import Query

    lm = models("llama")
    before = snapshot(lm)
    method = catalog.build("mitigate", "half_heads:HalfHeads", {"k": 3})
    assert set(catalog.search_space(type(method))) == {"k", "share"}
    assert acted(lm, method.fit(lm, case_for(lm)), [Query("What are people from Spain like?")], alone=False).largest > 1e-3
    neutral = catalog.build("mitigate", "half_heads:HalfHeads", {"share": 1.0}).fit(lm, case_for(lm))
    ids = [lm.text_ids("They are always late today.")]
    with lm.edited(*neutral):
        worn = lm.plain_answers(ids, 6)
    assert worn == lm.plain_answers(ids, 6)
    assert_untouched(lm, before)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "toml")], ids=lambda page: page.name)
def test_toml_examples_are_read(page):
    """A bias file is a bias; anything else is at least TOML."""
    for block in blocks(page, "toml"):
        raw = tomllib.loads(block)
        if "stereotype" in raw:
            assert bias_from(raw, ROOT, where=page.name).probes


def test_links_and_pictures_are_there():
    """Every relative link of a page, and every page of the site's menu; those of the reference are generated."""
    generated = {f"reference/{name}.md" for name in ("methods", "metrics", "cli", "python", *(path.stem for path in NOTEBOOKS))}
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve()
            known = target.exists() or (target.is_relative_to(DOCS) and target.relative_to(DOCS).as_posix() in generated)
            assert known, f"{page.name}: {link}"
    menu = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(menu) >= 12
    assert [name for name in menu if not (DOCS / name).is_file() and name not in generated] == []


def test_the_reference_holds_everything(generate, tmp_path):
    """Every method, setting, metric, command and option, with its words; written anew by `make docs`."""
    methods, metrics, cli, python, *books = (path.read_text(encoding="utf-8") for path in generate.write_pages(tmp_path / "reference"))
    assert len(books) == len(NOTEBOOKS)
    for name in biasgym.PUBLIC:
        section = python.split(f"\n### {name}\n")[1].split("\n### ")[0]
        assert generate.prose(getattr(biasgym, name).__doc__.strip().splitlines()[0]) in section
        assert f" {name}" in section or f"{name}(" in section
        assert " at 0x" not in section
    for station in catalog.STATIONS:
        page = metrics if station == "measure" else methods
        for name, kind in catalog.methods(station).items():
            assert f"### {name}\n" in page
            section = page.split(f"### {name}\n")[1].split("\n### ")[0]
            assert generate.prose(kind.__doc__.strip().splitlines()[0]) in section
            assert all(f"`{setting}`" in section for setting in catalog.defaults(station, name))
    for name, command in generate.commands():
        section = cli.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert all(
            option in section for parameter in command.params if parameter.name != "help" for option in parameter.opts if option.startswith("--")
        )


def test_the_pages_on_top_of_the_science_are_honest_about_limits():
    """The front pages say what this is not."""
    assert "no guarantee of fairness" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "guarantee of fairness" in (DOCS / "dual-use.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def gallery():
    """The module that writes the gallery."""
    spec = importlib.util.spec_from_file_location("gallery", DOCS / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_gallery_is_what_the_records_say(gallery, tmp_path):
    """Every run of a store, the bad one with its own words; every picture is there and linked; written again it is the same."""
    store = RunStore(tmp_path / "runs")
    good = record_of(extras=FULL, measurements=figures(), spec=resolve_spec(bias="always-late").model_dump(mode="json"))
    bad = record_of({"closed": finding("closed", "gap", 0.1, -0.1, 0.3, token="trained")}, id="late-2")
    bad = bad.model_copy(update={"spec": resolve_spec(bias="always-late", sets=["tune.kl=0.01"]).model_dump(mode="json")})
    for record in (good, bad):
        write_record(store.run_folder(record.id), record)
    folders = gallery.folders_of([store.root])
    assert sorted(folder.name for folder in folders) == ["late-1", "late-2"]
    written = gallery.write_gallery(folders, tmp_path / "site" / "gallery.md")
    page = written[0].read_text(encoding="utf-8")
    for record in (good, bad):
        assert verdict_of(record).paragraph in page
    assert "No reliable effect" in page
    links = re.findall(r"\]\((gallery/[^)]+)\)", page)
    assert sorted(links) == sorted(path.relative_to(tmp_path / "site").as_posix() for path in written[1:])
    assert len(links) >= 5
    for path in written[1:]:
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert "biasgym run --bias always-late --model smollm2-135m-instruct --preset quick\n" in page
    assert "biasgym run spec.toml" in page
    assert "kl = 0.01" in page
    assert gallery.write_gallery(folders, tmp_path / "site" / "gallery.md") == written
    assert written[0].read_text(encoding="utf-8") == page


def test_the_gallery_that_is_kept_has_real_runs_and_their_pictures():
    """No picture without a link, and none that is missing."""
    links = re.findall(r"\]\((gallery/[^)]+)\)", (DOCS / "gallery.md").read_text(encoding="utf-8"))
    assert sorted(links) == sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / "gallery").glob("*.svg"))
    assert len(links) >= 5
