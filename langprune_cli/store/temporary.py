"""Temporary names for files being written or deleted: unique to a process, and swept up by later ones."""

import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".langprune-tmp"  # suffix of temporary files and folders; no other names end in it
_OWNER = re.compile(r"\.([0-9a-f]{8})-(\d{1,9})-[0-9a-f]{8}" + re.escape(TEMPORARY))  # machine, process, random digits
_LONGEST_SECONDS = 24 * 3600.0  # files of other machines and older versions are leftovers after this time
_MOST_NAME_BYTES = 200  # file systems take 255


def temporary_beside(path: Path) -> Path:
    """Return a temporary name for `path`: hidden, in the same folder, unique to this process."""
    owner = f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{_stem(path.name)}.{owner}{TEMPORARY}")


def sweep(folder: Path, name: str | None = None, *, alone: bool = False) -> None:
    """Delete the temporary files that ended processes left in `folder`, for the file or folder `name` or for any.

    alone: whether a lock keeps other processes away from that name; then all its temporary files are leftovers. Without one,
    files of running processes on this machine stay, and files that another machine wrote within the last day.
    Files that cannot be deleted stay.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if path.name.endswith(TEMPORARY) and (name is None or _is_of(path, name)) and (alone or _is_left(path)):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _is_of(path: Path, name: str) -> bool:
    """Return whether a temporary name belongs to `name`; older versions used no leading dot and no owner."""
    if path.name in {f"{name}{TEMPORARY}", f".{name}{TEMPORARY}"}:
        return True
    stem = _stem(name)
    return path.name.startswith(stem) and _OWNER.fullmatch(path.name, len(stem)) is not None


def _is_left(path: Path) -> bool:
    """Return whether the process that made `path` has ended, as far as this machine can tell."""
    owner = _OWNER.search(path.name)
    if owner and owner[1] == _machine():
        process = int(owner[2])
        return process == os.getpid() or not _is_running(process)  # an earlier process with our number
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
