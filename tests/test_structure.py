"""The code's structure: imports, length of functions, and a docstring for each config field."""

import ast
import inspect
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest

import tljax
from tljax.config import ExperimentFields, base
from tljax.training import loop
from tljax.training.options import TrainingOptions

PACKAGE = Path(tljax.__file__).parent
# From top to bottom; a file may import from its own floor and from those below.
FLOORS = (
    ("cli",),
    ("commands",),
    ("analysis", "advice"),
    ("experiment", "config"),
    ("training",),
    ("frozen",),
    ("runs",),
    ("devices", "data"),
    ("weights", "transfer"),
    ("models",),
    ("console", "errors", "files", "locks"),
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(path):
    """(module of tljax, whether the import is at the top of the file) of each import in a file."""
    tree = ast.parse(path.read_text())
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tljax":
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else node.module for name in full]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "tljax"]
        for name in names:
            yield name, node not in inner


def room(module):
    return module.split(".")[1] if "." in module else None


def test_every_room_has_a_floor():
    rooms = {room(module) for module in FILES} - {None}
    assert rooms == FLOOR_OF.keys()


def test_nothing_is_imported_from_a_floor_above():
    upwards = [
        f"{module} imports {imported}"
        for module, path in FILES.items()
        for imported, _ in imports(path)
        if room(module) and room(imported) and FLOOR_OF[room(imported)] < FLOOR_OF[room(module)]
    ]
    assert not upwards


def test_no_circle_of_imports():
    graph = {module: {name for name, _ in imports(path)} for module, path in FILES.items()}
    done = set()

    def visit(module, way):
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for imported in sorted(graph.get(module, ())):
                # a package's __init__ collects names from its files, which do not import it
                if imported != module:
                    visit(imported, [*way, module])
            done.add(module)

    for module in graph:
        if module != "tljax":
            visit(module, [])


def test_no_room_is_crowded():
    counts = Counter(path.parent.relative_to(PACKAGE).as_posix() for path in FILES.values())
    assert max(counts.values()) <= 20, counts.most_common(3)
    assert len((PACKAGE / "cli.py").read_text().splitlines()) < 160


def functions():
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{module}.{node.name}", node


def test_functions_fit_on_a_few_screens():
    for name, node in functions():
        assert node.end_lineno - node.lineno < 100, name
        nested = [
            inner
            for inner in ast.walk(node)
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and inner is not node
        ]
        assert len(nested) <= 6, name


def test_the_loop_is_a_page():
    assert len(inspect.getsource(loop.train).splitlines()) <= 60


@pytest.mark.parametrize("schema", [ExperimentFields, TrainingOptions])
def test_every_config_field_has_a_docstring_of_its_own(schema):
    body = ast.parse(inspect.getsource(schema)).body[0].body
    for field, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert said, f"{schema.__name__}.{field.target.id}"


def test_config_and_options_share_one_schema():
    options = TrainingOptions()
    config = base()
    both = {field.name for field in fields(ExperimentFields)} & set(vars(options))
    assert not both, "a field is described twice"
    for name, value in vars(options).items():
        assert config[name] == value, name
