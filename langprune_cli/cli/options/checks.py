"""Finds artifacts and models that options name while the command line is parsed, before importing torch."""

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, TypeVar

import typer

from langprune_cli.cli.options.completion import names_of
from langprune_cli.location.location import check_hub_id, local_path
from langprune_cli.requests.shared.values import MASK_FILES, several
from langprune_cli.store.workspace import Workspace

Named = TypeVar("Named", str, list[str], None)  # one name, several or none


class _Settings(TypedDict):
    """Typer's settings of an option."""

    autocompletion: Callable[[typer.Context, str], list[str]]
    callback: Callable[..., object]  # of different values


def artifact(kind: str) -> _Settings:
    """Return the settings of an option that names artifacts: completion, and a check that each exists and is complete."""

    def check(context: typer.Context, value: Named) -> Named:
        if context.resilient_parsing:  # the shell completes the line
            return value
        for name in several(value or ()):
            if not (kind == "masks" and name.endswith(MASK_FILES)):
                _workspace(context).find(kind, name)
        return value

    return {"autocompletion": names_of(kind), "callback": check}


def model(context: typer.Context, value: Named) -> Named:
    """Refuse a value that is no artifact, no existing path and no possible hub id."""
    if context.resilient_parsing:
        return value
    for name in several(value or ()):
        path, is_local = local_path(name, None)
        if not is_local and not (_workspace(context).root / "models" / path.name).exists():
            check_hub_id(name, path)
    return value


def _workspace(context: typer.Context) -> Workspace:
    """Return the workspace of the command; its option is parsed before all others (`is_eager`)."""
    root: Path = context.params["workspace"]
    return Workspace(root.expanduser(), dry=True)
