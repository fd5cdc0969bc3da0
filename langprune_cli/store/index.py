"""The index of a workspace: what lookups compare in each manifest, kept in one file, so that they need not read them all.

An entry is a hint. It counts only while the manifest's inode, size and times are those it was made from, and whoever finds
an artifact by it reads and checks the manifest itself. So the file may be missing, damaged, copied from elsewhere or older
than the artifacts: lookups then read more manifests, and find the same.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar, cast

from langprune_cli.errors import LangpruneError
from langprune_cli.records import Inputs, Params
from langprune_cli.store.files import canonical_json, weights_digest, write_bytes
from langprune_cli.store.manifest import MANIFEST, Manifest, read_manifest
from langprune_cli.store.plain import plain_file

_SCHEMA = 1
_MOST_BYTES = 1 << 28
# Fewer changes are not worth a write: reading so many manifests again costs less. Small workspaces have no index at all.
_WORTH_WRITING = 16
# File systems keep times to 2 seconds or better. A manifest that changed later than this before it was read might change
# once more within the same tick, and its times would not tell.
SETTLED_NS = 2 * 10**9

Stamp = tuple[int, ...]
Cell = tuple[str | None, str | None, str | None, str | None]  # model digest, mask key, fingerprint of the text, dtype


@dataclass(frozen=True)
class Listed:
    """A folder with a manifest, as the file system lists it; the manifest is not read for it."""

    kind: str
    folder: Path
    stamp: Stamp  # of the manifest: inode, size, times of modification and of change in nanoseconds
    modified_ns: int


class _Saved(TypedDict):
    """An outline as JSON has it."""

    kind: str
    key: str
    complete: bool
    inputs: Inputs
    params: Params
    model: tuple[str, str | None] | None
    weights: str | None
    parts: list[str]
    cells: list[Cell]


@dataclass(frozen=True)
class Outline:
    """What lookups compare in a manifest."""

    kind: str
    key: str
    complete: bool
    inputs: Inputs  # those that are text or null; lists and objects are left out
    params: Params
    model: tuple[str, str | None] | None  # name and revision of the model that it was made from
    weights: str | None  # of a model: sha256 over those of its weight files, see `weights_digest`
    parts: tuple[str, ...]  # names; of an evaluation only, in which each cell has a part of its own
    cells: frozenset[Cell]  # of an evaluation only

    @classmethod
    def of(cls, manifest: Manifest) -> "Outline":
        """Return the outline of a manifest, which need not have been written by langprune."""
        model, cells = manifest.about.get("model"), manifest.inputs.get("cells")
        hashes = [entry["sha256"] for name, entry in manifest.parts.items() if name.endswith(".safetensors")]
        evaluation = manifest.kind == "evals"
        return cls(
            manifest.kind,
            manifest.key,
            manifest.complete,
            cast("Inputs", {name: each for name, each in manifest.inputs.items() if isinstance(each, str | None)}),
            manifest.params,
            (str(model["name"]), model.get("revision")) if isinstance(model, dict) and "name" in model else None,
            weights_digest(hashes) if manifest.kind == "models" else None,
            tuple(sorted(manifest.parts)) if evaluation else (),
            frozenset(map(_cell, cells)) if evaluation and isinstance(cells, list) else frozenset(),
        )

    @classmethod
    def read(cls, record: _Saved) -> "Outline":
        """Return the outline that `asdict` was taken of; raises KeyError, TypeError or ValueError for anything else."""
        model = record["model"]
        outline = cls(
            record["kind"],
            record["key"],
            record["complete"],
            record["inputs"],
            record["params"],
            None if model is None else (str(model[0]), model[1]),
            record["weights"],
            tuple(record["parts"]),
            frozenset((model, mask, text, dtype) for model, mask, text, dtype in record["cells"]),
        )
        if not (isinstance(outline.inputs, dict) and isinstance(outline.params, dict)):
            raise TypeError("inputs and params are objects")
        return outline


def _saved(outline: Outline) -> dict[str, object]:
    return asdict(outline) | {"cells": sorted(outline.cells, key=str)}


E = TypeVar("E")


@dataclass(frozen=True)
class Form(Generic[E]):
    """What an index keeps of each artifact."""

    schema: int | str
    of: Callable[[Path, Manifest], E]
    save: Callable[[E], object]  # as JSON
    read: Callable[[Any], E]  # of JSON; raises KeyError, TypeError or ValueError for what `save` did not write


_OUTLINES = Form(_SCHEMA, lambda _, manifest: Outline.of(manifest), _saved, Outline.read)


def _cell(cell: object) -> Cell:
    """Return what an evaluation's cell is of, None for what a forged one does not say."""
    known = {name: each for name, each in cell.items() if isinstance(each, str)} if isinstance(cell, dict) else {}
    return known.get("model_digest"), known.get("mask_key"), known.get("fingerprint"), known.get("dtype")


def listed(root: Path, kind: str) -> list[Listed]:
    """Return the artifacts' folders of one kind, oldest first, without reading anything; hidden folders are none."""
    found = []
    with suppress(OSError), os.scandir(root / kind) as folders:
        for each in folders:
            if not each.name.startswith("."):
                with suppress(OSError, ValueError):
                    found.append(_listed(kind, root / kind / each.name))
    return sorted(found, key=lambda each: (each.modified_ns, each.folder.name))


def _listed(kind: str, folder: Path) -> Listed:
    stat = (folder / MANIFEST).stat()
    stamp = stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
    return Listed(kind, folder, stamp, stat.st_mtime_ns)


Unreadable = tuple[Listed, LangpruneError]


class Indexes:
    """The indexes of a workspace, one for each kind, read when first asked for."""

    def __init__(self, root: Path, *, frozen: bool) -> None:
        """Open those of the workspace in `root`; frozen: they are never written."""
        self._root = root
        self._frozen = frozen
        self._open: dict[str, Index[Outline]] = {}

    def outlines(self, there: Sequence[Listed]) -> list[Outline]:
        """Return the outlines of all artifacts of one kind that can be read."""
        found = []
        for each in there:
            with suppress(LangpruneError):
                found.append(self._of(each.kind).look(each)[0])
        self._keep(there)
        return found

    def find(
        self, there: Sequence[Listed], where: Callable[[Outline], bool], errors: list[Unreadable] | None = None
    ) -> Iterator[tuple[Path, Manifest]]:
        """Yield the complete artifacts such as `where` says, in the order of `there`: all artifacts of one or more kinds.

        What the index says of them is checked in their manifests. Those that cannot be read are added to `errors`.
        """
        try:
            for each in there:
                try:
                    outline, manifest = self._of(each.kind).look(each)
                    if not (outline.complete and where(outline)):
                        continue
                    manifest = manifest or read_manifest(each.folder)
                except LangpruneError as error:
                    if errors is not None:
                        errors.append((each, error))
                    continue
                if manifest.complete and where(Outline.of(manifest)):
                    yield each.folder, manifest
        finally:
            self._keep(there)

    def _keep(self, there: Sequence[Listed]) -> None:
        for kind in {each.kind for each in there}:
            self._of(kind).keep(each for each in there if each.kind == kind)

    def _of(self, kind: str) -> "Index[Outline]":
        if kind not in self._open:
            self._open[kind] = Index(self._root / f".index-{kind}", _OUTLINES, frozen=self._frozen)
        return self._open[kind]


class Index(Generic[E]):
    """What is kept of the artifacts of one kind: their outlines, or what `ls` shows of them."""

    def __init__(self, path: Path, form: Form[E], *, frozen: bool) -> None:
        """Read the file, if it is there and whole; frozen: it is never written."""
        self._path = path
        self._form = form
        self._frozen = frozen
        self._known = _read(path, form)
        self._new = 0

    def look(self, each: Listed) -> tuple[E, Manifest | None]:
        """Return what is kept of an artifact, and its manifest where that had to be read for it.

        Raises LangpruneError as `read_manifest` does.
        """
        name = each.folder.name
        if (known := self._known.get(name)) and known[0] == each.stamp:
            return known[1], None
        manifest = read_manifest(each.folder)
        entry = self._form.of(each.folder, manifest)
        changed = each.stamp[-1]
        with suppress(OSError):
            if _listed(each.kind, each.folder).stamp == each.stamp and changed < time.time_ns() - SETTLED_NS:
                self._known[name] = each.stamp, entry
                self._new += 1
        return entry, manifest

    def keep(self, there: Iterable[Listed]) -> None:
        """Write the file where that is worth it; `there` are all artifacts of the kind, and others are forgotten.

        Where nothing can be written the next command reads the manifests again.
        """
        names = {each.folder.name for each in there}
        gone = self._known.keys() - names
        if self._frozen or self._new + len(gone) < _WORTH_WRITING:
            return
        for name in gone:
            del self._known[name]
        self._new = 0
        entries = {name: [stamp, self._form.save(entry)] for name, (stamp, entry) in self._known.items()}
        with suppress(LangpruneError, OSError, ValueError):
            body = canonical_json({"schema": self._form.schema, "entries": entries})
            write_bytes(self._path, f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}\n".encode())


def _read(path: Path, form: Form[E]) -> dict[str, tuple[Stamp, E]]:
    """Return the entries of an index; none where it is missing, damaged, or of another version."""
    with suppress(LangpruneError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        if plain_file(path, within=path.parent).stat().st_size <= _MOST_BYTES:
            digest, body, _ = path.read_bytes().split(b"\n")
            document = json.loads(body)
            if digest.decode() == hashlib.sha256(body).hexdigest() and document["schema"] == form.schema:
                return {
                    name: (tuple(stamp), form.read(record)) for name, (stamp, record) in document["entries"].items()
                }
    return {}
