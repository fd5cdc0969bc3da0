"""Finds a model's config.json and fetches it without the weights, which plans and token counts do not need."""

from pathlib import Path

from langprune_cli.errors import LangpruneError
from langprune_cli.location.hub_snapshot import WithoutWeights, cached_snapshot, fetch_snapshot
from langprune_cli.location.location import ModelLocation, check_hub_id, local_path
from langprune_cli.models.model_files import CONFIG, why_unfit
from langprune_cli.store.files import disk_errors


def locate_config(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    with_code: bool = False,
    only: WithoutWeights = "config",
    fetch: bool = True,
) -> ModelLocation:
    """Find the folder with the config.json of the model `name`, with or without its weights.

    name: "demo", a local folder, a path to a config.json, or a hub id, as in `locate_model`. Of a hub model this fetches
    config.json alone or also the tokenizer (and with `with_code` the Python files), into the cache of `locate_model`, which
    looks for weights and does not mistake it for a whole model. Without `fetch` it uses the cache only.

    Raises UsageError for a revision of a local model, and LangpruneError if the model or file does not exist, or cannot be
    reached or stored.
    """
    path, is_local = local_path(name, revision)
    if not is_local:
        check_hub_id(name, path)
        if not fetch:
            folder = cached_snapshot(name, revision, cache_dir, only=only)
            return ModelLocation(folder, name, folder.name, "hub")
        folder, notes = fetch_snapshot(name, revision, cache_dir, with_code=with_code, only=only)
        return ModelLocation(folder, name, folder.name, "hub", notes)
    with disk_errors(path, reading=True):
        if path.is_dir():
            names = [entry.name for entry in path.iterdir()]
            if CONFIG not in names:
                raise LangpruneError(why_unfit(names, f"the folder {name}"))
        elif path.name == CONFIG:
            path = path.parent
        else:
            raise LangpruneError(f"{name} is a file: name a config.json, the folder that holds it, or a hub id")
    return ModelLocation(path, name, None, "demo" if name == "demo" else "folder")
