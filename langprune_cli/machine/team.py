"""The processes that share one run: all run the same stage (SPMD), and meet in collectives of torch.distributed.

`torchrun` starts them, on one machine or several. Objects go over gloo, between these processes alone; tensors on CUDA go over
nccl. The first process, rank 0, decides what depends on the disk, and it alone writes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from langprune_cli.errors import LangpruneError, first_line

if TYPE_CHECKING:  # torch takes seconds to import, and the workspace is read without it
    from torch import Tensor
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

# Between two collectives lies at most what the first process does alone, such as a mask of a very large model.
_LONGEST_WAIT = timedelta(hours=6)
_LAST_WORD_WAIT = timedelta(seconds=10)  # for the sentence of the process that says what ended the run
_CLAIMED, _SAID = "claimed", "said"  # keys of the store


class PeerLostError(LangpruneError):
    """Another process of the run has ended before its time."""


class _Failed:
    """What the others get in place of a result when the first process raised an exception."""


class Team:
    """The processes of one run. All of them make the same collective calls, in the same order; alone, these do nothing."""

    def __init__(self, rank: int = 0, size: int = 1, store: "Store | None" = None) -> None:
        """Describe this process, number `rank` of `size`. store: of the group, for what is said outside of collectives."""
        self._rank, self._size, self._store = rank, size, store
        self._alone = False  # inside `first`, where the others wait

    @classmethod
    def join(cls) -> "Team":
        """Meet the other processes that torchrun started; raises LangpruneError where they do not come."""
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
        """Return how many processes act together now: one inside `first`."""
        return 1 if self._alone else self._size

    @property
    def leads(self) -> bool:
        """Return whether this is the first process, which alone writes and prints."""
        return self._rank == 0

    def share(self, ids: "Tensor") -> "Tensor":  # [n, t] -> [n / size, t]
        """Return the windows of this process: every size-th, so that shares differ by one window at most.

        Raises LangpruneError, in all processes, where there are fewer windows than processes.
        """
        if len(ids) < self.size:
            raise LangpruneError(f"{len(ids)} windows cannot be shared by {self.size} processes: start fewer of them")
        return ids[self._rank :: self.size] if self.size > 1 else ids

    def first(self, call: Callable[[], T]) -> T:
        """Return what `call` returns in the first process; the others wait for it, and call nothing.

        For what depends on the disk, and for work that is not shared: inside, the first process is alone. What it raises, it
        raises; the others then raise PeerLostError.
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
            raise PeerLostError("the first process of this run has failed: see what it says")
        return result

    def broadcast(self, mine: T) -> T:
        """Return what the first process has, in all of them: anything that pickles."""
        if self.size == 1:
            return mine
        import torch.distributed as dist  # noqa: PLC0415 - see above

        values = [mine]
        with _peers():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def broadcast_tensors(self, mine: "dict[str, Tensor]") -> "dict[str, Tensor]":
        """Return the tensors of the first process, by name, in all of them."""
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
        """Return what each process has, by rank: anything that pickles."""
        found = [mine] * self.size
        if self.size > 1:
            import torch.distributed as dist  # noqa: PLC0415 - see above

            with _peers():
                dist.all_gather_object(found, mine)
        return found

    def all_reduce(self, tensors: "Sequence[Tensor]") -> None:
        """Replace each tensor, in place, by its sum over all processes."""
        if self.size > 1:
            import torch.distributed as dist  # noqa: PLC0415 - see above

            for tensor in tensors:
                with _peers():
                    dist.all_reduce(tensor)

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.all_gather(None)

    @contextmanager
    def last_word(self, error: BaseException) -> Iterator[bool]:
        """Yield whether this process is the one that says what ended the run; the others wait until it has said so.

        That is the first whose own error it is. Where a process is gone without a word, the first process says so.
        """
        ours = self._claims() if self.leads or not isinstance(error, PeerLostError) else False
        yield ours
        with suppress(RuntimeError):  # the store is gone with the process that kept it
            if self._store and ours:
                self._store.set(_SAID, "")
            elif self._store:  # or torchrun would end the one that speaks for the exit code of one that does not
                self._store.wait([_SAID], _LAST_WORD_WAIT)

    def _claims(self) -> bool:
        with suppress(RuntimeError):  # the process that kept the store has ended, and had its word
            return self._store is None or self._store.add(_CLAIMED, 1) == 1
        return self.leads

    def leave(self) -> None:
        """End the group."""
        import torch.distributed as dist  # noqa: PLC0415 - see above

        dist.destroy_process_group()


ALONE = Team()


@contextmanager
def _peers() -> Iterator[None]:
    """Raise PeerLostError for what torch raises when another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(
            f"another process of this run has ended ({first_line(error, 150)}): start the same command again, it goes on "
            "where it stopped"
        ) from error
