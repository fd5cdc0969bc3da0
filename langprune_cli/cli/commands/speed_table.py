"""How fast models are, measured, and the table of speeds and sizes on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langprune_cli import defaults
from langprune_cli.cli.display.console import print_json, print_line
from langprune_cli.cli.display.tables import print_table

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not
    from langprune_cli.cli.requests.session import Session
    from langprune_cli.streaming.opened import OpenedModel

_COLUMNS = ["model", "parameters", "in memory", "files", "prefill", "factor", "decode", "factor"]


def measured_speeds(session: Session, models: list[OpenedModel], *, semi_structured: bool) -> list[dict[str, Any]]:
    """Measure the models turn by turn; prompts as long as all of them can read, 512 tokens at most.

    semi_structured: those with 2:4 linears once more, with these in packed form; a note says why there is no such row.
    """
    from langprune_cli.stages.evaluate.semi_structured import NO_KERNELS, NO_LINEARS, accelerates  # noqa: PLC0415
    from langprune_cli.stages.evaluate.speed import compare, speed_rows  # noqa: PLC0415

    twins = semi_structured and accelerates(models[0].streamed.device)
    if semi_structured and not twins:
        session.reporter.note(NO_KERNELS)
    new_tokens = 32
    context = min(each.streamed.context or defaults.SEQLEN for each in models)
    rows = speed_rows(
        compare(
            {each.label: each.location.folder for each in models},
            device=models[0].streamed.device,
            dtype=models[0].compute.torch_dtype(),
            prompt=max(1, min(512, context - new_tokens)),
            new_tokens=new_tokens,
            trust_remote_code=models[0].compute.trust_remote_code,
            semi_structured=twins,
        )
    )
    if twins and not any(row["semi_structured"] for row in rows):
        session.reporter.note(NO_LINEARS)
    return rows


def print_speeds(rows: list[dict[str, Any]]) -> None:
    """Print the rows of `speed_rows`, dense first: sizes, and tokens per second with their factor to the first row's."""
    if not rows:
        return
    first = rows[0]
    print_line(
        f"Tokens per second, {first['batch']} x {first['prompt']} tokens read, {first['new_tokens']} more made one by one, "
        f"{first['dtype']} on {first['device']}, the median of {len(first['prefill_seconds'])}:"
    )
    print_table(_COLUMNS, [_line(row, dense=row is first) for row in rows])
    twins = [row["semi_structured"] for row in rows if row["semi_structured"]]
    if any(each["converted"] < each["linears"] for each in twins):
        from langprune_cli.stages.evaluate.semi_structured import STAYS_DENSE  # noqa: PLC0415

        print_line(STAYS_DENSE)


def show_speeds(rows: list[dict[str, Any]], *, json: bool) -> None:
    """Print the rows as a table, or as a JSON document of their own."""
    if json:
        print_json({"schema": 1, "kind": "speed", "speed": rows})
    else:
        print_speeds(rows)


def _line(row: dict[str, Any], *, dense: bool) -> list[str]:
    sizes = [f"{row['parameters']:,}", _megabytes(row["weight_bytes"]), _megabytes(row["file_bytes"])]
    speeds = []
    for what in ("prefill", "decode"):
        speeds += [f"{row[what]:,.1f}", "" if dense else f"{row[f'{what}_factor']:.2f}x"]
    return [row["model"], *sizes, *speeds]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
