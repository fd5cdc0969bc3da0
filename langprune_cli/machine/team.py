"""Several processes that share the windows of one run: one leads, the others do as they are told (torch.distributed).

`torchrun` starts them. What is told goes over gloo, which is a group of these processes alone; tensors on CUDA go over nccl.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from langprune_cli.errors import LangpruneError, first_line

# Between two orders lies at most the solving of a block by the leader, which may take an hour for very large ones.
_LONGEST_WAIT = timedelta(hours=6)


class PeerLostError(LangpruneError):
    """Another process of the team has ended before its time."""


class Team:
    """One process among others; every call is made by all of them, in the same order."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    @classmethod
    def join(cls) -> "Team":
        """Meet the other processes that torchrun started; raises LangpruneError where they do not come."""
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            dist.init_process_group(backend, timeout=_LONGEST_WAIT)
        except (RuntimeError, ValueError) as error:
            raise LangpruneError(
                f"the processes of this run did not meet ({first_line(error, 150)}): start them with torchrun --nproc-per-node N"
            ) from error
        return cls()

    @property
    def leads(self) -> bool:
        """Return whether this process is the one that reads the command line and writes."""
        return self.rank == 0

    def share(self, ids: Tensor) -> Tensor:  # [n, t] -> [n / size, t]
        """Return the windows of this process: every size-th, so that shares are equal to one."""
        return ids[self.rank :: self.size]

    def tell(self, *order: Any) -> None:  # noqa: ANN401 - whatever pickles
        """Tell the others what to do next; the leader's part of `hear`."""
        self._together(lambda: dist.broadcast_object_list([order], src=0))

    def hear(self) -> tuple[Any, ...]:
        """Return what the leader tells."""
        order: list[Any] = [None]
        self._together(lambda: dist.broadcast_object_list(order, src=0))
        heard: tuple[Any, ...] = order[0]
        return heard

    def all_know(self, mine: Any) -> list[Any]:  # noqa: ANN401 - whatever pickles
        """Return what each process has to say, by rank."""
        found: list[Any] = [None] * self.size
        self._together(lambda: dist.all_gather_object(found, mine))
        return found

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Add the tensors of all processes up, in place: all of them then have the sums."""
        for tensor in tensors:
            self._together(lambda tensor=tensor: dist.all_reduce(tensor))

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Give the others the leader's tensors, in place."""
        for tensor in tensors:
            self._together(lambda tensor=tensor: dist.broadcast(tensor, src=0))

    def leave(self) -> None:
        """End the group."""
        dist.destroy_process_group()

    def _together(self, call: Any) -> None:  # noqa: ANN401 - a function of nothing
        try:
            call()
        except RuntimeError as error:  # what torch raises for a peer that is gone
            raise PeerLostError(
                f"another process of this run has ended ({first_line(error, 150)}): start the same command again, it goes on "
                "where it stopped"
            ) from error


def team() -> Team | None:
    """Return the team that this process is in, None where it works alone."""
    return Team() if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 else None
