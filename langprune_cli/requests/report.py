"""The request behind `report`: one page on the effect of pruning on each language."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.requests.compare import kind_of
from langprune_cli.requests.shared.options import HubOptions
from langprune_cli.requests.shared.run import running
from langprune_cli.requests.shared.values import Names, one_of, several

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from langprune_cli.requests.shared.run import Run
    from langprune_cli.stages.evaluate.rows import SizeRow
    from langprune_cli.stages.report.report import Report

FORMATS = ("html", "md")


@dataclass(frozen=True, kw_only=True)
class ReportRequest(HubOptions):
    """Write a page on the effect of pruning on each language: one HTML file with all figures, which needs no network.

    evaluation: evaluations to show, by default the newest (the option --eval)
    model: model artifacts to show by block, by default those of the evaluation
    compare: two masks, statistics or scores to compare, by default those behind the evaluation
    out, form, title: the file to write, "html" or "md" (the option --format), and the page's title
    force: whether to overwrite an existing file
    cache_dir, trust_remote_code: how to open a hub model
    """

    evaluation: Names = ()
    model: Names = ()
    compare: tuple[str, str] | None = None
    out: str | Path | None = None
    form: str = "html"
    title: str | None = None
    force: bool = False

    @property
    def place(self) -> Path:
        """The file to write."""
        return Path(self.out or f"report.{self.form}").expanduser()

    def check(self) -> None:
        """Raise UsageError for an unknown format."""
        super().check()
        one_of("--format", self.form, FORMATS)


@dataclass(frozen=True)
class Reported:
    """A written page and its contents."""

    place: Path
    shown: Report
    form: str
    cached: bool = False  # whether this very page was there already


def report(request: ReportRequest) -> Reported:
    """Write the page; raises LangpruneError if another file exists."""
    if request.place.is_dir():
        raise LangpruneError(f"{request.place} is a folder: name a file with --out")
    with running(request, device="cpu") as run:
        from langprune_cli.stages.report.page import page  # noqa: PLC0415
        from langprune_cli.store.files import disk_errors, make_folder, write_bytes  # noqa: PLC0415
        from langprune_cli.store.plain import plain_file  # noqa: PLC0415

        found = _collected(run, request)
        title = request.title or f"{found.matrices[0].dense}, pruned"
        text = page(found, title, _sizes(run, found), request.form)
        place = request.place
        with disk_errors(place):
            if plain_file(place).exists() and not request.force:
                if place.read_bytes() == text.encode():
                    return Reported(place, found, request.form, cached=True)
                raise LangpruneError(f"{place} exists: choose another --out, or overwrite it with --force")
            make_folder(place.parent)
        write_bytes(place, text.encode())
        return Reported(place, found, request.form)


def _collected(run: Run, request: ReportRequest) -> Report:
    from langprune_cli.stages.report.collecting import collect  # noqa: PLC0415

    workspace, compared = run.workspace, request.compare
    names: list[str | None] = [*several(request.evaluation)] or [None]
    of_evaluation = [run.pick("evals", each, "evaluation", "eval") for each in names]
    of_models = [workspace.find("models", each) for each in several(request.model)]
    kind = kind_of(list(compared), workspace) if compared else ""
    of_pair = [workspace.find(kind, each) for each in compared or ()]
    if len({each.key for each in of_pair}) == 1:
        raise UsageError(f"--compare {' '.join(compared or ())} names one artifact twice: name two")
    found = collect(
        workspace,
        of_evaluation,
        of_models,
        of_pair,
        lambda each: run.open(run.choose(None, None, each)),
        run.reporter,
    )
    shown = [f"{each.manifest.kind}/{each.name}" for each in found.sources if each.manifest.kind != "evals"]
    run.reporter.note(f"Shows {', '.join(shown) or 'no artifact but the evaluation'}.")
    return found


def _sizes(run: Run, found: Report) -> list[SizeRow]:
    """Return the changes of smaller models against the dense one."""
    from langprune_cli.stages.evaluate.earlier import read_rows  # noqa: PLC0415
    from langprune_cli.stages.evaluate.rows import size_rows  # noqa: PLC0415
    from langprune_cli.stages.export.lineage import lineage  # noqa: PLC0415

    sizes: list[SizeRow] = []
    for matrix in found.matrices:
        chains = {
            subject.name: [each.manifest for each in lineage(run.workspace, subject.of)]
            for subject in matrix.subjects
            if subject.of and subject.of.manifest.kind == "models"
        }
        sizes += size_rows(read_rows(matrix.evaluation), chains)
    return sizes
