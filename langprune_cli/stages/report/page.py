"""A report as one HTML page that needs no network and no script and is well-formed XML, or as Markdown for a README."""

from collections.abc import Sequence

from langprune_cli.stages.evaluate.rows import MARKS, SizeRow
from langprune_cli.stages.report import figures, style, tables
from langprune_cli.stages.report.commands import commands
from langprune_cli.stages.report.report import Report
from langprune_cli.stages.report.svg import SHADES, hatching
from langprune_cli.templates.rendering import render


def page(report: Report, title: str, sizes: Sequence[SizeRow], form: str) -> str:
    """Return the page. sizes: the rows of smaller models. form: "html" or "md"."""
    of_sizes = (tables.sizes_table(sizes), tables.vocabulary_table(report), tables.experts_table(report))
    return render(
        f"report.{form}.j2",
        title=title,
        report=report,
        size_tables=[each for each in of_sizes if each.rows],
        commands=[command for _, command in commands(report.sources) if command],
        tables=tables,
        figures=figures,
        hatching=hatching(),
        colours=style.colours(),
        shades=SHADES,
        marks=MARKS,
    )
