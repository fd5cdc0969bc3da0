"""One process at a time makes an artifact: a lock beside its folder, which the system drops when the process ends."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from langprune_cli.errors import LangpruneError
from langprune_cli.store.files import disk_errors, make_folder
from langprune_cli.store.workspace import Workspace

# Where nothing can be written beside the folder there is no lock; whether inside of it, its writer finds out and says.
_NO_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def being_made(folder: Path, kind: str, workspace: Workspace) -> Iterator[bool]:
    """Hold the lock on the artifact in `folder`; yield whether there is one, a note saying where there is none.

    The lock's file holds the owner, and is gone afterwards. One that a killed process left is no lock, and the next run
    removes it. Raises LangpruneError while another process holds it.
    """
    path, own = _lock_of(folder, kind, workspace)
    what, option = (f"{kind}/{own}", "--name") if own else (str(folder), "--out")
    try:
        descriptor = _locked(path, folder)
    except BlockingIOError as error:
        raise LangpruneError(
            f"another langprune{_owner(path)} is making {what}: wait for it, or choose another {option}"
        ) from error
    if descriptor is None:
        workspace.note(f"No lock can be had beside {what}: let no other process make it at the same time.")
        yield False
        return
    with suppress(OSError):  # on a full disk the lock holds all the same
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    try:
        yield True
    finally:
        with suppress(OSError):
            path.unlink()  # before the lock is dropped, lest it be another process's by then
        os.close(descriptor)


def remove_stale_lock(folder: Path, kind: str, workspace: Workspace) -> None:
    """Remove the lock's file of an artifact that is made already, where a process was killed just before it would have."""
    path, _ = _lock_of(folder, kind, workspace)
    with suppress(OSError, LangpruneError):  # another process holds it, or nothing can be written there
        if path.is_file() and (descriptor := _locked(path, folder)) is not None:
            path.unlink()
            os.close(descriptor)


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


def _locked(path: Path, folder: Path) -> int | None:
    """Return the open, locked file `path`, None where there can be none; raises BlockingIOError when it is taken."""
    while True:
        with disk_errors(folder):
            try:
                make_folder(path.parent)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                if error.errno in _NO_PLACE:
                    return None
                raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise
        except FileNotFoundError:  # as below
            pass
        except OSError:  # a file system without locks
            path.unlink(missing_ok=True)
            os.close(descriptor)
            return None
        os.close(descriptor)  # who held it has removed the file between our opening and locking it: once more
