"""The command `languages`: lists the known text of each language."""

from typing import TYPE_CHECKING, Annotated

import typer

from langprune_cli.cli.display.console import print_json
from langprune_cli.cli.display.tables import print_table
from langprune_cli.cli.options import shared as opt

if TYPE_CHECKING:  # its imports are too slow for --help
    from langprune_cli.text.corpora import LanguageRow


def languages(
    query: Annotated[
        str | None,
        typer.Argument(help="A tag, or part of a name in English or in the language itself.", show_default=False),
    ] = None,
    *,
    json: opt.Json = False,
) -> None:
    """List the languages with a known text to calibrate and evaluate on; needs no network.

    [bold]langprune languages ukr[/bold]
    """
    from langprune_cli.text.corpora import find_languages  # noqa: PLC0415 - see above

    rows = find_languages(query)
    if json:
        print_json({"schema": 1, "languages": [_record(row) for row in rows]})
        return
    lines = [
        [
            row.tag,
            f"{row.name} ({row.own_name})" if row.own_name != row.name else row.name,
            f"{row.corpus.name} {row.corpus.calibration}",
            f"{row.corpus.name} {row.corpus.evaluation}",
            row.corpus.licence,
            ", ".join(row.also),
        ]
        for row in rows
    ]
    print_table(["tag", "language", "calibration", "evaluation", "licence", "other --corpus"], lines)


def _record(row: "LanguageRow") -> dict[str, object]:
    return {
        "tag": row.tag,
        "name": row.name,
        "own_name": row.own_name,
        "corpus": row.corpus.name,
        "calibration": row.calibration,
        "evaluation": row.evaluation,
        "licence": row.corpus.licence,
        "other_corpora": list(row.also),
    }
