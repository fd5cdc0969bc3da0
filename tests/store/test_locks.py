"""Two processes that make the same artifact: one does, the other says so; and no lock outlives its process."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from langprune_cli.errors import LangpruneError
from langprune_cli.store import locks
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe, open_artifact
from langprune_cli.store.building import Destination, Outcome, run_stage
from langprune_cli.store.manifest import read_manifest
from langprune_cli.store.temporary import TEMPORARY, sweep
from langprune_cli.store.verifying import verify
from langprune_cli.store.workspace import Workspace
from tests.support.command import DRAW, did, langprune, one_sentence, tree
from tests.support.paths import REPOSITORY

RECIPE = Recipe("stats", {"model": "1"}, {})

# Makes the artifact in another process, which says when it has begun and goes on when it is told to.
OTHER = """
import fcntl
import os
import sys
from pathlib import Path
from langprune_cli.store.building import Destination, run_stage
from langprune_cli.store.artifact import Recipe
from langprune_cli.store.workspace import Workspace

def begun():
    print("begun", flush=True)
    sys.stdin.readline()

def make(writer):
    with writer.part("part") as temporary, temporary.open("wb") as file:
        file.write(b"x" * 1000)
        if half:
            file.flush()
            begun()
        file.write(b"x" * 1000)
    if not half:
        begun()
    return writer.finish()

def without_locks(*_):
    raise OSError(int(os.environ["WITHOUT_LOCKS"]), "no locks")

root, name, out, half = sys.argv[1:]
if "WITHOUT_LOCKS" in os.environ:
    fcntl.flock = without_locks
to = Destination(Workspace(Path(root)), "uk", name or None, Path(out) if out else None)
print(run_stage(Recipe("stats", {"model": "1"}, {}), to, make).cached)
"""


@contextmanager
def other(root: Path, name: str = "", out: Path | str = "", *, half: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Run OTHER until it has begun; kill it at the end, unless it has ended.

    half: it stops in the middle of a part, not behind it.
    """
    command = [sys.executable, "-c", OTHER, str(root), name, str(out), "half" if half else ""]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        try:
            yield process
        finally:
            process.kill()


def run(root: Path | Workspace, **to: Any) -> Outcome:
    def make(writer: ArtifactWriter) -> Artifact:
        if not writer.has("part"):
            writer.write("part", b"x" * 2000)
        return writer.finish()

    workspace = root if isinstance(root, Workspace) else Workspace(root)
    return run_stage(RECIPE, Destination(workspace, "uk", **to), make)


def locks_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*lock"))


def test_what_another_process_makes_is_left_to_it(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    with other(root) as process:
        assert locks_in(root) == ["stats/.uk.lock"]
        before = tree(root)
        for to in ({}, {"name": "uk"}, {"out": root / "stats/uk"}, {"force": True}):
            owner = re.escape(f"(process {process.pid} on {socket.gethostname()})")
            says = f"^another langprune {owner} is making stats/uk: wait for it, or choose another --name$"
            with pytest.raises(LangpruneError, match=says):
                run(root, **to)
        assert tree(root) == before
        assert not run(root, name="copy").cached
        assert locks_in(root) == ["stats/.uk.lock"]
        assert process.communicate("\n")[0] == "False\n"
    assert tree(root).keys() == {
        f"stats/{name}/{file}" for name in ("uk", "copy") for file in ("manifest.json", "part")
    }
    assert run(root, name="uk").cached


def test_a_folder_of_the_users_is_locked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with other(tmp_path / "one", out=tmp_path / "new/mine") as process:
        assert locks_in(tmp_path) == ["new/.mine.langprune-lock"]
        says = r"^another langprune \(process \d+ on .+\) is making new/mine: wait for it, or choose another --out$"
        with pytest.raises(LangpruneError, match=says):
            run(tmp_path / "two", out=Path("new/mine"))
        assert process.communicate("\n")[0] == "False\n"
    assert locks_in(tmp_path) == []
    (tmp_path / "new/mine/part").unlink()
    with other(tmp_path / "one"):  # by the link
        assert locks_in(tmp_path) == ["new/.mine.langprune-lock"]


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    root = tmp_path / "ws"
    with other(root) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert locks_in(root) == ["stats/.uk.lock"]  # a file that nobody has locked
    assert not run(root).cached
    assert locks_in(root) == []


def test_a_lock_that_outlived_its_finished_artifact_is_removed_by_the_next_look(tmp_path: Path) -> None:
    """A process that is killed when all is done leaves the file; one that another process holds stays."""
    run(tmp_path)
    lock = tmp_path / "stats/.uk.lock"
    lock.write_text("process 1 on a machine\n")
    assert run(tmp_path).cached
    assert not lock.exists()
    with other(tmp_path, name="busy"):
        locks.remove_stale_lock(tmp_path / "stats/busy", "stats", Workspace(tmp_path))
        assert locks_in(tmp_path) == ["stats/.busy.lock"]


def test_the_owner_stands_alone_in_a_lock_that_another_left(tmp_path: Path) -> None:
    lock = tmp_path / "stats/.uk.lock"
    lock.parent.mkdir()
    lock.write_text("process 1 on a machine of a longer name than any other has\n" * 4)
    with other(tmp_path) as process:
        assert lock.read_text() == f"process {process.pid} on {socket.gethostname()}\n"


@pytest.mark.parametrize("error", [LangpruneError, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("out", [False, True])
def test_a_failure_leaves_no_lock(tmp_path: Path, error: type[BaseException], out: bool) -> None:  # noqa: FBT001 - a parameter
    def make(_writer: ArtifactWriter) -> Artifact:
        assert len(locks_in(tmp_path)) == 1
        raise error

    to = Destination(Workspace(tmp_path / "ws"), "uk", out=tmp_path / "mine" if out else None)
    with pytest.raises(error):
        run_stage(RECIPE, to, make)
    assert tree(tmp_path) == {}


def test_what_was_made_while_we_looked_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process ends between our look at the disk and our lock."""
    held = locks.being_made

    @contextmanager
    def late(*place: Any) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr("langprune_cli.store.building.being_made", held)
            assert not run(tmp_path).cached
        with held(*place):
            yield

    monkeypatch.setattr("langprune_cli.store.building.being_made", late)
    assert run(tmp_path).cached


def test_a_lock_on_a_file_that_was_just_removed_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder removes the file after we opened it and before we lock it; a third one may have made a new file."""
    import fcntl  # noqa: PLC0415 - not on Windows

    lock, calls = fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        if how != fcntl.LOCK_UN:
            calls.append(descriptor)
            path = tmp_path / "stats/.uk.lock"
            if len(calls) < 3:
                path.unlink()
            if len(calls) == 2:
                path.touch()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert not run(tmp_path).cached
    assert len(calls) == 3
    assert locks_in(tmp_path) == []


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS], ids=errno.errorcode.get)
def no_locks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Have a file system without locks, as some network file systems are: the error is injected."""

    def flock(*_: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setenv("WITHOUT_LOCKS", str(request.param))  # of other processes


@pytest.mark.usefixtures("no_locks")
def test_without_locks_all_goes_on_and_a_note_says_so(tmp_path: Path) -> None:
    notes: list[str] = []
    here = Workspace(tmp_path, note=notes.append)
    assert not run(here).cached
    assert run(here).cached
    assert locks_in(tmp_path) == []
    assert notes == ["No lock can be had beside stats/uk: let no other process make it at the same time."]


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("force", [False, True])
def test_two_processes_without_locks_leave_what_is_whole(tmp_path: Path, force: bool) -> None:  # noqa: FBT001 - a parameter
    """One of them has written half of a part when the other makes the whole artifact, or makes it anew."""
    with other(tmp_path, half=True) as process:
        made = run(tmp_path, force=force).artifact
        assert process.communicate("\n")[0] == "False\n"
    assert verify("stats/uk", made.folder).damages == []
    assert open_artifact(made.folder, "stats").read("part") == b"x" * 2000
    assert tree(made.folder).keys() == {"manifest.json", "part"}


@pytest.mark.usefixtures("no_locks")
def test_what_another_process_took_away_does_not_become_complete(tmp_path: Path) -> None:
    with other(tmp_path) as process:
        (tmp_path / "stats/uk/part").write_bytes(b"of another process")
        process.communicate("\n")
        assert process.returncode == 1
    assert not read_manifest(tmp_path / "stats/uk").complete
    assert not run(tmp_path).cached
    assert verify("stats/uk", tmp_path / "stats/uk").damages == []


@pytest.mark.usefixtures("no_locks")
def test_without_locks_only_what_ended_processes_left_is_swept(tmp_path: Path) -> None:
    with other(tmp_path, half=True) as process:
        run(tmp_path)
        assert [path.parent.name for path in tmp_path.rglob(f"*{TEMPORARY}")] == ["uk"]
        process.kill()
        process.wait()
        run(tmp_path, force=True)
        assert not list(tmp_path.rglob(f"*{TEMPORARY}"))


def test_what_another_machine_writes_is_left_for_a_day(tmp_path: Path) -> None:
    path = tmp_path / f".x.00000000-1-00000000{TEMPORARY}"
    path.touch()
    sweep(tmp_path)
    assert path.exists()
    os.utime(path, (time.time() - 100_000,) * 2)
    sweep(tmp_path, "y", alone=True)
    assert path.exists()
    sweep(tmp_path)
    assert not path.exists()


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """Let a folder of the test be mounted read-only, which needs root."""
    mounted = []

    def mount(folder: Path) -> None:
        for words in (["--bind", str(folder), str(folder)], ["-o", "remount,ro,bind", str(folder)]):
            if os.geteuid() != 0 or subprocess.run(["mount", *words], capture_output=True, check=False).returncode:
                pytest.skip("mounting a folder read-only needs root")
            mounted[:] = [folder]

    yield mount
    with suppress(IndexError):
        subprocess.run(["umount", str(mounted[0])], check=True)


def test_a_cached_run_needs_no_lock(tmp_path: Path, read_only: Callable[[Path], None]) -> None:
    run(tmp_path / "ws")
    read_only(tmp_path / "ws")
    assert run(tmp_path / "ws").cached
    with pytest.raises(LangpruneError, match="the file system is read-only: choose a --workspace"):
        run(tmp_path / "ws", name="other")


def test_a_folder_that_may_be_written_in_one_that_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is injected, since root may write anywhere: no file can be made beside the folder."""
    real = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("lock"):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(os, "open", refuse)
    assert not run(tmp_path / "ws", out=tmp_path / "mine").cached


def test_a_command_ends_with_one_sentence(workspace: Path, pico_text: Path) -> None:
    words = ["calibrate", "-w", workspace, "--lang", "uk", "--data", pico_text / "uk.jsonl", *DRAW, "--seed", "9"]
    with other(workspace, name="busy"):
        one_sentence(
            langprune(*words, "--name", "busy"), 1, r"another langprune \(.+\) is making stats/busy: wait for it"
        )
        did(*words, "--name", "free")
    did("rm", "-w", workspace, "stats/busy")
    did(*words, "--name", "busy")
    assert locks_in(workspace) == []
