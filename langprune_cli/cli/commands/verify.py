"""The command `verify`: checks artifacts against their recorded sizes and hashes."""

from typing import Annotated

import typer

from langprune_cli.cli.display.console import print_json, print_line
from langprune_cli.cli.display.tables import print_table
from langprune_cli.cli.options import shared as opt
from langprune_cli.errors import UsageError
from langprune_cli.store import verifying
from langprune_cli.store.workspace import Workspace

_NAMES = typer.Argument(help="Name, kind/name, or a folder with an artifact or an exported model.", show_default=False)


def verify(
    names: Annotated[list[str] | None, _NAMES] = None,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Check all artifacts of the workspace.", rich_help_panel="Input")
    ] = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Check that artifacts are unchanged, every file by its size and sha256; exit code 1 if one has changed.

    [bold]langprune verify --all[/bold]
    """
    if bool(names) == everything:
        raise UsageError("verify needs the names of artifacts: give some, or --all")
    opened = Workspace(workspace.expanduser())
    found = verifying.places(opened) if everything else {}
    for name in names or []:
        found |= verifying.places_called(opened, name)
    checked = [verifying.verify(label, folder) for label, folder in found.items()]
    damages = [damage for each in checked for damage in each.damages]
    if json:
        rows = [
            {"label": each.label, "path": str(each.folder), "complete": each.complete, "files": each.files,
             "bytes": each.size, "damaged": [{"path": str(one.path), "says": one.says} for one in each.damages]}
            for each in checked
        ]  # fmt: skip
        print_json({"schema": 1, "whole": not damages, "artifacts": rows})
    else:
        lines = [[each.label, str(each.files), f"{each.size / 1e6:,.2f} MB", _state(each)] for each in checked]
        print_table(["artifact", "files", "size", "state"], lines)
        for damage in damages:
            print_line(damage.says)
    if damages:
        raise typer.Exit(1)


def _state(each: verifying.Verified) -> str:
    if each.damages:
        return f"damaged: {len(each.damages)} of its files"
    return "whole" if each.complete else "whole so far, not complete"
