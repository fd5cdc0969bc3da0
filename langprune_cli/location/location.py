"""Finds a model: the built-in one, a local folder, or a hub repository's copy in the cache."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.models.model_files import folders_in, weight_files, why_unfit

DEMO_FOLDER = Path(__file__).parent.parent / "demo_data" / "model"
_HUB_ID = re.compile(r"([\w.-]+/)?[\w.-]+", re.ASCII)
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class ModelLocation:
    """A folder with config.json and safetensors weights, and the user's name for it."""

    folder: Path
    id: str  # the user's words: hub id, folder, artifact or "demo"
    revision: str | None  # commit sha, for a model of the hub
    kind: Literal["hub", "folder", "demo", "artifact"]
    notes: tuple[str, ...] = ()  # for the user, one sentence each

    @property
    def label(self) -> str:
        """Return a short name for tables and sentences."""
        if self.kind != "folder":
            return self.id
        return Path(self.id).name or self.folder.resolve().name

    @property
    def about(self) -> dict[str, str | None]:
        """Return the model as manifests name it: hub id and revision, or the folder."""
        return {"name": str(self.folder.resolve()) if self.kind == "folder" else self.id, "revision": self.revision}


def locate_model(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    with_code: bool = False,
    fetch: bool = True,
) -> ModelLocation:
    """Find the model `name`, and download it from the hub if it is not on this machine.

    name: "demo", else a local folder, else a hub id; revision: a branch, tag or commit on the hub.
    with_code: fetch the Python files too, for a user who trusts them. Without `fetch` it uses the cache only.

    Raises UsageError for a revision of a local model, and LangpruneError if the model does not exist, cannot be reached or
    stored, or is not readable.
    """
    path, is_local = local_path(name, revision)
    if is_local:
        try:
            _check_folder(path, name)
        except OSError as error:
            raise LangpruneError(f"cannot read {path} ({error.strerror}): check its permissions") from error
        return ModelLocation(path, name, None, "demo" if name == "demo" else "folder")
    check_hub_id(name, path)
    # Imported here because huggingface_hub takes a while to load, and local models do not need it.
    from langprune_cli.location.hub_snapshot import cached_snapshot, fetch_snapshot  # noqa: PLC0415

    if not fetch:
        folder = cached_snapshot(name, revision, cache_dir)
        return ModelLocation(folder, name, folder.name, "hub")
    folder, notes = fetch_snapshot(name, revision, cache_dir, with_code=with_code)
    return ModelLocation(folder, name, folder.name, "hub", notes)


def check_hub_id(name: str, path: Path) -> None:
    """Raise LangpruneError for a name that is no hub id either; path: the name as a local path, where nothing exists."""
    if name.startswith(("http://", "https://")):
        repo_id = "/".join(name.split("/")[3:5])
        raise LangpruneError(f"{name} is an address: name the model by its id on the hub, {repo_id}")
    if name.startswith((".", "~")) or path.is_absolute() or name.count("/") > 1 or "\\" in name:
        raise LangpruneError(f"there is no folder {name}{_near_folders(path)}")
    if not _HUB_ID.fullmatch(name):
        raise LangpruneError(
            f"{name!r} is neither a folder nor the id of a model: "
            "name a local folder, a hub id such as Qwen/Qwen3-0.6B, or demo"
        )


def local_path(name: str, revision: str | None) -> tuple[Path, bool]:
    """Return the demo's folder, or the name as a path with ~ expanded; and whether that path exists.

    Raises UsageError if it exists and a revision is given too: only hub models have revisions.
    """
    try:
        path = DEMO_FOLDER if name == "demo" else Path(name).expanduser()
        is_local = name == "demo" or (bool(name) and path.exists())
    except (OSError, RuntimeError):  # a name too long for a file, an unreadable parent folder, no such ~user
        path, is_local = Path(name), False
    if is_local and revision is not None:
        raise UsageError(f"{name} is not read from the hub and has no revisions: leave out --revision {revision}")
    return path, is_local


def _check_folder(folder: Path, name: str) -> None:
    """Raise LangpruneError if a local folder lacks a part of a model."""
    if not folder.is_dir():
        if name == "demo":
            raise LangpruneError(f"the demo model is not in {folder}: install langprune again")
        raise LangpruneError(f"{name} is a file: name the folder that holds config.json and the weights")
    if unfit := why_unfit([entry.name for entry in folder.iterdir()], f"the folder {name}"):
        raise LangpruneError(unfit)
    for file in weight_files(folder):
        if not (folder / file).is_file():
            raise LangpruneError(f"the folder {name} lacks {file}, which its index names: copy the model again")
        with (folder / file).open("rb") as opened:
            if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise LangpruneError(f"{folder / file} is a Git LFS pointer only: run `git lfs pull` in {name}")


def _near_folders(path: Path) -> str:
    """Return the end of a message: folders beside the path with names near its own."""
    if not path.parent.is_dir():
        return f", nor {path.parent}: check the path"
    close = difflib.get_close_matches(path.name, folders_in(path.parent), n=3)
    if not close:
        return ": check the path"
    return f": did you mean {' or '.join(str(path.parent / name) for name in close)}?"
