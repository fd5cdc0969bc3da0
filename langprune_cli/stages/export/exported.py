"""Reads an exported folder: the files listed in its langprune.json, each checked, and no others."""

import json
from pathlib import Path

from langprune_cli.errors import LangpruneError
from langprune_cli.location.hub_snapshot import CARD
from langprune_cli.store.artifact import PROVENANCE, Artifact
from langprune_cli.store.plain import plain_file
from langprune_cli.store.verifying import damaged_parts
from langprune_cli.store.written import read_provenance

GGUF = ".gguf"
# In its own folder: some engines load every .safetensors beside the weights.
MASK_FILE = "mask/keep_masks.safetensors"


def is_export_of(folder: Path, model: Artifact) -> bool:
    """Return whether the langprune.json of `folder` names this model as its source."""
    try:
        return bool(json.loads(plain_file(folder / PROVENANCE, within=folder).read_bytes())["key"] == model.key)
    except (LangpruneError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def listed_files(folder: Path, model: Artifact) -> list[str]:
    """Return the files of an export of `model`: langprune.json, the files that it lists, and the card.

    Hashes are checked except for the card, which may be edited; files that are not listed are left out. Raises LangpruneError
    for a file that is missing, changed or not a plain file of the folder, and for a list that does not match this model.
    """
    again = "export the model again to a new folder"
    parts, own = read_provenance(folder / PROVENANCE)["parts"], model.manifest.parts
    for name, part in parts.items():
        if name != MASK_FILE and not _is_gguf(name) and own.get(name) != part:
            raise LangpruneError(f"{folder / PROVENANCE} lists a {name!r} that differs from {model.name}'s: {again}")
    for damage in damaged_parts(folder, parts, again):
        raise LangpruneError(damage.says)
    card = [CARD] if plain_file(folder / CARD, within=folder).exists() else []
    return sorted([*parts, PROVENANCE, *card])


def _is_gguf(name: str) -> bool:
    return name.endswith(GGUF) and Path(name).name == name
