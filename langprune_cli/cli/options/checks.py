"""Artifacts and models that options name, looked for while the command line is read: before torch is imported."""

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
    """What Typer takes of an option."""

    autocompletion: Callable[[typer.Context, str], list[str]]
    callback: Callable[..., object]  # of different values


def artifact(kind: str) -> _Settings:
    """Return the settings of an option that names artifacts: its completion, and a check that each is there, complete."""

    def check(context: typer.Context, value: Named) -> Named:
        if context.resilient_parsing:  # the shell completes the line
            return value
        for name in several(value or ()):
            if not (kind == "masks" and name.endswith(MASK_FILES)):
                _workspace(context).find(kind, name)
        return value

    return {"autocompletion": names_of(kind), "callback": check}


def model(context: typer.Context, value: Named) -> Named:
    """Refuse what is no artifact's name, no path that exists, and cannot be the id of a model on the hub."""
    if context.resilient_parsing:
        return value
    for name in several(value or ()):
        path, is_local = local_path(name, None)
        if not is_local and not (_workspace(context).root / "models" / path.name).exists():
            check_hub_id(name, path)
    return value


def _workspace(context: typer.Context) -> Workspace:
    """Return the workspace of the command; its option is read before all others (`is_eager`)."""
    root: Path = context.params["workspace"]
    return Workspace(root.expanduser(), dry=True)
