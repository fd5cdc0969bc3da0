"""The lineage of a pruned model: the models that it was made from."""

from collections.abc import Sequence

from langprune_cli.errors import LangpruneError
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.model_choice import DEMO, model_artifact


def lineage(workspace: Workspace, model: Artifact) -> list[Artifact]:
    """Return a pruned model, its source if that is in the workspace too, and so on.

    This follows names. A name may mean another model by now, or even the same one, so each model is listed once.
    """
    found = {model.folder.resolve(): model}
    while base := model_artifact(workspace, _base_name(model)):
        if base.folder.resolve() in found:
            break
        found[base.folder.resolve()] = model = base
    return list(found.values())


def _base_name(model: Artifact) -> str:
    return (model.manifest.about.get("model") or {}).get("name") or DEMO


def check_own_base(workspace: Workspace, chain: Sequence[Artifact]) -> None:
    """Raise LangpruneError if the first model of a lineage has the name of one made from it."""
    name = _base_name(chain[-1])
    if model_artifact(workspace, name):
        raise LangpruneError(
            f"model {chain[-1].name} was made from {name}, but models/{name} is now made from it, or is it itself: name the "
            "dense model with --model as well"
        )
