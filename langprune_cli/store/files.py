"""Files and folders that are whole or not there, after a power cut too: written beside, synced, renamed; and disk errors."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict

from langprune_cli.errors import LangpruneError
from langprune_cli.store.temporary import sweep, temporary_beside

_WHAT_TO_DO = {
    errno.ENOSPC: "the disk is full: free some space (or choose another --workspace or --out) and run the command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the command again",
    errno.EROFS: "the file system is read-only: choose a --workspace or --out that can be written",
    errno.EACCES: "permission is denied: choose a --workspace or --out that you may write",
    errno.EPERM: "permission is denied: choose a --workspace or --out that you may write",
    errno.EIO: "the disk reported an input/output error; check it before you run the command again",
    errno.ENOTDIR: "a part of that path is a file, not a folder: choose another path",
    errno.EISDIR: "that is a folder where a file is needed: choose another path",
    errno.ENOTEMPTY: "the folder is not empty: choose another path",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}

_WHAT_TO_DO_TO_READ = _WHAT_TO_DO | {
    errno.EACCES: "permission is denied: make it readable",
    errno.EPERM: "permission is denied: make it readable",
}


class Part(TypedDict):
    """What a manifest says of one file."""

    sha256: str
    size: int  # bytes


Parts = dict[str, Part]  # by the file's name


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
    """Make what was created, renamed or removed in `folder` survive a power cut.

    Some file systems do not open a folder, or do not sync one: there it is theirs to keep.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder with its parents, if it is not there, so that it survives a power cut; raises OSError."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(new or [folder]):  # one that is there: the process that made it may not have come so far
        sync_folder(path.parent)


def put_folder(made: Path, place: Path) -> None:
    """Rename a finished folder to `place`, which is not there or empty: whatever happens, it is there whole or not at all.

    Raises OSError, for a place that holds files as well.
    """
    sync_tree(made)
    made.rename(place)
    sync_folder(place.parent)


def sync_tree(folder: Path) -> None:
    """Make a folder's files and folders survive a power cut; raises OSError."""
    for here, _, files in os.walk(folder, topdown=False):
        for name in files:
            with Path(here, name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(here))


def remove_folder(folder: Path) -> None:
    """Delete a folder; raises OSError.

    First it gets a name that is nobody's. So a process that is killed meanwhile leaves nothing in its place, and what it
    leaves under that name is swept up.
    """
    gone = temporary_beside(folder)
    folder.rename(gone)
    try:
        sync_folder(folder.parent)
    finally:  # a failing disk is a reason more to delete
        shutil.rmtree(gone)
    sync_folder(folder.parent)


def put_link(link: Path, target: Path) -> None:
    """Let `link` lead to the folder `target`, wherever it led before; raises OSError where it is no link."""
    temporary = temporary_beside(link)
    temporary.symlink_to(target, target_is_directory=True)
    try:
        temporary.replace(link)
    except OSError:
        temporary.unlink()
        raise
    sync_folder(link.parent)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it to `path`, on failure remove it.

    Raises LangpruneError for a full, read-only or failing disk.
    """
    sweep(path.parent, path.name)
    temporary = temporary_beside(path)
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


def canonical_json(value: object) -> str:
    """Return the one spelling of a JSON value that keys are hashed from: sorted, compact, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def readable_json(value: object) -> bytes:
    """Return a JSON document for people, sorted so that it does not depend on insertion order."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def document_digest(document: Mapping[str, object]) -> str:
    """Return sha256 over the canonical JSON of a document without its own field `digest`."""
    rest = {name: value for name, value in document.items() if name != "digest"}
    return hashlib.sha256(canonical_json(rest).encode()).hexdigest()


def check_signed(path: Path, data: bytes, remedy: str) -> None:
    """Raise LangpruneError where a byte of a document with a digest of its own, read from `path`, is not as it was written.

    The digest covers all values; that the document is spelled as langprune spells it covers the bytes between them.
    """
    try:
        document = json.loads(data)
        whole = readable_json(document) == data and document["digest"] == document_digest(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise LangpruneError(f"{path} is damaged (its digest is not that of what it says): {remedy}")


def check_parts(parts: Parts) -> None:
    """Raise ValueError, TypeError or AttributeError where `parts` is not what a manifest says of its parts."""
    for name, part in parts.items():
        # Parts are removed and copied by these names: none may lie outside of their folder.
        if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name!r} is no name of a part")
        if not isinstance(part["sha256"], str) or type(part["size"]) is not int or part["size"] < 0:
            raise ValueError(f"{name!r} has no sha256 and size")


def weights_digest(hashes: Iterable[str]) -> str:
    """Return a sha256 of a model's weights from those of its weight files, whatever these are called."""
    return hashlib.sha256(canonical_json(sorted(hashes)).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HashedFiles:
    """Files that were hashed once: a file is hashed again only where it has been replaced or written to since."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[tuple[int, int, int], str]] = {}  # inode, size and time of change; sha256

    def digest(self, path: Path) -> str | None:
        """Return the hex sha256 of a file's bytes, None where there is no such file; raises OSError."""
        try:
            with path.open("rb") as file:
                stat = os.fstat(file.fileno())
                found = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
                known = self._seen.get(path)
                if known is None or known[0] != found:
                    known = self._seen[path] = found, hashlib.file_digest(file, "sha256").hexdigest()
                return known[1]
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def still_has(self, path: Path, digest: str) -> bool:
        """Return whether there is a file with that sha256; raises LangpruneError where it cannot be read."""
        with disk_errors(path, reading=True):
            return self.digest(path) == digest


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
