"""The workspace: finds artifacts by kind, name, key or age, and remembers the model."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from langprune_cli.errors import LangpruneError, UsageError, near_matches
from langprune_cli.store.artifact import KINDS, Artifact, open_artifact
from langprune_cli.store.files import (
    check_signed,
    disk_errors,
    document_digest,
    make_folder,
    put_link,
    readable_json,
    remove_folder,
    sync_folder,
    write_bytes,
)
from langprune_cli.store.index import Indexes, Outline, Unreadable, listed
from langprune_cli.store.manifest import MANIFEST, Manifest, read_manifest
from langprune_cli.store.plain import plain_file
from langprune_cli.store.planned import Planned
from langprune_cli.store.temporary import sweep

_NAME = re.compile(r"\w[\w.+-]{0,119}")  # letters of any script: artifacts are named after texts
_MOST_NAME_BYTES = 200  # file systems take 255, and the name of a lock is longer
_MOST_FREE_NAME_BYTES = 165  # of a name that is made up; `-<8 digits of the key>` and `-<number>` may follow
_RESERVED = {("models", "demo")}  # (kind, name) of the built-in model


@dataclass(frozen=True)
class Entry:
    """One artifact as `ls` shows it."""

    kind: str
    name: str
    folder: Path
    manifest: Manifest
    modified_ns: int


class Workspace:
    """The folder that holds what the stages write."""

    def __init__(self, root: Path, *, dry: bool = False, note: Callable[[str], None] = lambda _: None) -> None:
        """Open the workspace in `root`; if `dry`, nothing is written, and artifacts to be made are collected in `planned`.

        note: shows a sentence to the user.
        """
        self.root = root
        self.note = note
        self.planned: list[Planned] | None = [] if dry else None
        self._asked_for: tuple[str, str | None] | None = None  # a model's name and revision
        self._indexes = Indexes(root, frozen=dry)

    def folder(self, kind: str, name: str) -> Path:
        """Return the folder of an artifact of that name, existing or not; raises UsageError for an invalid name."""
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot name an artifact: use letters, digits, '.', '_', '+' and '-'")
        if len(name.encode()) > _MOST_NAME_BYTES:
            raise UsageError(f"{name!r} is too long to name an artifact: {_MOST_NAME_BYTES} bytes are the most")
        return self.root / kind / name

    def check_new_name(self, kind: str, name: str) -> None:
        """Raise UsageError for a name that a new artifact of that kind may not have."""
        self.folder(kind, name)
        if (kind, name) in _RESERVED:
            raise UsageError(f"{name!r} means the built-in model: choose another --name")

    def name_of(self, kind: str, folder: Path) -> str | None:
        """Return the artifact name that `folder` stands for, None outside the workspace's folder of that kind."""
        return folder.name if folder.parent.resolve() == (self.root / kind).resolve() else None

    def entries(self, kind: str | None = None) -> list[Entry]:
        """Return all artifacts (of one kind), complete or not, oldest first within each kind; unreadable ones left out."""
        return [entry for each in ([kind] if kind else KINDS) for entry in self.read_all(each)[0]]

    def read_all(self, kind: str) -> tuple[list[Entry], dict[str, LangpruneError]]:
        """Read every manifest of one kind; return the artifacts, oldest first, and what is wrong with each unreadable one."""
        found, damaged = [], {}
        for each in listed(self.root, kind):
            name = each.folder.name
            try:
                found.append(Entry(kind, name, each.folder, read_manifest(each.folder), each.modified_ns))
            except LangpruneError as error:
                damaged[name] = error
        return found, damaged

    def names(self, kind: str) -> list[str]:
        """Return the names of one kind; their manifests are not read."""
        return sorted(each.folder.name for each in listed(self.root, kind))

    def oldest_first(self, kind: str) -> list[Path]:
        """Return the folders of one kind, by the time when they were made or last requested; their manifests are not read."""
        return [each.folder for each in listed(self.root, kind)]

    def holds(self, kind: str, name: str) -> bool:
        """Return whether an artifact of that name has a manifest that can be read."""
        with suppress(LangpruneError):
            return name in self.names(kind) and bool(read_manifest(self.root / kind / name))
        return False

    def outlines(self, kind: str) -> list[Outline]:
        """Return the outlines of all readable artifacts, oldest first; manifests in the index are not read."""
        return self._indexes.outlines(listed(self.root, kind))

    def having(
        self, kind: str, where: Callable[[Outline], bool], errors: list[Unreadable] | None = None
    ) -> Iterator[Artifact]:
        """Yield the complete artifacts that match `where`, oldest first; add those with unreadable manifests to `errors`."""
        for folder, manifest in self._indexes.find(listed(self.root, kind), where, errors):
            yield Artifact(folder, manifest)

    def newest_first(self, kind: str, where: Callable[[Outline], bool]) -> Iterator[Artifact]:
        """Yield the complete artifacts that match `where`, newest first; manifests are read one by one, as the caller asks."""
        for folder, manifest in self._indexes.find(listed(self.root, kind)[::-1], where):
            yield Artifact(folder, manifest)

    def all_by_key(self, kind: str, key: str) -> list[Artifact]:
        """Return the complete artifacts with that key; there are several if copies were made by --name or --out."""
        return list(self.having(kind, lambda outline: outline.key == key))

    def by_key(self, kind: str, key: str) -> Artifact | None:
        """Return a complete artifact with that key, if there is one."""
        return next(iter(self.all_by_key(kind, key)), None)

    def newest(self, *kinds: str, where: Callable[[Outline], bool] = lambda _: True) -> Artifact | None:
        """Return the complete artifact of those kinds that matches `where` and was made or requested last.

        Raises LangpruneError if an unreadable artifact is newer: it may be the one that the user means.
        """
        there = [each for kind in kinds for each in listed(self.root, kind)]
        there.sort(key=lambda each: -each.modified_ns)  # of equals the first stays first
        errors: list[Unreadable] = []
        folder, manifest = next(self._indexes.find(there, where, errors), (None, None))
        changed = {each.folder: each.modified_ns for each in there}
        for each, error in errors:
            if folder is None or each.modified_ns > changed[folder]:
                raise error
        return Artifact(folder, manifest) if folder and manifest else None

    def find(self, kind: str, name: str) -> Artifact:
        """Return the artifact called `name`, or lying in the folder `name`.

        Raises LangpruneError with the near matches when there is none, and as `open_artifact` does.
        """
        with suppress(OSError, ValueError, UsageError):  # what no file can be called
            if self.folder(kind, name).is_dir():
                return open_artifact(self.folder(kind, name), kind)
        with suppress(OSError, ValueError):
            if (Path(name) / MANIFEST).is_file():
                return open_artifact(Path(name), kind)
        raise self._unknown(kind, name)

    def _unknown(self, kind: str, name: str) -> LangpruneError:
        names = self.names(kind)
        hint = near_matches(name, names) if names else f"the workspace {self.root} has no {kind} yet"
        return LangpruneError(f"no {kind} artifact is called {name!r}: {hint}")

    def touch(self, artifact: Artifact) -> None:
        """Make `artifact` the newest of all, even where the clock went backwards."""
        if self.planned is not None:
            return
        others = [each.modified_ns + 1 for kind in KINDS for each in listed(self.root, kind)]
        stamp = max([time.time_ns(), *others])
        with suppress(OSError):  # a read-only workspace still serves its artifacts
            os.utime(artifact.folder / MANIFEST, ns=(stamp, stamp))

    def free_name(self, kind: str, wanted: str, key: str) -> str:
        """Return `wanted`, or `wanted-<start of the key>` if another artifact has that name.

        Invalid characters are replaced, and a name too long for the file system is cut.
        """
        fit = re.sub(r"[^\w.+-]+", "-", wanted).lstrip("-.+")[:100].encode()[:_MOST_FREE_NAME_BYTES]
        name = fit.decode(errors="ignore").rstrip("-.") or "text"
        taken = (kind, name) in _RESERVED or self._key_of(kind, name) not in {key, None}
        return f"{name}-{key[:8]}" if taken else name

    def _key_of(self, kind: str, name: str) -> str | None:
        """Return the key of the artifact of that name, None if there is none; raises LangpruneError if it is damaged."""
        folder = self.folder(kind, name)
        return read_manifest(folder).key if (folder / MANIFEST).exists() else None

    def link_name(self, kind: str, asked: str | None, wanted: str, key: str, *, force: bool = False) -> str:
        """Return the name of a link to a folder outside the workspace: `asked`, else one like `wanted`.

        An existing link may be replaced if its folder is gone or holds the same artifact, with `force` always. Raises
        LangpruneError if `asked` names an artifact inside the workspace, and UsageError if it links to another artifact.
        """
        if asked:
            if self._is_own(kind, asked):
                raise LangpruneError(f"the workspace holds {kind} called {asked!r} of its own: choose another --name")
            if not force and self._key_of(kind, asked) not in {key, None}:
                there = self.folder(kind, asked).resolve()
                raise UsageError(
                    f"{asked!r} is the artifact in {there}: choose another --name, or move it with --force"
                )
            return asked
        name = first = self.free_name(kind, wanted, key)
        number = 2
        while self._is_own(kind, name) or self._key_of(kind, name) not in {key, None}:
            name = f"{first}-{number}"
            number += 1
        return name

    def _is_own(self, kind: str, name: str) -> bool:
        """Return whether the workspace itself holds a folder of that name, not a link."""
        return self.folder(kind, name).is_dir() and not self.folder(kind, name).is_symlink()

    def vacate(self, folder: Path) -> None:
        """Delete a dangling link, so that an artifact can be made in its place."""
        if self.planned is not None:
            return
        with disk_errors(folder):
            if folder.is_symlink() and not folder.exists():
                folder.unlink()

    def place(self, artifact: Artifact, name: str) -> Artifact:
        """Link an artifact outside the workspace under `name`; return it by its link."""
        link = self.folder(artifact.manifest.kind, name)
        with disk_errors(link):
            if link.resolve() == artifact.folder.resolve():  # its own folder, or linked already
                return Artifact(link, artifact.manifest)
            make_folder(link.parent)
            put_link(link, artifact.folder.resolve())
        return Artifact(link, artifact.manifest)

    def remove(self, kind: str, name: str) -> None:
        """Delete an artifact, or only the link to one outside the workspace, and the rest of a killed deletion.

        Raises LangpruneError if there is none.
        """
        folder = self.folder(kind, name)
        sweep(folder.parent)
        if not folder.is_symlink() and not folder.is_dir():
            raise self._unknown(kind, name)
        with disk_errors(folder):
            if folder.is_symlink():
                folder.unlink()
                sync_folder(folder.parent)
            else:
                remove_folder(folder)

    def model(self) -> dict[str, str | None] | None:
        """Return {"name", "revision"} of the model that the workspace remembers, None before one was named."""
        path = self.root / "workspace.json"
        if not plain_file(path).exists():
            return None
        try:
            data = path.read_bytes()
            whole = json.loads(data)
            if whole.keys() != {"schema", "model"}:  # older files have no digest
                check_signed(path, data, "")
            record = whole["model"]
            name, revision = record["name"], record["revision"]
            if not isinstance(name, str) or not isinstance(revision, str | None):
                raise TypeError("a name and a revision are text")
        except (LangpruneError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LangpruneError(f"{path} is damaged: remove it and name the model again with --model") from error
        return {"name": name, "revision": revision}

    def when_run_starts_remember(self, name: str, revision: str | None) -> None:
        """Remember `name` as the workspace's model once a run has written its first part or found its result."""
        self._asked_for = name, revision

    def run_starts(self) -> None:
        """Remember the requested model now, so that the next command uses it even if this one is interrupted."""
        if self._asked_for:
            self.remember_model(*self._asked_for)
            self._asked_for = None

    def remember_model(self, name: str, revision: str | None) -> None:
        """Remember `name` as the model of stages that name none."""
        record = {"name": name, "revision": revision}
        if self.planned is None and self.model() != record:
            with disk_errors(self.root):
                make_folder(self.root)
            document = {"schema": 1, "model": record}
            signed = document | {"digest": document_digest(document)}
            write_bytes(self.root / "workspace.json", readable_json(signed))
