"""Read a text document by document, from files, folders, the built-in demo text or the Hub."""

import glob
import hashlib
import json
import os.path
from collections.abc import Iterator
from pathlib import Path

from langprune_cli.errors import LangpruneError, near_matches
from langprune_cli.text.files import SUFFIXES, hash_file, not_a_file, read_file
from langprune_cli.text.hub import DEFAULT_COLUMN, HUB_PREFIX, hub_commit, parse_hub_source, read_hub_documents

BUILTIN_PREFIX = "builtin:"
_BUILTIN_FOLDER = Path(__file__).parent.parent / "demo_data"
_BUILTIN_PARTS = ("calib", "test")


def read_documents(source: str, *, keep_blank: bool = False) -> Iterator[str]:
    """Yield the documents of `source` in order, files sorted by relative path.

    Blank ones are skipped unless `keep_blank`: the rows of WikiText are lines of articles, and published perplexities join
    all rows, blank ones too.

    `source` is a .jsonl, .txt or .parquet file (the first two also as .gz), a folder or a glob pattern of
    such files, `builtin:<language>:calib`, `builtin:<language>:test`, or
    `hf:owner/name[:config][:split[/half]][#column]`, of which the first `hub.MAX_HUB_DOCUMENTS` documents are read.
    A local source, too, takes `#column` (default `text`).

    Documents are streamed: memory holds one of them at a time, whatever the corpus's size. Raises
    LangpruneError, naming file and line, for whatever cannot be read, and if there is no non-blank document.
    """
    empty = True
    for document in _documents(source):
        blank = not document or document.isspace()
        empty = empty and blank
        if keep_blank or not blank:
            yield document
    if empty:
        raise LangpruneError(f"{source} holds no text: give a source with at least one document that is not blank")


def source_fingerprint(source: str, most: int) -> str:
    """Return a fingerprint of a source, as hex sha256, without reading all of it.

    For files it covers the column and, in reading order, the kind, size and bytes of each file, up to `most` bytes over all
    files; not their names. So it is cheap for a large corpus of which little is read, and misses a later change that keeps
    the size. Of a dataset on the Hub: its name, config,
    split and column, the commit it stands at, and the half if only one is read.

    Raises LangpruneError where the files or the dataset cannot be read.
    """
    digest = hashlib.sha256(b"langprune source v1")
    if source.startswith(HUB_PREFIX):
        hub = parse_hub_source(source)
        named = [hub.dataset, hub.config, hub.split, hub.column, hub_commit(hub), *filter(None, [hub.half])]
        digest.update(json.dumps(named, separators=(",", ":")).encode())
        return digest.hexdigest()
    path, column = _local(source)
    digest.update(json.dumps([column]).encode())
    left = most
    for file in _files(path):
        left -= hash_file(digest, file, left)
    return digest.hexdigest()


def source_for(source: str, *, evaluation: bool) -> str:
    """Return the source to read: of `builtin:<language>` the held-out half for `evaluation`, else the calibration half.

    Other sources name their split or file themselves and are returned unchanged.
    """
    halved = source.startswith(BUILTIN_PREFIX) and source.count(":") == 1
    return f"{source}:{_BUILTIN_PARTS[evaluation]}" if halved else source


def local_path(source: str) -> tuple[Path, str]:
    """Split a local `path[#column]`; a file name may contain # itself."""
    if "#" not in source or _exists(source):
        return Path(source).expanduser(), DEFAULT_COLUMN
    path, _, column = source.rpartition("#")
    return Path(path).expanduser(), column or DEFAULT_COLUMN


def strip_text_suffix(name: str) -> str:
    """Return a file name without its text suffix."""
    for suffix in sorted((*SUFFIXES, ".safetensors"), key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _documents(source: str) -> Iterator[str]:
    if source.startswith(HUB_PREFIX):
        yield from read_hub_documents(parse_hub_source(source))
        return
    path, column = _local(source)
    for file in _files(path):
        yield from read_file(file, column)


def _local(source: str) -> tuple[Path, str]:
    """Return the path of a source that is not on the Hub, and the column."""
    return local_path(_builtin_file(source) if source.startswith(BUILTIN_PREFIX) else source)


def _builtin_file(source: str) -> str:
    language, _, part = source.removeprefix(BUILTIN_PREFIX).partition(":")
    if part not in _BUILTIN_PARTS:
        raise LangpruneError(f"{source!r} names no text: write builtin:{language}:calib or builtin:{language}:test")
    file = _BUILTIN_FOLDER / f"{language}.{part}.jsonl.gz"
    if not file.is_file():
        known = [entry.name.partition(".")[0] for entry in _BUILTIN_FOLDER.glob(f"*.{part}.jsonl.gz")]
        if not known:
            raise LangpruneError("the built-in text is missing from this installation: install langprune again")
        raise LangpruneError(f"there is no built-in text for {language!r}: {near_matches(language, known)}")
    return str(file)


def _files(path: Path) -> list[Path]:
    """Return the text files that `path` (a file, a folder or a pattern) names, sorted by relative path."""
    if not _exists(path):
        return _matching(path)
    if path.is_dir():
        # rglob follows no links to folders, so it ends; hidden files are the leavings of editors and tools.
        below = {entry.relative_to(path): entry for entry in path.rglob("*") if _is_text(entry)}
        found = {
            relative.as_posix(): entry
            for relative, entry in below.items()
            if not any(part.startswith(".") for part in relative.parts)
        }
        if not found:
            raise LangpruneError(f"the folder {path} holds no text file: supported are {', '.join(SUFFIXES)}")
        return [found[name] for name in sorted(found)]
    if not path.is_file():
        raise not_a_file(path)
    if not _is_text(path):
        raise LangpruneError(f"{path} is of no known kind: supported are {', '.join(SUFFIXES)}")
    return [path]


def _matching(pattern: Path) -> list[Path]:
    """Return the text files that a glob pattern names, and those in the folders that it names."""
    has_magic = glob.has_magic(str(pattern))
    found = glob.glob(str(pattern), recursive=True) if has_magic else []  # noqa: PTH207  (it may be absolute)
    matches = sorted((Path(name) for name in found), key=Path.as_posix)
    if matches:
        return [file for match in matches for file in _files(match)]
    could_be_dataset = str(pattern).count("/") == 1 and not pattern.name.lower().endswith(SUFFIXES)
    hint = f"for a dataset on the Hub write hf:{pattern}" if could_be_dataset else "check the name and the folder"
    raise LangpruneError(f"there is no file or folder {pattern}: {hint}")


def _is_text(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def _exists(path: str | Path) -> bool:
    """Say whether `path` exists; a name that no file could have (too long, with a NUL) does not."""
    return os.path.exists(path)  # noqa: PTH110  (Path.exists raises for such names)
