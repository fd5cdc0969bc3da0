"""`verify`: checks the manifest and every byte of the parts of artifacts and exported models."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from langprune_cli.errors import LangpruneError
from langprune_cli.store.artifact import KINDS, PROVENANCE, Recipe
from langprune_cli.store.files import Parts, disk_errors, sha256_file
from langprune_cli.store.manifest import MANIFEST, read_manifest
from langprune_cli.store.plain import plain_file
from langprune_cli.store.workspace import Workspace
from langprune_cli.store.written import EXPORT_AGAIN, read_provenance


@dataclass(frozen=True)
class Damage:
    """One damaged or missing file."""

    path: Path
    says: str  # one sentence: which file, what is wrong with it, what to do


@dataclass(frozen=True)
class Verified:
    """The result of checking one artifact or one exported model."""

    label: str  # kind/name, or the folder that was named
    folder: Path
    complete: bool
    files: int  # parts, and the manifest
    size: int  # bytes of all parts, as they were written
    damages: list[Damage]


def places(workspace: Workspace) -> dict[str, Path]:
    """Return kind/name -> folder of every artifact, readable or not."""
    found = {kind: sorted((workspace.root / kind).glob("[!.]*")) for kind in KINDS}
    return {f"{kind}/{path.name}": path for kind in KINDS for path in found[kind] if path.is_dir() or path.is_symlink()}


def places_called(workspace: Workspace, name: str) -> dict[str, Path]:
    """Return label -> folder of what `name` means: kind/name, a bare name, or a folder outside the workspace.

    A bare name means the artifacts of all kinds with that name. Raises LangpruneError if there is none.
    """
    found = {label: folder for label, folder in places(workspace).items() if name in {label, folder.name}}
    if not found and any((Path(name) / record).is_file() for record in (MANIFEST, PROVENANCE)):
        found = {name: Path(name)}
    if not found:
        raise LangpruneError(
            f"there is no artifact {name!r} in {workspace.root}, nor a folder of that name with {MANIFEST} or {PROVENANCE}: "
            "give a name that langprune ls shows"
        )
    return found


def verify(label: str, folder: Path) -> Verified:
    """Check one folder. Files that no manifest lists, such as an exported model's README.md, are left out."""
    exported = not (folder / MANIFEST).exists() and (folder / PROVENANCE).is_file()
    path = folder / (PROVENANCE if exported else MANIFEST)
    again = EXPORT_AGAIN if exported else "give the command that made it again"
    try:
        if folder.is_symlink() and not folder.exists():
            raise LangpruneError(f"{folder} leads to a folder that is gone: langprune rm {label} forgets it")
        parts, complete = (read_provenance(path)["parts"], True) if exported else _manifest_of(label, path)
    except LangpruneError as error:
        return Verified(label, folder, complete=False, files=1, size=0, damages=[Damage(path, str(error))])
    damages = list(damaged_parts(folder, parts, again))
    return Verified(label, folder, complete, 1 + len(parts), sum(part["size"] for part in parts.values()), damages)


def _manifest_of(label: str, path: Path) -> tuple[Parts, bool]:
    """Return the parts of an artifact, and whether it is complete; raises LangpruneError for a damaged manifest."""
    remedy = f"move {path.parent} out of the way and give the command that made it again"
    manifest = read_manifest(path.parent)
    recipe = Recipe(manifest.kind, manifest.inputs, manifest.params)
    if recipe.key != manifest.key:
        raise LangpruneError(f"{path} has a key that does not follow from its inputs and params: {remedy}")
    kind = label.partition("/")[0]
    if kind in KINDS and kind != manifest.kind:
        raise LangpruneError(f"{path.parent} holds {manifest.kind} and lies among {kind}: {remedy}")
    return manifest.parts, manifest.complete


def damaged_parts(folder: Path, parts: Parts, again: str) -> Iterator[Damage]:
    """Yield the parts that are missing or have another size or sha256; files are read piece by piece."""
    for name, expected in sorted(parts.items()):
        path = folder / name
        try:
            with disk_errors(path, reading=True):
                if not plain_file(path, within=folder).exists():
                    yield Damage(path, f"{path} is missing: {again}")
                elif (size := path.stat().st_size) != expected["size"]:
                    yield Damage(
                        path, f"{path} is damaged ({size} bytes where {expected['size']} were written): {again}"
                    )
                elif sha256_file(path) != expected["sha256"]:
                    yield Damage(path, f"{path} is damaged (its sha256 is another one): remove it and {again}")
        except LangpruneError as error:
            yield Damage(path, str(error))
