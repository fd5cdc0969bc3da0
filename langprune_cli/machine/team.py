"""The processes that share one run: all run the same stage (SPMD) and call collectives of torch.distributed.

`torchrun` starts them, on one machine or several. Python objects go over gloo, CUDA tensors over nccl. Only the first process,
rank 0, reads artifacts from disk for decisions, and only it writes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from langprune_cli.errors import LangpruneError, first_line

if TYPE_CHECKING:  # torch takes seconds to import, and reading the workspace does not need it
    from torch import Tensor
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

# The longest wait for a collective: the first process works alone, for example on a mask of a very large model.
_LONGEST_WAIT = timedelta(hours=6)
_LAST_WORD_WAIT = timedelta(seconds=10)  # for the process that reports the error
_CLAIMED, _SAID = "claimed", "said"  # keys of the store


class PeerLostError(LangpruneError):
    """Another process of the run ended early."""


class _Failed:
    """Sent to the other processes instead of a result when the first process raises an exception."""


class Team:
    """The processes of one run. All make the same collective calls in the same order; with one process these do nothing."""

    def __init__(self, rank: int = 0, size: int = 1, store: "Store | None" = None) -> None:
        """Describe this process, number `rank` of `size`. store: the group's, for messages outside of collectives."""
        self._rank, self._size, self._store = rank, size, store
        self._alone = False  # inside `first`, while the others wait

    @classmethod
    def join(cls) -> "Team":
        """Join the group of processes that torchrun started; raises LangpruneError if it does not come together."""
        import torch  # noqa: PLC0415 - see above
        import torch.distributed as dist  # noqa: PLC0415 - see above
        from torch.distributed.distributed_c10d import PrefixStore  # noqa: PLC0415 - see above
        from torch.distributed.rendezvous import rendezvous  # noqa: PLC0415 - see above

        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            store, rank, size = next(rendezvous("env://", timeout=_LONGEST_WAIT))
            store.set_timeout(_LONGEST_WAIT)
            group = PrefixStore("group", store)
            dist.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=_LONGEST_WAIT)
        except (RuntimeError, ValueError) as error:
            raise LangpruneError(
                f"the processes of this run did not meet ({first_line(error, 150)}): start them with torchrun --nproc-per-node N"
            ) from error
        return cls(rank, size, PrefixStore("last word", store))

    @property
    def rank(self) -> int:
        """Return the number of this process, 0 for the first."""
        return self._rank

    @property
    def size(self) -> int:
        """Return how many processes work together now: one inside `first`."""
        return 1 if self._alone else self._size

    @property
    def leads(self) -> bool:
        """Return whether this is the first process, the only one that writes and prints."""
        return self._rank == 0

    def share(self, ids: "Tensor") -> "Tensor":  # [n, t] -> [n / size, t]
        """Return the windows of this process: every size-th, so that shares differ by at most one window.

        Raises LangpruneError, in all processes, if there are fewer windows than processes.
        """
        if len(ids) < self.size:
            raise LangpruneError(f"{len(ids)} windows cannot be shared by {self.size} processes: start fewer of them")
        return self.part(ids)

    def part(self, items: "Tensor") -> "Tensor":  # [n, ..] -> [n / size, ..]
        """Return every size-th of `items`, beginning with this process's number: perhaps none."""
        return items[self._rank :: self.size] if self.size > 1 else items

    def first(self, call: Callable[[], T]) -> T:
        """Run `call` in the first process only and broadcast its result.

        For decisions that depend on the disk, and for work that is not shared; the first process has size 1 meanwhile. If it
        raises an exception, the others raise PeerLostError.
        """
        if self.size == 1:
            return call()
        result: T | _Failed = _Failed()
        if self.leads:
            self._alone = True
            try:
                result = call()
            except Exception:
                self._alone = False
                with suppress(PeerLostError):
                    self.broadcast(result)
                raise
            finally:
                self._alone = False
        result = self.broadcast(result)
        if isinstance(result, _Failed):
            raise PeerLostError("the first process of this run failed: see its message")
        return result

    def broadcast(self, mine: T) -> T:
        """Return the first process's value, in all processes; it must be picklable."""
        if self.size == 1:
            return mine
        import torch.distributed as dist  # noqa: PLC0415 - see above

        values = [mine]
        with _peers():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def broadcast_tensors(self, mine: "dict[str, Tensor]") -> "dict[str, Tensor]":
        """Return the first process's tensors, by name, in all processes."""
        if self.size == 1:
            return mine
        import torch  # noqa: PLC0415 - see above
        import torch.distributed as dist  # noqa: PLC0415 - see above

        shapes = self.broadcast({name: (tensor.shape, tensor.dtype) for name, tensor in mine.items()})
        tensors = {
            name: mine[name].contiguous() if self.leads else torch.empty(shape, dtype=dtype)
            for name, (shape, dtype) in shapes.items()
        }
        for tensor in tensors.values():
            with _peers():
                dist.broadcast(tensor, src=0)
        return tensors

    def all_gather(self, mine: T) -> list[T]:
        """Return every process's value, by rank; they must be picklable."""
        found = [mine] * self.size
        if self.size > 1:
            import torch.distributed as dist  # noqa: PLC0415 - see above

            with _peers():
                dist.all_gather_object(found, mine)
        return found

    def all_reduce(self, tensors: "Sequence[Tensor]") -> None:
        """Replace each tensor in place by its sum over all processes."""
        if self.size > 1:
            import torch.distributed as dist  # noqa: PLC0415 - see above

            for tensor in tensors:
                with _peers():
                    dist.all_reduce(tensor)

    def barrier(self) -> None:
        """Wait until all processes get here."""
        self.all_gather(None)

    @contextmanager
    def collectives(self) -> Iterator[None]:
        """Turn torch's error for a lost process into PeerLostError where torch calls collectives itself, as in a backward pass.

        Other errors may happen there too, and torch has no type of its own for those of gloo: their message names it.
        """
        try:
            yield
        except RuntimeError as error:
            import torch.distributed as dist  # noqa: PLC0415 - see above

            if self.size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            raise _lost(error) from error

    @contextmanager
    def last_word(self, error: BaseException) -> Iterator[bool]:
        """Yield whether this process reports the error that ended the run; the others wait for its report.

        The first process with an error of its own reports it. If a process disappears without a report, rank 0 reports that.
        """
        ours = self._claims() if self.leads or not isinstance(error, PeerLostError) else False
        yield ours
        with suppress(RuntimeError):  # the store ended with its process
            if self._store and ours:
                self._store.set(_SAID, "")
            elif self._store:  # else torchrun kills the reporting process when another exits first
                self._store.wait([_SAID], _LAST_WORD_WAIT)

    def _claims(self) -> bool:
        with suppress(RuntimeError):  # the store's process has ended, after its report
            return self._store is None or self._store.add(_CLAIMED, 1) == 1
        return self.leads

    def leave(self) -> None:
        """End the group."""
        import torch.distributed as dist  # noqa: PLC0415 - see above

        dist.destroy_process_group()


ALONE = Team()


@contextmanager
def _peers() -> Iterator[None]:
    """Turn torch's error for a lost process into PeerLostError."""
    try:
        yield
    except RuntimeError as error:
        raise _lost(error) from error


def _lost(error: RuntimeError) -> PeerLostError:
    return PeerLostError(
        f"another process of this run ended ({first_line(error, 150)}): start the same command again, it goes on "
        "where it stopped"
    )
