"""Writing artifacts: what is kept, replaced and left behind when a run is resumed, forced or fails."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langprune_cli.errors import LangpruneError
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, run_stage
from langprune_cli.store.files import disk_errors, need_space
from langprune_cli.store.manifest import read_manifest
from langprune_cli.store.temporary import TEMPORARY
from langprune_cli.store.workspace import Workspace
from tests.support.artifact_making import RECIPE, Fail, written
from tests.support.command import snapshot, tree


def test_resuming_keeps_good_parts_and_drops_damaged_ones(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    interrupted = ArtifactWriter(folder, RECIPE)
    for name in ("good", "changed", "gone"):
        interrupted.write(name, name.encode())
    (folder / "changed").write_bytes(b"changeD")
    (folder / "gone").unlink()
    (folder / f"next{TEMPORARY}").write_bytes(b"half")
    interrupted.scratch.write_bytes(b"states")
    writer = ArtifactWriter(folder, RECIPE)
    assert [writer.has(name) for name in ("good", "changed", "gone")] == [True, False, False]
    assert {path.name for path in folder.iterdir()} == {"good", "manifest.json", writer.scratch.name}
    writer.finish()
    assert {path.name for path in folder.iterdir()} == {"good", "manifest.json"}


def test_states_of_a_walk_without_parts_are_dropped(tmp_path: Path) -> None:
    ArtifactWriter(tmp_path / "x", RECIPE).scratch.write_bytes(b"states")
    assert not ArtifactWriter(tmp_path / "x", RECIPE).scratch.exists()


def test_force_makes_all_parts_again(tmp_path: Path) -> None:
    written(tmp_path / "x")
    writer = ArtifactWriter(tmp_path / "x", RECIPE, fresh=True)
    assert not writer.has("a.bin")
    assert not (tmp_path / "x/a.bin").exists()


def test_another_artifact_is_replaced_with_force_only(tmp_path: Path) -> None:
    written(tmp_path / "x")
    before = snapshot(tmp_path)
    other = Recipe("masks", {"model": "ac"}, {})
    with pytest.raises(LangpruneError, match=f"holds another artifact .masks, key {RECIPE.key[:8]}.*--force"):
        ArtifactWriter(tmp_path / "x", other)
    assert snapshot(tmp_path) == before
    assert ArtifactWriter(tmp_path / "x", other, fresh=True).finish().key == other.key
    assert set(tree(tmp_path / "x")) == {"manifest.json"}


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_the_users_is_refused(tmp_path: Path, fresh: bool) -> None:  # noqa: FBT001 - a parameter of the test
    (tmp_path / "thesis.txt").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(LangpruneError, match="is not empty and holds no langprune artifact"):
        ArtifactWriter(tmp_path, RECIPE, fresh=fresh)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("fails", [False, True])
def test_files_of_the_users_inside_an_artifact_stay(tmp_path: Path, fails: bool) -> None:  # noqa: FBT001 - as above
    written(tmp_path / "x")
    mine = {"README.md", "notes.tmp", "sub/plan.tmp"}
    for name in mine:
        (tmp_path / "x" / name).write_text("mine")

    def make(writer: ArtifactWriter) -> Artifact:
        if fails:
            raise LangpruneError("no")
        return writer.finish()

    try:
        run_stage(RECIPE, Destination(Workspace(tmp_path / "w"), "x", out=tmp_path / "x", force=True), make)
    except LangpruneError:
        assert fails
    assert set(tree(tmp_path / "x")) - {"manifest.json"} == mine


def test_failing_before_the_first_part_leaves_no_folder(tmp_path: Path) -> None:
    def make(_writer: ArtifactWriter) -> Artifact:
        raise LangpruneError("the text is too short")

    with pytest.raises(LangpruneError, match="too short"):
        run_stage(RECIPE, Destination(Workspace(tmp_path), "x"), make)
    assert not (tmp_path / "masks/x").exists()


def failing_after(*parts: str, error: type[BaseException] = LangpruneError) -> Callable[[ArtifactWriter], Artifact]:
    """Return a stage that fails when it has written those parts."""

    def make(writer: ArtifactWriter) -> Artifact:
        for part in parts:
            writer.write(part, b"x")
        raise error("the numbers are not finite")

    return make


@pytest.mark.parametrize("error", [LangpruneError, ValueError, OSError])
@pytest.mark.parametrize("parts", [["windows.safetensors"], ["windows-0.safetensors", "windows-1.safetensors"]])
def test_failing_with_nothing_but_its_text_leaves_no_folder(
    tmp_path: Path, parts: list[str], error: type[Exception]
) -> None:
    with pytest.raises(error, match="not finite"):
        run_stage(RECIPE, Destination(Workspace(tmp_path), "x"), failing_after(*parts, error=error))
    assert tree(tmp_path) == {}
    assert not (tmp_path / "masks/x").exists()


def test_failing_later_or_by_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    to = Destination(Workspace(tmp_path), "x")
    with pytest.raises(LangpruneError):
        run_stage(RECIPE, to, failing_after("windows.safetensors", "block-000.safetensors"))
    assert {"masks/x/windows.safetensors", "masks/x/block-000.safetensors"} < tree(tmp_path).keys()
    with pytest.raises(KeyboardInterrupt):
        run_stage(
            RECIPE, Destination(to.workspace, "y", "y"), failing_after("windows.safetensors", error=KeyboardInterrupt)
        )
    assert "masks/y/windows.safetensors" in tree(tmp_path)


def test_failing_with_nothing_but_its_text_keeps_files_of_the_users(tmp_path: Path) -> None:
    def make(writer: ArtifactWriter) -> Artifact:
        writer.write("windows.safetensors", b"x")
        (writer.folder / "notes.txt").write_text("mine")
        raise LangpruneError("no")

    with pytest.raises(LangpruneError):
        run_stage(RECIPE, Destination(Workspace(tmp_path), "x"), make)
    assert (tmp_path / "masks/x/notes.txt").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("place", [(os, "fsync"), (Path, "write_bytes"), (Path, "replace")], ids=lambda p: p[1])
def test_a_failing_disk_is_one_sentence(failing: Fail, tmp_path: Path, place: tuple[Any, str], number: int) -> None:
    """The error is injected: the call that a full, read-only or broken disk would fail raises OSError."""
    writer = ArtifactWriter(tmp_path / "x", RECIPE)
    writer.write("a.bin", b"first")
    before = tree(tmp_path)
    with failing(*place, number), pytest.raises(LangpruneError) as refused:
        writer.write("b.bin", b"second")
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'x/b.bin'}: ")
    assert "\n" not in message
    assert "Errno" not in message
    assert {name: tree(tmp_path)[name] for name in before} == before  # with it, the manifest as it was
    assert not list(tmp_path.rglob(f"*{TEMPORARY}"))
    again = ArtifactWriter(tmp_path / "x", RECIPE)
    assert (again.has("a.bin"), again.has("b.bin")) == (True, False)


def test_a_part_that_a_crash_left_unrecorded_does_not_block_the_folder(tmp_path: Path) -> None:
    ArtifactWriter(tmp_path / "x", RECIPE)
    (tmp_path / "x/a.bin").write_bytes(b"renamed, and then the power went")
    ArtifactWriter(tmp_path / "x", RECIPE).discard_if_empty()
    assert written(tmp_path / "x").read("a.bin") == b"first"


def test_folders_that_cannot_be_opened_or_synced_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors are injected: some systems do not open a folder, some file systems do not sync one."""
    really = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return really(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        written(tmp_path / "x")
    sync = os.fsync

    def unsynced(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", unsynced)
    assert written(tmp_path / "y").read("a.bin") == written(tmp_path / "x").read("a.bin")


def test_a_disk_that_fails_at_once_leaves_nothing(failing: Fail, tmp_path: Path) -> None:
    """The error is injected, as above: not even the first manifest can be written."""
    with failing(os, "fsync", errno.ENOSPC), pytest.raises(LangpruneError, match="the disk is full"):
        run_stage(RECIPE, Destination(Workspace(tmp_path), "x"), lambda writer: writer.finish())
    assert not (tmp_path / "masks/x").exists()


def test_what_to_do_about_a_file_that_may_not_be_read(failing: Fail, tmp_path: Path) -> None:
    """The error is injected, as above."""
    artifact = written(tmp_path / "x")
    with failing(Path, "read_bytes", errno.EACCES), pytest.raises(LangpruneError) as refused:
        artifact.read("a.bin")
    assert str(refused.value) == f"{tmp_path / 'x/a.bin'}: permission is denied: make it readable"
    with failing(Path, "read_bytes", errno.EPERM), pytest.raises(LangpruneError, match=r"json: .*: make it readable"):
        read_manifest(tmp_path / "x")
    for reading, says in ((True, "make it readable"), (False, "choose a --workspace or --out that you may write")):
        with (
            pytest.raises(LangpruneError, match=f"x: permission is denied: {says}"),
            disk_errors(Path("x"), reading=reading),
        ):
            raise PermissionError(errno.EACCES, "no")


def test_need_space_asks_the_nearest_folder_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def usage(place: Path) -> Any:
        asked.append(Path(place))
        return type("Usage", (), {"free": 1000})

    monkeypatch.setattr("shutil.disk_usage", usage)
    need_space(tmp_path / "not/yet", 1000)
    with pytest.raises(LangpruneError, match=r"0\.0 MB will be written and the disk has 0\.0 MB free"):
        need_space(tmp_path / "not/yet", 1001)
    assert asked == [tmp_path, tmp_path]


def test_a_run_that_was_killed_while_it_wrote_its_first_manifest_does_not_block_the_folder(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / f"x/manifest.json{TEMPORARY}").write_bytes(b'{"abo')
    written(tmp_path / "x")
    assert set(tree(tmp_path / "x")) == {"a.bin", "sub/b.bin", "manifest.json"}
