"""Atomic files and folders, whole or absent even after a power cut: write beside, sync, rename. Also disk errors."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NotRequired, TypedDict

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
    tensors: NotRequired[
        dict[str, str]
    ]  # sha256 of the bytes of small tensors, to be read without the rest of the file


Parts = dict[str, Part]  # by the file's name


@contextmanager
def disk_errors(path: Path, *, reading: bool = False) -> Iterator[None]:
    """Turn an OSError about `path` into a LangpruneError with advice, for writing or for `reading`."""
    try:
        yield
    except OSError as error:
        reason = (_WHAT_TO_DO_TO_READ if reading else _WHAT_TO_DO).get(
            error.errno or 0, f"{error.strerror or error}; check the path and run the command again"
        )
        raise LangpruneError(f"{path}: {reason}") from error


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that created, renamed and removed names survive a power cut.

    Some file systems cannot open or sync a folder; then nothing more can be done.
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
    """Make a folder and its parents, if missing, and sync them; raises OSError."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(new or [folder]):  # also if it exists: its maker may not have synced it yet
        sync_folder(path.parent)


def put_folder(made: Path, place: Path) -> None:
    """Rename a finished folder to `place`, which is missing or empty; after a crash it is whole or absent.

    Raises OSError, also if `place` holds files.
    """
    sync_tree(made)
    made.rename(place)
    sync_folder(place.parent)


def sync_tree(folder: Path) -> None:
    """Sync all files and folders below a folder; raises OSError."""
    for here, _, files in os.walk(folder, topdown=False):
        for name in files:
            with Path(here, name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(here))


def remove_folder(folder: Path) -> None:
    """Delete a folder; raises OSError.

    It is first renamed to a temporary name. So a process that is killed halfway leaves the place free, and the rest is swept
    up later.
    """
    gone = temporary_beside(folder)
    folder.rename(gone)
    try:
        sync_folder(folder.parent)
    finally:  # also if the sync fails: the space is still wanted
        shutil.rmtree(gone)
    sync_folder(folder.parent)


def put_link(link: Path, target: Path) -> None:
    """Point `link` at the folder `target`, replacing an earlier link; raises OSError if it is not a link."""
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
    """Return the canonical JSON of a value, which keys are hashed from: sorted, compact, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def readable_json(value: object) -> bytes:
    """Return indented JSON for people, sorted so that insertion order does not matter."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def document_digest(document: Mapping[str, object]) -> str:
    """Return sha256 over the canonical JSON of a document without its own field `digest`."""
    rest = {name: value for name, value in document.items() if name != "digest"}
    return hashlib.sha256(canonical_json(rest).encode()).hexdigest()


def check_signed(path: Path, data: bytes, remedy: str) -> None:
    """Raise LangpruneError if any byte of a document that holds its own digest, read from `path`, has changed.

    The digest covers all values; comparing with langprune's own spelling covers the bytes between them.
    """
    try:
        document = json.loads(data)
        whole = readable_json(document) == data and document["digest"] == document_digest(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise LangpruneError(f"{path} is damaged (its digest is not that of what it says): {remedy}")


def check_parts(parts: Parts) -> None:
    """Raise ValueError, TypeError or AttributeError if `parts` is not the list of parts of a manifest."""
    for name, part in parts.items():
        # Parts are deleted and copied by these names, so none may point outside their folder.
        if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name!r} is no name of a part")
        if not isinstance(part["sha256"], str) or type(part["size"]) is not int or part["size"] < 0:
            raise ValueError(f"{name!r} has no sha256 and size")
        if not all(isinstance(digest, str) for digest in part.get("tensors", {}).values()):
            raise ValueError(f"{name!r} has tensors without sha256")


def weights_digest(hashes: Iterable[str]) -> str:
    """Return a sha256 of a model's weights from the hashes of its weight files; file names do not matter."""
    return hashlib.sha256(canonical_json(sorted(hashes)).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class HashedFiles:
    """Hashes files, and hashes one again only if it was replaced or written to since."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[tuple[int, int, int], str]] = {}  # inode, size and time of change; sha256

    def digest(self, path: Path) -> str | None:
        """Return the hex sha256 of a file's bytes, None if there is no such file; raises OSError."""
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
        """Return whether the file exists with that sha256; raises LangpruneError if it cannot be read."""
        with disk_errors(path, reading=True):
            return self.digest(path) == digest


def need_space(folder: Path, size: int) -> None:
    """Raise LangpruneError if the disk of `folder` (or of its nearest existing parent) has less than `size` bytes free."""
    place = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    with disk_errors(folder):
        free = shutil.disk_usage(place).free
    if free < size:
        raise LangpruneError(
            f"{folder}: {size / 1e6:,.1f} MB will be written and the disk has {free / 1e6:,.1f} MB free; "
            "free some space or choose another --workspace or --out"
        )
