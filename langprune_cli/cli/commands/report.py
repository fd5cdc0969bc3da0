"""The command `report`: one page that shows what pruning did to each language."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langprune_cli.cli.commands.compare import kind_of
from langprune_cli.cli.display.console import print_json, print_line
from langprune_cli.cli.requests import options as opt
from langprune_cli.cli.requests.session import Session, one_of
from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.stages.evaluate.rows import size_rows

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not
    from langprune_cli.stages.evaluate.rows import SizeRow
    from langprune_cli.stages.report.report import Report

_FORMATS = ("html", "md")


def report(
    *,
    evaluation: Annotated[
        list[str] | None,
        typer.Option(
            "--eval",
            help="Evaluation to show; may be given several times; the newest if left out.",
            rich_help_panel=opt.CHOICE,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Model artifact whose blocks are shown; may be given several times; those of the evaluation if left out.",
            rich_help_panel=opt.CHOICE,
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Masks, statistics or scores to compare; those behind the evaluation if left out.",
            rich_help_panel=opt.CHOICE,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="File to write; report.html or report.md if left out.", rich_help_panel=opt.OUTPUT
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format", help="html: one page with figures; md: tables for a README.", rich_help_panel=opt.OUTPUT
        ),
    ] = "html",
    title: Annotated[
        str | None, typer.Option(help="Title of the page; made from the model if left out.", rich_help_panel=opt.OUTPUT)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write over a file that is there.", rich_help_panel=opt.OUTPUT)
    ] = False,
    cache_dir: opt.CacheDir = None,
    trust_remote_code: opt.TrustRemoteCode = False,
    workspace: opt.Workspace = opt.DEFAULT_WORKSPACE,
    json: opt.Json = False,
) -> None:
    """Write a page about what pruning did to each language: one HTML file with all figures, which needs no network.

    [bold]langprune report --out report.html[/bold]
    """
    one_of("--format", form, _FORMATS)
    place = (out or Path(f"report.{form}")).expanduser()
    _check_place(place, force=force)
    session = Session(workspace, json=json, device="cpu", cache_dir=cache_dir, trust_remote_code=trust_remote_code)
    found = _collected(session, evaluation or [], model or [], compare)
    text = _written(session, found, form, title)
    from langprune_cli.store.files import disk_errors, make_folder, write_bytes  # noqa: PLC0415 - needs torch

    with disk_errors(place):
        make_folder(place.parent)
    write_bytes(place, text.encode())
    if json:
        shown = [f"{each.manifest.kind}/{each.name}" for each in found.sources]
        print_json({"schema": 1, "kind": "report", "format": form, "path": str(place.absolute()), "artifacts": shown})
    else:
        print_line(f"wrote {place}: {_summary(found)}")


def _check_place(place: Path, *, force: bool) -> None:
    if place.is_dir():
        raise LangpruneError(f"{place} is a folder: name a file with --out")
    if place.exists() and not force:
        raise LangpruneError(f"{place} exists: choose another --out, or write over it with --force")


def _collected(session: Session, evaluations: list[str], models: list[str], compared: tuple[str, str] | None) -> Report:
    from langprune_cli.stages.combine.compare import COMPARED  # noqa: PLC0415 - needs torch
    from langprune_cli.stages.report.report import collect  # noqa: PLC0415

    workspace = session.workspace
    names: list[str | None] = [*evaluations] or [None]
    of_evaluation = [session.pick("evals", each, "evaluation", "eval") for each in names]
    of_models = [workspace.find("models", each) for each in models]
    kind = kind_of(list(compared), workspace, COMPARED) if compared else ""
    of_pair = [workspace.find(kind, each) for each in compared or ()]
    if len({each.key for each in of_pair}) == 1:
        raise UsageError(f"--compare {' '.join(compared or ())} names one artifact twice: name two")
    found = collect(
        workspace,
        of_evaluation,
        of_models,
        of_pair,
        lambda each: session.open(session.choose(None, None, each)),
        session.reporter,
    )
    shown = [f"{each.manifest.kind}/{each.name}" for each in found.sources if each.manifest.kind != "evals"]
    session.reporter.note(f"Shows {', '.join(shown) or 'no artifact but the evaluation'}.")
    return found


def _written(session: Session, found: Report, form: str, title: str | None) -> str:
    from langprune_cli.stages.report.page import page  # noqa: PLC0415 - needs torch

    return page(found, title or f"{found.matrices[0].dense}, pruned", _sizes(session, found), form)


def _sizes(session: Session, found: Report) -> list[SizeRow]:
    """Return what smaller models lost, each beside the dense one."""
    from langprune_cli.stages.evaluate.evaluate import read_rows  # noqa: PLC0415 - needs torch
    from langprune_cli.stages.export.lineage import lineage  # noqa: PLC0415

    sizes: list[SizeRow] = []
    for matrix in found.matrices:
        chains = {
            subject.name: [each.manifest for each in lineage(session.workspace, subject.of)]
            for subject in matrix.subjects
            if subject.of and subject.of.manifest.kind == "models"
        }
        sizes += size_rows(read_rows(matrix.evaluation), chains)
    return sizes


def _summary(found: Report) -> str:
    counts = [
        (sum(len(each.texts) * len(each.subjects) for each in found.matrices), "figures"),
        (sum(len(each.tasks) for each in found.matrices), "results of tasks"),
        (len(found.reconstructions), "pruned models"),
        (sum(len(each.pairs) for each in found.comparisons), "comparisons"),
    ]
    return ", ".join(f"{count} {what}" for count, what in counts if count)
