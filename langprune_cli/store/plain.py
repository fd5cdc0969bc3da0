"""Safe file opening: only regular files (opening a pipe may block forever), and no link out of the folder."""

import re
import stat
from pathlib import Path

from langprune_cli.errors import LangpruneError
from langprune_cli.store.files import disk_errors

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # what the hub's cache calls a file: git's hash of it, or its sha256


def plain_file(path: Path, within: Path | None = None) -> Path:
    """Return `path` after checking that it is safe to open: a regular file, or nothing.

    within: the folder that must hold the file after links are resolved; the folder itself may be a link. The hub's cache
    keeps files in models--OWNER--NAME/blobs and links to them, so links into the cache are allowed; from the cache's own
    folders only to the same repository.

    Raises LangpruneError for a pipe, a socket, a device or a folder (opening one may never return), and for a link or a
    name that leads out of `within`.
    """
    with disk_errors(path, reading=True):
        try:
            kind = stat.S_IFMT(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return path
        if kind != stat.S_IFREG:
            raise LangpruneError(f"{path} is {_KINDS.get(kind, 'no file')}, not a file: put a plain file in its place")
        if within is not None and (target := path.resolve()) and not _belongs(target, within.resolve()):
            raise LangpruneError(
                f"{path} leads out of its folder, to {target}: if that file belongs there, copy it into {within} in place of "
                "the link"
            )
    return path


def plain_files(folder: Path, *below: str) -> None:
    """Check all files of a folder, and of its subfolders `below`, as `plain_file` does; skip hidden files.

    Other subfolders, and links to folders, are skipped. Raises LangpruneError as `plain_file` does.
    """
    with disk_errors(folder, reading=True):
        for place in (folder, *(folder / name for name in below)):
            if place.is_dir():
                for path in sorted(place.iterdir()):
                    if not path.name.startswith(".") and not path.is_dir():
                        plain_file(path, within=folder)


def _belongs(target: Path, folder: Path) -> bool:
    """Return whether a file lies in a folder, or in the hub's cache where the folder may link to it; both resolved."""
    if target.is_relative_to(folder):
        return True
    own, its = _repository(folder), _repository(target)
    if its is None:
        return False
    return its == own if own else target.parent == its / "blobs" and bool(_BLOB.fullmatch(target.name))


def _repository(path: Path) -> Path | None:
    """Return the cache folder models--OWNER--NAME whose blobs or snapshots hold a path, None outside a cache."""
    for parent in path.parents:
        if parent.name.startswith("models--") and path.relative_to(parent).parts[0] in {"blobs", "snapshots"}:
            return parent
    return None
