"""Fetches a model from the Hugging Face Hub into its cache, or finds it there, and explains errors.

It fetches only the configuration, the tokenizer and the safetensors weights. Small files come first and weights last, so a
snapshot with all its weights is complete.
"""

import difflib
import errno
import glob
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants, errors, snapshot_download, try_to_load_from_cache
from huggingface_hub.hf_api import ModelInfo

from langprune_cli.errors import LangpruneError
from langprune_cli.models.model_files import (
    CONFIG,
    INDEX,
    SINGLE,
    SMALL_FILES,
    VOCABULARY,
    folders_in,
    weight_files,
    why_unfit,
)
from langprune_cli.text.hub_pace import paced

WithoutWeights = Literal["config", "tokenizer"]  # config.json alone, or the tokenizer's files as well
CARD = "README.md"  # states the model's licence; not part of the model
_COMMIT_SHA = re.compile(r"[0-9a-f]{40}")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TRIES = 3
# huggingface_hub lets errors of its HTTP library through (httpx in 1.x, httpx2 in 2.x); their base class is also a base of
# HfHubHTTPError.
_HTTP_ERRORS: tuple[type[Exception], ...] = tuple(
    base for base in errors.HfHubHTTPError.__bases__ if issubclass(base, Exception) and base is not OSError
)
# hf_xet raises RuntimeError; another server at the hub's address (a login page) answers without JSON, or without the fields.
_DOWNLOAD_ERRORS: tuple[type[Exception], ...] = (
    *_HTTP_ERRORS,
    errors.EntryNotFoundError,
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
)


def fetch_snapshot(
    name: str,
    revision: str | None,
    cache_dir: Path | None,
    *,
    with_code: bool,
    only: WithoutWeights | None = None,
) -> tuple[Path, tuple[str, ...]]:
    """Return the model's folder in the cache, named after its commit, and notes for the user.

    only: fetch config.json alone, or for "tokenizer" all small files (`with_code`: also the Python files), even if the model
    has no weights. If the hub does not answer, a complete copy in the cache is used. Raises LangpruneError if there is none,
    or if the model is not readable.
    """
    if cache_dir is not None:
        cache_dir = cache_dir.expanduser().resolve()
    try:
        # A commit never changes: with all of it here, the hub is not asked.
        if revision and _COMMIT_SHA.fullmatch(revision) and not with_code:
            cached = _cached_snapshot(name, revision, cache_dir, only=only)
            if cached:
                return cached, ()
        info = HfApi().model_info(name, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except errors.HFValidationError as error:
        raise LangpruneError(f"{name!r} is not a valid model id: give owner/name as on the hub") from error
    except errors.RevisionNotFoundError as error:
        raise _explained(error, name, revision) from error
    except _DOWNLOAD_ERRORS as error:
        cached = _cached_snapshot(name, revision or constants.DEFAULT_REVISION, cache_dir, only=only)
        if cached is None:
            raise _explained(error, name, revision) from error
        note = f"the hub did not deliver the model {name}: using the copy in the cache, commit {cached.name[:12]}"
        return cached, () if isinstance(error, errors.OfflineModeIsEnabled) else (note,)
    try:
        with paced():
            return _download_patiently(name, revision, info, cache_dir, with_code=with_code, only=only), ()
    except _DOWNLOAD_ERRORS as error:
        raise _explained(error, name, revision) from error


def cached_snapshot(
    name: str, revision: str | None, cache_dir: Path | None, *, only: WithoutWeights | None = None
) -> Path:
    """Return the cache's folder with the model, or with the files of `only`, without asking the hub.

    Raises LangpruneError if it is not there: only dry runs call this, and they fetch nothing.
    """
    folder = cache_dir.expanduser().resolve() if cache_dir else None
    if cached := _cached_snapshot(name, revision or constants.DEFAULT_REVISION, folder, only=only):
        return cached
    raise LangpruneError(
        f"the model {name} is not on this machine, and a dry run fetches nothing: langprune plan --model {name} tells its "
        "cost from the configuration alone"
    )


def _download_patiently(
    name: str,
    revision: str | None,
    info: ModelInfo,
    cache_dir: Path | None,
    *,
    with_code: bool,
    only: WithoutWeights | None,
) -> Path:
    """Download, and retry when a connection breaks; complete files are not fetched again.

    huggingface_hub resumes some connections that break in the middle of a file and gives up on others, such as reset ones.
    """
    for _ in range(_TRIES - 1):
        try:
            return _download(name, revision, info, cache_dir, with_code=with_code, only=only)
        except errors.HfHubHTTPError:
            raise
        except _HTTP_ERRORS:
            continue
    return _download(name, revision, info, cache_dir, with_code=with_code, only=only)


def _download(
    name: str,
    revision: str | None,
    info: ModelInfo,
    cache_dir: Path | None,
    *,
    with_code: bool,
    only: WithoutWeights | None,
) -> Path:
    """Fetch the small files, then the weights that they name; return the snapshot's folder."""
    names = {sibling.rfilename for sibling in info.siblings or ()}
    enough = only and CONFIG in names
    if (unfit := why_unfit(names, f"the model {name} on the hub")) and not enough:
        raise LangpruneError(unfit)
    wanted = [CONFIG] if only == "config" else [n for n in names if SMALL_FILES.fullmatch(n)]
    small = wanted + [n for n in names if n == CARD or (with_code and n.endswith(".py"))]
    # Passing the revision as the user named it makes the cache remember its commit, by which it is found offline.
    fetched = snapshot_download(name, revision=revision, cache_dir=cache_dir, allow_patterns=_literally(small))
    folder = Path(fetched)
    if only:
        return folder
    weights = weight_files(folder) if INDEX in names else [SINGLE]
    if lost := sorted(set(weights) - names):
        raise LangpruneError(f"the model {name} on the hub lacks {lost[0]}, which its index names: name another")
    snapshot_download(name, revision=folder.name, cache_dir=cache_dir, allow_patterns=_literally(weights))
    return folder


def _literally(names: Iterable[str]) -> list[str]:
    return [glob.escape(name) for name in names]


def _cached_snapshot(name: str, revision: str, cache_dir: Path | None, *, only: WithoutWeights | None) -> Path | None:
    """Return a snapshot's folder in the cache if it has all weights, or all files of `only`."""
    config = try_to_load_from_cache(name, CONFIG, cache_dir=cache_dir, revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    if only == "tokenizer":
        return folder if any(VOCABULARY.fullmatch(path.name) for path in folder.iterdir()) else None
    return folder if only or all((folder / shard).is_file() for shard in weight_files(folder)) else None


def _explained(error: Exception, name: str, revision: str | None) -> LangpruneError:
    """Turn an error of huggingface_hub into one sentence that names the model and says what to do."""
    # "Not in the cache" is raised from the hub's own error, and the user can act upon that one.
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    page = f"{constants.ENDPOINT}/{name}"
    match error:
        case errors.GatedRepoError():
            message = (
                f"the owners of the model {name} must grant you access: ask for it at {page}, then run `hf auth login`"
            )
        case errors.RepositoryNotFoundError():
            message = (
                f"there is no model {name} on the hub (or it is private) and no folder {name} here: "
                f"check the spelling, or run `hf auth login` if you may read it{_near_names(name)}"
            )
        case errors.RevisionNotFoundError():
            message = (
                f"the model {name} has no revision {revision}: give a branch, a tag or a full commit sha "
                f"from {page}/commits"
            )
        case errors.HfHubHTTPError():
            message = _explained_status(error.response.status_code, name)
        case errors.OfflineModeIsEnabled():
            message = (
                f"the model {name} is not complete in the cache, and HF_HUB_OFFLINE forbids fetching it: "
                "unset HF_HUB_OFFLINE or name a local folder"
            )
        case OSError() if error.errno in _NO_ROOM:
            message = (
                f"there is no room to store the model {name}: free space on the disk of the cache, "
                "or set HF_HOME to a folder on a larger one"
            )
        case PermissionError():
            message = f"the model {name} cannot be stored in {error.filename}: set HF_HOME to a folder of yours"
        case _:
            reason = next(iter(str(error).strip().splitlines()), "").rstrip(".") or type(error).__name__
            message = (
                f"could not download the model {name} from {constants.ENDPOINT} ({reason}): "
                "check the network and run the command again; files that are complete are kept"
            )
    return LangpruneError(message)


def _explained_status(status: int, name: str) -> str:
    if status == 401:
        return f"the hub refused your token for the model {name}: run `hf auth login` with a valid one"
    if status == 403:
        return f"your token may not read the model {name} (403): ask its owners or use another"
    if status == 429:
        return f"too many requests (429) for the model {name}: wait some minutes or run `hf auth login`"
    return f"the hub did not deliver the model {name} (status {status}): try again in some minutes"


def _near_names(name: str) -> str:
    """Return the end of a message: "demo", or local folders with names near the hub id."""
    owner = Path(name).parent
    known = ["demo", *(str(owner / folder) for folder in folders_in(owner))]
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.75)
    return f"; did you mean {' or '.join(close)}?" if close else ""
