"""What a command costs, counted instead of timed: files that it opens in a workspace, JSON documents, sha256.

    python -m tests.support.counting WORKSPACE COUNTS.json COMMAND...

runs one command of langprune in a process of its own and writes its counts.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch


@dataclass
class Counts:
    """What was done between the beginning and the end of a context."""

    manifests: int = 0  # manifest.json opened
    results: int = 0  # result.json of evaluations opened
    others: int = 0  # other files of the workspace opened, logs and locks aside
    bytes: int = 0  # the sizes of all of these together
    documents: int = 0  # JSON documents parsed, wherever they came from
    hashes: int = 0  # sha256 begun, wherever
    opened: dict[str, None] = field(
        default_factory=dict
    )  # manifests and results in the order in which they were opened first

    @property
    def artifacts(self) -> list[str]:
        """Return kind/name of the artifacts whose manifest was opened."""
        return [path.rpartition("/")[0] for path in self.opened if path.endswith("/manifest.json")]

    @property
    def evaluations(self) -> list[str]:
        """Return the names of the evaluations whose result was opened."""
        return [path.split("/")[-2] for path in self.opened if path.endswith("/result.json")]

    @property
    def files(self) -> int:
        """Return how many files of the workspace were opened."""
        return self.manifests + self.results + self.others


_counting: list[tuple[str, Counts]] = []  # an audit hook cannot be removed: it does nothing while this is empty


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event != "open" or not _counting or not isinstance(args[0], str | os.PathLike):
        return
    root, counts = _counting[-1]
    path = os.path.abspath(args[0])  # noqa: PTH100 - a hook is called for every file, and links must stay as they are
    name = os.path.basename(path)  # noqa: PTH119 - as above
    inside = path.startswith(root + os.sep) and not path.startswith(os.path.join(root, "logs"))  # noqa: PTH118 - as above
    if not inside or name.endswith(("lock", ".langprune-tmp")) or not os.path.isfile(path):  # noqa: PTH113 - as above
        return
    if name == "manifest.json":
        counts.manifests += 1
    elif name == "result.json":
        counts.results += 1
    else:
        counts.others += 1
    counts.opened |= {os.path.relpath(path, root): None} if name in {"manifest.json", "result.json"} else {}
    counts.bytes += os.stat(path).st_size  # noqa: PTH116 - as above


sys.addaudithook(_hook)


@contextmanager
def counted(workspace: Path) -> Iterator[Counts]:
    """Count what is done in a context."""
    counts = Counts()

    def adding(function: Callable[..., Any], field: str) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            setattr(counts, field, getattr(counts, field) + 1)
            return function(*args, **kwargs)

        return wrapper

    _counting.append((os.path.abspath(workspace), counts))  # noqa: PTH100 - as above
    try:
        with (
            patch.object(json, "loads", adding(json.loads, "documents")),
            patch.object(hashlib, "sha256", adding(hashlib.sha256, "hashes")),
            patch.object(hashlib, "file_digest", adding(hashlib.file_digest, "hashes")),
        ):
            yield counts
    finally:
        _counting.pop()


def main() -> int:
    """Run one command and write what it cost."""
    from langprune_cli.__main__ import main as command  # noqa: PLC0415 - hashes nothing that counts

    workspace, out, *words = sys.argv[1:]
    with counted(Path(workspace)) as counts:
        code = command(words)
    Path(out).write_text(json.dumps(asdict(counts)))
    return code


if __name__ == "__main__":
    sys.exit(main())
