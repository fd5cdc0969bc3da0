"""Fields of a model card from the base model's: its licence and its id on the hub."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import metadata_load, try_to_load_from_cache

from langprune_cli.location.hub_snapshot import CARD
from langprune_cli.location.location import DEMO_FOLDER
from langprune_cli.stages.export.lineage import lineage
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.plain import plain_file
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.model_choice import DEMO

_LICENCE = ("license", "license_name", "license_link")


def inherited(workspace: Workspace, model: Artifact) -> dict[str, str]:
    """Return fields of a model card's front matter: the first base model's licence, and its id if the hub has it.

    A model pruned several times is traced back through the models that the workspace still has.
    """
    source = lineage(workspace, model)[-1].manifest.about.get("model") or {}
    if not source.get("name"):
        return {}
    name, revision = source["name"], source.get("revision")
    own = {"base_model": name} if revision else {}
    front = _front_matter(_card_of(name, revision))
    return own | {field: value for field in _LICENCE if isinstance(value := front.get(field), str)}


def _card_of(name: str, revision: str | None) -> Path | None:
    """Return the base model's card: beside its weights, or in the cache of the hub."""
    if revision is None:
        folder = DEMO_FOLDER if name == DEMO else Path(name)
        return plain_file(folder / CARD, within=folder)
    cached = try_to_load_from_cache(name, CARD, revision=revision)
    return plain_file(Path(cached), within=Path(cached).parent) if isinstance(cached, str) else None


def _front_matter(card: Path | None) -> Mapping[str, object]:
    """Return the fields between the first lines of dashes; none for a missing or unreadable card."""
    try:
        return (metadata_load(card) if card and card.is_file() else None) or {}
    except Exception:  # noqa: BLE001 - anyone's YAML: any error means no known licence
        return {}
