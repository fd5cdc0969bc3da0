"""Model folders that langprune wrote: files are checked against their recorded sha256 before they are used."""

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
    """The recorded files of one folder: those in its manifest, or in the langprune.json of an exported model."""

    def __init__(self, folder: Path) -> None:
        """Read the record, if there is one; raises LangpruneError if it is damaged."""
        self._folder = folder
        self._remedy = f"run langprune apply again with --force, or copy {folder} again"
        self._parts: Parts = {}
        if is_artifact(folder):
            manifest = read_manifest(folder)
            self._parts = manifest.parts if manifest.complete else {}  # only its writer reads an incomplete one
        elif (folder / PROVENANCE).is_file():
            self._remedy = f"{EXPORT_AGAIN}; if you changed it on purpose, remove {folder / PROVENANCE}"
            self._parts = read_provenance(folder / PROVENANCE, self._remedy)["parts"]

    def __contains__(self, name: str) -> bool:
        """Return whether a file is recorded."""
        return name in self._parts

    def begin(self, name: str) -> None:
        """Start hashing a file in the background."""
        if (self._folder / name).is_file():
            with disk_errors(self._folder / name, reading=True):
                _begun(self._folder / name)

    def sha256(self, name: str) -> str:
        """Return the recorded sha256 of a file, or its actual one if none is recorded."""
        if name in self._parts:
            return str(self._parts[name]["sha256"])
        path = self._folder / name
        with disk_errors(path, reading=True):
            return _begun(path).result()

    def check(self, *names: str) -> None:
        """Raise LangpruneError for a file that does not match its record; files without one are not checked.

        A process reads each file once, and again only if the file's times say that it has changed.
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
        """Check every recorded file, before another library reads the folder."""
        for name in self._parts:
            self.begin(name)
        self.check(*self._parts)


def check_written(path: Path) -> None:
    """Raise LangpruneError if a file does not match the record in its folder."""
    Written(path.parent).check(path.name)


def read_provenance(path: Path, remedy: str = EXPORT_AGAIN) -> Provenance:
    """Return the contents of an exported model's langprune.json; raises LangpruneError if a byte of it has changed."""
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
    """Return a future sha256 of a file, computed in a thread, once for each state of the file."""
    state = path.stat()
    with _lock:  # two threads must not hash the same file
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

    Thread(target=hash_it, name="hash", daemon=True).start()  # a process that ends early must not wait for it
    return found
