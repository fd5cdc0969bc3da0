"""An exported folder read back: the files that its langprune.json lists, each checked, and nothing else that lies there."""

import json
from pathlib import Path

from langprune_cli.errors import LangpruneError
from langprune_cli.location.hub_snapshot import CARD
from langprune_cli.store.artifact import PROVENANCE, Artifact
from langprune_cli.store.plain import plain_file
from langprune_cli.store.verifying import damaged_parts
from langprune_cli.store.written import read_provenance

GGUF = ".gguf"
# In a folder of its own: some engines load every .safetensors that lies beside the weights.
MASK_FILE = "mask/keep_masks.safetensors"


def is_export_of(folder: Path, model: Artifact) -> bool:
    """Return whether `folder` says in its langprune.json that it is an export of that very model."""
    try:
        return bool(json.loads(plain_file(folder / PROVENANCE, within=folder).read_bytes())["key"] == model.key)
    except (LangpruneError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def listed_files(folder: Path, model: Artifact) -> list[str]:
    """Return the files of an export of `model`: those that its langprune.json lists, langprune.json, and the card.

    All but the card, which may have been edited, are hashed. Files that are not listed are left out.
    Raises LangpruneError for a file that is missing, changed or no plain file of the folder, and for a langprune.json that
    lists what an export of this model does not have.
    """
    again = "export the model again to a new folder"
    parts, own = read_provenance(folder / PROVENANCE)["parts"], model.manifest.parts
    for name, part in parts.items():
        if name != MASK_FILE and not _is_gguf(name) and own.get(name) != part:
            raise LangpruneError(f"{folder / PROVENANCE} lists {name!r} other than {model.name} has it: {again}")
    for damage in damaged_parts(folder, parts, again):
        raise LangpruneError(damage.says)
    card = [CARD] if plain_file(folder / CARD, within=folder).exists() else []
    return sorted([*parts, PROVENANCE, *card])


def _is_gguf(name: str) -> bool:
    return name.endswith(GGUF) and Path(name).name == name
