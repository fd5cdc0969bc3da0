"""A model and dataset hub on 127.0.0.1: the requests and error headers of the real one, served from memory.

`huggingface_hub` and `datasets` talk to it over real sockets once HF_ENDPOINT names it, so nothing of them
needs to be replaced in a test. Repositories are copied from folders when they are added; the commit sha of a
revision is the sha1 of its contents. Faults are asked for with `fail` (a status for a path), `cut` (a connection that
ends in the middle of a file), `stall` (one that stays open and sends no more) and `trickle` (a byte now and then). Every
request is kept in `requests` as "METHOD /path", and `sent` counts the bytes of the bodies that were sent.
"""

import json
import re
import socket
import struct
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.hub.hub_repositories import RefusalError, Repository, Snapshot, folder_entry, tree
from tests.support.hub.hub_uploads import TOKEN, Uploads

REPO = r"((?:[^/]+/)?[^/]+)"
API = re.compile(rf"^/api/(models|datasets)/{REPO}(?:/(revision|tree|paths-info|refs)(?:/([^/]+)(?:/(.+))?)?)?$")
RESOLVE = re.compile(rf"^/(datasets/)?{REPO}/resolve/([^/]+)/(.+)$")
OPEN_IN_GATED = ("README.md", ".gitattributes")  # readable before access to a gated repository is granted


@dataclass
class Fault:
    """An answer to give, or bytes after which to cut, for paths that hold `part`, `times` times."""

    part: str
    times: int
    refusal: RefusalError | None = None
    after_bytes: int = 0
    reset: bool = False
    stall: bool = False
    trickle: bool = False


class LoopbackHub:
    """The hub: add repositories, name `url` as HF_ENDPOINT, look at `requests` afterwards."""

    def __init__(self, port: int = 0) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.sent = 0
        self.ending = threading.Event()  # set when the hub stops: what is stalled ends then
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.hub = self
        self.uploads = Uploads(self.url, self.repositories)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._stopped = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address to set as HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        """Shut the hub down: from here on connections to it are refused."""
        if not self._stopped:
            self._stopped = True
            self.ending.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def add_model(self, repo_id: str, folder: Path, revision: str = "main") -> str:
        """Serve a copy of a folder as one revision of a model and return its commit sha."""
        return self._add("models", repo_id, folder, revision)

    def add_dataset(self, repo_id: str, folder: Path, revision: str = "main") -> str:
        """Serve a copy of a folder as one revision of a dataset and return its commit sha."""
        return self._add("datasets", repo_id, folder, revision)

    def restrict(self, repo_id: str, *, private: bool = False, gated: bool = False) -> None:
        """Hide repositories of a name from those without the token, or gate their files even with it."""
        for kind in ("models", "datasets"):
            if repository := self.repositories.get((kind, repo_id)):
                repository.private, repository.gated = private, gated

    def fail(
        self,
        part: str,
        status: int,
        *,
        code: str | None = None,
        times: int = 1_000,
        retry_after: int | None = None,
    ) -> None:
        """Answer requests whose path holds `part` with an error status, `times` times."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.faults.append(Fault(part, times, RefusalError(status, code, f"asked for by the test: {status}", headers)))

    def cut(self, part: str, *, after_bytes: int, times: int = 1, reset: bool = False) -> None:
        """Hang up on GET requests whose path holds `part` after some bytes of the body, `times` times."""
        self.faults.append(Fault(part, times, after_bytes=after_bytes, reset=reset))

    def stall(self, part: str, *, after_bytes: int, times: int = 1) -> None:
        """Send nothing more to GET requests whose path holds `part` after some bytes of the body, `times` times."""
        self.faults.append(Fault(part, times, after_bytes=after_bytes, stall=True))

    def trickle(self, part: str, *, after_bytes: int, times: int = 1) -> None:
        """Send a byte now and then to GET requests whose path holds `part` after some bytes of the body, `times` times."""
        self.faults.append(Fault(part, times, after_bytes=after_bytes, trickle=True))

    def count_sent(self, size: int) -> None:
        """Add to the bytes of bodies that were sent."""
        with self._lock:
            self.sent += size

    def fetched(self) -> list[str]:
        """Return the paths in their repositories of the files that were asked for with GET, in order."""
        paths = [line.removeprefix("GET ") for line in self.requests if line.startswith("GET ")]
        return [match[4] for path in paths if (match := RESOLVE.match(path))]

    def _add(self, kind: str, repo_id: str, folder: Path, revision: str) -> str:
        repository = self.repositories.setdefault((kind, repo_id), Repository())
        repository.revisions[revision] = Snapshot.of_folder(repo_id, folder)
        return repository.revisions[revision].sha

    def take_fault(self, path: str, *, cut: bool) -> Fault | None:
        """Return the next fault for a path, counting it down."""
        with self._lock:
            for fault in self.faults:
                if fault.times and fault.part in path and cut == (fault.refusal is None):
                    fault.times -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    hub: LoopbackHub
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that hangs up in the middle of an answer is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep the tests' stderr to what the product writes."""

    def do_GET(self) -> None:
        self._respond()

    def do_HEAD(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def do_PUT(self) -> None:
        self._respond()

    def _respond(self) -> None:
        hub, split = self.server.hub, urlsplit(self.path)
        hub.requests.append(f"{self.command} {split.path}")
        body = self._body()
        try:
            if (fault := hub.take_fault(split.path, cut=False)) and fault.refusal:
                raise fault.refusal
            sent = hub.uploads.answer(self.command, split.path, body, self.headers.get("Authorization"))
            if sent is not None:
                self._send_json(sent)
            elif match := API.match(split.path):
                self._send_json(self._api(*match.groups(), query=parse_qs(split.query), form=parse_qs(body.decode())))
            elif match := RESOLVE.match(split.path):
                self._send_file(*match.groups())
            else:
                raise RefusalError(404, None, "Sorry, we can't find the page you are looking for.")
        except RefusalError as refusal:
            self._send(refusal.status, refusal.headers, json.dumps({"error": str(refusal)}).encode())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _repository(self, kind: str, repo_id: str) -> Repository:
        """Find a repository; as on the real hub, one that may not be seen looks like a missing one."""
        authorization = self.headers.get("Authorization")
        if authorization not in {None, f"Bearer {TOKEN}"}:
            raise RefusalError(401, None, "Invalid credentials in Authorization header")
        repository = self.server.hub.repositories.get((kind, unquote(repo_id)))
        if repository is None or (repository.private and authorization is None):
            if authorization is None:
                raise RefusalError(401, "RepoNotFound", "Invalid username or password.")
            raise RefusalError(404, "RepoNotFound", "Repository not found")
        return repository

    def _snapshot(self, repository: Repository, revision: str | None) -> Snapshot:
        name = unquote(revision or "main")
        by_sha = {snapshot.sha: snapshot for snapshot in repository.revisions.values()}
        if snapshot := repository.revisions.get(name) or by_sha.get(name):
            return snapshot
        raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {name}")

    def _api(
        self, kind: str, repo_id: str, operation: str | None, revision: str | None, path: str | None, *,
        query: dict[str, list[str]], form: dict[str, list[str]],
    ) -> Any:  # fmt: skip
        repository = self._repository(kind, repo_id)
        if operation == "refs":
            branches = [
                {"name": n, "ref": f"refs/heads/{n}", "targetCommit": s.sha} for n, s in repository.revisions.items()
            ]
            return {"branches": branches, "tags": [], "converts": []}
        snapshot = self._snapshot(repository, revision)
        if operation == "tree":
            return tree(
                snapshot,
                unquote(path or ""),
                recursive=query.get("recursive", ["false"])[0].lower() == "true",
            )
        if operation == "paths-info":
            wanted = form.get("paths", [])
            files = [snapshot.entry(name) for name in wanted if name in snapshot.files]
            return files + [folder_entry(name) for name in wanted if name and name in snapshot.folders()]
        return {
            "id": unquote(repo_id), "sha": snapshot.sha, "private": repository.private, "tags": [],
            "gated": "manual" if repository.gated else False,
            "siblings": [{"rfilename": name} for name in snapshot.files],
        }  # fmt: skip

    def _send_file(self, dataset: str | None, repo_id: str, revision: str, path: str) -> None:
        repository, path = self._repository("datasets" if dataset else "models", repo_id), unquote(path)
        if repository.gated and path not in OPEN_IN_GATED:
            known = self.headers.get("Authorization") is not None
            raise RefusalError(403 if known else 401, "GatedRepo", f"Access to {repo_id} is restricted.")
        snapshot = self._snapshot(repository, revision)
        commit = {"X-Repo-Commit": snapshot.sha}
        if path not in snapshot.files:
            raise RefusalError(404, "EntryNotFound", "Entry not found", commit)
        content, entry = snapshot.files[path], snapshot.entry(path)
        headers = {**commit, "ETag": f'"{entry["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            headers |= {"X-Linked-Etag": f'"{entry["lfs"]["oid"]}"', "X-Linked-Size": str(entry["size"])}
        status, part = 200, content
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            status, part = 206, content[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            if first >= len(content):
                raise RefusalError(416, None, "Range not satisfiable", {"Content-Range": f"bytes */{len(content)}"})
        self._send(status, headers, part)

    def _send_json(self, answer: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.command == "GET" and status < 300 and (fault := self.server.hub.take_fault(self.path, cut=True)):
            self.wfile.write(body[: fault.after_bytes])
            self.wfile.flush()
            if fault.stall:
                self.server.hub.ending.wait()
            for byte in body[fault.after_bytes :] if fault.trickle else b"":
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.server.hub.ending.wait(0.02):
                    break
            if fault.reset:  # a linger of 0 seconds makes the system send RST instead of FIN
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                socket.close(self.connection.detach())
            else:
                self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        step = 2**16  # written in steps, so that what a client has hung up on is not counted
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            self.server.hub.count_sent(len(body[start : start + step]))
