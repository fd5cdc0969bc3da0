"""The index of a workspace saves reading manifests, and changes no answer: whatever it holds, the same artifacts are found."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from langprune_cli.store import index
from langprune_cli.store.temporary import TEMPORARY
from langprune_cli.store.workspace import Workspace
from tests.support import workspace_making
from tests.support.counting import counted
from tests.support.workspace_making import add, recipe

MANY = 40
here = workspace_making.here  # a fixture, under the name by which tests ask for it


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take manifests for settled at once: else none that a test has just written would be kept."""
    monkeypatch.setattr(index, "SETTLED_NS", 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a workspace with 40 masks."""
    root = tmp_path_factory.mktemp("made") / "ws"
    for number in range(MANY):
        add(Workspace(root), f"mask-{number}", number, age=10**9 + number)
    return root


@pytest.fixture
def fresh(here: Workspace, made: Path) -> Workspace:
    """Copy it."""
    shutil.copytree(made, here.root)
    return here


@pytest.fixture
def many(fresh: Workspace, settled: None) -> Workspace:  # noqa: ARG001 - it only has to be in force
    """Copy it, and make an index."""
    here = fresh
    assert here.by_key("masks", recipe(0).key)
    assert index_of(here).is_file()
    return Workspace(here.root)


def index_of(workspace: Workspace) -> Path:
    return workspace.root / ".index-masks"


def entries(workspace: Workspace) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(index_of(workspace).read_bytes().splitlines()[1])["entries"]
    return found


def write(workspace: Workspace, body: str) -> None:
    """Write an index with the digest that belongs to it."""
    index_of(workspace).write_text(f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}\n")


def answers(workspace: Workspace) -> list[str | None]:
    """Return what lookups of every kind find."""
    keys = [recipe(number).key for number in range(MANY + 2)]
    found = [workspace.by_key("masks", key) for key in keys]
    newest = workspace.newest("masks")
    of_5 = list(workspace.newest_first("masks", lambda outline: outline.inputs["model"] == "5"))
    return [each.name if each else None for each in [*found, newest, *of_5]]


EXPECTED = [*(f"mask-{number}" for number in range(MANY)), None, None, f"mask-{MANY - 1}", "mask-5"]


def test_a_lookup_reads_the_manifest_that_it_finds_and_no_other(many: Workspace) -> None:
    with counted(many.root) as counts:
        found = many.by_key("masks", recipe(17).key)
    assert found is not None
    assert found.name == "mask-17"
    assert (counts.manifests, counts.others) == (1, 1)  # the other one is the index
    with counted(many.root) as counts:
        assert many.by_key("masks", "0" * 64) is None
        assert many.names("masks") == sorted(f"mask-{number}" for number in range(MANY))
        many.touch(found)
    assert counts.files == 0


def test_the_newest_is_found_without_an_index(fresh: Workspace) -> None:
    with counted(fresh.root) as counts:
        newest = fresh.newest("masks")
    assert newest is not None
    assert newest.name == f"mask-{MANY - 1}"
    assert counts.files == 1


def test_who_stops_early_reads_no_more(fresh: Workspace) -> None:
    with counted(fresh.root) as counts:
        found = next(fresh.newest_first("masks", lambda outline: int(outline.inputs["model"]) < MANY - 3))
    assert found.name == f"mask-{MANY - 4}"
    assert counts.files == 4


@pytest.mark.usefixtures("settled")
def test_few_artifacts_have_no_index(here: Workspace) -> None:
    for number in range(15):
        add(here, f"mask-{number}", number)
    assert here.by_key("masks", recipe(3).key)
    assert not index_of(here).exists()
    add(here, "one-more", 15)
    assert Workspace(here.root).by_key("masks", recipe(3).key)
    assert len(entries(here)) == 16


def test_a_manifest_that_has_just_changed_is_not_kept(fresh: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It might change again within the same tick of the file system's clock, and look the same."""
    monkeypatch.setattr(index, "SETTLED_NS", 3600 * 10**9)
    assert answers(fresh) == EXPECTED
    assert not index_of(fresh).exists()


def test_a_manifest_that_was_replaced_is_read_again(many: Workspace) -> None:
    """Size and time of modification are those of before: the inode and the time of change are not."""
    path = many.root / "masks/mask-3/manifest.json"
    before = path.stat()
    shutil.rmtree(path.parent)
    add(many, "mask-3", MANY, age=before.st_mtime_ns)  # 40: one digit more
    add(many, "mask-4-again", 4)
    path.write_bytes((many.root / "masks/mask-4-again/manifest.json").read_bytes())
    shutil.rmtree(many.root / "masks/mask-4-again")
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    for workspace in (many, Workspace(many.root)):
        assert workspace.by_key("masks", recipe(3).key) is None
        assert [each.name for each in workspace.all_by_key("masks", recipe(4).key)] == ["mask-3", "mask-4"]


def test_a_manifest_that_was_edited_in_place_is_read_again(many: Workspace) -> None:
    path = many.root / "masks/mask-3/manifest.json"
    before, inode = path.stat(), path.stat().st_ino
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.write(data.replace(b'"complete": true', b'"complete": tRue'))
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert path.stat().st_ino == inode
    assert Workspace(many.root).by_key("masks", recipe(3).key) is None
    path.write_bytes(data)
    assert Workspace(many.root).by_key("masks", recipe(3).key)


def _flip(data: bytes) -> bytes:
    return data.replace(b"mask-7", b"mask-8", 1)


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", lambda data: data[:-100], lambda data: data[:40], _flip, lambda data: data + b"\n", bytes.upper],
    ids=["empty", "cut", "short", "one byte", "longer", "upper case"],
)
def test_a_damaged_index_is_ignored_and_written_anew(many: Workspace, damage: Callable[[bytes], bytes]) -> None:
    whole = index_of(many).read_bytes()
    index_of(many).write_bytes(damage(whole))
    assert answers(Workspace(many.root)) == EXPECTED
    assert index_of(many).read_bytes() == whole


@pytest.mark.parametrize(
    "body",
    [
        "[]", "null", "{", "[" * 100_000, '{"schema": 2, "entries": {}}', '{"schema": 1}', '{"schema": 1, "entries": 3}',
        '{"schema": 1, "entries": {"mask-1": 3}}', '{"schema": 1, "entries": {"mask-1": [[1], {"key": "x"}]}}',
    ],
)  # fmt: skip
def test_a_forged_index_is_ignored(many: Workspace, body: str) -> None:
    write(many, body)
    assert answers(Workspace(many.root)) == EXPECTED


def test_what_the_index_says_is_checked_in_the_manifest(many: Workspace) -> None:
    """Stamps are right and keys are not: nothing is taken for what it is not."""
    wrong = entries(many)
    for number in range(MANY):
        wrong[f"mask-{number}"][1]["key"] = recipe((number + 1) % MANY).key
    write(many, json.dumps({"schema": 1, "entries": wrong}))
    assert [Workspace(many.root).by_key("masks", recipe(number).key) for number in range(MANY)] == [None] * MANY


def test_no_file_in_the_place_of_the_index(many: Workspace) -> None:
    for make in (os.mkfifo, os.mkdir):
        index_of(many).unlink()
        make(index_of(many))
        assert answers(Workspace(many.root)) == EXPECTED
        if make is os.mkdir:
            index_of(many).rmdir()
        index_of(many).touch()


def test_a_copied_workspace(many: Workspace, tmp_path: Path) -> None:
    for copy in (shutil.copy, shutil.copy2):
        place = tmp_path / copy.__name__
        shutil.copytree(many.root, place, copy_function=copy)
        copied = Workspace(place)
        for number in range(MANY):
            os.utime(place / f"masks/mask-{number}/manifest.json", ns=(10**9 + number,) * 2)
        shutil.rmtree(place / "masks/mask-0")
        add(copied, "mask-0", 0, age=10**9)
        assert answers(copied) == EXPECTED


@pytest.mark.usefixtures("settled")
def test_a_workspace_that_cannot_be_written(
    fresh: Workspace, failing: Callable[[Any, str, int], AbstractContextManager[None]]
) -> None:
    for number in (errno.EROFS, errno.ENOSPC, errno.EACCES):
        with failing(os, "replace", number):
            assert answers(Workspace(fresh.root)) == EXPECTED
        assert [path.name for path in fresh.root.iterdir()] == ["masks"]


@pytest.mark.usefixtures("settled")
def test_a_dry_run_writes_no_index(fresh: Workspace) -> None:
    assert answers(Workspace(fresh.root, dry=True)) == EXPECTED
    assert not index_of(fresh).exists()


def test_what_a_killed_process_left_is_swept_up(many: Workspace) -> None:
    left = many.root / f".index-masks{TEMPORARY}"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    index_of(many).unlink()
    assert answers(Workspace(many.root)) == EXPECTED
    assert sorted(path.name for path in many.root.iterdir()) == [".index-masks", "masks"]


def test_two_processes_at_once(many: Workspace) -> None:
    """Each writes what it knows; what the other added is read again."""
    one, other = Workspace(many.root), Workspace(many.root)
    for workspace in (one, other):
        assert workspace.by_key("masks", recipe(0).key)  # both have read the index by now
    for number in range(MANY, MANY + 20):
        add(many, f"mask-{number}", number, age=10**9 + number)
    assert one.by_key("masks", recipe(MANY + 1).key)
    for number in range(MANY + 20, MANY + 40):
        add(many, f"mask-{number}", number, age=10**9 + number)
    assert other.by_key("masks", recipe(MANY + 30).key)
    assert len(entries(many)) == MANY + 40
    assert one.by_key("masks", recipe(MANY + 30).key)
    assert Workspace(many.root).by_key("masks", recipe(MANY + 1).key)


def test_artifacts_that_are_gone_are_forgotten(many: Workspace) -> None:
    for number in range(20):
        many.remove("masks", f"mask-{number}")
    assert many.by_key("masks", recipe(3).key) is None
    assert entries(many).keys() == {f"mask-{number}" for number in range(20, MANY)}


def test_links_are_known_by_what_they_lead_to(many: Workspace, tmp_path: Path) -> None:
    """A link that is moved to another folder is read again."""
    for number in (50, 51):
        add(Workspace(tmp_path / str(number)), "made", number)
    link = many.root / "masks/link"
    for number in (50, 51):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / str(number) / "masks/made")
        found = [many.by_key("masks", recipe(each).key) for each in (50, 51)]
        assert [each is not None for each in found] == [number == 50, number == 51]
