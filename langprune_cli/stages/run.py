"""What all stages share: reporting, and the way from a recipe to a complete artifact (cached, resumed or made)."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.workspace import Workspace


class Reporter(Protocol):
    """Where a stage tells the user what it is doing."""

    def note(self, text: str) -> None:
        """Show one sentence."""

    def begin(self, what: str, blocks: int, tokens: int) -> None:
        """Start the progress of a pass of `tokens` tokens through `blocks` blocks (0 tokens: count blocks)."""

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


def run_stage(recipe: Recipe, to: Destination, make: Callable[[ArtifactWriter], Artifact]) -> Outcome:
    """Return the artifact of `recipe`: as it lies on disk when it is complete, else made (or gone on with) by `make`.

    Where `make` fails before any part was finished, nothing is left on disk.
    """
    begun = time.monotonic()
    for found in [] if to.force else to.workspace.all_by_key(recipe.kind, recipe.key):
        named = to.name is None or found.name == to.name
        if named and (to.out is None or found.folder.resolve() == to.out.resolve()):
            to.workspace.touch(found)
            return Outcome(found, cached=True, seconds=time.monotonic() - begun)
    if to.out:
        name = to.workspace.link_name(recipe.kind, to.name, to.default_name, recipe.key)
        folder = to.out
    else:
        name = to.name or to.workspace.free_name(recipe.kind, to.default_name, recipe.key)
        folder = to.workspace.folder(recipe.kind, name)
        to.workspace.vacate(folder)
    writer = ArtifactWriter(folder, recipe, fresh=to.force)
    try:
        artifact = make(writer)
    finally:
        writer.discard_if_empty()
    if to.out:
        artifact = to.workspace.place(artifact, name)
    to.workspace.touch(artifact)
    return Outcome(artifact, cached=False, seconds=time.monotonic() - begun)
