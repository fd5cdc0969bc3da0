"""Downloads that come in too slowly ever to end are given up.

The limits of the HTTP library below `huggingface_hub` are of one read each: a hub that sends a byte now and then meets them all.
"""

import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langprune_cli.errors import LangpruneError

_SECONDS = 60.0  # of waiting for bodies of answers, in one thread,
_LEAST_BYTES = 100_000  # in which at least so much has to come


class _Pace(threading.local):
    """What one thread has waited for since it was judged last, over all answers: a broken connection starts nothing anew."""

    waited = 0.0
    received = 0

    def judge(self) -> None:
        """Raise LangpruneError where too little has come; begin again where it was enough."""
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
    """Judge the pace of all that `huggingface_hub` downloads meanwhile; raises LangpruneError out of it."""
    from huggingface_hub import get_session  # noqa: PLC0415  (slow to load, and local files do without it)

    hooks: list[Any] = get_session().event_hooks["response"]
    hooks.append(_watch)
    try:
        yield
    finally:
        hooks.remove(_watch)


def _watch(response: Any) -> None:  # noqa: ANN401 - a Response of httpx or httpx2, whichever huggingface_hub uses
    """Put a stream that is judged as it comes in the place of an answer's body."""
    library = importlib.import_module(type(response).__module__.partition(".")[0])
    body = response.stream

    class Judged(library.SyncByteStream):  # type: ignore[misc, name-defined] # known only now
        """The body of the answer."""

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
