"""Where a model's config.json lies, fetched from the hub without the weights: plans and counts of tokens need none."""

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
    """Find the folder with the config.json of the model that a user named; its weights need not be there.

    `name` is "demo", a local folder, a path to a config.json, or a hub id, as `locate_model` has them. Of a hub model
    config.json alone is fetched, or the tokenizer as well (`with_code`: the Python files too), to the cache that
    `locate_model` uses; that one looks for weights, and does not take it for a whole model. Without `fetch` what lies there
    serves.

    Raises UsageError for a revision of what is not on the hub, and LangpruneError if there is no such model or file,
    or if it cannot be reached or stored.
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
