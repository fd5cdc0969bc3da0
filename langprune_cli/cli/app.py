"""The Typer application: collects the commands from cli/commands/, and runs one."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langprune_cli.cli.commands import (
    artifacts,  # fmt: skip
    combine,  # fmt: skip
    compare,  # fmt: skip
    demo,  # fmt: skip
    doctor,  # fmt: skip
    evaluate,  # fmt: skip
    export,  # fmt: skip
    languages,  # fmt: skip
    plan,  # fmt: skip
    prune,  # fmt: skip
    recipe,  # fmt: skip
    recover,  # fmt: skip
    report,  # fmt: skip
    stages,  # fmt: skip
)
from langprune_cli.cli.display.log import logged
from langprune_cli.errors import error_document, printable
from langprune_cli.version import __version__

if TYPE_CHECKING:
    from langprune_cli.machine.team import Team

app = typer.Typer(
    name="langprune",
    help="Prune large language models, after training, for the languages their users care about.\n\n"
    "calibrate -> score -> mask -> apply -> recover -> eval -> export: each stage stores its result in the workspace and "
    "takes the newest result of the stage before. Try [bold]langprune demo[/bold].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Typer's own UsageError and exit code of Ctrl-C: from click, or from the copy of click in newer Typers.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
_INTERRUPTED = 130

BEFORE = "Before you start"
STAGES = "Stages"
ARTIFACTS = "Artifacts"

app.command(rich_help_panel=BEFORE)(plan.plan)
app.command(rich_help_panel=BEFORE)(doctor.doctor)
app.command(rich_help_panel=BEFORE)(languages.languages)
app.command(rich_help_panel=STAGES)(stages.calibrate)
app.command(rich_help_panel=STAGES)(stages.score)
app.command(rich_help_panel=STAGES)(stages.mask)
app.command(rich_help_panel=STAGES)(stages.apply)
app.command(rich_help_panel=STAGES)(recover.recover)
app.command("eval", rich_help_panel=STAGES)(evaluate.evaluate)
app.command(rich_help_panel=STAGES)(export.export)
app.command(rich_help_panel=STAGES)(prune.prune)
app.command(rich_help_panel=STAGES)(recipe.run)
app.command(rich_help_panel=STAGES)(demo.demo)
app.command(rich_help_panel=ARTIFACTS)(combine.combine)
app.command(rich_help_panel=ARTIFACTS)(compare.compare)
app.command(rich_help_panel=ARTIFACTS)(report.report)
app.command(rich_help_panel=ARTIFACTS)(recipe.recipe)
app.command("ls", rich_help_panel=ARTIFACTS)(artifacts.list_artifacts)
app.command(rich_help_panel=ARTIFACTS)(artifacts.show)
app.command(rich_help_panel=ARTIFACTS)(artifacts.verify)
app.command("rm", rich_help_panel=ARTIFACTS)(artifacts.remove)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - Typer's callback
    if asked:
        typer.echo(f"langprune {__version__}")
        raise typer.Exit


@app.callback()
def langprune(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; works anywhere on the line.")] = False,
) -> None:
    """Prune large language models, after training, for the languages their users care about."""


def run(words: list[str], team: "Team | None" = None) -> int:
    """Run the command line `words`; click shows errors in options, other errors are raised.

    team: the processes that run it together, None for a single one. The first writes the log.
    """
    command = typer.main.get_command(app)
    try:
        with logged(words) if team is None or team.leads else nullcontext():
            code = command.main(args=words, prog_name="langprune", standalone_mode=False, obj=team)
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except _USAGE_ERROR as error:
        error.message = printable(error.message)
        error.show()
        if "--json" in words:
            typer.echo(error_document(printable(error.format_message()), 2))
        return 2
    if code == _INTERRUPTED:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0
