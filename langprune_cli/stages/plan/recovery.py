"""What `recover` would take of memory and operations, for each way to train, from modules without weights."""

from dataclasses import dataclass, replace

import torch

from langprune_cli.defaults import TRAINING_SEQLEN, TRAINS, Train
from langprune_cli.models.protocols import CausalModel
from langprune_cli.models.skeleton import context_of
from langprune_cli.stages.evaluate.loaded import free_bytes
from langprune_cli.stages.plan.cost import PassFlops, pass_flops
from langprune_cli.stages.plan.memory import PROCESS_BYTES
from langprune_cli.stages.recover.cached_logits import TOP, token_bytes
from langprune_cli.stages.recover.distilling import step_tokens, steps_of
from langprune_cli.stages.recover.looks import look_every
from langprune_cli.stages.recover.memory import CHECKPOINTED, PLAIN, Sizes, Way, recovery_bytes, trained_numbers
from langprune_cli.stages.recover.text import held_out_places
from langprune_cli.streaming.compute import fast_dtype


@dataclass(frozen=True)
class RecoveryAsked:
    """How much to train, and where."""

    tokens: int
    device: torch.device


@dataclass(frozen=True)
class Training:
    """What one way to train takes."""

    train: Train
    trained: int  # numbers that the optimizer changes
    cpu: int  # bytes of the process at most, if it computes on a CPU
    device: int  # bytes of a GPU at most, if it computes there
    least_cpu: int  # with checkpointing of gradients, which takes a pass of the student more
    least_device: int
    flops: float  # without checkpointing


@dataclass(frozen=True)
class RecoveryPlan:
    """What each way to train takes, and which one `recover` would choose on a device."""

    tokens: int
    seqlen: int
    device: torch.device
    dtype: torch.dtype  # of the products there
    trainings: tuple[Training, ...]
    free_bytes: int | None  # of the device; None if unknown
    logits_bytes: int  # of the dense model's logits on disk

    @property
    def chosen(self) -> Train | None:
        """Return the first way that the device has memory for, None if there is none."""
        free = self.free_bytes
        fit = (each.train for each in self.trainings if free is None or self.need(each) <= free)
        return next(fit, None)

    def need(self, training: Training) -> int:
        """Return the bytes that a way takes of the device's free memory at least, with checkpointing."""
        return training.least_cpu - PROCESS_BYTES if self.device.type == "cpu" else training.least_device

    def document(self, flops_per_second: float) -> dict[str, object]:
        """Return the figures for --json; flops_per_second: the rate of a large product in `dtype`."""
        return {
            "tokens": self.tokens,
            "seqlen": self.seqlen,
            "dtype": str(self.dtype).removeprefix("torch."),
            "free_bytes": self.free_bytes,
            "chosen": self.chosen,
            "logits_bytes": self.logits_bytes,
            "flops_per_second": flops_per_second,
            "trainings": [
                {"train": each.train, "trained": each.trained, "peak_ram_bytes": each.cpu, "peak_device_bytes": each.device,
                 "checkpointed_ram_bytes": each.least_cpu, "checkpointed_device_bytes": each.least_device,
                 "flops": each.flops, "seconds": each.flops / flops_per_second}
                for each in self.trainings
            ],
        }  # fmt: skip


def plan_recovery(dense: CausalModel, smaller: CausalModel, dtype: torch.dtype, asked: RecoveryAsked) -> RecoveryPlan:
    """Count what recovery takes, with the defaults of `recover`, on a text as long as it trains on; dtype: of the checkpoint.

    A token passes the teacher and the student, and takes the gradients of what each product reads and of what is trained, which
    are as many operations as the pass each. Held-out windows pass the student at every look: the teacher's logits are on disk.
    """
    seqlen = min(TRAINING_SEQLEN, context_of(dense.config) or TRAINING_SEQLEN)
    student, taught = pass_flops(smaller, seqlen), pass_flops(dense, seqlen)
    windows = max(2, asked.tokens // seqlen)
    steps, _ = steps_of(asked.tokens, step_tokens(asked.tokens), seqlen)
    looks = 1 + -(-steps // look_every(steps))
    looked_at = looks * seqlen * int(held_out_places(windows).sum())
    cpu = fast_dtype(dtype, torch.device("cpu"))
    gpu = torch.bfloat16 if dtype.itemsize <= 2 else torch.float32
    ours, theirs = Sizes.of(smaller, dtype), Sizes.of(dense, dtype)

    def size(train: Train, products: torch.dtype, way: Way = PLAIN) -> int:
        teacher = replace(theirs, itemsize=products.itemsize) if products == torch.float32 else theirs
        text = windows * seqlen
        return recovery_bytes(ours, teacher, train, seqlen=seqlen, dtype=products, text=text, way=way)

    def training(train: Train) -> Training:
        flops = asked.tokens * (student.forward + taught.forward + _gradients(student, train))
        flops += looked_at * student.forward
        least_cpu, least_gpu = (size(train, products, CHECKPOINTED) for products in (cpu, gpu))
        return Training(
            train, trained_numbers(ours, train), PROCESS_BYTES + size(train, cpu), size(train, gpu), PROCESS_BYTES + least_cpu,
            least_gpu, flops,
        )  # fmt: skip

    trainings = tuple(map(training, TRAINS))
    here = fast_dtype(dtype, asked.device)
    logits = windows * seqlen * token_bytes(min(TOP, ours.vocabulary), ours.vocabulary)
    return RecoveryPlan(asked.tokens, seqlen, asked.device, here, trainings, free_bytes(asked.device), logits)


def _gradients(student: PassFlops, train: Train) -> float:
    """Return the operations per token of gradients; attention has two products that read two computed matrices each."""
    read = student.linears + 2 * student.attention + student.head
    if train == "norms":
        return read
    return read + student.linears + (student.head if train == "all" else 0)
