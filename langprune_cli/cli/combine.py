"""The command `combine`: several artifacts of one kind made into one."""

from typing import Annotated

import typer

from langprune_cli.cli import options as opt
from langprune_cli.cli.session import Session, one_of


def combine(
    kind: Annotated[str, typer.Argument(help="What is combined: stats.", show_default=False)],
    names: Annotated[list[str], typer.Argument(help="Two or more: names, or folders.", show_default=False)],
    *,
    name: opt.Name = None,
    force: opt.Force = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Add up statistics of one model on several texts, such as those of two languages, or counts of tokens.

    [bold]langprune combine stats uk en[/bold]
    """
    one_of("KIND", kind, ("stats",))
    session = Session(workspace, json=json)
    from langprune_cli.stages.combine import combine_stats  # noqa: PLC0415 - needs torch

    parents = [session.workspace.find("stats", each) for each in names]
    session.show([combine_stats(session.workspace, parents, session.reporter, name=name, force=force)])
