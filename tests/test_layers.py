"""Imports go down only, nothing imports in circles, and no file grows too long."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "langprune_cli"
MOST_LINES = 330

# The first part of a module's name below the package -> its layer. Modules of one folder may import one another;
# folders of one layer may not, but for those named below.
LAYERS = {
    "types": 0, "errors": 0, "defaults": 0,
    "registry": 1, "numerics": 1, "store": 1, "text": 1,
    "methods": 2, "unit_methods": 2, "updates": 2, "refinements": 2, "allocations": 2, "models": 2,
    "walk": 3,
    "stages": 4,
    "cli": 5, "__main__": 5,
}  # fmt: skip
MAY_IMPORT_BESIDE = {("__main__", "cli")}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}


def part_of(module: str) -> str | None:
    """Return the layer's folder or file that a module belongs to, None for the package itself."""
    return module.split(".")[1] if "." in module else None


def imported(path: Path, *, at_import: bool = False) -> set[str]:
    """Return the package's modules that a file imports, anywhere in it or only while it is being imported."""
    found = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if at_import and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            base = node.module or ""
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
        pending += ast.iter_child_nodes(node)
    return {name for name in found if name.split(".")[0] == PACKAGE}


def test_every_module_has_a_layer() -> None:
    parts = {part_of(module) for module in MODULES} - {None}
    assert parts == LAYERS.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    own = part_of(module)
    for name in imported(MODULES[module]):
        assert name in MODULES, f"{module} imports {name}, which is not there"
        other = part_of(name)
        if other is None or own == other or (own, other) in MAY_IMPORT_BESIDE:
            continue  # the package itself holds the version and nothing else
        assert own is not None, f"the package imports {name}"
        assert LAYERS[other] < LAYERS[own], f"{module} (layer {LAYERS[own]}) imports {name} (layer {LAYERS[other]})"


def test_nothing_imports_in_circles() -> None:
    graph = {module: imported(path) - {module} for module, path in MODULES.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", MODULES)
def test_files_stay_short(module: str) -> None:
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{module} has {lines} lines"


@pytest.mark.parametrize("path", [path for path in MODULES.values() if path.name == "__init__.py"], ids=module_of)
def test_init_files_hold_no_code(path: Path) -> None:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    docstrings = [node for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
    rest = [ast.unparse(node) for node in body if node not in docstrings]
    if path.parent.name == PACKAGE:
        assert len(rest) == 1
        assert rest[0].startswith("__version__ = ")
    else:
        assert rest == []


def test_the_command_line_does_not_import_torch() -> None:
    """--help answers at once: what is imported to build the commands stays away from the layers that need torch."""
    heavy = {"torch", "transformers", "safetensors", "datasets", "numpy", "huggingface_hub"}
    seen, pending = set(), {f"{PACKAGE}.__main__", f"{PACKAGE}.cli.app"}
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
