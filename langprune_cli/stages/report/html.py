"""A report as one HTML page that needs nothing else: no network, no script. It is well-formed XML as well."""

from collections.abc import Sequence
from typing import Any

from langprune_cli.stages.export.markup import Markup, element, joined
from langprune_cli.stages.report.commands import commands
from langprune_cli.stages.report.figures import all_pairs, block_charts, matrix_figure, overlap_figure
from langprune_cli.stages.report.report import Report
from langprune_cli.stages.report.style import style_sheet
from langprune_cli.stages.report.svg import hatching
from langprune_cli.stages.report.tables import (
    Table,
    artifacts_table,
    blocks_table,
    cells_table,
    experts_table,
    findings,
    kinds_table,
    matrix_table,
    pairs_table,
    sizes_table,
    tasks_table,
    texts_table,
    vocabulary_table,
)

_MOST_MAPS = 6  # heat maps of pairs that are shown unfolded


def page(report: Report, title: str, sizes: Sequence[dict[str, Any]]) -> str:
    """Return the page. sizes: the rows of smaller models."""
    sections = [each for each in (
        _languages(report), _tasks(report), _blocks(report), _common(report), _sizes(report, sizes), _sources(report)
    ) if each]  # fmt: skip
    links = [element("a", heading, href=f"#{name}") for name, heading, _ in sections]
    made_by = report.sources[-1].manifest.tool
    names = ", ".join(each.evaluation.name for each in report.matrices)
    document = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="referrer", content="no-referrer"),
            element("title", title),
            element("style", Markup(style_sheet())),
        ),
        element(
            "body",
            hatching(),
            element(
                "header",
                element("h1", title),
                element("p", f"What pruning did to each language: evaluation {names}.", class_="soft"),
                element("nav", *links, aria_label="Contents"),
            ),
            element(
                "main",
                *(element("section", element("h2", heading), content, id=name) for name, heading, content in sections),
            ),
            element("footer", element("p", f"Figures by {made_by}. This page loads nothing and runs no script.")),
        ),
        lang="en",
        xmlns="http://www.w3.org/1999/xhtml",
    )
    return f"<!DOCTYPE html>\n{document}\n"


Section = tuple[str, str, Markup]  # anchor, heading, content


def _languages(report: Report) -> Section | None:
    matrices = [each for each in report.matrices if each.texts]
    if not matrices:
        return None
    parts = []
    for number, matrix in enumerate(matrices):
        several = [element("h3", matrix.evaluation.name)] if len(matrices) > 1 else []
        said = findings(matrix)
        parts += [
            *several,
            element("ul", *(element("li", each) for each in said)) if said else Markup(""),
            matrix_figure(matrix, f"matrix-{number}"),
            _more("The same as a table", matrix_table(matrix)),
            _more("The texts", texts_table(matrix)),
        ]
    return "languages", "Languages", joined(*parts)


def _tasks(report: Report) -> Section | None:
    tables = [_table(tasks_table(each)) for each in report.matrices if each.tasks]
    return ("tasks", "Benchmark tasks", joined(*tables)) if tables else None


def _blocks(report: Report) -> Section | None:
    if not report.reconstructions:
        return None
    parts = [
        element(
            "p",
            "The relative squared error of what each linear puts out on the calibration text, block by block (of experts the "
            "mean), and the share of its weights that was removed.",
            class_="note",
        )
    ]
    for number, found in enumerate(report.reconstructions):
        parts += [
            element("h3", found.model.name),
            block_charts(found, f"chart-{number}"),
            _more("By kind of linear", kinds_table(found)),
            _more("By block", blocks_table(found)),
        ]
    return "blocks", "Blocks", joined(*parts)


def _common(report: Report) -> Section | None:
    if not report.comparisons:
        return None
    parts = []
    for number, comparison in enumerate(report.comparisons):
        words = {
            "masks": "How much of what either mask removes both remove. The scale begins at what chance gives: two random "
            "masks with as many weights removed in each linear.",
            "scores": "Spearman's correlation of scores within rows. The scale begins at 0, which is what chance gives.",
            "stats": "Mean |log ratio| of the norms of input columns on the two texts: 0 where they are the same, "
            "0.69 where they differ by a factor of two.",
        }[comparison.kind]
        parts += [
            element("h3", comparison.kind.capitalize()),
            element("p", words, class_="note"),
            _table(pairs_table(comparison)),
        ]
        if len(comparison.pairs) > 1:
            parts.append(all_pairs(comparison, f"all-{number}"))
        maps = [
            element(
                "div",
                element("h4", f"{pair.one} and {pair.other}"),
                overlap_figure(comparison, pair, f"common-{number}-{place}"),
                _more("The same as a table", cells_table(comparison, pair)),
            )
            for place, pair in enumerate(comparison.pairs)
        ]
        panels = element("div", *maps, class_="panels")
        parts.append(
            panels
            if len(maps) <= _MOST_MAPS
            else element("details", element("summary", f"All {len(maps)} pairs"), panels)
        )
    return "common", "In common", joined(*parts)


def _sizes(report: Report, sizes: Sequence[dict[str, Any]]) -> Section | None:
    tables = [each for each in (sizes_table(sizes), vocabulary_table(report), experts_table(report)) if each.rows]
    if not tables:
        return None
    return "sizes", "Sizes", joined(*(joined(element("h3", each.title), _table(each)) for each in tables))


def _sources(report: Report) -> Section:
    made = commands(report.sources)
    lines = [element("code", command) for _, command in made if command]
    return (
        "sources",
        "How to make it again",
        joined(
            element(
                "p",
                "Commands as the manifests have them; files and folders are named without the folders that they lie in. "
                "The same text gives the fingerprints below, and the same settings the keys.",
                class_="note",
            ),
            element("pre", *lines),
            _more("Artifacts, fingerprints, versions", artifacts_table(report)),
        ),
    )


def _table(table: Table) -> Markup:
    """Return a table; columns whose cells are all figures are set to the right."""
    figures = [
        bool(table.rows)
        and all(row[place][:1] in "+-0123456789" and len(row[place]) < 30 for row in table.rows if row[place])
        for place in range(len(table.columns))
    ]
    head = [element("th", name, scope="col", class_="figure" if figure else None) for name, figure in zip(table.columns, figures, strict=True)]  # fmt: skip # noqa: E501
    body = [
        element("tr", *(
            element("td", cell, class_="figure" if figure else "long" if len(cell) > 60 else None)
            for cell, figure in zip(row, figures, strict=True)
        ))
        for row in table.rows
    ]  # fmt: skip
    caption = element("caption", table.title)
    inside = element("table", caption, element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", inside, class_="wide", tabindex=0, role="region", aria_label=table.title)


def _more(summary: str, table: Table) -> Markup:
    return element("details", element("summary", summary), _table(table))
