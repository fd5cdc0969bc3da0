"""The rows of an evaluation and how to read them; without torch, for the command line."""

from collections.abc import Mapping, Sequence
from math import exp
from typing import NotRequired, TypedDict

from langprune_cli.records import CellRecord
from langprune_cli.store.manifest import Manifest


class Change(TypedDict, total=False):
    """The difference between two rows' losses, in nats per token; None if unknown."""

    change_nats: float | None
    change_low: float | None
    change_high: float | None
    significant: bool | None


class Labels(TypedDict):
    """The labels of a row; nothing depends on them."""

    model: str
    mask: str | None
    text: str
    source: str


class CellRow(Labels, CellRecord):
    """The losses of a model, with or without a mask, on one text."""

    cell: str
    tokens: int
    nats: float
    ppl: float | None  # None: infinite
    bpb: float | None  # None: unknown


class PerOriginalToken(TypedDict, total=False):
    """The comparable perplexity of a model whose vocabulary differs from the dense model's."""

    ppl_per_original_token: float | None  # None: unknown


class MeasuredRow(CellRow, PerOriginalToken):
    """The same, before the comparison with the dense model."""


class Row(MeasuredRow, Change):
    """A row of an evaluation, as on disk."""


class PairRow(Change):
    """Two pruned models on one text."""

    text: str
    language: str | None
    model: str
    mask: str | None
    than_model: str
    than_mask: str | None


class TaskRow(TypedDict):
    """A metric of a benchmark task, of one model."""

    model: str
    task: str
    metric: str
    filter: str
    value: float | None
    stderr: float | None
    examples: int | None
    shots: int | None
    higher_is_better: bool | None


class Result(TypedDict):
    """The result of an evaluation; older ones have no pairs."""

    rows: list[Row]
    compare: NotRequired[list[PairRow]]
    tasks: NotRequired[list[TaskRow]]


class SizeRow(TypedDict):
    """The change in size of a smaller model, and in its perplexity on one text."""

    model: str
    pruned: str
    parameters_before: int
    pruning_rate: float
    parameters_after: int
    text: str
    ppl_before: float | None
    ppl_after: float | None


class ConvertedLinears(TypedDict):
    """The number of a model's 2:4 linears in semi-structured form."""

    converted: int
    linears: int


class SpeedRow(TypedDict):
    """A model's speed and size, compared with the first model's."""

    model: str
    parameters: int
    weight_bytes: int
    file_bytes: int
    prefill: float
    prefill_factor: float
    decode: float
    decode_factor: float
    dtype: str
    device: str
    batch: int
    prompt: int
    new_tokens: int
    semi_structured: ConvertedLinears | None
    prefill_seconds: list[float]
    decode_seconds: list[float]


MARKS = "*: the best pruned one on this text; =: not distinguishable from it by these windows."
TASK_COLUMNS = ("task", "metric", "model", "value", "stderr", "examples")

_MOST_NATS = 700.0  # exp of more overflows float64, and such an interval says nothing


def comparable_ppl(row: Row) -> float | None:
    """Return a row's perplexity per token of the dense model's tokenizer, comparable with the dense row's."""
    return row.get("ppl_per_original_token", row["ppl"])


def change_of(row: Row, dense: Row) -> float | None:
    """Return the change of ppl as a fraction of the dense row's; None for the dense row, or if either is unknown."""
    ppl, base = comparable_ppl(row), dense["ppl"]
    return None if row is dense or ppl is None or not base else ppl / base - 1


def interval_of(row: Row) -> tuple[float, float] | None:
    """Return the interval of a row's change of ppl, as fractions; None if there is none or it says nothing."""
    low, high = row.get("change_low"), row.get("change_high")
    return None if low is None or high is None or high > _MOST_NATS else (exp(low) - 1, exp(high) - 1)


def marks(
    rows: Sequence[Row],  # of one text, the dense one first
    compare: Sequence[PairRow],  # the evaluation's pairs of pruned models
) -> list[str]:
    """Return "*" for the best of several pruned rows, "=" for rows that differ from it only by noise, else ""."""
    known = [row for row in rows[1:] if comparable_ppl(row) is not None]
    if len(rows) < 3 or not known:
        return [""] * len(rows)
    best = min(known, key=lambda row: comparable_ppl(row) or 0.0)
    one = best["model"], best["mask"]
    noise = set()
    for pair in compare:
        ends = (pair["model"], pair["mask"]), (pair["than_model"], pair["than_mask"])
        if pair["text"] == best["text"] and one in ends and pair["significant"] is False:
            noise |= set(ends)
    return ["*" if row is best else "=" if (row["model"], row["mask"]) in noise else "" for row in rows]


def task_lines(rows: Sequence[TaskRow]) -> list[tuple[str, ...]]:
    """Return results of benchmark tasks as cells of TASK_COLUMNS, with models side by side, the dense one first."""
    lines = []
    for row in rows:
        value, error = ("" if each is None else f"{each:.4f}" for each in (row["value"], row["stderr"]))
        examples = "" if row["examples"] is None else f"{row['examples']:,}"
        lines.append((row["task"], row["metric"], row["model"], value, error, examples))
    return sorted(lines, key=lambda line: line[:2])  # stable: keeps the order of models


def model_label(row: Row) -> str:
    """Return the shown name of a row's model, with its bits if it was quantized on load."""
    return with_bits(row["model"], row.get("bits"))


def with_bits(label: str, bits: int | None) -> str:
    """Return a model's name with its bits, if it was quantized."""
    return f"{label}, {bits} bit" if bits else label


def size_rows(rows: Sequence[Row], chains: Mapping[str, Sequence[Manifest]]) -> list[SizeRow]:
    """Return the change in size and perplexity of each smaller model, text by text.

    chains: by the name in the rows, a model, its source, and so on. The columns are those of AMD Quark's published tables.
    Models of unchanged size have no rows.
    """
    found: list[SizeRow] = []
    for row in rows:
        dense, chain = first_of(rows, row["text"]), chains.get(row["model"], [])
        checked = [each.about["checked"] for each in chain if "parameters_after" in each.about.get("checked", {})]
        if checked and row is not dense and not row["mask"]:
            before, after = checked[-1]["parameters_before"], checked[0]["parameters_after"]
            found.append(
                {
                    "model": model_label(dense),
                    "pruned": model_label(row),
                    "parameters_before": before,
                    "pruning_rate": 1 - after / before,
                    "parameters_after": after,
                    "text": row["text"],
                    "ppl_before": dense["ppl"],
                    "ppl_after": comparable_ppl(row),
                }
            )
    return found


def first_of(rows: Sequence[Row], text: str) -> Row:
    """Return the dense row of a text."""
    return next(row for row in rows if row["text"] == text)
