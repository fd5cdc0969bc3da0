"""Names of models and texts for publication: without paths of folders."""

from pathlib import Path

from langprune_cli.text.hub import HUB_PREFIX
from langprune_cli.text.sources import BUILTIN_PREFIX


def public_name(name: str, revision: str | None = None) -> str:
    """Return a model's or text's name for publication: a hub id unchanged, a path without its folders."""
    public = revision is not None or name.startswith((HUB_PREFIX, BUILTIN_PREFIX))
    return name if public else Path(name).name


def public_record(value: object) -> object:
    """Return a manifest's record for publication: names of models and texts, and absolute paths, without folders."""
    if isinstance(value, list):
        return [public_record(each) for each in value]
    if isinstance(value, str):
        return Path(value).name if value.startswith(("/", "~")) else value
    if not isinstance(value, dict):
        return value
    record = {field: public_record(each) for field, each in value.items()}
    source, name = value.get("source"), value.get("name")
    if isinstance(source, str):
        record["source"] = public_name(source)
    if isinstance(name, str) and "revision" in value:  # a model
        record["name"] = public_name(name, value["revision"])
    return record
