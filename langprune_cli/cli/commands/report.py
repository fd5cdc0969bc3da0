"""The command `report`: one page on the effect of pruning on each language."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langprune_cli.cli.display.console import print_json, print_line
from langprune_cli.cli.display.made import console
from langprune_cli.cli.options import choice
from langprune_cli.cli.options import shared as opt

if TYPE_CHECKING:  # torch takes seconds to import, and --help must be fast
    from langprune_cli.requests.report import Reported
    from langprune_cli.stages.report.report import Report


def report(
    *,
    evaluation: Annotated[
        list[str] | None,
        typer.Option(
            "--eval",
            help="Evaluation to show, repeatable; by default the newest.",
            rich_help_panel=choice.CHOICE,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Model artifact to show by block, repeatable; by default those of the evaluation.",
            rich_help_panel=choice.CHOICE,
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Masks, statistics or scores to compare; by default those behind the evaluation.",
            rich_help_panel=choice.CHOICE,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="File to write; by default report.html or report.md.", rich_help_panel=opt.OUTPUT
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format", help="html: one page with figures; md: tables for a README.", rich_help_panel=opt.OUTPUT
        ),
    ] = "html",
    title: Annotated[
        str | None, typer.Option(help="Title of the page; by default made from the model.", rich_help_panel=opt.OUTPUT)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite an existing file.", rich_help_panel=opt.OUTPUT)
    ] = False,
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Write a page on the effect of pruning on each language: one HTML file with all figures, which needs no network.

    [bold]langprune report --out report.html[/bold]
    """
    from langprune_cli.requests.report import ReportRequest, report  # noqa: PLC0415 - --help needs no requests

    request = ReportRequest(
        evaluation=evaluation or (), model=model or (), compare=compare, out=out, form=form, title=title, force=force,
        cache_dir=cache_dir, trust_remote_code=trust_remote_code, workspace=workspace, reporter=console(workspace),
    )  # fmt: skip
    show(report(request), json=json)


def show(made: Reported, *, json: bool) -> None:
    """Print what was written."""
    if json:
        print_json({"schema": 1, **reported(made)})
    elif made.cached:
        print_line(f"{made.place} is this report already: {_summary(made.shown)}")
    else:
        print_line(f"wrote {made.place}: {_summary(made.shown)}")


def reported(made: Reported) -> dict[str, object]:
    """Return what was written as --json shows it."""
    shown = [f"{each.manifest.kind}/{each.name}" for each in made.shown.sources]
    return {"kind": "report", "format": made.form, "path": str(made.place.absolute()), "artifacts": shown}


def _summary(found: Report) -> str:
    counts = [
        (sum(len(each.texts) * len(each.subjects) for each in found.matrices), "figures"),
        (sum(len(each.tasks) for each in found.matrices), "results of tasks"),
        (len(found.reconstructions), "pruned models"),
        (sum(len(each.pairs) for each in found.comparisons), "comparisons"),
    ]
    return ", ".join(f"{count} {what}" for count, what in counts if count)
