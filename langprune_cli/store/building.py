"""What all stages share: reporting, and the way from a recipe to a complete artifact (cached, resumed or made)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from langprune_cli.errors import OnlyPlannedError, UsageError
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe, same_bytes
from langprune_cli.store.locks import being_made, remove_stale_lock
from langprune_cli.store.manifest import Manifest
from langprune_cli.store.workspace import Planned, Workspace

_INPUT_PARTS = "windows*.safetensors"  # written first, and drawn again in no time


class Reporter(Protocol):
    """Where a stage tells the user what it is doing."""

    def note(self, text: str) -> None:
        """Show one sentence."""

    def begin(self, what: str, blocks: int, tokens: int) -> None:
        """Start the progress of a pass of `tokens` tokens through `blocks` blocks; with 0 of one the other is counted."""

    def tick(self, block: int, tokens: int) -> None:
        """Say that `tokens` more tokens went through `block`, counted from 0."""

    def end(self) -> None:
        """End that progress."""


@dataclass(frozen=True)
class Outcome:
    """What a stage made, or found made already."""

    artifact: Artifact
    cached: bool
    seconds: float


@dataclass(frozen=True)
class Destination:
    """Where a stage's artifact goes: a name in the workspace, or a folder of the user's."""

    workspace: Workspace
    default_name: str
    name: str | None = None
    out: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class PlannedArtifact(Artifact):
    """What a dry run would make: it has a key and a place, and nothing to read."""

    workspace: Workspace

    def read(self, part: str) -> bytes:  # noqa: ARG002 - there are none
        """Raise OnlyPlannedError: whatever asks for a part cannot be planned."""
        raise OnlyPlannedError(self.workspace.planned or [])


def run_stage(
    recipe: Recipe,
    to: Destination,
    make: Callable[[ArtifactWriter], Artifact],
    size: Callable[[], int] | None = None,
) -> Outcome:
    """Return the artifact of `recipe`: as it lies on disk when it is whole, else made (or gone on with) by `make`.

    Where `make` fails before any part was finished that cost work, nothing is left on disk. In a workspace that is looked at
    only, nothing is made, see `planned`. size: its bytes, where they are known beforehand.
    Raises LangpruneError while another process makes the same one.
    """
    begun = time.monotonic()
    if to.workspace.planned is not None:
        return planned(recipe, to, size)
    if found := made_before(recipe, to):
        return Outcome(found, cached=True, seconds=time.monotonic() - begun)
    with being_made_at(recipe, to) as place:
        if found := made_before(recipe, to):  # by another process, since we looked
            return Outcome(found, cached=True, seconds=time.monotonic() - begun)
        with place.writer() as writer:
            artifact = make(writer)
        artifact = place.settle(artifact)
    return Outcome(artifact, cached=False, seconds=time.monotonic() - begun)


def planned(recipe: Recipe, to: Destination, size: Callable[[], int] | None = None) -> Outcome:
    """Return what is there already, or the place and the key of what would be made, and put it on the workspace's list.

    Raises UsageError for a name that is not to be had.
    """
    found, to = made_before(recipe, to), _settled(recipe.kind, to)
    if found is None:
        name, folder = _place(recipe, to)
        manifest = Manifest(**asdict(recipe), key=recipe.key, parts={}, complete=False)
        artifact: Artifact = PlannedArtifact(folder, manifest, to.workspace)
        record = Planned(recipe, name, folder, there=False, size=size() if size else None)
    else:
        artifact, record = found, Planned(recipe, found.name, found.folder, there=True, size=found.size())
    if to.workspace.planned is not None:
        to.workspace.planned.append(record)
    return Outcome(artifact, cached=found is not None, seconds=0.0)


def made_before(recipe: Recipe, to: Destination) -> Artifact | None:
    """Return the artifact of `recipe`, where it was asked for and whole, as the newest of the workspace; else None.

    Raises UsageError for a name that is not to be had.
    """
    complete = _complete(recipe, _settled(recipe.kind, to))
    of_these = (found for found in complete if same_bytes(found.manifest, recipe.about))
    whole = next((found for found in of_these if found.is_whole()), None)
    if whole:
        remove_stale_lock(whole.folder, recipe.kind, to.workspace)
        to.workspace.touch(whole)
    return whole


@dataclass(frozen=True)
class Place:
    """Where an artifact is being made."""

    recipe: Recipe
    to: Destination
    name: str
    folder: Path
    alone: bool  # whether a lock sees to that

    @contextmanager
    def writer(self) -> Iterator[ArtifactWriter]:
        """Yield the writer; where the work fails before any part was finished that cost some, nothing is left on disk.

        Parts that lie there already are kept, those of a complete artifact too, which is not complete until it is finished
        again.
        """
        writer = ArtifactWriter(self.folder, self.recipe, fresh=self.to.force, alone=self.alone)
        writer.wrote = self.to.workspace.run_starts
        try:
            yield writer
        except Exception:
            writer.discard_if_empty(but_for=_INPUT_PARTS)
            raise
        finally:
            writer.discard_if_empty()

    def settle(self, artifact: Artifact) -> Artifact:
        """Return the finished artifact as the workspace knows it, the newest of all."""
        if self.to.out:
            artifact = self.to.workspace.place(artifact, self.name)
        self.to.workspace.touch(artifact)
        return artifact


@contextmanager
def being_made_at(recipe: Recipe, to: Destination) -> Iterator[Place]:
    """Find a place for an artifact, and hold it; raises LangpruneError while another process makes the same one."""
    to = _settled(recipe.kind, to)
    name, folder = _place(recipe, to)
    with being_made(folder, recipe.kind, to.workspace) as alone:
        yield Place(recipe, to, name, folder, alone)


def _settled(kind: str, to: Destination) -> Destination:
    """Return `to` with a folder of the workspace's own as the name that it is; raises UsageError for a name not to be had."""
    own = to.workspace.name_of(kind, to.out) if to.out else None
    if own and to.name not in {None, own}:
        raise UsageError(f"--out {to.out} is in the workspace, under the name {own!r}: leave out --name {to.name}")
    if own:
        to = replace(to, name=own, out=None)
    if to.name:
        to.workspace.check_new_name(kind, to.name)
    return to


def _complete(recipe: Recipe, to: Destination) -> list[Artifact]:
    """Return the artifacts of that key, where they were asked for, that were complete once."""
    return [
        found
        for found in ([] if to.force else to.workspace.all_by_key(recipe.kind, recipe.key))
        if (to.name is None or found.name == to.name) and (to.out is None or found.folder.resolve() == to.out.resolve())
    ]


def _place(recipe: Recipe, to: Destination) -> tuple[str, Path]:
    """Return under which name and in which folder to make the artifact: one that lost parts gets them where it lies."""
    damaged = next(iter(_complete(recipe, to)), None)
    if damaged:
        return damaged.name, to.out or damaged.folder
    if to.out:
        name = to.workspace.link_name(recipe.kind, to.name, to.default_name, recipe.key, force=to.force)
        return name, to.out
    name = to.name or to.workspace.free_name(recipe.kind, to.default_name, recipe.key)
    folder = to.workspace.folder(recipe.kind, name)
    to.workspace.vacate(folder)
    return name, folder
