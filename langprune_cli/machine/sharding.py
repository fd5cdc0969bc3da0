"""A model's matrices in shares over processes, each gathered while its block computes (torch's FSDP2, arXiv 2304.11277).

Vectors, and matrices that are not contiguous in memory, stay whole in all processes: they are small, or text does not pass them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


@contextmanager
def sharding(model: nn.Module, processes: int, device: torch.device) -> Iterator[Callable[[nn.Module], None]]:
    """Yield what leaves each process its share of a module's matrices, for each block and then for the model itself.

    All processes have to run the model equally often meanwhile. In the end its modules are as they were.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where FSDP2 gathers
    mesh = init_device_mesh(device.type, (processes,))
    before = [(module, type(module), _attributes(module)) for module in model.modules()]

    def shard(module: nn.Module) -> None:
        whole = {each for each in module.parameters() if each.dim() < 2 or not each.is_contiguous()}
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=whole)

    try:
        yield shard
    finally:  # torch has no way back
        for module, kind, attributes in before:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(attributes)


def _attributes(module: nn.Module) -> dict[str, object]:
    """Return a module's attributes; parameters, submodules and hooks are in dictionaries, which are copied."""
    return {name: each.copy() if isinstance(each, dict) else each for name, each in vars(module).items()}


def is_sharded(tensor: Tensor) -> bool:
    """Return whether each process has a share of it."""
    return isinstance(tensor, DTensor)


def own(tensor: Tensor) -> Tensor:
    """Return this process's share of a tensor, or the tensor if it is not sharded; without gradient, in the same memory."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def part(whole: Tensor, like: Tensor) -> Tensor:
    """Return what this process has of a tensor that is sharded as `like` is, in memory of its own; `whole` if that is not."""
    if not isinstance(like, DTensor) or not whole.dim():
        return whole
    mesh, shares = like.device_mesh, whole.chunk(like.device_mesh.size())  # of rows, as FSDP2 divides them
    rank = mesh.get_local_rank()
    return shares[rank].clone() if rank < len(shares) else whole[:0].clone()


def joined(mine: Tensor, like: Tensor) -> Tensor:
    """Return the tensor that this process has a share of, sharded as `like` is; `mine` if that is not."""
    if not isinstance(like, DTensor) or not mine.dim():
        return mine
    return DTensor.from_local(
        mine.to(like.device), like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def gathered(tensor: Tensor) -> Tensor:
    """Return all of a tensor on the CPU; if it is sharded, all processes have to ask for it at once."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()
