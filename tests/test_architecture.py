"""Who may import whom, who may touch a model, who may print: read from the syntax trees, so it cannot rot."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import biasgym

ROOT = Path(biasgym.__file__).parent
WORDS = set(
    "bias candidates claims clustered commission corpus diversity edits endpoint errors family files fronts grammar memory progress records seeds sites stability stats strategies".split()
)
ROOM = set("data datasets forget lm".split())
STATIONS = set("inject locate measure mitigate".split())
LEDGER = set("asking audit catalog cost curves generate_corpus grade groups ray_workers ring room run spec store suites sweep tune workers".split())
HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "accelerate", "huggingface_hub"}
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def part_of(name):
    """The file or folder right below the package: `lm/model.py` → `lm`, `bias.py` → `bias`."""
    return name.split("/")[0].removesuffix(".py")


def floor_of(name):
    """How high a module stands: words 0, model room 1, stations 2, ledger 3, doors (whatever else there is) 4."""
    floors = (WORDS | {"__init__"}, ROOM, STATIONS, LEDGER)
    return next((number for number, floor in enumerate(floors) if part_of(name) in floor), 4)


def tree_of(name):
    """The syntax tree of a module."""
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def for_types_only(node):
    """Whether this is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported(name, *, at_module_level):
    """Full names that a module imports, leaving out what stands under TYPE_CHECKING; functions too unless told otherwise."""
    found = []

    def walk(node):
        for child in ast.iter_child_nodes(node):
            if for_types_only(child) or (at_module_level and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)):
                continue
            if isinstance(child, ast.Import):
                found.extend(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{name}: relative imports hide where a name comes from"
                found.append(child.module)
                if child.module == "biasgym":
                    found.extend(f"biasgym.{alias.name}" for alias in child.names)
            walk(child)

    walk(tree_of(name))
    return found


def own_imports(name, *, at_module_level=False):
    """The parts of this package that a module imports."""
    names = [full for full in imported(name, at_module_level=at_module_level) if full.startswith("biasgym.")]
    return {full.split(".")[1] for full in names} - {"__version__"}


def test_there_are_modules_on_every_floor():
    """Else the tests below would be about nothing."""
    assert {floor_of(name) for name in MODULES} >= {0, 1, 2, 3}
    present = {part_of(name) for name in MODULES}
    assert present >= WORDS | ROOM | STATIONS | LEDGER


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_never_up(name):
    """Doors → ledger → stations → model room → words; imports inside functions count as well."""
    if name == "__init__.py":
        return  # the public names, from wherever they are
    for other in own_imports(name):
        assert floor_of(other) <= floor_of(name), f"{name} imports {other}, which stands above it"


@pytest.mark.parametrize("name", [n for n in MODULES if part_of(n) in STATIONS])
def test_stations_never_meet(name):
    """A benchmark does not know that there is a mitigation, and evidence not what will be done with it."""
    assert not own_imports(name) & (STATIONS - {part_of(name)})


@pytest.mark.parametrize("name", [n for n in MODULES if part_of(n) != "lm"])
def test_only_the_model_room_imports_heavy_libraries(name):
    """Reading results takes a tenth of a second; torch is imported inside functions, or in lm/. Safetensors' numpy side is light."""
    light = {"safetensors", "safetensors.numpy"}
    heavy = [full for full in imported(name, at_module_level=True) if full.split(".")[0] in HEAVY and full not in light]
    assert not heavy
    assert "lm" not in own_imports(name, at_module_level=True)


def test_words_ledger_and_stations_import_without_torch():
    """All modules outside lm/, really imported, in a process of its own."""
    names = ["biasgym." + n.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for n in MODULES if part_of(n) != "lm"]
    names = [n for n in names if not n.endswith(("__init__", "__main__"))]
    code = f"import importlib, sys\nfor n in {names!r}: importlib.import_module(n)\nassert not {{'torch', 'transformers'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=_env(), check=False)
    assert done.returncode == 0, done.stderr[-800:]


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "biasgym", "--help"], capture_output=True, text=True, env=_env(), check=False)
    assert done.returncode == 0, done.stderr[-800:]
    assert "inject" in done.stdout


def _env():
    return {**os.environ, "PYTHONPATH": str(ROOT.parent)}


def calls(name):
    """Names and attributes that a module calls or passes on."""
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


@pytest.mark.parametrize("name", MODULES)
def test_one_place_to_be_wrong_about_undoing(name):
    """Hooks, and writing into parameters, only in lm/ (and where a model is converted)."""
    if part_of(name) in ROOM:
        return
    touching = {"register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook", "register_buffer", "copy_", "requires_grad_"}
    assert not touching & set(calls(name))


@pytest.mark.parametrize("name", MODULES)
def test_the_library_does_not_print(name):
    """Return values and logging below the doors; `print` and typer in cli.py alone."""
    if name == "cli.py":
        return
    assert "print" not in {node.func.id for node in ast.walk(tree_of(name)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not {full.split(".")[0] for full in imported(name, at_module_level=False)} & {"typer", "click"}


@pytest.mark.parametrize("name", MODULES)
def test_nothing_here_pickles_or_trusts_code(name):
    """No pickle in or out, no code from a model's folder, a cluster library in one file, the web library in two, inside functions."""
    web = {full.split(".")[0] for full in imported(name, at_module_level=name in ("web.py", "page.py"))}
    assert not web & {"gradio", "fastapi", "starlette", "uvicorn"}
    clusters = {"ray"} if name == "ray_workers.py" else set()
    assert not ({full.split(".")[0] for full in imported(name, at_module_level=False)} - clusters) & {
        "pickle",
        "joblib",
        "ray",
        "nnsight",
        "transformer_lens",
    }
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("torch.load", "torch.save", "np.load", "eval", "exec")
            for keyword in node.keywords:
                if keyword.arg in ("trust_remote_code", "allow_pickle"):
                    assert isinstance(keyword.value, ast.Constant)
                    assert keyword.value.value is False


@pytest.mark.parametrize("name", [n for n in MODULES if floor_of(n) >= 1])
def test_transformers_classes_are_named_in_few_places(name):
    """A new family is one row: no class of one family anywhere; the generic ones where models are read and run."""
    allowed = {"AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoTokenizer", "DynamicCache"}
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "transformers":
            assert part_of(name) in ROOM
            assert {alias.name for alias in node.names if alias.name[0].isupper()} <= allowed


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is_for(name):
    """The first line of a file is one sentence; every public class and function has one, too."""
    tree = tree_of(name)
    assert ast.get_docstring(tree), name
    public = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and not n.name.startswith("_")]
    assert [n.name for n in public if not ast.get_docstring(n)] == []


def test_there_is_no_cycle_at_import():
    """Module-level imports form no circle, so any module can be imported first."""
    graph = {}
    for name in MODULES:
        module = "biasgym." + name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        graph[module] = {full for full in imported(name, at_module_level=True) if full.startswith("biasgym.")}
    done, path = set(), []

    def visit(module):
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module in done or module not in graph:
            return
        path.append(module)
        for other in sorted(graph[module]):
            visit(other)
        path.pop()
        done.add(module)

    for module in sorted(graph):
        visit(module)
