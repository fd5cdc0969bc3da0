"""Reads a trained model back from disk, and compares it with the pruned one that it was trained from."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.models.tensor_entry import TensorEntry
from langprune_cli.records import CheckedRecord
from langprune_cli.stages.structured.cut import sizes


def check_trained(
    folder: Path,
    places: Mapping[str, TensorEntry],
    pruned: StreamedModel,
    dense: StreamedModel,
    trained: Collection[str],
    known: CheckedRecord,
) -> CheckedRecord:
    """Read a written model back, and return its counts, added to those that are known of the pruned model.

    trained: the checkpoint tensors that may differ from the pruned model's, except where a linear of a block is zero.
    Raises LangpruneError if anything else has changed.
    """
    written, before = Checkpoint(folder).in_parts(places), pruned.checkpoint
    weights = zeros = unchanged = 0
    for index in (-1, *range(len(pruned.blocks))):
        linears = {linear.name for linear in pruned.linears(index)} if index >= 0 else set()
        for name in pruned.tensor_names(index) if index >= 0 else pruned.outside_names():
            found, was = written.read([name])[name], before.read([name])[name]
            same = same_bits(found, was)
            if not same and (
                name not in trained or (name in linears and not same_bits(found[was == 0], was[was == 0]))
            ):
                raise damaged(folder, name)
            unchanged += same
            if name in linears:
                weights += found.numel()
                zeros += int((found == 0).sum())
    counted = known.get("pruned_weights") or weights  # without unpruned linears
    checked: CheckedRecord = {
        **known,
        "linear_weights": weights,
        "zeros": zeros,
        "untouched_tensors": unchanged,
        "pruned_weights": counted,
        "sparsity": zeros / counted if counted else 0.0,
    }
    now = sizes(dense, pruned)
    if now["parameters_before"] == now["parameters_after"]:
        return checked
    return {**checked, "parameters_before": now["parameters_before"], "parameters_after": now["parameters_after"]}


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same bits."""
    return torch.equal(*(each.contiguous().reshape(-1).view(torch.uint8) for each in (a, b)))


def damaged(folder: Path, name: str) -> LangpruneError:
    """Return the error for a tensor that reads back differently from how it was written."""
    return LangpruneError(
        f"{folder}: {name} reads back differently from how it was written: check the disk, then run the command again with "
        "--force"
    )
