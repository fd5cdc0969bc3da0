"""What recovery takes in memory, by what is trained, and what is trained if nobody says so."""

from collections.abc import Sequence

import torch

from langprune_cli.defaults import TRAINS, Train
from langprune_cli.errors import LangpruneError
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.stages.evaluate.loaded import free_bytes
from langprune_cli.stages.recover.divergence import PIECE_BYTES
from langprune_cli.stages.recover.student import RANK

_MASTER = 4  # bytes of a weight, its gradient, and each of AdamW's two averages, in float32
_LOGITS = 2  # tensors as large as each model's logits of a micro-batch
_PIECES = 5  # of float32 logits, in the loss
_FLOATS = (
    16  # tensors as wide as the hidden states that a block keeps for its gradient, in float32; measured, as is the next
)
_PRODUCTS = 2  # times the inputs and outputs of a block's linears


def recovery_bytes(
    student: StreamedModel,
    teacher: StreamedModel,
    train: Train,
    *,
    tokens: int,  # of a micro-batch
    dtype: torch.dtype,  # of the products
) -> int:
    """Return about how many bytes both models, the optimizer's state, activations and logits take at once."""
    weights = _weights(student)
    shapes = [student.shape(linear) for index in range(len(student.blocks)) for linear in student.linears(index)]
    if train == "all":
        trained = sum(weights.values())
    elif train == "norms":
        trained = sum(many for name, many in weights.items() if len(student.checkpoint.entries[name].shape) < 2)
    else:
        trained = sum(min(RANK, *shape) * sum(shape) for shape in shapes)
    merged = sum(rows * columns for rows, columns in shapes) if train == "lora" else 0
    state = _MASTER * (sum(weights.values()) + 3 * trained + merged)
    state += 2 * student.checkpoint.float_dtype().itemsize * (merged or trained)  # the best so far, and the next
    config = student.config.get_text_config()
    passing = _MASTER * _FLOATS * config.hidden_size * len(student.blocks) + _PRODUCTS * dtype.itemsize * sum(
        map(sum, shapes)
    )
    vocabulary = config.vocab_size + teacher.config.get_text_config().vocab_size
    logits = _LOGITS * dtype.itemsize * tokens * vocabulary + _PIECES * min(PIECE_BYTES, 4 * tokens * config.vocab_size)
    return state + teacher.dtype.itemsize * sum(_weights(teacher).values()) + tokens * passing + logits


def what_fits(
    student: StreamedModel, teacher: StreamedModel, asked: Sequence[Train], *, tokens: int, dtype: torch.dtype
) -> Train:
    """Return the first of `asked` that the device has memory for.

    Raises LangpruneError with what each would take if it has none.
    """
    free = free_bytes(student.device)
    need = {each: recovery_bytes(student, teacher, each, tokens=tokens, dtype=dtype) for each in TRAINS}
    for each in asked:
        if free is None or need[each] <= free:
            return each
    takes = ", ".join(f"{each} {size / 1e9:,.1f} GB" for each, size in need.items())
    raise LangpruneError(
        f"{student.device.type} has {(free or 0) / 1e9:,.1f} GB free, and recovery takes about: {takes}; choose a --train that "
        "fits, or another machine"
    )


def _weights(model: StreamedModel) -> dict[str, int]:
    """Return the numbers of each tensor that text passes."""
    return {name: model.checkpoint.elements(name) for name in model.names_for_text()}
