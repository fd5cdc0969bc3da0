"""The command `combine`: makes one artifact from several of one kind."""

from typing import Annotated

import typer

from langprune_cli.cli.display.made import console, show_made
from langprune_cli.cli.options import choice
from langprune_cli.cli.options import shared as opt


def combine(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="The kind: stats or masks.", show_default=False)],
    names: Annotated[list[str], typer.Argument(help="Two or more: names, or folders.", show_default=False)],
    *,
    weights: Annotated[
        str | None,
        typer.Option(
            help="For stats: the share of each, in order, such as 0.7,0.3; by default plain sums.",
            rich_help_panel=choice.CHOICE,
        ),
    ] = None,
    per: Annotated[
        str,
        typer.Option(
            help="For --weights: token, shares of the mean over tokens; window, shares of the windows of a mixed text. They "
            "differ only for experts of mixtures, which some texts reach more often.",
            rich_help_panel=choice.CHOICE,
        ),
    ] = "token",
    how: Annotated[
        str,
        typer.Option(
            help="For masks: keep what all keep (and), any keeps (or), at least K keep (vote:K) or most keep (vote).",
            rich_help_panel=choice.CHOICE,
        ),
    ] = "vote",
    sparsity: Annotated[
        float | None,
        typer.Option(
            "--sparsity",
            "-s",
            help="For masks: remove exactly this fraction, by --how and then by importance; by default only --how decides.",
            rich_help_panel=choice.CHOICE,
        ),
    ] = None,
    model: opt.Model = None,
    revision: opt.Revision = None,
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    name: opt.Name = None,
    force: opt.Force = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Add up statistics of one model on several texts, or token counts; or make one keep mask from several.

    [bold]langprune combine stats uk en --weights 0.7,0.3[/bold]
    """
    from langprune_cli.requests.combine import CombineRequest, combine  # noqa: PLC0415 - --help needs no requests

    request = CombineRequest(
        kind=kind, names=names, weights=weights, per=per, how=how, sparsity=sparsity, model=model, revision=revision,
        cache_dir=cache_dir, trust_remote_code=trust_remote_code, name=name, force=force, workspace=workspace,
        reporter=console(workspace), given=opt.given(context),
    )  # fmt: skip
    show_made(combine(request), json=json)
