"""Which model is meant: named by the user, remembered by the workspace, or an artifact; and where it lies."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.location.location import ModelLocation
from langprune_cli.store.artifact import KINDS, Artifact
from langprune_cli.store.building import Reporter
from langprune_cli.store.manifest import is_artifact
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.compute import Compute

DEMO = "demo"


@dataclass(frozen=True)
class ModelChoice:
    """A model named by the user, or remembered by the workspace."""

    name: str
    revision: str | None = None


def choose_model(workspace: Workspace, named: str | None, revision: str | None, reporter: Reporter) -> ModelChoice:
    """Return the named model, else the workspace's (remembered, or of its artifacts), else the built-in demo model.

    Raises LangpruneError if the workspace remembers none and has artifacts of several models.
    """
    if named:
        return ModelChoice(named, revision)
    remembered = workspace.model()
    if remembered and remembered["name"]:
        return ModelChoice(remembered["name"], revision or remembered["revision"])
    known = {outline.model for kind in KINDS for outline in workspace.outlines(kind) if outline.model}
    models = {model for model in known if not model_artifact(workspace, model[0])}
    if len(models) > 1:
        names = " and ".join(sorted(name for name, _ in models))
        raise LangpruneError(f"the workspace {workspace.root} has artifacts of {names}: name one of them with --model")
    for name, commit in models - {(DEMO, None)}:
        reporter.note(f"Using {name}, the model of this workspace's artifacts (--model names another).")
        return ModelChoice(name, revision or commit)
    reporter.note("Using the built-in demo model (--model names another).")
    return ModelChoice(DEMO, revision)


def located(
    workspace: Workspace,
    choice: ModelChoice,
    compute: Compute,
    locate: Callable[..., ModelLocation],
    reporter: Reporter,
) -> ModelLocation:
    """Return a model's location: an artifact's folder, or the result of `locate`, whose notes are shown."""
    artifact = model_artifact(workspace, choice.name)
    if artifact:
        # By name if it is in this workspace, which may move.
        own = artifact.folder.absolute().parent == (workspace.root / "models").absolute()
        return ModelLocation(artifact.folder, artifact.name, None, "artifact" if own else "folder")
    location = locate(
        choice.name,
        revision=choice.revision,
        cache_dir=compute.cache_dir,
        with_code=compute.trust_remote_code,
        fetch=compute.fetch,
    )
    for note in location.notes:
        reporter.note(note)
    return location


def model_artifact(workspace: Workspace, name: str) -> Artifact | None:
    """Return the model artifact with that name or folder, None if the name means something else."""
    places = [Path(name)]
    with suppress(UsageError):  # not a possible name of an artifact
        places.append(workspace.folder("models", name))
    return workspace.find("models", name) if name != DEMO and any(map(is_artifact, places)) else None
