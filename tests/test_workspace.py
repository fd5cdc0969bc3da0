"""A workspace: names, keys, the newest artifact, links to folders of the user's, and the remembered model."""

import os
from pathlib import Path

import pytest

from langprune_cli.errors import LangpruneError, UsageError, near_matches
from langprune_cli.stages.opened import model_artifact
from langprune_cli.stages.run import Destination, Outcome, run_stage
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.workspace import Workspace
from tests.conftest import snapshot, tree

FUTURE = 2 * 10**18  # nanoseconds: the year 2033


@pytest.fixture
def here(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


def recipe(number: int) -> Recipe:
    return Recipe("masks", {"model": str(number)}, {})


def add(here: Workspace, name: str, number: int, *, complete: bool = True, age: int | None = None) -> Artifact:
    """Write an artifact of one part, last changed `age` nanoseconds after 1970."""
    writer = ArtifactWriter(here.folder("masks", name), recipe(number))
    writer.write("part", b"x")
    artifact = writer.finish() if complete else Artifact(writer.folder, writer.manifest)
    if age is not None:
        os.utime(artifact.folder / "manifest.json", ns=(age, age))
    return artifact


def run(here: Workspace, number: int, default: str = "x", **to: object) -> Outcome:
    def make(writer: ArtifactWriter) -> Artifact:
        writer.write("part", b"x")
        return writer.finish()

    return run_stage(recipe(number), Destination(here, default, **to), make)  # type: ignore[arg-type] # keyword options


def test_newest_is_the_last_complete_one(here: Workspace) -> None:
    assert here.newest("masks") is None
    add(here, "old", 1, age=100)
    add(here, "new", 2, age=300)
    add(here, "middle", 3, age=200)
    add(here, "incomplete", 4, complete=False, age=400)
    newest = here.newest("masks")
    assert newest is not None
    assert newest.name == "new"
    assert [entry.name for entry in here.entries("masks")] == ["old", "middle", "new", "incomplete"]


def test_touched_is_newest_though_the_clock_went_backwards(here: Workspace) -> None:
    old = add(here, "old", 1, age=100)
    new = add(here, "new", 2, age=FUTURE)
    for asked in (old, new, old):
        here.touch(asked)
        newest = here.newest("masks")
        assert newest is not None
        assert newest.name == asked.name


def test_entries_leave_out_what_is_no_artifact(here: Workspace) -> None:
    add(here, "good", 1)
    (here.root / "masks/bad").mkdir()
    (here.root / "masks/bad/manifest.json").write_text("{")
    (here.root / "masks/empty").mkdir()
    assert [entry.name for entry in here.entries()] == ["good"]


def test_by_key_finds_complete_ones_only(here: Workspace) -> None:
    add(here, "a", 1)
    add(here, "b", 2, complete=False)
    found = here.by_key("masks", recipe(1).key)
    assert found is not None
    assert found.name == "a"
    assert here.by_key("masks", recipe(2).key) is None
    assert here.by_key("stats", recipe(1).key) is None


def test_free_name(here: Workspace) -> None:
    add(here, "uk", 1)
    first, second = recipe(1).key, recipe(2).key
    assert here.free_name("masks", "uk", first) == "uk"  # its own, to go on with
    assert here.free_name("masks", "uk", second) == f"uk-{second[:8]}"
    assert here.free_name("masks", "en", second) == "en"
    assert here.free_name("masks", "../a b/ї", first) == "a-b-ї"
    assert here.free_name("masks", "///", first) == "text"
    assert here.free_name("masks", "+-.x-.", first) == "x"
    assert len(here.free_name("masks", "x" * 300, first)) == 100


@pytest.mark.parametrize("letter", ["x", "ї", "語", "𐐀", "x語"])
def test_free_names_fit_the_file_system(here: Workspace, letter: str) -> None:
    first, second, third = (recipe(number).key for number in (1, 2, 3))
    name = here.free_name("masks", letter * 300, first)
    assert (letter * 300).startswith(name)  # no character is cut in two
    add(here, name, 1)
    other = here.free_name("masks", letter * 300, second)
    assert other == f"{name}-{second[:8]}"
    add(here, other, 2)
    linked = here.link_name("masks", None, letter * 300, second)
    assert linked == f"{other}-2"
    assert len(linked.encode()) <= 180
    assert run(here, 3, letter * 300).artifact.name == f"{name}-{third[:8]}"


def test_names_too_long_for_the_file_system(here: Workspace) -> None:
    assert not run(here, 1, name="語" * 66).cached
    with pytest.raises(UsageError, match="is too long to name an artifact: 200 bytes are the most"):
        run(here, 1, name="語" * 67)
    with pytest.raises(LangpruneError, match="no masks artifact is called"):
        here.find("masks", "語" * 100)
    with pytest.raises(LangpruneError, match="no masks artifact is called"):
        here.find("masks", "a\0b")


def test_no_new_model_is_called_demo(here: Workspace, tmp_path: Path) -> None:
    """`demo` is the built-in model's name, which an artifact of that name would hide."""
    models = Recipe("models", {}, {})
    for to in (Destination(here, "x", "demo"), Destination(here, "x", "demo", tmp_path / "out")):
        with pytest.raises(UsageError, match="'demo' means the built-in model: choose another --name"):
            run_stage(models, to, ArtifactWriter.finish)
    with pytest.raises(UsageError, match="'demo' means the built-in model"):
        run_stage(models, Destination(here, "x", out=here.root / "models/demo"), ArtifactWriter.finish)
    assert not list(tmp_path.iterdir())
    default = f"demo-{models.key[:8]}"
    assert run_stage(models, Destination(here, "demo"), ArtifactWriter.finish).artifact.name == default
    outcome = run_stage(models, Destination(here, "demo", out=tmp_path / "out"), ArtifactWriter.finish)
    assert outcome.artifact.name == f"{default}-2"
    assert run(here, 1, name="demo").artifact.name == "demo"  # of masks
    ArtifactWriter(here.folder("models", "demo"), Recipe("models", {"made": "before"}, {})).finish()
    assert model_artifact(here, "demo") is None
    here.remove("models", "demo")


@pytest.mark.parametrize("text", ["{", '{"name": "an app"}', "[]"])
def test_a_model_folder_with_a_manifest_of_its_own(here: Workspace, tmp_path: Path, text: str) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/manifest.json").write_text(text)
    assert model_artifact(here, str(tmp_path / "app")) is None
    assert model_artifact(here, "x" * 300) is None
    ArtifactWriter(tmp_path / "mine", Recipe("models", {}, {})).finish()
    found = model_artifact(here, str(tmp_path / "mine"))
    assert found is not None
    assert found.name == "mine"


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", ".hidden", "a b", "-x", "x" * 121, "a\nb", "x\n"])
def test_names_that_are_no_file_names(here: Workspace, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name an artifact"):
        here.folder("masks", name)


def test_find_by_name_and_by_folder(here: Workspace, tmp_path: Path) -> None:
    add(here, "uk-wanda-2x4", 1)
    assert here.find("masks", "uk-wanda-2x4").key == recipe(1).key
    assert Workspace(tmp_path / "other").find("masks", str(here.root / "masks/uk-wanda-2x4")).key == recipe(1).key
    with pytest.raises(LangpruneError, match=r"no masks artifact is called 'uk-wanda': did you mean uk-wanda-2x4\?"):
        here.find("masks", "uk-wanda")
    with pytest.raises(LangpruneError, match="has no stats yet"):
        here.find("stats", "uk")


def test_a_made_artifact_is_cached(here: Workspace) -> None:
    first, second = run(here, 1), run(here, 1)
    assert (first.cached, second.cached) == (False, True)
    assert first.artifact.folder == second.artifact.folder


def test_a_copy_under_another_name_is_cached_too(here: Workspace) -> None:
    run(here, 1)
    assert not run(here, 1, name="copy").cached
    again = run(here, 1, name="copy")
    assert again.cached
    assert again.artifact.name == "copy"


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
