"""A local cache of windows of hub datasets: the next run gets the same windows, offline too, without a download.

An entry's name covers everything the windows depend on except the dataset's content: source, tokenizer and sampling settings.
The entry records the dataset's commit, and is drawn again when the dataset has a new one.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from langprune_cli.errors import LangpruneError
from langprune_cli.store.building import Reporter
from langprune_cli.store.files import canonical_json, make_folder, new_file, readable_json, write_bytes
from langprune_cli.store.plain import plain_file
from langprune_cli.store.written import check_written
from langprune_cli.text.hub import HUB_PREFIX, HubUnreachableError, hub_commit, parse_hub_source
from langprune_cli.text.windows import fingerprint, is_given
from langprune_cli.types import TextSpec, Windows

_SCHEMA = 1  # raise it when the same request gives other windows


def kept_windows(
    spec: TextSpec, request: Mapping[str, object], draw: Callable[[], Windows], reporter: Reporter
) -> Windows:
    """Return the windows that `draw` makes of a text; those of a hub dataset come from the cache if possible.

    request: what the windows depend on besides the text, as JSON values. The dataset's commit is looked up first; if the Hub
    cannot be reached, cached windows of any commit are used, with a note. A damaged entry is drawn again. Windows of local
    files are not cached.

    Raises LangpruneError as `draw` does, for a part of an artifact that is not as it was written,
    and where neither the Hub nor the cache has the text.
    """
    if not spec.source.startswith(HUB_PREFIX):
        if is_given(spec.source):  # it may be a part of an artifact
            check_written(Path(spec.source))
        return draw()
    asked = {"schema": _SCHEMA, "source": spec.source, **request}
    entry = cache_folder() / "windows" / f"{hashlib.sha256(canonical_json(asked).encode()).hexdigest()}.json"
    known = _read(entry, asked, spec, reporter)
    try:
        commit = hub_commit(parse_hub_source(spec.source))
    except HubUnreachableError as error:
        if known is None:
            raise
        reporter.note(f"The windows of an earlier run are used, kept in {entry.parent}: {error}.")
        return known[0]
    if known and known[1] == commit:
        reporter.note(f"The windows of {spec.source} are those of an earlier run, kept in {entry.parent}.")
        return known[0]
    windows = draw()
    try:
        _write(entry, asked, windows, commit)
    except LangpruneError as error:
        reporter.note(f"The windows of {spec.source} are not kept for another run: {error}.")
    return windows


def cache_folder() -> Path:
    """Return langprune's cache folder: $LANGPRUNE_CACHE, else a folder in the user's cache."""
    if named := os.environ.get("LANGPRUNE_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "langprune"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "langprune"


def _write(entry: Path, asked: Mapping[str, object], windows: Windows, commit: str) -> None:
    """Write the tensor, then the record with its sha256."""
    try:
        make_folder(entry.parent)
    except OSError as error:
        raise LangpruneError(f"{entry.parent}: {error.strerror}") from error
    with new_file(_tensor_file(entry)) as temporary:
        save_file({"windows": windows.ids}, temporary)
    record = {
        "asked": asked,
        "commit": commit,
        "fingerprint": windows.fingerprint,
        "sampling": windows.sampling,
        "seed": windows.seed,
        "documents": windows.documents,
        "notes": list(windows.notes),
    }
    write_bytes(entry, readable_json(record))


def _read(entry: Path, asked: Mapping[str, object], spec: TextSpec, reporter: Reporter) -> tuple[Windows, str] | None:
    """Return the windows of an entry and their commit; None if it is missing or damaged."""
    try:
        record = json.loads(plain_file(entry).read_bytes())
        ids = load_file(plain_file(_tensor_file(entry)))["windows"]
        windows = Windows(
            ids,
            fingerprint(ids),
            spec,
            record["sampling"],
            record["seed"],
            record["documents"],
            tuple(record["notes"]),
        )
        if windows.fingerprint != record["fingerprint"] or record["asked"] != asked:
            raise ValueError("its contents have changed")
        return windows, str(record["commit"])
    except FileNotFoundError:
        return None  # never drawn, or ended before the record was written
    except (LangpruneError, OSError, ValueError, LookupError, TypeError, RecursionError, SafetensorError) as error:
        reporter.note(f"The windows kept in {entry} are damaged ({error}) and are drawn again.")
        return None


def _tensor_file(entry: Path) -> Path:
    return entry.with_suffix(".safetensors")
