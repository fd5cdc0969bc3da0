"""Model folders that langprune wrote: their files are compared with what was written before their bytes are used."""

import json
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from threading import Lock, Thread
from typing import TypedDict

from langprune_cli.errors import LangpruneError
from langprune_cli.store.artifact import PROVENANCE
from langprune_cli.store.files import Parts, check_parts, check_signed, disk_errors, sha256_file
from langprune_cli.store.manifest import is_artifact, read_manifest
from langprune_cli.store.plain import plain_file

EXPORT_AGAIN = "export the model again, or copy it again"
_Stamp = tuple[int, ...]


class Provenance(TypedDict):
    """What is read of an exported model's langprune.json; it holds more, for people."""

    parts: Parts


class Written:
    """The files of one folder that are on record: in its manifest, or in the langprune.json of an exported model."""

    def __init__(self, folder: Path) -> None:
        """Read the record, if there is one; raises LangpruneError where it is damaged."""
        self._folder = folder
        self._remedy = f"run langprune apply again with --force, or copy {folder} again"
        self._parts: Parts = {}
        if is_artifact(folder):
            manifest = read_manifest(folder)
            self._parts = manifest.parts if manifest.complete else {}  # of another nobody but its writer reads
        elif (folder / PROVENANCE).is_file():
            self._remedy = f"{EXPORT_AGAIN}; if you changed it on purpose, remove {folder / PROVENANCE}"
            self._parts = read_provenance(folder / PROVENANCE, self._remedy)["parts"]

    def __contains__(self, name: str) -> bool:
        """Return whether a file is on record."""
        return name in self._parts

    def begin(self, name: str) -> None:
        """Have a file hashed while other things are done."""
        if (self._folder / name).is_file():
            with disk_errors(self._folder / name, reading=True):
                _begun(self._folder / name)

    def sha256(self, name: str) -> str:
        """Return what a file's sha256 has to be, or where that is on no record, is."""
        if name in self._parts:
            return str(self._parts[name]["sha256"])
        path = self._folder / name
        with disk_errors(path, reading=True):
            return _begun(path).result()

    def check(self, *names: str) -> None:
        """Raise LangpruneError for a file that is not as it was written; one that is on no record may be anything.

        Each is read once in a process, and again only when the system says that it has changed since.
        """
        for name in names:
            if name not in self._parts:
                continue
            path = self._folder / name
            with disk_errors(path, reading=True):
                if not path.is_file():
                    raise LangpruneError(f"{path} is missing: {self._remedy}")
                found = _begun(path).result()
            if found != self._parts[name]["sha256"]:
                raise LangpruneError(f"{path} is damaged (its sha256 is another one): {self._remedy}")

    def check_all(self) -> None:
        """Check every file on record, for who has others read the folder."""
        for name in self._parts:
            self.begin(name)
        self.check(*self._parts)


def check_written(path: Path) -> None:
    """Raise LangpruneError where a file is on record beside it and not as it was written."""
    Written(path.parent).check(path.name)


def read_provenance(path: Path, remedy: str = EXPORT_AGAIN) -> Provenance:
    """Return what an exported model's langprune.json says; raises LangpruneError where a byte of it has changed."""
    with disk_errors(path, reading=True):
        data = plain_file(path, within=path.parent).read_bytes()
    check_signed(path, data, remedy)
    record: Provenance = json.loads(data)
    try:
        check_parts(record["parts"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LangpruneError(f"{path} does not list parts: {remedy}") from error
    return record


_lock = Lock()


def _begun(path: Path) -> "Future[str]":
    """Return the sha256 of a file as it lies there now, which a thread finds out; once for each state of the file."""
    state = path.stat()
    with _lock:  # the same file is not to be read by two threads
        return _hash_of(
            path.resolve(), (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        )


@cache
def _hash_of(path: Path, stamp: _Stamp) -> "Future[str]":  # noqa: ARG001 - part of what the answer is kept under
    found: Future[str] = Future()

    def hash_it() -> None:
        try:
            found.set_result(sha256_file(path))
        except Exception as error:  # noqa: BLE001 - raised where the result is asked for
            found.set_exception(error)

    Thread(target=hash_it, name="hash", daemon=True).start()  # a process that ends early does not wait for it
    return found
