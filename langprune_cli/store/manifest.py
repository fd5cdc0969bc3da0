"""manifest.json of an artifact: reading and checking."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from langprune_cli.errors import LangpruneError
from langprune_cli.records import About, Inputs, Params, TextRecord, stats_key
from langprune_cli.store.files import Parts, canonical_json, check_parts, check_signed, disk_errors
from langprune_cli.store.plain import plain_file
from langprune_cli.version import __version__

SCHEMA = 1
MANIFEST = "manifest.json"
_NAMES = (b'"complete"', b'"digest"', b'"inputs"', b'"key"', b'"kind"', b'"params"', b'"parts"', b'"schema"')
_ENOUGH_NAMES = 5  # of these, to recognise a manifest that is no longer valid JSON


@dataclass
class Manifest:
    """The contents of manifest.json."""

    kind: str
    key: str
    inputs: Inputs
    params: Params
    about: About
    environment: dict[str, str]
    parts: Parts
    complete: bool
    schema: int = SCHEMA
    tool: str = f"langprune {__version__}"
    digest: str = ""  # of all of the above, set whenever it is written

    @property
    def stats(self) -> str | None:
        """Return the key of the statistics that it was made from; None if there are none or several."""
        return stats_key(self.inputs)

    @property
    def added(self) -> list[str]:
        """Return the keys of the statistics that were added up to make it."""
        keys = self.inputs.get("stats")
        return keys if isinstance(keys, list) else []

    @property
    def text(self) -> TextRecord:
        """Return what is known of the text behind it; {} if it has none."""
        return self.about.get("text") or {}


class Described(Protocol):
    """What an artifact is, as its manifest and its outline in the index both say it; an outline has the short inputs only."""

    @property
    def kind(self) -> str:
        """Return its kind."""

    @property
    def inputs(self) -> Inputs:
        """Return what it was made from."""

    @property
    def params(self) -> Params:
        """Return the settings that it was made with."""


def of_pruned_blocks(manifest: Described) -> bool:
    """Return whether they are statistics that `prune` collected behind blocks that it had pruned."""
    return manifest.params.get("propagation", "dense") != "dense"


def is_artifact(folder: Path) -> bool:
    """Return whether `folder` has a manifest that langprune wrote; other programs use the name manifest.json too.

    A damaged manifest counts if it is still recognisable, so that its reader sees an error and does not take it for foreign.
    """
    with suppress(LangpruneError, OSError, ValueError, RecursionError):
        data = plain_file(folder / MANIFEST, within=folder).read_bytes()
        if sum(name in data for name in _NAMES) >= _ENOUGH_NAMES:
            return True
        record = json.loads(data)
        return isinstance(record, dict) and {"schema", "kind", "key"} <= record.keys()
    return False


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json; raises LangpruneError for a missing, unreadable, unknown or changed one."""
    path = folder / MANIFEST
    with disk_errors(path, reading=True):
        if not plain_file(path, within=folder).exists():
            raise LangpruneError(f"{folder} is no langprune artifact: it has no {MANIFEST}")
        data = path.read_bytes()
    try:
        record = json.loads(data)
        canonical_json(record)  # Python reads NaN and infinity, which JSON does not have
        schema = record.pop("schema")
        tool = record.pop("tool")
        if schema != SCHEMA:
            raise LangpruneError(
                f"{path} has schema {schema}, this langprune {__version__} reads schema {SCHEMA}; "
                f"use the version that wrote it ({tool})"
            )
        manifest = Manifest(**record, schema=schema, tool=tool)
        records = (manifest.inputs, manifest.params, manifest.about, manifest.environment)
        if not (all(isinstance(each, dict) for each in records) and isinstance(manifest.key, str)):
            raise TypeError("a field is not what a manifest has there")
        check_parts(manifest.parts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # The folder may not be langprune's, so the advice must not be to delete it.
        raise LangpruneError(
            f"{path} is not a langprune manifest: name another, or move {folder} out of the way"
        ) from error
    check_signed(path, data, f"move {folder} out of the way and give the command that made it again")
    return manifest
