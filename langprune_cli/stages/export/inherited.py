"""What a model card takes over from the base model's: its licence; and what stands for the base model on the hub."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import metadata_load, try_to_load_from_cache

from langprune_cli.location.hub_snapshot import CARD
from langprune_cli.location.location import DEMO_FOLDER
from langprune_cli.stages.export.lineage import lineage
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.plain import plain_file
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import DEMO

_LICENCE = ("license", "license_name", "license_link")


def inherited(workspace: Workspace, model: Artifact) -> dict[str, str]:
    """Return fields of a model card's front matter: the licence of the first base model, and its id where the hub has it.

    A model that was pruned from pruned ones is traced back through those that the workspace still has.
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
    """Return what stands between the first lines of dashes; nothing where there is no card, or one that cannot be read."""
    try:
        return (metadata_load(card) if card and card.is_file() else None) or {}
    except Exception:  # noqa: BLE001 - a stranger's YAML: whatever it raises, it says no licence
        return {}
