"""A report as one HTML page (well-formed XML, without network or scripts), or as Markdown for a README."""

from collections.abc import Sequence
from contextlib import suppress

from langprune_cli.errors import LangpruneError
from langprune_cli.stages.evaluate.rows import MARKS, SizeRow
from langprune_cli.stages.report import experts, figures, recoveries, style, tables
from langprune_cli.stages.report.commands import commands, hidden
from langprune_cli.stages.report.recipe import recipe_of
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
        recipes=_recipes(report),
        commands=[command for _, command in commands(report.sources) if command],
        tables=tables,
        figures=figures,
        experts=experts,
        recoveries=recoveries,
        hatching=hatching(),
        colours=style.colours(),
        shades=SHADES,
        marks=MARKS,
    )


def _recipes(report: Report) -> list[tuple[str, str]]:
    """Return name and recipe of each model that has one, without private folders."""
    found = []
    for model, sources in report.behind:
        with suppress(LangpruneError):  # no stages make this model, as its command says
            found.append((model.name, recipe_of(model, sources, hidden)))
    return found
