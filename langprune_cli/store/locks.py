"""Locks: one process at a time makes an artifact. The lock lies beside its folder and ends with the process."""

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

# If nothing can be written beside the folder there is no lock; the writer reports it if the folder is read-only too.
_NO_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS}
# A process that releases the lock deletes its file; one that had opened this file must try again, as the lock is free.
_PATIENCE, _POLL = 0.5, 0.02  # seconds
_UNNAMED = {"logits", "divergences"}  # kinds that are made on the way to another, whose names no option chooses


@contextmanager
def being_made(folder: Path, kind: str, workspace: Workspace) -> Iterator[bool]:
    """Hold the lock on the artifact in `folder`; yield whether locks work there, and show a note if they do not.

    The lock file names the owner and is deleted afterwards. A file that a killed process left does not lock; the next run
    deletes it. Raises LangpruneError while another process holds the lock.
    """
    path, own = _lock_of(folder, kind, workspace)
    what, option = (f"{kind}/{own}", "--name") if own else (str(folder), "--out")
    try:
        lock = _locked(path, folder, _PATIENCE)
    except Timeout as error:
        instead = "" if kind in _UNNAMED else f", or choose another {option}"
        raise LangpruneError(f"another langprune{_owner(path)} is making {what}: wait for it{instead}") from error
    if lock is None:
        workspace.note(f"No lock can be had beside {what}: let no other process make it at the same time.")
        yield False
        return
    with suppress(OSError):  # the lock holds on a full disk too
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    try:
        yield True
    finally:
        _remove(path, lock)


def remove_stale_lock(folder: Path, kind: str, workspace: Workspace) -> None:
    """Delete the lock file of a finished artifact, left by a process that was killed just before it did so."""
    path, _ = _lock_of(folder, kind, workspace)
    with suppress(OSError, LangpruneError):  # another process holds it, or nothing can be written there
        if path.is_file() and (lock := _locked(path, folder)):
            _remove(path, lock)


def _lock_of(folder: Path, kind: str, workspace: Workspace) -> tuple[Path, str | None]:
    """Return the lock's file of the artifact in `folder`, and the name that it has as one of the workspace's own."""
    real = folder.resolve()  # a link and --out must lead to the same lock
    own = workspace.name_of(kind, real)
    return (real.with_name(f".{real.name}.lock") if own else real.parent / f".{real.name}.langprune-lock"), own


def _owner(path: Path) -> str:
    """Return who holds a lock, in brackets for a sentence; empty if it is not written yet."""
    with suppress(OSError, UnicodeDecodeError):
        if owner := path.read_bytes()[:200].decode().strip():
            return f" ({owner})"
    return ""


def _remove(path: Path, lock: FileLock) -> None:
    """Delete the lock file, then release the lock: in the other order the file could be another process's."""
    with suppress(OSError):
        path.unlink()
    with suppress(OSError):  # the end of the process drops it
        lock.release()


def _locked(path: Path, folder: Path, patience: float = 0) -> FileLock | None:
    """Take the lock on the file `path` and return it, None if locks do not work there; raises Timeout if it stays taken.

    Without flock there is no lock: filelock's fallback, a file that merely exists, would outlive a killed process.
    """
    lock = FileLock(path, patience, poll_interval=_POLL, fallback_to_soft=False)
    with disk_errors(folder):
        try:
            make_folder(path.parent)  # whatever it raises is no lack of locks
        except OSError as error:
            if error.errno in _NO_PLACE:
                return None
            raise
    try:
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
