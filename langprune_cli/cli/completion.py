"""What the shell offers for options that name artifacts; answered from the names of folders, so that it takes no time."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer


def names_of(
    *kinds: str, also: tuple[str, ...] = (), with_kind: bool = False
) -> Callable[[typer.Context, str], list[str]]:
    """Return a completion with the names of artifacts of these kinds; `also` are other words, with_kind: as kind/name."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        own: Any = next(each for each in context.command.params if each.name == "workspace")
        given = context.params.get("workspace") or os.environ.get("LANGPRUNE_WORKSPACE") or own.default
        found = [
            f"{kind}/{path.parent.name}" if with_kind else path.parent.name
            for kind in kinds
            for path in sorted(Path(given).expanduser().glob(f"{kind}/*/manifest.json"))
        ]
        return [name for name in (*found, *also) if name.startswith(incomplete)]

    return complete
