"""Finding models in local folders and in the package, and names that are no model."""

from pathlib import Path

import pytest

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.location import location
from langprune_cli.location.location import ModelLocation, locate_model


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """Make a folder with the names of the smallest model; nobody reads their contents here."""
    folder = tmp_path / "single"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../b.safetensors"}}'])
def test_an_index_that_is_not_one(single: Path, text: str) -> None:
    (single / "model.safetensors.index.json").write_text(text)
    with pytest.raises(LangpruneError, match=r"model\.safetensors\.index\.json (is not|names)"):
        locate_model(str(single))


def test_a_folder_is_itself_whatever_the_hub_holds(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(single.parent)
    monkeypatch.setenv("HOME", str(single.parent))
    monkeypatch.setenv("USERPROFILE", str(single.parent))
    assert locate_model("single") == ModelLocation(Path("single"), "single", None, "folder")
    assert locate_model("~/single") == ModelLocation(single, "~/single", None, "folder")
    with pytest.raises(UsageError, match="has no revisions: leave out --revision v1"):
        locate_model("single", revision="v1")


def test_the_demo_model_lies_in_the_package(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "DEMO_FOLDER", single)
    assert locate_model("demo") == ModelLocation(single, "demo", None, "demo")
    with pytest.raises(UsageError, match="demo is not read from the hub"):
        locate_model("demo", revision="main")
    monkeypatch.setattr(location, "DEMO_FOLDER", single / "none")
    with pytest.raises(LangpruneError, match="install langprune again"):
        locate_model("demo")


def test_what_is_no_model_at_all(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(single.parent)
    for name, said in [
        ("./sinlge", r"there is no folder \./sinlge: did you mean single\?"),
        ("/none/of/these", r"there is no folder /none/of/these, nor /none/of: check the path"),
        ("~/none-of-these", r"there is no folder ~/none-of-these"),
        ("a/b/c", r"there is no folder a/b/c"),
        ("single/model.safetensors", r"is a file: name the folder that holds config\.json"),
        ("https://huggingface.co/owner/name/tree/main", r"name the model by its id on the hub, owner/name"),
        ("two words", r"'two words' is neither a folder nor the id of a model"),
        ("", r"'' is neither a folder nor the id of a model"),
        ("owner/a--b", r"'owner/a--b' is not a valid model id"),
        ("~no-such-user/model", r"there is no folder ~no-such-user/model"),
        ("x" * 5000, "is not a valid model id"),
    ]:
        with pytest.raises(LangpruneError, match=said):
            locate_model(name)


def test_a_clone_without_its_large_files(single: Path) -> None:
    (single / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(LangpruneError, match="Git LFS pointer only: run `git lfs pull`"):
        locate_model(str(single))
