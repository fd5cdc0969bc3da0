"""Reads a trained model back from disk, and compares it with the pruned one that it was trained from."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.models.tensor_entry import TensorEntry
from langprune_cli.numerics.values import same_bits
from langprune_cli.records import CheckedRecord
from langprune_cli.stages.apply.model_writing import damaged
from langprune_cli.stages.solving.updating import PrunedLinear, UpdatedLinear
from langprune_cli.stages.structured.cut import sizes


def check_trained(
    folder: Path,
    places: Mapping[str, TensorEntry],
    pruned: StreamedModel,
    dense: StreamedModel,
    trained: Mapping[str, Tensor | None],
    known: CheckedRecord,
) -> CheckedRecord:
    """Read a written model back, and return its counts, added to those that are known of the pruned model.

    trained: the checkpoint tensors that may differ from the pruned model's, except where a linear of a block is zero, with what
    was written of each where that is still known.
    Raises LangpruneError if anything else has changed, or reads back differently.
    """
    written, before = Checkpoint(folder).in_parts(places), pruned.checkpoint
    weights = zeros = unchanged = 0
    for index in (-1, *range(len(pruned.blocks))):
        linears = {linear.name for linear in pruned.linears(index)} if index >= 0 else set()
        for name in pruned.tensor_names(index) if index >= 0 else pruned.outside_names():
            found, was = written.read([name])[name], before.read([name])[name]
            same, expected = same_bits(found, was), trained.get(name)
            right = same if name not in trained else expected is None or same_bits(found, expected)
            if not right or (name in linears and not same_bits(found[was == 0], was[was == 0])):
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


def as_updated(index: int, tensors: Mapping[str, Tensor]) -> dict[str, UpdatedLinear]:
    """Return trained tensors of block `index` as they are written, with their zeros as what was removed."""
    return {
        name: UpdatedLinear(tensor, PrunedLinear(index, name, tensor.numel(), int((tensor == 0).sum()), None, None))
        for name, tensor in tensors.items()
    }
