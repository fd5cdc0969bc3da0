"""`--dry-run`: shows what would be made, and what exists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from langprune_cli.cli.display.console import print_json, print_line
from langprune_cli.cli.display.tables import print_table

if TYPE_CHECKING:  # torch takes seconds to import, and --help must be fast
    from langprune_cli.store.planned import Planned


def print_planned(planned: Sequence[Planned], *, json: bool, whole: bool = True) -> None:
    """Print the plan of a dry run. whole: whether it covers everything that the command would make."""
    if json:
        print_json({"schema": 1, **planned_document(planned, whole=whole)})
        return
    rows = [
        [f"{each.recipe.kind}/{each.name}", "is there already" if each.there else "would be made", _size(each.size),
         each.recipe.key[:16], str(each.folder)]
        for each in planned
    ]  # fmt: skip
    print_table(["artifact", "", "size", "key", "folder"], rows)
    if not whole:
        print_line("Further artifacts depend on the contents of these.")


def planned_document(planned: Sequence[Planned], *, whole: bool) -> dict[str, object]:
    """Return what a dry run found as --json shows it."""
    return {"dry_run": True, "whole": whole, "artifacts": [_document(each) for each in planned]}


def _document(planned: Planned) -> dict[str, object]:
    return {
        "kind": planned.recipe.kind,
        "name": planned.name,
        "path": str(planned.folder.absolute()),
        "key": planned.recipe.key,
        "cached": planned.there,
        "bytes": planned.size,
        "about": planned.recipe.about,
    }


def _size(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:,.2f} MB"
