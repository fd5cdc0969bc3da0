"""The table of speeds and sizes on stdout."""

from collections.abc import Sequence

from langprune_cli.cli.display.console import print_line
from langprune_cli.cli.display.tables import print_table
from langprune_cli.stages.evaluate.rows import SpeedRow

_COLUMNS = ["model", "parameters", "in memory", "files", "prefill", "factor", "decode", "factor"]


def print_speeds(rows: Sequence[SpeedRow]) -> None:
    """Print the rows of `speed_rows`, dense first: sizes, and tokens per second with their factor to the first row's."""
    if not rows:
        return
    first = rows[0]
    print_line(
        f"Tokens per second, {first['batch']} x {first['prompt']} tokens read, {first['new_tokens']} generated one by one, "
        f"{first['dtype']} on {first['device']}, the median of {len(first['prefill_seconds'])}:"
    )
    print_table(_COLUMNS, [_line(row, dense=row is first) for row in rows])
    twins = [row["semi_structured"] for row in rows if row["semi_structured"]]
    if any(each["converted"] < each["linears"] for each in twins):
        from langprune_cli.stages.evaluate.semi_structured import STAYS_DENSE  # noqa: PLC0415

        print_line(STAYS_DENSE)


def speeds_document(rows: Sequence[SpeedRow]) -> dict[str, object]:
    """Return the rows as --json shows them, where nothing but speed was measured."""
    return {"kind": "speed", "speed": list(rows)}


def _line(row: SpeedRow, *, dense: bool) -> list[str]:
    sizes = [f"{row['parameters']:,}", _megabytes(row["weight_bytes"]), _megabytes(row["file_bytes"])]
    speeds = []
    for speed, factor in ((row["prefill"], row["prefill_factor"]), (row["decode"], row["decode_factor"])):
        speeds += [f"{speed:,.1f}", "" if dense else f"{factor:.2f}x"]
    return [row["model"], *sizes, *speeds]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
