"""What recovery takes in memory, by what is trained, and what is trained if nobody says so."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from langprune_cli.defaults import TRAINS, Train
from langprune_cli.errors import LangpruneError
from langprune_cli.layouts.linears import linear_shapes
from langprune_cli.machine.team import ALONE, Team
from langprune_cli.models.composites import text_paths
from langprune_cli.models.protocols import CausalModel
from langprune_cli.models.skeleton import find_blocks
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.stages.evaluate.loaded import free_bytes
from langprune_cli.stages.recover.divergence import PIECE_BYTES
from langprune_cli.stages.recover.student import RANK

_MICRO_TOKENS = 1024  # in memory at once
_MASTER = 4  # bytes of a weight, its gradient, and each of AdamW's two averages, in float32
_LOGITS = 2  # tensors as large as each model's logits of a micro-batch
_PIECES = 5  # of float32 logits, in the loss
_TRUNCATED_PIECES = 1  # the same where the teacher's likeliest tokens are on disk: that loss computes in place
# Of norms and the residual stream a block keeps so many tensors as wide as the hidden states for its gradient, in float32;
# measured. Where linears compute in float32 too, they share some of these, and what several of them read is kept once.
_FLOATS, _FLOATS_SHARED = 5.0, 2.5
_GATHERED = 10  # copies of a block, or of all else, where shares are gathered and gradients summed, with its neighbours; measured
STATES_BYTES = 1 << 30  # of hidden states while the teacher's logits are made; more go to a file


@dataclass(frozen=True)
class Way:
    """How recovery takes less memory, with the same results."""

    checkpointing: bool = False  # of gradients, see `checkpointed`
    processes: int = 1  # that matrices are sharded over, see `sharding`


PLAIN, CHECKPOINTED = Way(), Way(checkpointing=True)


@dataclass(frozen=True)
class Sizes:
    """What memory depends on, of a model whose weights need not be there: its configuration says all of it."""

    weights: int  # numbers of all tensors that text passes
    vectors: int  # of those that norms and biases have
    linears: tuple[tuple[int, int], ...]  # (out, in) of the blocks' linears
    blocks: int
    hidden: int
    vocabulary: int
    itemsize: int  # bytes of a number: as the checkpoint stores it for a student, as it computes for a teacher

    @classmethod
    def of(cls, model: CausalModel, dtype: torch.dtype, *, untied: bool = False) -> "Sizes":
        """Return the sizes of a model's modules. untied: whether it has a head of its own that its configuration ties."""
        prefix, blocks = find_blocks(model)
        paths = text_paths(model, prefix)
        held = [each for path, each in model.named_parameters() if path.startswith(paths)]
        config = model.config.get_text_config()
        head = config.vocab_size * config.hidden_size if untied else 0
        return cls(
            sum(each.numel() for each in held) + head,
            sum(each.numel() for each in held if each.dim() < 2),
            tuple(shape for block in blocks for _, shapes in linear_shapes(block) for shape in shapes),
            len(blocks), config.hidden_size, config.vocab_size, dtype.itemsize,
        )  # fmt: skip


def micro_windows(seqlen: int) -> int:
    """Return how many windows of `seqlen` tokens go through both models at once."""
    return max(1, _MICRO_TOKENS // seqlen)


def trained_numbers(student: Sizes, train: Train) -> int:
    """Return how many numbers the optimizer changes."""
    if train == "lora":
        return sum(min(RANK, *shape) * sum(shape) for shape in student.linears)
    return student.weights if train == "all" else student.vectors


def recovery_bytes(
    student: Sizes,
    teacher: Sizes,
    train: Train,
    *,
    seqlen: int,
    dtype: torch.dtype,  # of the products
    text: int | None,  # tokens, for which a teacher with one block in memory puts logits on disk first; None: --online
    way: Way = PLAIN,
) -> int:
    """Return about how many bytes both models, the optimizer's state, activations and logits take at once, in each process.

    A teacher whose logits are on disk is not there while the student is trained.
    """
    tokens = micro_windows(seqlen) * seqlen
    state = _state_bytes(student, train, way)
    passing, floats = dtype.itemsize * sum(map(sum, student.linears)), _FLOATS_SHARED
    if dtype.itemsize < _MASTER:
        blocks = sum(rows * columns for rows, columns in student.linears)
        copied = blocks if way.processes == 1 else blocks // max(1, student.blocks)
        # Of weights in products: of all of them until the backward pass, of shares while they are gathered.
        state += dtype.itemsize * (copied + student.vocabulary * student.hidden)
        floats = _FLOATS
    passing += round(_MASTER * floats * student.hidden) * student.blocks
    if way.checkpointing:  # what each block reads, and all of one block
        passing = _MASTER * student.hidden * student.blocks + passing // max(1, student.blocks)
    pieces = (_PIECES if text is None else _TRUNCATED_PIECES) * min(PIECE_BYTES, 4 * tokens * student.vocabulary)
    training = state + tokens * passing + pieces + _LOGITS * dtype.itemsize * tokens * student.vocabulary
    if text is None:
        held = teacher.itemsize * (teacher.weights // way.processes + _gathered(teacher, way))
        return training + held + _LOGITS * dtype.itemsize * tokens * teacher.vocabulary
    return max(training, _streaming_bytes(teacher, text))


def _state_bytes(student: Sizes, train: Train, way: Way) -> int:
    """Return the bytes of weights, gradients, averages, and of trained weights in the checkpoint's dtype."""
    trained = trained_numbers(student, train)
    merged = sum(rows * columns for rows, columns in student.linears) if train == "lora" else 0
    numbers = student.weights // way.processes + 3 * (trained // way.processes if train == "all" else trained)
    numbers += (merged // max(1, student.blocks) if way.checkpointing else merged) + _gathered(student, way)
    stored = merged or trained
    best = stored + (stored // way.processes if way.processes > 1 else 0)  # all in the first process, and shares of it
    return _MASTER * numbers + student.itemsize * best


def _gathered(model: Sizes, way: Way) -> int:
    """Return how many numbers of sharded matrices a process has beside its share: all but the blocks, and what sums gradients."""
    if way.processes == 1:
        return 0
    blocks = sum(rows * columns for rows, columns in model.linears)
    around = model.weights - blocks
    return around + _GATHERED * max(around, blocks // max(1, model.blocks))


def _streaming_bytes(teacher: Sizes, text: int) -> int:
    """Return about how many bytes it takes to compute the teacher's logits with one block in memory."""
    blocks = sum(rows * columns for rows, columns in teacher.linears)
    held = teacher.weights - blocks + blocks // max(1, teacher.blocks)
    states = min(STATES_BYTES, text * teacher.hidden * teacher.itemsize)
    return teacher.itemsize * held + states + _PIECES * min(PIECE_BYTES, 4 * text * teacher.vocabulary)


def what_fits(
    student: StreamedModel,
    teacher: StreamedModel,
    asked: Sequence[Train],
    *,
    seqlen: int,
    dtype: torch.dtype,
    text: int | None,  # see `recovery_bytes`
    team: Team = ALONE,
) -> tuple[Train, Way]:
    """Return the first of `asked` that the device has memory for, and how; the same in all processes.

    Checkpointing costs a pass of the student, and sharding over processes sends all weights in each pass besides, but training
    less costs quality: each is tried with these before the next.
    Raises LangpruneError with what each would take if it has none, and if none would train anything.
    """
    free = _free_bytes(student.device, team)
    ours = Sizes.of(student.model, student.checkpoint.float_dtype(), untied=student.untied)
    theirs = Sizes.of(teacher.model, teacher.dtype, untied=teacher.untied)
    if not any(trained_numbers(ours, each) for each in asked):
        what = {"lora": "linears in its blocks", "norms": "norms and no biases"}.get(asked[0], "weights")
        raise LangpruneError(
            f"--train {asked[0]} has nothing to train, as the model has no {what}: choose another --train"
        )

    ways = [PLAIN, CHECKPOINTED]
    if team.size > 1:
        ways.append(Way(checkpointing=True, processes=team.size))

    def need(train: Train, way: Way) -> int:
        alone = recovery_bytes(ours, theirs, train, seqlen=seqlen, dtype=dtype, text=text, way=way)
        summed = team.size > 1 and way.processes == 1  # gradients, in memory of their own
        return alone + _MASTER * trained_numbers(ours, train) * summed

    for each in asked:
        for way in ways:
            if free is None or need(each, way) <= free:
                return each, way
    takes = ", ".join(f"{each} {min(need(each, way) for way in ways) / 1e9:,.1f} GB" for each in TRAINS)
    raise LangpruneError(
        f"{student.device.type} has {(free or 0) / 1e9:,.1f} GB free, and recovery takes about: {takes}; choose a --train that "
        "fits, or another machine"
    )


def _free_bytes(device: torch.device, team: Team) -> int | None:
    """Return the memory that each process has, None if unknown; processes with the same device have equal shares of it."""
    found = team.all_gather(((platform.node(), str(device)), free_bytes(device)))
    places = [place for place, _ in found]
    known = [free // places.count(place) for place, free in found if free is not None]
    return min(known) if len(known) == len(found) else None
