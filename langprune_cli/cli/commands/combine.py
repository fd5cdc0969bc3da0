"""The command `combine`: several artifacts of one kind made into one."""

from typing import Annotated, Any

import typer

from langprune_cli.cli.requests import options as opt
from langprune_cli.cli.requests.session import Session, one_of
from langprune_cli.errors import UsageError

# Options that only one kind has; of masks also those that open the model, whose matrices their bits are about.
_OF = {
    "stats": ("--weights", "--per"),
    "masks": ("--how", "--sparsity", "--model", "--revision", "--cache-dir", "--trust-remote-code"),
}


def combine(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="What is combined: stats or masks.", show_default=False)],
    names: Annotated[list[str], typer.Argument(help="Two or more: names, or folders.", show_default=False)],
    *,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Of stats: the share of each, in order, such as 0.7,0.3; plain sums if left out.",
            rich_help_panel=opt.CHOICE,
        ),
    ] = None,
    per: Annotated[
        str,
        typer.Option(
            help="Of --weights: token, shares of the mean over tokens; window, shares of the windows of a mixed text. They "
            "differ for experts of mixtures only, which some texts reach more often.",
            rich_help_panel=opt.CHOICE,
        ),
    ] = "token",
    how: Annotated[
        str,
        typer.Option(
            help="Of masks: and, what all keep; or, what any keeps; vote:K, what at least K keep; vote, what most keep.",
            rich_help_panel=opt.CHOICE,
        ),
    ] = "vote",
    sparsity: Annotated[
        float | None,
        typer.Option(
            "--sparsity",
            "-s",
            help="Of masks: remove exactly this fraction, by --how first and then by importance; what --how says if left out.",
            rich_help_panel=opt.CHOICE,
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
    """Add up statistics of one model on several texts, or counts of tokens; or make one keep mask of several.

    [bold]langprune combine stats uk en --weights 0.7,0.3[/bold]
    """
    one_of("KIND", kind, tuple(_OF))
    given = opt.given(context)
    others = [option for each, options in _OF.items() if each != kind for option in options if option in given]
    if others:
        raise UsageError(f"combine {kind} has no use for {', '.join(others)}: leave it out")
    session = Session(workspace, json=json, device="cpu", cache_dir=cache_dir, trust_remote_code=trust_remote_code)
    parents = [session.workspace.find(kind, each) for each in names]
    to: dict[str, Any] = {"name": name, "force": force}
    if kind == "stats":
        from langprune_cli.stages.combine.combine import combine_stats  # noqa: PLC0415 - needs torch
        from langprune_cli.stages.combine.weights import Weights  # noqa: PLC0415

        unit: Any = one_of("--per", per, ("token", "window"))
        if weights is None and "--per" in given:
            raise UsageError(f"--per {per} says what --weights are shares of: give them too, or leave it out")
        shares = None if weights is None else Weights(_numbers(weights), unit)
        session.show([combine_stats(session.workspace, parents, session.reporter, weights=shares, **to)])
        return
    from langprune_cli.stages.combine.combine_masks import combine_masks  # noqa: PLC0415

    opened = session.open(session.choose(model, revision, parents[0]))
    session.show([combine_masks(session.workspace, opened, parents, how, session.reporter, sparsity=sparsity, **to)])


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise UsageError(f"--weights {text!r} are not numbers with commas between them: write 0.7,0.3") from error
