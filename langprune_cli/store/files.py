"""Files that are whole or not there: written beside, synced, renamed; and disk errors as one sentence."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from langprune_cli.errors import LangpruneError

TEMPORARY = ".langprune-tmp"  # suffix of a file that is still being written; nobody else's files end in it

_WHAT_TO_DO = {
    errno.ENOSPC: "the disk is full: free some space (or choose another --workspace or --out) and run the command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the command again",
    errno.EROFS: "the file system is read-only: choose a --workspace or --out that can be written",
    errno.EACCES: "permission is denied: choose a --workspace or --out that you may write",
    errno.EPERM: "permission is denied: choose a --workspace or --out that you may write",
    errno.EIO: "the disk reported an input/output error; check it before you run the command again",
    errno.ENOTDIR: "a part of that path is a file, not a folder: choose another path",
    errno.EISDIR: "that is a folder where a file is needed: choose another path",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}


_WHAT_TO_DO_TO_READ = _WHAT_TO_DO | {
    errno.EACCES: "permission is denied: make it readable",
    errno.EPERM: "permission is denied: make it readable",
}


@contextmanager
def disk_errors(path: Path, *, reading: bool = False) -> Iterator[None]:
    """Turn an OSError about `path`, which is written unless it is for `reading`, into a LangpruneError with advice."""
    try:
        yield
    except OSError as error:
        reason = (_WHAT_TO_DO_TO_READ if reading else _WHAT_TO_DO).get(
            error.errno or 0, f"{error.strerror or error}; check the path and run the command again"
        )
        raise LangpruneError(f"{path}: {reason}") from error


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`, on failure remove it.

    Raises LangpruneError for a full, read-only or failing disk.
    """
    temporary = path.with_name(f"{path.name}{TEMPORARY}")
    with disk_errors(path):
        try:
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def canonical_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return the one spelling of a JSON value that keys are hashed from: sorted, compact, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def readable_json(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Return a JSON document for people, sorted so that it does not depend on insertion order."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def document_digest(document: dict[str, Any]) -> str:
    """Return sha256 over the canonical JSON of a document without its own field `digest`."""
    rest = {name: value for name, value in document.items() if name != "digest"}
    return hashlib.sha256(canonical_json(rest).encode()).hexdigest()


def check_parts(parts: dict[str, dict[str, Any]]) -> None:
    """Raise ValueError, TypeError or AttributeError where `parts` is not what a manifest says of its parts."""
    for name, part in parts.items():
        # Parts are removed and copied by these names: none may lie outside of their folder.
        if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name!r} is no name of a part")
        if not isinstance(part["sha256"], str) or type(part["size"]) is not int or part["size"] < 0:
            raise ValueError(f"{name!r} has no sha256 and size")


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def need_space(folder: Path, size: int) -> None:
    """Raise LangpruneError when the disk of `folder` (or its nearest parent that exists) has less than `size` bytes."""
    place = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    with disk_errors(folder):
        free = shutil.disk_usage(place).free
    if free < size:
        raise LangpruneError(
            f"{folder}: {size / 1e6:,.1f} MB will be written and the disk has {free / 1e6:,.1f} MB free; "
            "free some space or choose another --workspace or --out"
        )
