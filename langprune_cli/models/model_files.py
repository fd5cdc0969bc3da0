"""Finds the files of a model by their names and by the weights' index."""

import hashlib
import json
import re
from collections.abc import Collection
from pathlib import Path

from langprune_cli.errors import LangpruneError
from langprune_cli.store.files import canonical_json, disk_errors
from langprune_cli.store.plain import plain_files
from langprune_cli.store.written import Written

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SMALL_FILES = re.compile(
    r"((generation|processor|(video_)?preprocessor)_)?config\.json|tokenizer\.(json|model)|tokenizer_config\.json|vocab\.(json|txt)|merges\.txt"
    r"|special_tokens_map\.json|added_tokens\.json|spiece\.model|sentencepiece\.bpe\.model|[^/]+\.tiktoken"
    r"|chat_template[^/]*|model\.safetensors\.index\.json"
)
OF_IMAGES = re.compile(r"(processor|(video_)?preprocessor)_config\.json")
VOCABULARY = re.compile(
    r"tokenizer\.(json|model)|vocab\.(json|txt)|spiece\.model|sentencepiece\.bpe\.model|.+\.tiktoken"
)
TOKENIZER = "tokenizer.json"
_BESIDE_VOCABULARY = ("added_tokens.json", "merges.txt")
_TEMPLATES = "additional_chat_templates"  # a folder that transformers reads too
_PICKLES = (".bin", ".pt", ".pth")


def check_files(folder: Path) -> None:
    """Check that a model's files are plain files inside its folder; call it before reading any of them.

    transformers opens files by its own names, so every file counts. Configuration and tokenizer files written by langprune must
    be unchanged; weights are checked when they are read. Raises LangpruneError as `plain_file` and `Written` do.
    """
    plain_files(folder, _TEMPLATES)
    if folder.is_dir():
        Written(folder).check(*(path.name for path in sorted(folder.iterdir()) if SMALL_FILES.fullmatch(path.name)))


def weight_map(folder: Path) -> dict[str, str]:
    """Return tensor name -> file from the index; empty if the weights are a single file.

    Raises LangpruneError if the index is not valid, and as `check_files` does.
    """
    check_files(folder)
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
            raise LangpruneError(
                f"{index} names the shard {shard!r}, which is not a plain file name: do not trust this model"
            )
    return files


def weight_files(folder: Path) -> list[str]:
    """Return the names of the weights' files, whether they exist or not.

    Raises LangpruneError as `weight_map` does.
    """
    return sorted(set(weight_map(folder).values())) or [SINGLE]


def tokenizer_digest(folder: Path) -> str:
    """Return a sha256 that identifies a model's tokenizer.

    It covers the contents of tokenizer.json without truncation and padding, which callers may leave in it; without such a
    file, the names and bytes of the vocabulary's files. It also covers tokenizer_config.json, which says which class opens the
    files and how, without the chat template. The spelling of the JSON does not count.

    Raises LangpruneError for missing or unreadable tokenizer files.
    """
    check_files(folder)
    with disk_errors(folder, reading=True):
        names = sorted(path.name for path in folder.iterdir())
        if not any(map(VOCABULARY.fullmatch, names)):
            raise LangpruneError(f"{folder} has no tokenizer: add tokenizer.json")
        described: list[object] = []
        if TOKENIZER in names:
            described.append(_without(folder / TOKENIZER, "truncation", "padding"))
        else:
            files = [name for name in names if VOCABULARY.fullmatch(name) or name in _BESIDE_VOCABULARY]
            described += [[name, hashlib.sha256((folder / name).read_bytes()).hexdigest()] for name in files]
        if "tokenizer_config.json" in names:
            described.append(_without(folder / "tokenizer_config.json", "chat_template"))
    return hashlib.sha256(canonical_json(described).encode()).hexdigest()


def _without(path: Path, *fields: str) -> dict[str, object]:
    """Return the object in a JSON file without some fields; raises LangpruneError if it holds no object."""
    try:
        found = {name: value for name, value in json.loads(path.read_bytes()).items() if name not in fields}
        canonical_json(found)  # refuses NaN and infinity, which Python reads though JSON has none
    except (ValueError, AttributeError, RecursionError) as error:
        raise LangpruneError(f"{path} is not a JSON object: get the model again") from error
    return found


def folders_in(parent: Path) -> list[str]:
    """Return the names of the folders in a folder, none if it cannot be read."""
    try:
        return [entry.name for entry in parent.iterdir() if entry.is_dir()]
    except OSError:
        return []


def why_unfit(names: Collection[str], place: str) -> str | None:
    """Return why a list of file names is not a readable model, None if it is.

    place: the start of the sentence, such as "the folder X" or "the model X on the hub".
    """
    if "config.json" not in names:
        if "adapter_config.json" in names:
            return f"{place} holds an adapter, not a model: merge it into its base model and name the result"
        return f"{place} has no config.json: name a model in the format of transformers"
    if INDEX in names or SINGLE in names:
        return None
    if any(name.endswith(_PICKLES) for name in names):
        return (
            f"{place} has its weights only as PyTorch pickles, and langprune reads safetensors: load it with "
            "transformers' AutoModelForCausalLM.from_pretrained, save it with save_pretrained(FOLDER), "
            "and name that FOLDER"
        )
    return f"{place} has neither {SINGLE} nor {INDEX}: name a model in safetensors (GGUF and other formats are not supported)"
