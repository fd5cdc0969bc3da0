"""Where artifacts lie: repaired in place, in folders of the user's, removed; and the model that is remembered."""

import os
from pathlib import Path

import pytest

from langprune_cli.errors import LangpruneError, UsageError, near_matches
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.store.building import Destination, Outcome, run_stage
from langprune_cli.store.workspace import Workspace
from tests.support import workspace_making
from tests.support.command import snapshot, tree
from tests.support.workspace_making import add, recipe, run

here = workspace_making.here  # a fixture, under the name by which tests ask for it


PARTS = {"a": b"first", "sub/b": b"second", "c": b"third"}


def make_parts(here: Workspace, wrote: list[str], **to: object) -> Outcome:
    """Run a stage of three parts that makes those which are not there."""

    def make(writer: ArtifactWriter) -> Artifact:
        for part, data in PARTS.items():
            if not writer.has(part):
                writer.write(part, data)
                wrote.append(part)
        return writer.finish()

    return run_stage(recipe(1), Destination(here, "x", **to), make)  # type: ignore[arg-type] # keyword options


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", ["missing", "cut", "grown", "folder"])
@pytest.mark.parametrize("place", ["default", "name", "out"])
def test_a_damaged_part_and_no_other_is_made_again(
    here: Workspace, tmp_path: Path, part: str, damage: str, place: str
) -> None:
    to: dict[str, object] = {"default": {}, "name": {"name": "mine"}, "out": {"out": tmp_path / "out", "name": "pm"}}[
        place
    ]
    made = make_parts(here, [], **to).artifact
    before, path = tree(here.root), made.folder / part
    if damage in {"missing", "folder"}:
        path.unlink()
    if damage == "folder":
        path.mkdir()
        with pytest.raises(LangpruneError):
            make_parts(here, [], **to)
        path.rmdir()
    if damage in {"cut", "grown"}:
        path.write_bytes(PARTS[part][:-1] if damage == "cut" else PARTS[part] + b"x")
    wrote: list[str] = []
    again = make_parts(here, wrote)  # whatever it is called
    assert (again.cached, again.artifact.folder, wrote) == (False, made.folder, [part])
    assert tree(here.root) == before
    assert make_parts(here, [], **to).cached


def test_a_damaged_copy_is_left_alone_where_another_is_whole(here: Workspace) -> None:
    damaged, whole = (make_parts(here, [], name=name).artifact for name in ("one", "two"))
    (damaged.folder / "a").unlink()
    again = make_parts(here, [])
    assert (again.cached, again.artifact.name) == (True, whole.name)
    assert not (damaged.folder / "a").exists()


def test_a_taken_name_gets_the_key(here: Workspace) -> None:
    run(here, 1)
    assert run(here, 2).artifact.name == f"x-{recipe(2).key[:8]}"


def test_out_is_a_folder_of_the_users_with_a_link_to_it(here: Workspace, tmp_path: Path) -> None:
    outcome = run(here, 1, out=tmp_path / "mine")
    link = here.root / "masks/x"
    assert link.is_symlink()
    assert link.resolve() == tmp_path / "mine"
    assert outcome.artifact.folder == link
    assert run(here, 1, out=tmp_path / "mine").cached
    assert run(here, 1).cached
    here.remove("masks", "x")
    assert not link.is_symlink()
    assert (tmp_path / "mine/part").read_bytes() == b"x"


def test_out_after_the_same_was_made_in_the_workspace(here: Workspace, tmp_path: Path) -> None:
    """One key under two folders: the workspace keeps its own and knows the user's under another name."""
    own = run(here, 1).artifact.folder
    outcome = run(here, 1, out=tmp_path / "mine")
    assert (tmp_path / "mine/part").read_bytes() == b"x"
    assert not own.is_symlink()
    assert outcome.artifact.folder != own
    assert outcome.artifact.folder.resolve() == tmp_path / "mine"
    assert run(here, 1, out=tmp_path / "mine").cached


def test_out_with_a_name_that_a_folder_has_is_refused_before_any_work(here: Workspace, tmp_path: Path) -> None:
    run(here, 1)
    before = snapshot(here.root)
    with pytest.raises(LangpruneError, match="choose another --name"):
        run(here, 2, name="x", out=tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    assert snapshot(here.root) == before


def test_a_link_whose_folder_was_deleted_is_no_obstacle(here: Workspace, tmp_path: Path) -> None:
    run(here, 1, out=tmp_path / "mine")
    (tmp_path / "mine").rename(tmp_path / "elsewhere")
    assert here.entries() == []
    made = run(here, 1).artifact.folder
    assert not made.is_symlink()
    assert (made / "part").read_bytes() == b"x"


def test_a_link_moves_to_the_folder_named_last_and_deletes_nothing(here: Workspace, tmp_path: Path) -> None:
    run(here, 1, out=tmp_path / "one")
    run(here, 1, out=tmp_path / "two")
    assert (here.root / "masks/x").resolve() == tmp_path / "two"
    assert (tmp_path / "one/part").exists()


def test_a_link_to_another_artifact_moves_with_force_only(here: Workspace, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run(here, 1, name="pm", out=one)
    before = tree(tmp_path)
    with pytest.raises(
        UsageError, match=f"'pm' is the artifact in {one}: choose another --name, or move it with --force"
    ):
        run(here, 2, name="pm", out=two)
    assert tree(tmp_path) == before
    assert run(here, 2, name="pm", out=two, force=True).artifact.folder.resolve() == two
    assert (one / "part").exists()
    (two / "manifest.json").unlink()
    assert run(here, 1, name="pm", out=one).artifact.name == "pm"  # what it led to is no artifact any more


def test_a_link_of_that_number_is_another_artifact(here: Workspace, tmp_path: Path) -> None:
    run(here, 1)
    run(here, 2, name="x-2", out=tmp_path / "two")
    assert run(here, 1, out=tmp_path / "one").artifact.name == "x-3"
    assert here.find("masks", "x-2").key == recipe(2).key


def test_out_in_the_workspace_itself_is_a_name(here: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here.root.parent)
    inside = here.root / "masks/foo"
    with pytest.raises(UsageError, match="is in the workspace, under the name 'foo': leave out --name bar"):
        run(here, 1, name="bar", out=inside)
    assert not here.root.exists()
    for to in ({"out": inside, "name": "foo"}, {"out": Path("ws/masks/foo")}, {"name": "foo"}):
        outcome = run(here, 1, **to)
        assert outcome.artifact.folder == inside
        assert outcome.cached is ("name" not in to or "out" not in to)
    assert not inside.is_symlink()
    assert [entry.name for entry in here.entries()] == ["foo"]
    placed = here.place(outcome.artifact, "foo")
    assert placed.folder == inside
    assert not inside.is_symlink()
    with pytest.raises(LangpruneError, match="holds another artifact"):
        run(here, 2, out=inside)
    with pytest.raises(UsageError, match="cannot name an artifact"):
        run(here, 2, out=here.root / "masks/.hidden")


def test_remove_deletes_an_artifact_and_refuses_an_unknown_one(here: Workspace) -> None:
    add(here, "uk", 1)
    with pytest.raises(LangpruneError, match=r"no masks artifact is called 'uq': did you mean uk\?"):
        here.remove("masks", "uq")
    here.remove("masks", "uk")
    assert list((here.root / "masks").iterdir()) == []
    with pytest.raises(LangpruneError, match=r"no masks artifact is called 'uk': the workspace .* has no masks yet$"):
        here.remove("masks", "uk")


def test_a_deletion_that_was_killed_leaves_its_place_free(here: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kill is injected when one of the artifact's files is gone."""
    made = run(here, 1).artifact.folder
    unlink = os.unlink

    def killed(path: str, **more: int) -> None:
        unlink(path, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        here.remove("masks", "x")
    monkeypatch.setattr(os, "unlink", unlink)
    assert not made.exists()
    assert here.entries() == []
    left = list(made.parent.iterdir())
    assert [path.name.startswith(".x.") for path in left] == [True]
    assert run(here, 2).artifact.folder == made
    assert not left[0].exists()


def test_near_matches_of_nothing() -> None:
    assert near_matches("x", []) == "there are none"


def test_the_model_is_remembered(here: Workspace) -> None:
    assert here.model() is None
    here.remember_model("owner/name", "0123abcd")
    assert Workspace(here.root).model() == {"name": "owner/name", "revision": "0123abcd"}
    here.remember_model("/models/mine", None)
    assert here.model() == {"name": "/models/mine", "revision": None}


def test_remembering_the_same_model_writes_nothing(here: Workspace) -> None:
    here.remember_model("owner/name", None)
    os.utime(here.root / "workspace.json", ns=(1, 1))
    here.remember_model("owner/name", None)
    assert (here.root / "workspace.json").stat().st_mtime_ns == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": null}', '{"model": {"name": "x"}}', '{"model": "x"}'])
def test_a_damaged_record_of_the_model(here: Workspace, text: str) -> None:
    here.root.mkdir()
    (here.root / "workspace.json").write_text(text)
    with pytest.raises(LangpruneError, match=r"workspace\.json is damaged: remove it and name the model again"):
        here.model()
