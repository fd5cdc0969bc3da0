"""Tables of evaluations: one line per row, or a matrix of models and masks by texts, with noise marked."""

from __future__ import annotations

from collections.abc import Sequence

from langprune_cli.cli.display.console import print_line
from langprune_cli.cli.display.tables import print_table
from langprune_cli.stages.evaluate.rows import (
    MARKS,
    TASK_COLUMNS,
    PairRow,
    Row,
    TaskRow,
    change_of,
    comparable_ppl,
    first_of,
    interval_of,
    marks,
    model_label,
    task_lines,
)

_LEGEND = "Change of ppl against dense with its 95% interval over windows; noise: the interval holds 0."


def print_evaluation(rows: Sequence[Row], compare: Sequence[PairRow]) -> None:
    """Print dense and pruned side by side: a matrix for two or more pruned models on two or more texts, else a list."""
    texts = list(dict.fromkeys(row["text"] for row in rows))
    each = len(rows) // len(texts)
    if len(texts) > 1 and each > 2:
        _print_matrix([rows[start : start + each] for start in range(0, len(rows), each)], compare)
    else:
        _print_list(rows)
    if any(row["change_low"] is not None for row in rows):
        print_line(_LEGEND)
    if _own_tokens(rows):
        print_line("A trimmed vocabulary may split text into more tokens: compare ppl per original token, or bpb.")


def _print_list(rows: Sequence[Row]) -> None:
    own_tokens = _own_tokens(rows)
    lines = []
    for row in rows:
        bpb = "" if row["bpb"] is None else f"{row['bpb']:.4f}"
        own = [_ppl(row["ppl"])] if own_tokens else []
        change = _change(row, first_of(rows, row["text"]))
        counts = [f"{row['tokens']:,}", str(row["seqlen"])]
        lines.append([row["text"], _label(row), _ppl(comparable_ppl(row)), *own, change, bpb, *counts])
    columns = ["ppl per original token", "ppl per own token"] if own_tokens else ["ppl"]
    print_table(["text", "model", *columns, "change", "bpb", "tokens", "seqlen"], lines)


def _print_matrix(
    texts: Sequence[Sequence[Row]],  # the rows of each text, the dense one first
    compare: Sequence[PairRow],
) -> None:
    """Print ppl with its change, the best of each text marked, and bits per byte below."""
    marked = [marks(rows, compare) for rows in texts]
    cells = [
        [
            " ".join(filter(None, (_ppl(comparable_ppl(row)), _change(row, rows[0]), mark)))
            for row, mark in zip(rows, of, strict=True)
        ]
        for rows, of in zip(texts, marked, strict=True)
    ]
    best = {(line, 1 + column) for column, of in enumerate(marked) for line, mark in enumerate(of) if mark == "*"}
    names = [_label(row) for row in texts[0]]
    heads = [rows[0]["text"] for rows in texts]
    print_table(["ppl", *heads], list(zip(names, *cells, strict=True)), bold=best)
    if any(row["bpb"] is not None for rows in texts for row in rows):
        bits = [["" if row["bpb"] is None else f"{row['bpb']:.4f}" for row in rows] for rows in texts]
        print_line("")
        print_table(["bpb", *heads], list(zip(names, *bits, strict=True)), bold=best)
        print_line("")
    sizes = [f"{rows[0]['text']} {rows[0]['tokens']:,} in windows of {rows[0]['seqlen']}" for rows in texts]
    print_line(f"Tokens: {', '.join(sizes)}. {MARKS}")


def _change(row: Row, dense: Row) -> str:
    """Return the change of ppl: "+13.8% ±0.4", with ", noise" if the interval holds 0; "" for the dense row."""
    change, interval = change_of(row, dense), interval_of(row)
    if change is None:
        return ""
    if interval is None:
        return f"{change:+.1%}"
    low, high = interval
    return f"{change:+.1%} ±{50 * (high - low):.1f}" + ("" if row["significant"] else ", noise")


def print_tasks(rows: Sequence[TaskRow]) -> None:
    """Print the results of benchmark tasks, with models side by side."""
    print_table(list(TASK_COLUMNS), [list(line) for line in task_lines(rows)])


def _label(row: Row) -> str:
    return f"mask {row['mask']}" if row["mask"] else model_label(row)


def _own_tokens(rows: Sequence[Row]) -> bool:
    return any("ppl_per_original_token" in row for row in rows)


def _ppl(value: float | None) -> str:
    return "inf" if value is None else f"{value:.3f}"
