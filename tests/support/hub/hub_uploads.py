"""What the loopback hub takes: repositories made, large files stored, commits. The requests that `huggingface_hub` sends."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from tests.support.hub.hub_repositories import LARGE_FILES, RefusalError, Repository, Snapshot, git_oid

TOKEN = "hf_loopback"  # noqa: S105 - the one token that this hub accepts, known to the tests alone
OWNER = "me"  # whose it is
_UPLOAD = re.compile(r"^/api/models/(.+?)/(preupload|commit)/([^/]+)$")
_BATCH = re.compile(r"^/(.+)\.git/info/lfs/objects/batch$")
_OBJECT = re.compile(r"^/lfs/([0-9a-f]{64})$")
_COMMIT_0 = "0" * 40


@dataclass
class Uploads:
    """The large files of all repositories by sha256, and what was asked for."""

    url: str
    repositories: dict[tuple[str, str], Repository]
    objects: dict[str, bytes] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes, authorization: str | None) -> Any:
        """Return the JSON to answer with, None where the request is about something else; raises RefusalError."""
        if method == "PUT" and (
            match := _OBJECT.match(path)
        ):  # as on the real hub, the address itself is the permission
            if hashlib.sha256(body).hexdigest() != match[1]:
                raise RefusalError(400, None, "The content is not what was announced")
            self.objects[match[1]] = body
            return {}
        create, upload, batch = path == "/api/repos/create", _UPLOAD.match(path), _BATCH.match(path)
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if method != "POST" or not (create or upload or batch):
            return None
        if authorization != f"Bearer {TOKEN}":
            raise RefusalError(401, None, "Invalid username or password.")
        if create:
            return self._create(json.loads(body))
        return self._take(batch, upload, body)

    def _take(self, batch: re.Match[str] | None, upload: re.Match[str] | None, body: bytes) -> dict[str, Any]:
        if batch:
            return {"transfer": "basic", "objects": [self._where(each) for each in json.loads(body)["objects"]]}
        assert upload
        repository = self.repositories.get(("models", unquote(upload[1])))
        if repository is None:
            raise RefusalError(404, "RepoNotFound", "Repository not found")
        if upload[2] == "preupload":
            return {"files": [self._mode(repository, each) for each in json.loads(body)["files"]]}
        return self._commit(upload[1], repository, [json.loads(line) for line in body.splitlines()])

    def _create(self, asked: dict[str, Any]) -> dict[str, str]:
        repo_id = f"{asked.get('organization') or OWNER}/{asked['name']}"
        if ("models", repo_id) in self.repositories:
            raise RefusalError(409, None, "You already created this model repo")
        private = asked.get("private", asked.get("visibility") == "private")
        self.repositories["models", repo_id] = Repository({"main": Snapshot(_COMMIT_0, {})}, private=bool(private))
        return {"url": f"{self.url}/{repo_id}", "name": repo_id}

    def _mode(self, repository: Repository, file: dict[str, Any]) -> dict[str, Any]:
        known = repository.revisions["main"].files.get(file["path"])
        large = file["path"].endswith((*LARGE_FILES, ".gguf"))
        oid = None if known is None else hashlib.sha256(known).hexdigest() if large else git_oid(known)
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def _where(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Say where a large file is to be sent; nowhere if it is there."""
        there = asked["oid"] in self.objects
        return asked if there else asked | {"actions": {"upload": {"href": f"{self.url}/lfs/{asked['oid']}"}}}

    def _commit(self, repo_id: str, repository: Repository, lines: list[dict[str, Any]]) -> dict[str, Any]:
        files = dict(repository.revisions["main"].files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    raise RefusalError(400, None, f"{value['path']} points to a file that was not sent")
                files[value["path"]] = self.objects[value["oid"]]
        names = json.dumps({name: git_oid(data) for name, data in sorted(files.items())})
        sha = hashlib.sha1(names.encode()).hexdigest()  # noqa: S324 - git's hash
        repository.revisions["main"] = Snapshot(sha, files)
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.url}/{unquote(repo_id)}/commit/{sha}"}
