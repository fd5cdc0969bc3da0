"""The package as docs/architecture.md draws it: its rooms from the lowest to the highest, what each holds and what it uses.

Everything is read from the code: imports, and the first line of each docstring.

    python -m scripts.architecture
"""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "langprune_cli"
DOCUMENT = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms -->\n", "<!-- /rooms -->\n"

# Rooms by layer, the lowest first: a file may import from its own room and from lower layers. `""` holds the package's own files.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "types", "records", "defaults", "version"),
    ("registry", "machine", "tokens", "templates", "layouts"),
    ("store", "numerics"),
    ("text",),
    ("solvers", "models"),
    ("methods", "unit_methods", "updates", "refinements", "location", "units"),
    ("streaming", "allocations"),
    ("depth_methods", "expert_methods", "hidden_methods"),
    ("stages.statistics",),
    ("stages.structured",),
    ("stages.hidden",),
    ("structured_patterns",),
    ("stages.solving", "stages.evaluate"),
    ("stages.calibrate", "stages.apply", "stages.export", "stages.doctor"),
    ("stages.mask", "stages.recover"),
    ("stages.combine", "stages.prune", "stages.demo", "stages.plan"),
    ("stages.report", "requests.shared"),
    ("requests",),
    ("recipes",),
    ("api", "cli.display"),
    ("cli.options",),
    ("cli.commands",),
    ("cli.app",),
    ("__main__",),
)
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}


def module_of(path: Path) -> str:
    """Return the dotted name of a file of the package, without the package's own."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}


def room_of(module: str) -> str | None:
    """Return the room that a module lies in: its folder, or itself beside the folders; None for what is a folder itself."""
    if MODULES[module].name == "__init__.py":
        return None
    folder, _, _ = module.rpartition(".")
    return module if folder in {"", "cli"} else folder


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
            assert node.level == 0, f"{path}: relative imports hide the direction"  # noqa: S101
            base = node.module or ""
            inner = base.removeprefix(PACKAGE).removeprefix(".")
            found |= {
                f"{base}.{alias.name}" if ".".join(filter(None, (inner, alias.name))) in MODULES else base
                for alias in node.names
            }
        pending += ast.iter_child_nodes(node)
    own = {name for name in found if name.split(".")[0] == PACKAGE}
    return {name.removeprefix(PACKAGE).removeprefix(".") for name in own}


def rooms_used() -> dict[str, set[str]]:
    """Return room -> the other rooms that its files import."""
    used: dict[str, set[str]] = defaultdict(set)
    for module, path in MODULES.items():
        room = room_of(module)
        if room:
            used[room] |= {other for name in imported(path) if (other := room_of(name)) and other != room}
    return used


def drawn() -> str:
    """Return the drawing: the tree of rooms, then for each its purpose, the rooms that it uses, and its files with theirs."""
    used = rooms_used()
    lines = [*_tree(), ""]
    for number, rooms in enumerate(LAYERS):
        for room in rooms:
            lines += [f"### `{_place(room)}`", ""]
            uses = ", ".join(f"`{each}`" for each in sorted(used[room], key=lambda each: (LAYER[each], each)))
            lines += [f"Layer {number}. {_purpose(room)}{f' Uses {uses}.' if uses else ''}", ""]
            if not _is_file(room):
                lines += ["| file | what it does |", "|---|---|"]
                lines += [
                    f"| `{path.name}` | {_purpose(each)} |" for each, path in MODULES.items() if room_of(each) == room
                ]
                lines.append("")
    return "\n".join(lines)


def _tree() -> list[str]:
    """Return the rooms with their layers, the highest first, as a block of text."""
    width = max(len(_place(room)) for room in LAYER)
    rows = [(number, room) for number, rooms in enumerate(LAYERS) for room in rooms]
    return [
        "```text",
        *(f"{number:>2}  {_place(room):{width}}  {_purpose(room)}" for number, room in reversed(rows)),
        "```",
    ]


def _is_file(room: str) -> bool:
    return [each for each in MODULES if room_of(each) == room] == [room]


def _place(room: str) -> str:
    """Return a room as a file or folder of the package."""
    return f"{room.replace('.', '/')}.py" if _is_file(room) else f"{room.replace('.', '/')}/"


def _purpose(module: str) -> str:
    """Return the first line of a module's docstring, as Markdown in a table takes it."""
    said = ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8"))) or ""
    return said.partition("\n")[0].replace("|", "\\|")


def page() -> str:
    """Return docs/architecture.md with the drawing as it is now."""
    before, begin, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    return before + begin + drawn() + end + after


if __name__ == "__main__":
    DOCUMENT.write_text(page(), encoding="utf-8")
