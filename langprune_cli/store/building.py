"""What all stages share: progress reports, and turning a recipe into a complete artifact (found, resumed or made)."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.machine.team import ALONE, Team
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe, same_bytes
from langprune_cli.store.locks import being_made, remove_stale_lock
from langprune_cli.store.manifest import Manifest, read_manifest
from langprune_cli.store.planned import OnlyPlannedError, Planned
from langprune_cli.store.silent import SilentWriter
from langprune_cli.store.target import Target
from langprune_cli.store.workspace import Workspace

_INPUT_PARTS = "windows*.safetensors"  # written first, and cheap to draw again


class Reporter(Protocol):
    """Tells the user what a stage is doing."""

    def note(self, text: str) -> None:
        """Show one sentence."""

    def begin(self, what: str, blocks: int, tokens: int) -> None:
        """Start the progress of a pass of `tokens` tokens through `blocks` blocks; if one is 0, count the other."""

    def tick(self, block: int, tokens: int) -> None:
        """Report that `tokens` more tokens went through `block`, counted from 0."""

    def end(self) -> None:
        """End that progress."""


class Silent:
    """A reporter that shows nothing."""

    def note(self, text: str) -> None:
        """Show nothing; so do the others."""

    def begin(self, what: str, blocks: int, tokens: int) -> None:
        """See above."""

    def tick(self, block: int, tokens: int) -> None:
        """See above."""

    def end(self) -> None:
        """See above."""


@dataclass(frozen=True)
class Outcome:
    """The artifact that a stage made or found."""

    artifact: Artifact
    cached: bool
    seconds: float


@dataclass(frozen=True)
class Destination:
    """Where a stage writes its artifact: under a name in the workspace, or to a folder that the user chose."""

    workspace: Workspace
    default_name: str
    name: str | None = None
    out: Path | None = None
    force: bool = False

    @classmethod
    def of(cls, workspace: Workspace, default_name: str, asked: Target) -> "Destination":
        """Return where an artifact goes that is called `default_name` where its user gave no name."""
        return cls(workspace, default_name, asked.name, asked.out, asked.force)


@dataclass(frozen=True)
class PlannedArtifact(Artifact):
    """An artifact that a dry run would make: it has a key and a place, but no parts."""

    workspace: Workspace

    def read(self, part: str) -> bytes:  # noqa: ARG002 - there are none
        """Raise OnlyPlannedError: a stage that reads a part cannot be planned further."""
        raise OnlyPlannedError(self.workspace.planned or [])


def run_stage(
    recipe: Recipe,
    to: Destination,
    make: Callable[[ArtifactWriter], Artifact],
    size: Callable[[], int] | None = None,
    team: Team = ALONE,
) -> Outcome:
    """Return the artifact of `recipe`: found on disk if it is whole, else made or resumed by `make`.

    If `make` fails before it finishes a part that cost work, nothing stays on disk. A dry run makes nothing, see `planned`.
    size: returns the artifact's bytes, if they are known beforehand.
    team: processes that all call this; the first looks at the disk and writes.
    Raises LangpruneError while another process makes the same artifact.
    """
    begun = time.monotonic()
    if to.workspace.planned is not None:
        return planned(recipe, to, size)
    if found := team.first(lambda: made_before(recipe, to)):
        return Outcome(found, cached=True, seconds=time.monotonic() - begun)
    with being_made_at(recipe, to, team) as place:
        if found := team.first(lambda: made_before(recipe, to)):  # by another process, since we looked
            return Outcome(found, cached=True, seconds=time.monotonic() - begun)
        with place.writer() as writer:
            artifact = make(writer)
        artifact = place.settle(artifact)
    return Outcome(artifact, cached=False, seconds=time.monotonic() - begun)


def planned(recipe: Recipe, to: Destination, size: Callable[[], int] | None = None) -> Outcome:
    """Return the artifact if it exists, else the place and key that it would have; add it to the workspace's plan.

    Raises UsageError for a name that cannot be used.
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
    """Return the whole artifact of `recipe` at the requested place, now the newest of the workspace; else None.

    Raises UsageError for a name that cannot be used.
    """
    complete = _complete(recipe, _settled(recipe.kind, to))
    of_these = (found for found in complete if same_bytes(found.manifest, recipe.about))
    whole = next((found for found in of_these if found.is_whole()), None)
    if whole:
        remove_stale_lock(whole.folder, recipe.kind, to.workspace)
        to.workspace.touch(whole)
    return whole


def begun_before(recipe: Recipe, to: Destination) -> bool:
    """Return whether the artifact of `recipe` was begun at the requested place, or lost parts since, so that it is gone on with.

    Raises UsageError for a name that cannot be used.
    """
    to = _settled(recipe.kind, to)
    if to.force:
        return False
    if _complete(recipe, to):
        return True
    name = to.name or to.workspace.free_name(recipe.kind, to.default_name, recipe.key)
    with suppress(LangpruneError):
        return read_manifest(to.out or to.workspace.folder(recipe.kind, name)).key == recipe.key
    return False


@dataclass(frozen=True)
class Place:
    """Where an artifact is being made."""

    recipe: Recipe
    to: Destination
    name: str
    folder: Path
    alone: bool  # whether a lock keeps other processes away
    team: Team

    @contextmanager
    def writer(self) -> Iterator[ArtifactWriter]:
        """Yield the writer; if the run fails before it finishes a part that cost work, nothing stays on disk.

        Finished parts are kept, even those of a complete artifact, which becomes incomplete until it is finished again.
        Processes of the team other than the first get a writer that knows of these parts and writes nothing.
        """
        writers: list[ArtifactWriter] = []

        def take_over() -> Manifest:
            writers.append(ArtifactWriter(self.folder, self.recipe, fresh=self.to.force, alone=self.alone))
            return writers[0].manifest

        manifest = self.team.first(take_over)
        if not writers:
            yield SilentWriter(self.folder, manifest)
            return
        writer = writers[0]
        writer.wrote = self.to.workspace.run_starts
        try:
            yield writer
        except Exception:
            writer.discard_if_empty(but_for=_INPUT_PARTS)
            raise
        finally:
            writer.discard_if_empty()

    def settle(self, artifact: Artifact) -> Artifact:
        """Register the finished artifact in the workspace, as the newest, and return it."""

        def settled() -> Artifact:
            found = self.to.workspace.place(artifact, self.name) if self.to.out else artifact
            self.to.workspace.touch(found)
            return found

        return self.team.first(settled)


@contextmanager
def being_made_at(recipe: Recipe, to: Destination, team: Team = ALONE) -> Iterator[Place]:
    """Find a place for an artifact and lock it; raises LangpruneError while another process makes the same artifact.

    team: processes that all call this; the first holds the lock.
    """
    to = _settled(recipe.kind, to)
    with ExitStack() as held:

        def hold() -> tuple[str, Path, bool]:
            name, folder = _place(recipe, to)
            return name, folder, held.enter_context(being_made(folder, recipe.kind, to.workspace))

        yield Place(recipe, to, *team.first(hold), team)


def _settled(kind: str, to: Destination) -> Destination:
    """Return `to` with a name in place of a folder inside the workspace; raises UsageError for a name that cannot be used."""
    own = to.workspace.name_of(kind, to.out) if to.out else None
    if own and to.name not in {None, own}:
        raise UsageError(f"--out {to.out} is in the workspace, under the name {own!r}: leave out --name {to.name}")
    if own:
        to = replace(to, name=own, out=None)
    if to.name:
        to.workspace.check_new_name(kind, to.name)
    return to


def _complete(recipe: Recipe, to: Destination) -> list[Artifact]:
    """Return the complete artifacts with that key at the requested place; they may have lost parts since."""
    return [
        found
        for found in ([] if to.force else to.workspace.all_by_key(recipe.kind, recipe.key))
        if (to.name is None or found.name == to.name) and (to.out is None or found.folder.resolve() == to.out.resolve())
    ]


def _place(recipe: Recipe, to: Destination) -> tuple[str, Path]:
    """Return the name and the folder to make the artifact in; one that lost parts is repaired where it lies."""
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
