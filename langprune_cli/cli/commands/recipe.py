"""The commands about recipes: `run` runs the stages of a file, `recipe` writes the file behind an artifact."""

from __future__ import annotations

from collections.abc import Callable
from json import dumps as json_of
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langprune_cli.cli.commands import compare, evaluate, export, plan, report
from langprune_cli.cli.commands.artifacts import NAME, kind_and_name
from langprune_cli.cli.display.console import ConsoleReporter, print_json, print_line
from langprune_cli.cli.display.made import console, log_made, made_document, pruned_document, show_made, show_pruned
from langprune_cli.cli.display.made import document as artifact_document
from langprune_cli.cli.options import shared as opt
from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.requests.shared.results import Made
from langprune_cli.requests.shared.values import workspace_folder
from langprune_cli.store.workspace import Workspace

if TYPE_CHECKING:  # --help needs no requests
    from langprune_cli.recipes.running import Ran

# How each command shows what its request gave back: on stdout, and as a JSON document.
_SHOWN: dict[str, tuple[Callable[..., None], Callable[..., dict[str, object]]]] = {
    "prune": (show_pruned, pruned_document),
    "eval": (evaluate.show, evaluate.evaluated),
    "export": (export.show, export.exported),
    "report": (report.show, report.reported),
    "compare": (compare.show, compare.compared),
    "plan": (plan.show, lambda found: found.document()),
}


def run(
    context: typer.Context,
    recipe: Annotated[
        Path, typer.Argument(help="A YAML file: a list of stages with their options.", show_default=False)
    ],
    *,
    dry_run: opt.DryRun = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Run the stages of a recipe, one after the other. All are checked before the first runs; what is there already is found.

    [bold]langprune run recipe.yaml[/bold]
    """
    from langprune_cli.machine.team import ALONE  # noqa: PLC0415 - --help needs none of it
    from langprune_cli.recipes.running import checked, running  # noqa: PLC0415 - as above

    own = workspace if "--workspace" in opt.given(context) else None
    team = context.obj or ALONE
    stages = team.first(lambda: checked(recipe, own))
    reporter = console(workspace_folder(stages.workspace), dry_run=dry_run)
    documents = []
    for ran in running(stages, dry_run=dry_run, reporter=reporter, team=team):
        if not team.leads:
            continue
        if json:
            documents.append(_document(ran))
        else:
            _show(ran)
    if json:
        print_json({"schema": 1, "kind": "recipe", "dry_run": dry_run, "stages": documents})


def _show(ran: Ran) -> None:
    """Print what a stage gave back, as its command does."""
    print_line(f"stage {ran.number}: {ran.command}")
    if ran.result is None:
        print_line("is run once the stages before are there.")
    else:
        show, _ = _SHOWN.get(ran.command, (show_made, made_document))
        show(ran.result, json=False)


def _document(ran: Ran) -> dict[str, object]:
    """Return a stage and what it gave back, as its command's JSON document has it."""
    _, document = _SHOWN.get(ran.command, (show_made, made_document))
    made = ran.result if isinstance(ran.result, Made) and ran.result.planned is None else None
    if made:
        log_made(made)
    artifacts = {"artifacts": [artifact_document(each) for each in made.outcomes]} if made else {}
    found = document(ran.result) if ran.result is not None else {}
    return {"stage": ran.number, "command": ran.command, **found, **artifacts}


def recipe(
    name: Annotated[str | None, NAME] = None,
    *,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            help="Print the JSON schema of recipes, by which editors complete and check them, instead.",
            rich_help_panel=opt.OUTPUT,
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write, instead of stdout.", rich_help_panel=opt.OUTPUT)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write over a file that is there.", rich_help_panel=opt.OUTPUT)
    ] = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
) -> None:
    """Write the recipe behind an artifact: the stages from its inputs to it, which make it again in an empty workspace.

    [bold]langprune recipe models/uk-wanda-2x4 --out uk.yaml[/bold]
    """
    if schema == (name is not None):
        raise UsageError("recipe writes one thing: name an artifact, or give --schema")
    if out and out.expanduser().exists() and not force:
        raise LangpruneError(f"{out} exists: choose another --out, or write over it with --force")
    text = _schema_text() if name is None else _recipe_text(name, workspace.expanduser())
    if out:
        from langprune_cli.store.files import disk_errors, make_folder, write_bytes  # noqa: PLC0415 - --help needs none

        place = out.expanduser()
        with disk_errors(place):
            make_folder(place.absolute().parent)
        write_bytes(place, text.encode())
        print_line(f"wrote {out}")
    else:
        typer.echo(text, nl=False)


def _schema_text() -> str:
    from langprune_cli.recipes.schema import schema  # noqa: PLC0415 - --help needs no requests

    return json_of(schema(), indent=2, ensure_ascii=False) + "\n"


def _recipe_text(name: str, workspace: Path) -> str:
    from langprune_cli.recipes.writing import recipe_behind  # noqa: PLC0415 - --help needs none of it

    kind, short = kind_and_name(name, Workspace(workspace, dry=True))
    return recipe_behind(workspace, kind, short, ConsoleReporter())
