"""Compares the rows of one text window by window, and tells differences from noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.numerics.bootstrap import Interval, mean_intervals
from langprune_cli.stages.evaluate.rows import Change, MeasuredRow, PairRow, Row
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.tokens.token_bytes import token_byte_lengths
from langprune_cli.types import Windows


@dataclass(frozen=True)
class Measured:
    """A row, and the losses behind its mean."""

    row: MeasuredRow
    model: OpenedModel
    windows: Windows
    nats: Tensor  # float64 [n], summed over each window's predicted tokens


def compared(
    measured: Sequence[Measured],  # of one text, the dense model first
) -> tuple[list[Row], list[PairRow]]:
    """Return the rows with their change against the first, and a row for each pair of the others.

    Changes are in nats per predicted token. A model with another vocabulary is compared only if its windows hold the same
    bytes, and then per token of the original; else its fields are null.
    """
    differences = _differences(measured)
    nothing = _fields(None)
    rows: list[Row] = [
        {**each.row, **(_fields(differences.get((number, 0))) if number else nothing)}
        for number, each in enumerate(measured)
    ]
    pairs: list[PairRow] = [
        {
            "text": one["text"],
            "language": one["language"],
            "model": one["model"],
            "mask": one["mask"],
            "than_model": other["model"],
            "than_mask": other["mask"],
            **_fields(differences.get((first, second))),
        }
        for (first, one), (second, other) in combinations(list(enumerate(rows))[1:], 2)
    ]
    return rows, pairs


def _fields(change: Interval | None) -> Change:
    return {
        "change_nats": change.mean if change else None,
        "change_low": change.low if change else None,
        "change_high": change.high if change else None,
        "significant": change.significant if change else None,
    }


def _differences(measured: Sequence[Measured]) -> dict[tuple[int, int], Interval]:
    """Return the difference of each row to the dense row, and of each pair of other rows, where windows can be paired."""
    text = [0]  # for each row, the first row with the same windows of text
    for number, each in enumerate(measured[1:], start=1):
        text.append(next((other for other in set(text) if _same_text(measured[other], each)), number))
    rest = range(1, len(measured))
    pairs = [(i, j) for i, j in [*((i, 0) for i in rest), *combinations(rest, 2)] if text[i] == text[j]]
    found: dict[tuple[int, int], Interval] = {}
    for group in set(text):  # the rows of a group have the same number of windows
        of_group = [pair for pair in pairs if text[pair[0]] == group]
        if of_group:
            columns = [(measured[i].nats - measured[j].nats).numpy() for i, j in of_group]
            tokens = measured[group].windows.seqlen - 1
            found |= zip(of_group, mean_intervals(np.stack(columns, axis=1) / tokens), strict=True)
    return found


def _same_text(one: Measured, other: Measured) -> bool:
    """Return whether both predict the same bytes of text in each window."""
    if one.windows is other.windows:  # one vocabulary
        return True
    mine, others = (_bytes_of(each.model, each.windows) for each in (one, other))
    return mine is not None and others is not None and torch.equal(mine, others)


def _bytes_of(model: OpenedModel, windows: Windows) -> Tensor | None:
    """Return the bytes of each window's first token and of its predicted tokens, [n, 2]; None if unknown."""
    try:
        lengths = token_byte_lengths(model.tokenizer)
    except LangpruneError:
        return None
    if lengths is None:
        return None
    ids = windows.ids.to(torch.int64)
    beyond = max(0, int(ids.max()) + 1 - len(lengths))  # padding ids of the vocabulary are no text
    sizes = torch.cat([lengths, lengths.new_zeros(beyond)])[ids]
    return torch.stack([sizes[:, 0], sizes[:, 1:].sum(dim=1)], dim=1)
