"""The files of a tokenizer's folder: the ids that they name, and how they change when tokens are pruned."""

import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from langprune_cli.errors import LangpruneError
from langprune_cli.tokens.json_values import Json, JsonObject, members, whole
from langprune_cli.tokens.trimmed_tokenizer import trimmed
from langprune_cli.tokens.vocabulary import Vocabulary, merge_pairs, well_formed

_DESCRIPTION, _CONFIG, _ADDED, _NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")  # of models that read images
_PIECES, _MERGES = "vocab.json", "merges.txt"
# The vocabulary in the formats of sentencepiece, tiktoken and mistral-common.
_FOREIGN = ("*.model", "*.model.v*", "*.tiktoken", "tekken.json")


def ids_named_in(folder: Path) -> frozenset[int]:
    """Return the ids that a tokenizer's files name, by number or by string; these tokens must be kept.

    `transformers` would add a missing one as an extra id. A string that is no token is added with any vocabulary, so it is
    ignored here.

    Raises LangpruneError where a file gives a token another id than tokenizer.json, or `Vocabulary.of` does.
    """
    vocabulary = Vocabulary.of(_described(folder))
    with well_formed(f"a file of the tokenizer in {folder}"):
        return _named(folder, vocabulary)


def trim_files(
    folder: Path,
    stay: Sequence[int],  # ascending, completed by `Vocabulary.required` and `Vocabulary.closed`
) -> dict[str, bytes | None]:
    """Return the new files of a tokenizer's folder: name -> bytes, None for a file that is dropped.

    tokenizer.json, the ids in tokenizer_config.json and added_tokens.json, and vocab.json with merges.txt are rewritten.
    Vocabularies in other libraries' formats are dropped, since they would contradict these. Files not
    named here hold no ids (chat templates, special_tokens_map.json) and stay as they are. Ids beyond those of
    tokenizer.json need no file: opening the tokenizer adds them after what stays, in the same order as before.

    Raises LangpruneError and ValueError where `ids_named_in` or `trimmed` do, and ValueError if an id that
    files name does not stay.
    """
    described = _described(folder)
    vocabulary = Vocabulary.of(described)
    stay = [i for i in stay if i < vocabulary.size]
    new = {old: position for position, old in enumerate(stay)}
    if missing := _named(folder, vocabulary) - new.keys():
        raise ValueError(f"the id {min(missing)} has to stay: files in {folder} name it")
    kept = trimmed(described, stay)
    files: dict[str, bytes | None] = {_DESCRIPTION: _json(kept)}
    if config := _read(folder, _CONFIG):
        config |= {key: new[whole(config[key])] for key in _id_keys(config)}
        if decoder := config.get("added_tokens_decoder"):
            config["added_tokens_decoder"] = {str(new[int(i)]): token for i, token in members(decoder).items()}
        files[_CONFIG] = _json(config)
    if added := _read(folder, _ADDED):
        files[_ADDED] = _json({token: new[whole(i)] for token, i in added.items()})
    files |= _pieces_and_merges(members(kept["model"]))
    files |= {path.name: None for path in folder.iterdir() if any(fnmatch(path.name, form) for form in _FOREIGN)}
    return {name: content for name, content in files.items() if (folder / name).is_file()}


def _described(folder: Path) -> JsonObject:
    """Return the tokenizer.json of a folder; raise LangpruneError where there is none that can be read."""
    if not (folder / _DESCRIPTION).is_file():
        raise LangpruneError(
            f"{folder} has no {_DESCRIPTION}, without which a vocabulary cannot be trimmed: "
            "open its tokenizer with AutoTokenizer.from_pretrained and write it with save_pretrained"
        )
    return _read(folder, _DESCRIPTION)


def _named(folder: Path, vocabulary: Vocabulary) -> frozenset[int]:
    """Return the ids that tokenizer.json, whose vocabulary this is, and the files beside it name."""
    config, names, added = (_read(folder, name) for name in (_CONFIG, _NAMES, _ADDED))
    decoder = members(config.get("added_tokens_decoder") or {})
    numbered = [(_CONFIG, int(i), next(_strings(token))) for i, token in decoder.items()]
    numbered += [(_ADDED, whole(i), token) for token, i in added.items()]
    for name, i, token in numbered:
        if vocabulary.tokens.get(i) != token:
            raise LangpruneError(
                f"{folder / name} gives the token {token!r} the id {i}, and {_DESCRIPTION} does not: "
                "open the tokenizer with AutoTokenizer.from_pretrained and write it anew with save_pretrained"
            )
    ids = {i for _, i, _ in numbered} | {whole(config[key]) for key in _id_keys(config)}
    id_of = {token: i for i, token in vocabulary.tokens.items()}
    for part in (config, names, *(_read(folder, name) for name in _PROCESSORS)):
        for key, value in part.items():
            if key.endswith(("_token", "_tokens")):
                ids |= {id_of[token] for token in _strings(value) if token in id_of}
    vocabulary.check(ids)
    return vocabulary.named | ids


def _pieces_and_merges(model: JsonObject) -> dict[str, bytes | None]:
    """Return vocab.json and merges.txt of a BPE, both None where merges hold spaces, which merges.txt cannot say."""
    pairs = list(merge_pairs(model.get("merges", [])))
    vocab = model["vocab"]
    if not isinstance(vocab, dict) or any(part.split() != [part] for pair in pairs for part in pair):
        return {_PIECES: None, _MERGES: None}
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in pairs)]
    return {_PIECES: _json(vocab), _MERGES: "".join(line + "\n" for line in lines).encode()}


def _id_keys(config: JsonObject) -> list[str]:
    return [key for key, value in config.items() if key.endswith("_token_id") and isinstance(value, int)]


def _strings(named: Json) -> Iterator[str]:
    """Yield the tokens of an entry: a string, {"content": string, ...}, or a list or a dictionary of such."""
    if isinstance(named, str):
        yield named
    elif isinstance(named, dict):
        inner = [named["content"]] if "content" in named else named.values()
        yield from (token for one in inner for token in _strings(one))
    elif isinstance(named, list):
        yield from (token for one in named for token in _strings(one))


def _read(folder: Path, name: str) -> JsonObject:
    """Return the object in a JSON file, empty where there is no file; raise LangpruneError for anything else."""
    path = folder / name
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise LangpruneError(f"{path} is no readable JSON ({error}): copy it again from where it came") from error
    if not isinstance(content, dict):
        raise LangpruneError(f"{path} holds no JSON object: copy it again from where it came")
    return content


def _json(content: JsonObject) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()
