"""Imports go down only and never in circles, files stay short, types are said, and docs/architecture.md draws it all."""

import ast
import re
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from scripts.architecture import DOCUMENT, LAYER, MODULES, PACKAGE, ROOT, imported, module_of, page, room_of, rooms_used

MOST_LINES = 300
STILL_LONG: set[str] = set()
MOST_FILES = 15
MOST_ANY = 10  # lines of the whole package


def test_every_room_has_a_layer() -> None:
    assert {room for module in MODULES if (room := room_of(module))} == LAYER.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    if not module:  # the package itself has the API's names, and nothing of the package imports it
        assert imported(MODULES[module]) == {"api", "version"}
        return
    own = room_of(module)
    for name in imported(MODULES[module]):
        assert name in MODULES, f"{module} imports {name}, which is not there"
        other = room_of(name)
        if other is None or own == other:
            assert name, f"{module} imports the package itself"
            continue
        assert own is not None, f"the package {module} imports {name}"
        assert LAYER[other] < LAYER[own], f"{module} (layer {LAYER[own]}) imports {name} (layer {LAYER[other]})"


def test_nothing_imports_in_circles() -> None:
    files = {module: imported(path) - {module} for module, path in MODULES.items()}
    for graph in (files, rooms_used()):
        try:
            list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            pytest.fail(" -> ".join(error.args[1]))


def test_no_folder_is_crowded() -> None:
    for top in (PACKAGE, "tests", "scripts"):
        files = Counter(path.parent for path in (ROOT / top).rglob("*.py"))
        assert {folder.relative_to(ROOT): count for folder, count in files.items() if count > MOST_FILES} == {}


@pytest.mark.parametrize("module", [each for each in MODULES if not each.startswith("cli.commands")])
def test_no_function_takes_eight_parameters(module: str) -> None:
    """What belongs together is a record; a command of Typer's alone has an argument for each of its options."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            own = [each.arg for each in arguments if each.arg not in {"self", "cls"}]
            assert len(own) < 8, f"{module}: {node.name} takes {len(own)} parameters"


def test_the_drawing_of_the_package_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == page(), "run python -m scripts.architecture"


@pytest.mark.parametrize("module", MODULES)
def test_files_stay_short(module: str) -> None:
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    if module in STILL_LONG:
        assert lines > MOST_LINES, f"{module} is short now: take it out of STILL_LONG"
    else:
        assert lines <= MOST_LINES, f"{module} has {lines} lines"


def test_types_are_said() -> None:
    lines = [
        f"{module}: {line.strip()}"
        for module, path in MODULES.items()
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\bAny\b", line)
    ]
    assert len(lines) <= MOST_ANY, "\n".join(lines)


@pytest.mark.parametrize("path", [path for path in MODULES.values() if path.name == "__init__.py"], ids=module_of)
def test_init_files_hold_no_code(path: Path) -> None:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    docstrings = [node for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
    rest = [ast.unparse(node) for node in body if node not in docstrings]
    if path.parent.name != PACKAGE:
        assert rest == []


def test_the_command_line_does_not_import_torch() -> None:
    """--help answers at once: what is imported to build the commands stays away from the layers that need torch."""
    heavy = {"torch", "transformers", "safetensors", "datasets", "numpy", "huggingface_hub", "jinja2", "markupsafe"}
    seen, pending = set(), {"__main__", "cli.app"}
    while pending:
        module = pending.pop()
        seen.add(module)
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        top = {
            (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
            for node in tree.body
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        assert not top & heavy, f"{module}, imported by the command line, imports {top & heavy}"
        pending |= imported(MODULES[module], at_import=True) - seen
