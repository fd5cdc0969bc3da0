"""What tests of workspaces share: a workspace, and small artifacts in it."""

import os
from pathlib import Path

import pytest

from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, Outcome, run_stage
from langprune_cli.store.workspace import Workspace

FUTURE = 2 * 10**18  # nanoseconds: the year 2033


@pytest.fixture
def here(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


def recipe(number: int) -> Recipe:
    return Recipe("masks", {"model": str(number)}, {})


def add(here: Workspace, name: str, number: int, *, complete: bool = True, age: int | None = None) -> Artifact:
    """Write an artifact of one part, last changed `age` nanoseconds after 1970."""
    writer = ArtifactWriter(here.folder("masks", name), recipe(number))
    writer.write("part", b"x")
    artifact = writer.finish() if complete else Artifact(writer.folder, writer.manifest)
    if age is not None:
        os.utime(artifact.folder / "manifest.json", ns=(age, age))
    return artifact


def run(here: Workspace, number: int, default: str = "x", **to: object) -> Outcome:
    def make(writer: ArtifactWriter) -> Artifact:
        writer.write("part", b"x")
        return writer.finish()

    return run_stage(recipe(number), Destination(here, default, **to), make)  # type: ignore[arg-type] # keyword options
