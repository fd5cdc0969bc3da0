"""Gives up downloads that are too slow ever to finish.

The HTTP library of `huggingface_hub` has a timeout for each read, which a server that sends a byte now and then never hits.
"""

import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from langprune_cli.errors import LangpruneError

_SECONDS = 60.0  # of waiting for bodies of answers, in one thread,
_LEAST_BYTES = 100_000  # in which at least so much has to come


class _Pace(threading.local):
    """The time and bytes of one thread since the last check, over all responses: a reconnection does not reset them."""

    waited = 0.0
    received = 0

    def judge(self) -> None:
        """Raise LangpruneError if too few bytes have come; start a new period if enough have."""
        if self.waited < _SECONDS:
            return
        waited, received, self.waited, self.received = self.waited, self.received, 0.0, 0
        if received < _LEAST_BYTES:
            raise LangpruneError(
                f"the hub sent {received:,} bytes in {waited:.0f} seconds, too little ever to end: check the network, and give "
                "the command again later; files that are complete are kept"
            )


_pace = _Pace()


@contextmanager
def paced() -> Iterator[None]:
    """Check the pace of all downloads of `huggingface_hub` inside the context; raises LangpruneError if one is too slow."""
    from huggingface_hub import get_session  # noqa: PLC0415  (slow to load, and local files do without it)

    hooks = get_session().event_hooks["response"]
    hooks.append(_watch)
    try:
        yield
    finally:
        hooks.remove(_watch)


class _Body(Protocol):
    """What a response streams."""

    def __iter__(self) -> Iterator[bytes]: ...
    def close(self) -> None: ...


class _Response(Protocol):
    """A Response of httpx or httpx2, whichever huggingface_hub uses."""

    stream: _Body


def _watch(response: _Response) -> None:
    """Replace a response's body with a stream whose pace is checked."""
    library = importlib.import_module(type(response).__module__.partition(".")[0])
    body = response.stream

    class Judged(library.SyncByteStream):  # type: ignore[misc, name-defined] # known only now
        """The body of a response, with its pace checked."""

        def __iter__(self) -> Iterator[bytes]:
            pieces = iter(body)
            while True:
                begun = time.monotonic()
                try:
                    piece = next(pieces, None)
                finally:  # a read that ran into its own limit has waited too
                    _pace.waited += time.monotonic() - begun
                    _pace.judge()
                if piece is None:
                    return
                _pace.received += len(piece)
                yield piece

        def close(self) -> None:
            body.close()

    response.stream = Judged()
