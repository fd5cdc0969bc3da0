"""What the loopback hub serves: repositories, the snapshots of their revisions, and its error answers."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LARGE_FILES = (".safetensors", ".bin", ".parquet", ".gz", ".onnx")  # what the real hub keeps in LFS


class RefusalError(Exception):
    """An answer with an error status, as the hub sends it: status, X-Error-Code and X-Error-Message."""

    def __init__(self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {
            "X-Error-Message": message,
            **({"X-Error-Code": code} if code else {}),
            **(headers or {}),
        }


@dataclass(frozen=True)
class Snapshot:
    """The files of one commit."""

    sha: str
    files: dict[str, bytes]

    @classmethod
    def of_folder(cls, repo_id: str, folder: Path) -> "Snapshot":
        """Copy every file of a folder into memory and hash names and contents into the commit sha."""
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        digest = hashlib.sha1(repo_id.encode())  # noqa: S324 - git's hash
        for name, content in files.items():
            digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
        return cls(digest.hexdigest(), files)

    def entry(self, path: str) -> dict[str, Any]:
        """Describe one file as the tree listing and paths-info do."""
        content = self.files[path]
        described = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        if path.endswith(LARGE_FILES):
            sha256 = hashlib.sha256(content).hexdigest()
            described["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
        return described

    def folders(self) -> set[str]:
        """Return every folder that holds a file, itself or deeper, "" being the top."""
        return {parent.as_posix() for name in self.files for parent in Path(name).parents} - {"."} | {""}


@dataclass
class Repository:
    """A repository: its revisions by name, and who may read it."""

    revisions: dict[str, Snapshot] = field(default_factory=dict)
    private: bool = False
    gated: bool = False


def git_oid(content: bytes) -> str:
    """Hash contents as git hashes a blob: the ETag of a file that is not in LFS."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 - git's hash


def folder_entry(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": git_oid(path.encode())}


def tree(snapshot: Snapshot, top: str, *, recursive: bool) -> list[dict[str, Any]]:
    """List a folder of a snapshot, with everything below it where asked for."""
    if top not in snapshot.folders():
        raise RefusalError(
            404, "EntryNotFound", f"{top} does not exist on this revision", {"X-Repo-Commit": snapshot.sha}
        )
    prefix = f"{top}/" if top else ""
    names = [(name, False) for name in snapshot.files] + [(name, True) for name in snapshot.folders() if name]
    below = [(n, is_folder) for n, is_folder in sorted(names) if n.startswith(prefix) and n != top]
    listed = [(n, is_folder) for n, is_folder in below if recursive or "/" not in n.removeprefix(prefix)]
    return [folder_entry(name) if is_folder else snapshot.entry(name) for name, is_folder in listed]
