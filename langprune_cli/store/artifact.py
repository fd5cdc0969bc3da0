"""Artifacts: a folder of parts and a manifest that says what they are, what they were made from, and their hashes.

The format is specified in docs/format.md. A manifest holds no times and no paths that matter: the same inputs give the same
bytes, so that a run which was interrupted and resumed ends byte-identical to one that was not.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, cast

from langprune_cli.errors import LangpruneError
from langprune_cli.records import About, BlockRecord
from langprune_cli.store.files import (
    HashedFiles,
    Part,
    canonical_json,
    disk_errors,
    document_digest,
    make_folder,
    new_file,
    readable_json,
    remove_folder,
    write_bytes,
)
from langprune_cli.store.manifest import MANIFEST, SCHEMA, Manifest, read_manifest
from langprune_cli.store.plain import plain_file
from langprune_cli.store.temporary import TEMPORARY, sweep

if TYPE_CHECKING:  # torch takes seconds to import, and manifests are read and listed without it
    from torch import Tensor

WEIGHTS = "weights_sha256"  # in `about`: of all bytes of the weights that were run; evaluations have one for each model
PROVENANCE = "langprune.json"  # the record of an exported model, in place of a manifest
SCRATCH = "resume.safetensors"  # hidden states, kept until the run is complete
_RECORD = "langprune"  # metadata key of a safetensors part's record
MADE_BY = {
    "stats": "calibrate", "scores": "score", "divergences": "mask", "masks": "mask", "models": "apply", "logits": "recover",
    "evals": "eval",
}  # fmt: skip
KINDS = tuple(MADE_BY)  # in the order of the stages that make them


@dataclass(frozen=True)
class Recipe:
    """What identifies an artifact; its key is computed from it."""

    kind: str
    inputs: Mapping[str, object]  # digests of the model, the text and the tokenizer, keys of parent artifacts
    params: Mapping[str, object]  # settings that change the result
    about: Mapping[str, object] = field(default_factory=dict)  # for people: names, sources, notes; not part of the key
    environment: Mapping[str, str] = field(default_factory=dict)  # versions and device; not part of the key

    @property
    def key(self) -> str:
        """Return sha256 over the canonical JSON of kind, schema, inputs and params."""
        identity = {"kind": self.kind, "schema": SCHEMA, "inputs": self.inputs, "params": self.params}
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A complete artifact on disk."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """Return the name under which commands find it."""
        return self.folder.name

    @property
    def key(self) -> str:
        """Return its key."""
        return self.manifest.key

    def read(self, part: str) -> bytes:
        """Return the bytes of one part; raises LangpruneError when it is missing, truncated or changed."""
        path = self.folder / part
        expected = self.manifest.parts.get(part)
        again = f"run langprune {self._made_by()} again with --force"
        if expected is None:
            raise LangpruneError(f"{self.folder} has no part {part}: {again}")
        with disk_errors(path, reading=True):
            data = plain_file(path, within=self.folder).read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != expected["sha256"]:
            state = "missing" if not path.exists() else "damaged"
            raise LangpruneError(
                f"{path} is {state} ({len(data)} bytes where {expected['size']} were written): {again}"
            )
        return data

    def _made_by(self) -> str:
        """Return the command that makes such an artifact; a combined one has artifacts of its own kind as inputs."""
        kind = self.manifest.kind
        return f"combine {kind}" if kind in self.manifest.inputs else MADE_BY.get(kind, "")

    def is_whole(self) -> bool:
        """Return whether every part exists with its recorded size; `read` checks the hashes."""
        try:
            return all(
                (self.folder / part).stat().st_size == entry["size"] for part, entry in self.manifest.parts.items()
            )
        except OSError:
            return False

    def tensors(self, part: str) -> "dict[str, Tensor]":
        """Return the tensors of one safetensors part; raises LangpruneError as `read` does."""
        return self.tensors_and_record(part)[0]

    def tensors_and_record(self, part: str) -> "tuple[dict[str, Tensor], BlockRecord]":
        """Return a part's tensors and the record that was written with them; raises LangpruneError as `read` does."""
        from safetensors import SafetensorError  # noqa: PLC0415 - with torch, see above
        from safetensors.torch import load  # noqa: PLC0415

        data = self.read(part)
        try:
            tensors = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            record: BlockRecord = json.loads(header.get("__metadata__", {}).get(_RECORD, "{}"))
            if not isinstance(record, dict):
                raise TypeError("the record is no object")
        except (SafetensorError, ValueError, TypeError, RecursionError) as error:  # its hash fits: forged
            raise LangpruneError(
                f"{self.folder / part} is no safetensors file of langprune's: make it again"
            ) from error
        return tensors, record

    def size(self) -> int:
        """Return the bytes of all parts."""
        return sum(part["size"] for part in self.manifest.parts.values())


def tensor_sha256(tensor: "Tensor") -> str:
    """Return the hex sha256 of a tensor's bytes as a safetensors file has them."""
    import torch  # noqa: PLC0415 - see above

    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def same_bytes(manifest: Manifest, about: Mapping[str, object]) -> bool:
    """Return whether an artifact was computed on exactly the weights that `about` names, if it names any.

    A key identifies a model by samples of its weights; `weights_sha256` covers every byte. Older statistics do not record it;
    for them the key is enough.
    """
    if WEIGHTS not in about:
        return True
    found = manifest.about.get(WEIGHTS)
    return found == about[WEIGHTS] or (found is None and manifest.kind == "stats")


def open_artifact(folder: Path, kind: str) -> Artifact:
    """Open a complete artifact; raises LangpruneError if it has another kind or is not complete."""
    manifest = read_manifest(folder)
    if manifest.kind != kind:
        raise LangpruneError(f"{folder} holds {manifest.kind}, and {kind} are needed here: name another artifact")
    if not manifest.complete:
        raise LangpruneError(
            f"{folder} is not complete: run the command that makes it again, it goes on where it stopped"
        )
    return Artifact(folder, manifest)


class ArtifactWriter:
    """Writes an artifact's parts, and resumes an interrupted run with the same key."""

    def __init__(self, folder: Path, recipe: Recipe, *, fresh: bool = False, alone: bool = True) -> None:
        """Resume what `folder` holds, or replace it if `fresh`; alone: whether a lock keeps other processes away."""
        self.folder = folder
        self.wrote: Callable[[], None] = lambda: None  # called whenever a part is in place
        self.manifest = Manifest(**asdict(recipe), key=recipe.key, parts={}, complete=False)
        self._hashed = HashedFiles()
        sweep(folder.parent)
        with disk_errors(folder):
            if folder.is_dir() and any(folder.iterdir()):
                self._take_over(fresh=fresh, alone=alone)
            make_folder(folder)
        try:
            self._save_manifest()
        except LangpruneError:
            self.discard_if_empty()
            raise

    def _take_over(self, *, fresh: bool, alone: bool) -> None:
        """Keep the parts of an interrupted run whose hashes match, and delete its other parts; never delete foreign files.

        Raises LangpruneError if the folder holds other files, or another artifact and not `fresh`.
        """
        if not (self.folder / MANIFEST).is_file():
            # A run that was killed at its very start leaves nothing else.
            if all(path.name.endswith(TEMPORARY) for path in self.folder.iterdir()):
                sweep(self.folder, alone=alone)
                return
            raise LangpruneError(f"{self.folder} is not empty and holds no langprune artifact: choose another folder")
        before = read_manifest(self.folder)
        if before.key != self.manifest.key and not fresh:
            raise LangpruneError(
                f"{self.folder} holds another artifact ({before.kind}, key {before.key[:8]}); "
                "choose another name or folder, or replace it with --force"
            )
        same = before.key == self.manifest.key and same_bytes(before, self.manifest.about)
        for name, entry in before.parts.items():
            own = same and not fresh and (self.folder / name).is_file() and not (self.folder / name).is_symlink()
            if own and self._hashed.digest(self.folder / name) == entry["sha256"]:
                self.manifest.parts[name] = entry
            else:
                (self.folder / name).unlink(missing_ok=True)
        if not self.manifest.parts:
            self.scratch.unlink(missing_ok=True)
        for folder in {(self.folder / name).parent for name in before.parts} | {self.folder}:
            sweep(folder, alone=alone)

    @property
    def scratch(self) -> Path:
        """Return the path of the file that a run resumes from; `finish` deletes it."""
        return self.folder / SCRATCH

    def has(self, part: str) -> bool:
        """Return whether `part` is finished."""
        return part in self.manifest.parts

    @contextmanager
    def part(self, name: str, tensors: Mapping[str, str] | None = None) -> Iterator[Path]:
        """Yield a temporary path to write to; then hash the part, put it in place and record it with sha256 of some tensors."""
        path = self.folder / name
        if path.parent != self.folder:
            with disk_errors(path):
                make_folder(path.parent)
        with new_file(path) as temporary:
            yield temporary
        with disk_errors(path):
            entry: Part = {"sha256": self._hashed.digest(path) or "", "size": path.stat().st_size}
            self.manifest.parts[name] = {**entry, "tensors": dict(tensors)} if tensors else entry
        self._save_manifest()
        self.wrote()

    def write(self, name: str, data: bytes, tensors: Mapping[str, str] | None = None) -> None:
        """Write one part from memory."""
        with self.part(name, tensors) as temporary:
            temporary.write_bytes(data)

    def write_tensors(
        self,
        name: str,
        tensors: "dict[str, Tensor]",
        record: BlockRecord | None = None,
        single: Collection[str] = (),
    ) -> None:
        """Write one safetensors part and its JSON record. single: small tensors that are read without the rest, if there.

        The record is one metadata entry: safetensors writes several in an order that changes from run to run.
        """
        from safetensors.torch import save  # noqa: PLC0415 - with torch, see above

        metadata = {_RECORD: canonical_json(record)} if record else None
        digests = {each: tensor_sha256(tensors[each]) for each in single if each in tensors}
        self.write(name, save({key: value.contiguous() for key, value in tensors.items()}, metadata), digests)

    def finish(self, **about: object) -> Artifact:
        """Add the last facts to `about`, mark the artifact complete and return it.

        Raises LangpruneError if a part has changed since it was written: without locks, another process may have done that.
        """
        for name, entry in self.manifest.parts.items():
            if not self._hashed.still_has(self.folder / name, entry["sha256"]):
                raise LangpruneError(
                    f"{self.folder / name} was changed or removed by something else while {self.folder.name} was being made: "
                    "give the command again, it goes on where it stopped"
                )
        self.manifest.about = cast("About", {**self.manifest.about, **about})
        self.manifest.complete = True
        with disk_errors(self.folder):
            self.scratch.unlink(missing_ok=True)
            self._save_manifest()
        return Artifact(self.folder, self.manifest)

    def discard_if_empty(self, *, but_for: str = "") -> None:
        """Delete the folder of a run that failed before it finished a part, unless the user has files in it.

        Parts that match the pattern `but_for` do not count and are deleted too.
        """
        if self.manifest.complete or not all(fnmatch(part, but_for) for part in self.manifest.parts):
            return
        with suppress(OSError):
            if {path.name for path in self.folder.iterdir()} <= {MANIFEST, SCRATCH, *self.manifest.parts}:
                remove_folder(self.folder)

    def _save_manifest(self) -> None:
        self.manifest.digest = document_digest(asdict(self.manifest))
        write_bytes(self.folder / MANIFEST, readable_json(asdict(self.manifest)))
