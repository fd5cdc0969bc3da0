"""One process at a time makes an artifact: a lock beside its folder, which the system drops when the process ends."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from langprune_cli.errors import LangpruneError
from langprune_cli.store.files import disk_errors, make_folder
from langprune_cli.store.workspace import Workspace

# Where nothing can be written beside the folder there is no lock; whether inside of it, its writer finds out and says.
_NO_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS}
# A holder that ends removes its file, and whoever had opened that file must try again: not a lock that is taken.
_PATIENCE, _POLL = 0.5, 0.02  # seconds


@contextmanager
def being_made(folder: Path, kind: str, workspace: Workspace) -> Iterator[bool]:
    """Hold the lock on the artifact in `folder`; yield whether there is one, a note saying where there is none.

    The lock's file holds the owner, and is gone afterwards. One that a killed process left is no lock, and the next run
    removes it. Raises LangpruneError while another process holds it.
    """
    path, own = _lock_of(folder, kind, workspace)
    what, option = (f"{kind}/{own}", "--name") if own else (str(folder), "--out")
    try:
        lock = _locked(path, folder, _PATIENCE)
    except Timeout as error:
        raise LangpruneError(
            f"another langprune{_owner(path)} is making {what}: wait for it, or choose another {option}"
        ) from error
    if lock is None:
        workspace.note(f"No lock can be had beside {what}: let no other process make it at the same time.")
        yield False
        return
    with suppress(OSError):  # on a full disk the lock holds all the same
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    try:
        yield True
    finally:
        _remove(path, lock)


def remove_stale_lock(folder: Path, kind: str, workspace: Workspace) -> None:
    """Remove the lock's file of an artifact that is made already, where a process was killed just before it would have."""
    path, _ = _lock_of(folder, kind, workspace)
    with suppress(OSError, LangpruneError):  # another process holds it, or nothing can be written there
        if path.is_file() and (lock := _locked(path, folder)):
            _remove(path, lock)


def _lock_of(folder: Path, kind: str, workspace: Workspace) -> tuple[Path, str | None]:
    """Return the lock's file of the artifact in `folder`, and the name that it has as one of the workspace's own."""
    real = folder.resolve()  # whoever comes by a link, and whoever by --out, must meet at one lock
    own = workspace.name_of(kind, real)
    return (real.with_name(f".{real.name}.lock") if own else real.parent / f".{real.name}.langprune-lock"), own


def _owner(path: Path) -> str:
    """Return who holds a lock, as an insertion into a sentence; nothing where it is not written yet."""
    with suppress(OSError, UnicodeDecodeError):
        if owner := path.read_bytes()[:200].decode().strip():
            return f" ({owner})"
    return ""


def _remove(path: Path, lock: FileLock) -> None:
    """Remove a lock's file, then drop the lock: the other way round it might be another process's file by then."""
    with suppress(OSError):
        path.unlink()
    with suppress(OSError):  # the end of the process drops it
        lock.release()


def _locked(path: Path, folder: Path, patience: float = 0) -> FileLock | None:
    """Return the lock on the file `path`, held, None where there can be none; raises Timeout when it stays taken.

    Where flock is missing there is none: what filelock would put in its place, a file that is there, outlives a killed process.
    """
    lock = FileLock(path, patience, poll_interval=_POLL, fallback_to_soft=False)
    try:
        make_folder(path.parent)
        lock.acquire()
    except Timeout:
        raise
    except OSError as error:
        if error.errno in _NO_PLACE:
            return None
        if error.filename is None:  # of flock, which is given no name: a file system without locks
            path.unlink(missing_ok=True)
            return None
        with disk_errors(folder):
            raise
    return lock
