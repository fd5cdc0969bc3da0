"""Which files make up a model that can be read here, told from their names and from the weights' index."""

import json
import re
from collections.abc import Collection
from pathlib import Path

from langprune_cli.errors import LangpruneError

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SMALL_FILES = re.compile(
    r"(generation_)?config\.json|tokenizer\.(json|model)|tokenizer_config\.json|vocab\.(json|txt)|merges\.txt"
    r"|special_tokens_map\.json|added_tokens\.json|spiece\.model|sentencepiece\.bpe\.model|[^/]+\.tiktoken"
    r"|chat_template[^/]*|model\.safetensors\.index\.json"
)
_PICKLES = (".bin", ".pt", ".pth")


def weight_map(folder: Path) -> dict[str, str]:
    """Return tensor name -> file as the index says; empty where the weights are a single file.

    Raises LangpruneError if the index is not valid.
    """
    index = folder / INDEX
    if not index.is_file():
        return {}
    try:
        files: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
        shards = set(files.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LangpruneError(f"{index} is not a safetensors index: get the model again") from error
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise LangpruneError(f"{index} names the shard {shard!r}, not a plain file name: do not trust this model")
    return files


def weight_files(folder: Path) -> list[str]:
    """Return the names of the files that hold the weights, whether they are there or not.

    Raises LangpruneError as `weight_map` does.
    """
    return sorted(set(weight_map(folder).values())) or [SINGLE]


def folders_in(parent: Path) -> list[str]:
    """Return the names of the folders in a folder; none where it cannot be read."""
    try:
        return [entry.name for entry in parent.iterdir() if entry.is_dir()]
    except OSError:
        return []


def why_unfit(names: Collection[str], place: str) -> str | None:
    """Say why a list of file names is not a model that can be read here, or None if it is.

    `place` begins the sentence: "the folder X" or "the model X on the hub".
    """
    if "config.json" not in names:
        if "adapter_config.json" in names:
            return f"{place} holds an adapter, not a model: merge it into its base model and name the result"
        return f"{place} has no config.json: name a model in the format of transformers"
    if INDEX in names or SINGLE in names:
        return None
    if any(name.endswith(_PICKLES) for name in names):
        return (
            f"{place} has its weights as PyTorch pickles only, and langprune reads safetensors: load it with "
            "transformers' AutoModelForCausalLM.from_pretrained, save it with save_pretrained(FOLDER), "
            "and name that FOLDER"
        )
    return f"{place} has neither {SINGLE} nor {INDEX}: name a model that has (GGUF and others are not read)"
