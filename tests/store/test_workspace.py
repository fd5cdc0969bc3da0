"""A workspace: names, keys, the newest artifact, and what is found again instead of made."""

from pathlib import Path

import pytest

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.store.artifact import ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, run_stage
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.model_choice import model_artifact
from tests.support import workspace_making
from tests.support.workspace_making import FUTURE, add, recipe, run

here = workspace_making.here  # a fixture, under the name by which tests ask for it


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
