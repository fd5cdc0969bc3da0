"""Artifacts on disk: keys, manifests, hashes of parts, and what a writer keeps, removes and refuses."""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from langprune_cli.errors import LangpruneError
from langprune_cli.stages.run import Destination, run_stage
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe, is_artifact, open_artifact, read_manifest
from langprune_cli.store.files import TEMPORARY, canonical_json, disk_errors, need_space
from langprune_cli.store.workspace import Workspace
from tests.conftest import snapshot, tree

RECIPE = Recipe("masks", {"model": "ab", "stats": None}, {"sparsity": 0.5, "exclude": "мова"}, {"note": "for people"})
Fail = Callable[[Any, str, int], AbstractContextManager[None]]


def written(folder: Path, recipe: Recipe = RECIPE) -> Artifact:
    writer = ArtifactWriter(folder, recipe)
    writer.write("a.bin", b"first")
    writer.write("sub/b.bin", b"second")
    return writer.finish(removed=3)


def test_key_is_sha256_of_canonical_json() -> None:
    text = (
        r'{"inputs":{"model":"ab","stats":null},"kind":"masks",'
        r'"params":{"exclude":"\u043c\u043e\u0432\u0430","sparsity":0.5},"schema":1}'
    )
    assert RECIPE.key == hashlib.sha256(text.encode()).hexdigest()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5), st.randoms())
def test_key_does_not_depend_on_insertion_order(record: dict[str, Any], draw: Any) -> None:
    items = list(record.items())
    draw.shuffle(items)
    assert Recipe("stats", record, record).key == Recipe("stats", dict(items), dict(items)).key
    assert json.loads(canonical_json(record)) == record


@pytest.mark.parametrize(
    "other",
    [
        Recipe("scores", RECIPE.inputs, RECIPE.params),
        Recipe("masks", RECIPE.inputs | {"model": "ac"}, RECIPE.params),
        Recipe("masks", RECIPE.inputs, RECIPE.params | {"sparsity": 0.25}),
        Recipe("masks", RECIPE.params, RECIPE.inputs),
    ],
)
def test_key_tells_recipes_apart(other: Recipe) -> None:
    assert other.key != RECIPE.key


def test_key_leaves_out_what_is_for_people() -> None:
    same = Recipe("masks", RECIPE.inputs, RECIPE.params, {"note": "another"}, {"torch": "9"})
    assert same.key == RECIPE.key


def test_manifest_on_disk(tmp_path: Path) -> None:
    artifact = written(tmp_path / "x")
    record = json.loads((tmp_path / "x/manifest.json").read_bytes())
    assert record == {
        "schema": 1,
        "kind": "masks",
        "tool": record["tool"],
        "key": RECIPE.key,
        "inputs": RECIPE.inputs,
        "params": RECIPE.params,
        "about": {"note": "for people", "removed": 3},
        "environment": {},
        "parts": {
            "a.bin": {"sha256": hashlib.sha256(b"first").hexdigest(), "size": 5},
            "sub/b.bin": {"sha256": hashlib.sha256(b"second").hexdigest(), "size": 6},
        },
        "complete": True,
    }
    assert artifact.size() == 11
    assert open_artifact(tmp_path / "x", "masks").read("sub/b.bin") == b"second"


def test_manifest_depends_neither_on_time_nor_place_nor_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "x")
    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    monkeypatch.setattr("time.time", lambda: 1e9)
    backwards = Recipe(
        "masks", dict(reversed(RECIPE.inputs.items())), dict(reversed(RECIPE.params.items())), RECIPE.about
    )
    writer = ArtifactWriter(tmp_path / "y", backwards)
    writer.write("sub/b.bin", b"second")
    writer.write("a.bin", b"first")
    writer.finish(removed=3)
    assert tree(tmp_path / "x") == tree(tmp_path / "y")


def test_tensors_and_their_record_come_back(tmp_path: Path) -> None:
    writer = ArtifactWriter(tmp_path / "x", RECIPE)
    tensor = torch.arange(6.0).reshape(2, 3)
    writer.write_tensors("t.safetensors", {"w": tensor.t()}, {"sites": {"q": ["q", "k"]}})
    tensors, record = writer.finish().tensors_and_record("t.safetensors")
    assert torch.equal(tensors["w"], tensor.t())
    assert record == {"sites": {"q": ["q", "k"]}}


@pytest.mark.parametrize("change", ["flip", "cut", "grow"])
def test_every_changed_byte_of_a_part_is_refused(tmp_path: Path, change: str) -> None:
    writer = ArtifactWriter(tmp_path / "x", RECIPE)
    writer.write_tensors("t.safetensors", {"w": torch.arange(4, dtype=torch.uint8)})
    artifact, path = writer.finish(), tmp_path / "x/t.safetensors"
    whole = path.read_bytes()
    for place in range(len(whole)):
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        path.write_bytes({"flip": flipped, "cut": whole[:place], "grow": whole + bytes(place + 1)}[change])
        with pytest.raises(LangpruneError) as refused:
            artifact.tensors("t.safetensors")
        assert str(refused.value).startswith(f"{path} is damaged (")
        assert "\n" not in str(refused.value)


def test_missing_and_unknown_parts_are_refused(tmp_path: Path) -> None:
    artifact = written(tmp_path / "x")
    (tmp_path / "x/a.bin").unlink()
    with pytest.raises(LangpruneError, match=r"a\.bin is missing .*: run langprune mask again with --force"):
        artifact.read("a.bin")
    with pytest.raises(LangpruneError, match=r"has no part c\.bin: run langprune mask again with --force"):
        artifact.read("c.bin")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 2}, "has schema 2, this langprune .* reads schema 1"),
        ({"schema": "1"}, "has schema 1"),
        ({"kind": "stats"}, "holds stats, and masks are needed here"),
        ({"complete": False}, "is not complete: run the command that makes it again"),
        ({"surprise": 1}, "is not a langprune manifest"),
        ({"parts": None}, "is not a langprune manifest"),
        ({"parts": {"../../x": {"sha256": "", "size": 0}}}, "is not a langprune manifest"),
        ({"parts": {"/etc/passwd": {"sha256": "", "size": 0}}}, "is not a langprune manifest"),
    ],
)
def test_manifests_that_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    written(tmp_path / "x")
    path = tmp_path / "x/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises(LangpruneError, match=says):
        open_artifact(tmp_path / "x", "masks")


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "null", "{}", '{"schema": 1}', "\udcff"])
def test_manifests_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(LangpruneError, match="is not a langprune manifest"):
        read_manifest(tmp_path)


def test_whose_folder_it_is_not_is_not_advised_to_be_removed(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "another program\'s"}')
    with pytest.raises(LangpruneError) as refused:
        read_manifest(tmp_path)
    assert "remove" not in str(refused.value)
    assert "--force" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (None, False),
        ("", False),
        ("{", False),
        ("[]", False),
        ('["schema", "kind", "key"]', False),
        ('{"name": "an app", "icons": []}', False),
        ('{"schema": 1, "kind": "models"}', False),
        ("[" * 100_000, False),
        ("\udcff", False),
        ('{"schema": 7, "kind": "models", "key": ""}', True),  # of another version, and refused where it is read
    ],
)
def test_what_is_an_artifact(tmp_path: Path, text: str | None, is_one: bool) -> None:  # noqa: FBT001 - a parameter of the test
    if text is not None:
        (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert is_artifact(tmp_path) is is_one
    assert not is_artifact(tmp_path / ("x" * 300))
    assert not is_artifact(Path("a\0b"))


def test_a_folder_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(LangpruneError, match=r"is no langprune artifact: it has no manifest\.json"):
        open_artifact(tmp_path, "masks")


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
