"""A report as Markdown, for a README: its tables and commands."""

from collections.abc import Sequence
from typing import Any

from langprune_cli.stages.evaluate.rows import MARKS
from langprune_cli.stages.export.markdown import longest_run, plain, row
from langprune_cli.stages.export.markup import clean
from langprune_cli.stages.report.commands import commands
from langprune_cli.stages.report.report import Report
from langprune_cli.stages.report.tables import (
    Table,
    artifacts_table,
    experts_table,
    findings,
    has_marks,
    kinds_table,
    matrix_table,
    pairs_table,
    sizes_table,
    tasks_table,
    texts_table,
    vocabulary_table,
)


def document(report: Report, title: str, sizes: Sequence[dict[str, Any]]) -> str:
    """Return the document. sizes: the rows of smaller models."""
    lines = [f"# {plain(title)}", ""]
    of_texts = [each for each in report.matrices if each.texts]
    lines += ["## Languages", ""] if of_texts else []
    for matrix in of_texts:
        lines += [f"- {plain(each)}" for each in findings(matrix)]
        marked = [plain(MARKS)] if has_marks(matrix) else []
        notes = ["Lower is better. Change of ppl against the dense model.", *marked]
        lines += ["", *_table(matrix_table(matrix)), " ".join(notes), ""]
        lines += _table(texts_table(matrix))
    of_tasks = [each for each in report.matrices if each.tasks]
    lines += ["## Benchmark tasks", ""] if of_tasks else []
    lines += [line for each in of_tasks for line in _table(tasks_table(each))]
    if report.reconstructions:
        lines += [
            "## Linears",
            "",
            "Relative squared error of what each kind of linear puts out on the calibration text.",
            "",
        ]
        lines += [line for found in report.reconstructions for line in _table(kinds_table(found))]
    if report.comparisons:
        lines += ["## In common", ""]
        lines += [line for each in report.comparisons for line in _table(pairs_table(each))]
    tables = [each for each in (sizes_table(sizes), vocabulary_table(report), experts_table(report)) if each.rows]
    if tables:
        lines += ["## Sizes", "", *(line for each in tables for line in _table(each))]
    lines += ["## How to make it again", "", *_code([clean(each) for _, each in commands(report.sources) if each]), ""]
    lines += _table(artifacts_table(report))
    return "\n".join(lines).rstrip() + "\n"


def _table(table: Table) -> list[str]:
    return [
        f"**{plain(table.title)}**",
        "",
        row(*table.columns),
        "|" + "---|" * len(table.columns),
        *(row(*cells) for cells in table.rows),
        "",
    ]


def _code(lines: Sequence[str]) -> list[str]:
    """Return a fenced block, whose fence is longer than any run of backticks in it."""
    fence = "`" * max(3, 1 + max(map(longest_run, lines), default=0))
    return [f"{fence}sh", *lines, fence]
