"""Names of what is still being written, or being deleted: no two processes share one, and who comes later sweeps them up."""

import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".langprune-tmp"  # suffix of such a file or folder; nobody else's names end in it
_OWNER = re.compile(r"\.([0-9a-f]{8})-(\d{1,9})-[0-9a-f]{8}" + re.escape(TEMPORARY))  # machine, process, random digits
_LONGEST_SECONDS = 24 * 3600.0  # what another machine, or an older version, has not touched for so long is left over
_MOST_NAME_BYTES = 200  # file systems take 255


def temporary_beside(path: Path) -> Path:
    """Return a name for what is to become `path`, or was: hidden, in the same folder, and of this process alone."""
    owner = f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{_stem(path.name)}.{owner}{TEMPORARY}")


def sweep(folder: Path, name: str | None = None, *, alone: bool = False) -> None:
    """Delete what ended processes left in `folder` of the file or folder `name`, or of any.

    alone: whether a lock keeps other processes away from that name; then nothing there is theirs. Without one, whatever a
    running process of this machine may still write stays, and what another machine wrote within the last day.
    What cannot be deleted stays.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if path.name.endswith(TEMPORARY) and (name is None or _is_of(path, name)) and (alone or _is_left(path)):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _is_of(path: Path, name: str) -> bool:
    """Return whether a temporary name stands for `name`; an older version had neither a dot in front nor an owner."""
    if path.name in {f"{name}{TEMPORARY}", f".{name}{TEMPORARY}"}:
        return True
    stem = _stem(name)
    return path.name.startswith(stem) and _OWNER.fullmatch(path.name, len(stem)) is not None


def _is_left(path: Path) -> bool:
    """Return whether the process that made `path` has ended, as far as can be known here."""
    owner = _OWNER.search(path.name)
    if owner and owner[1] == _machine():
        process = int(owner[2])
        return process == os.getpid() or not _is_running(process)  # an earlier process had this one's number
    return time.time() - path.lstat().st_mtime > _LONGEST_SECONDS


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 asks only
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _stem(name: str) -> str:
    if len(name.encode(errors="surrogateescape")) > _MOST_NAME_BYTES:
        name = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    return f".{name}"
