"""Links that lead out of a model's folder, and pipes and sockets where files belong, are refused by name."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from langprune_cli.errors import LangpruneError
from langprune_cli.models.model_files import check_files
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.plain import plain_file
from tests.support.command import DRAW, did, langprune, one_sentence


@pytest.fixture
def model(pico_model: Path, tmp_path: Path) -> Path:
    shutil.copytree(pico_model, tmp_path / "mine")
    (tmp_path / "key").write_text("PRIVATE KEY")
    return tmp_path / "mine"


@pytest.mark.parametrize("name", ["merges.txt", "README.md", "chat_template.jinja", "custom.py", "config.json"])
def test_a_link_out_of_the_model_is_refused(model: Path, pico_text: Path, tmp_path: Path, name: str) -> None:
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(tmp_path / "key")
    done = langprune("calibrate", "--model", model, "--data", pico_text / "uk.jsonl", *DRAW)
    one_sentence(done, 1, f"{name} leads out of its folder, to .*key: if that file belongs there, copy it")
    assert not Path("langprune-workspace/stats").exists()


def test_a_link_that_comes_later_is_not_copied(
    workspace: Path, tmp_path: Path, opened: Callable[..., Artifact]
) -> None:
    model = opened("models", "uk-wanda-2x4")
    part = model.folder / "tokenizer.json"
    shutil.move(part, tmp_path / "same.json")
    part.symlink_to(tmp_path / "same.json")  # with the very same bytes
    one_sentence(langprune("export", "-w", workspace, "--out", "out"), 1, "tokenizer.json leads out of its folder")
    assert not Path("out").exists()
    assert "tokenizer.json leads out of its folder" in langprune("verify", "-w", workspace, "models/uk-wanda-2x4").out


def test_the_cache_of_the_hub_links_to_its_own_files(model: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub/models--me--mine/snapshots/0123"
    blobs = tmp_path / "hub/models--me--mine/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(model.iterdir())):
        blob = blobs / f"{number:040x}"
        shutil.move(path, blob)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
        (model / path.name).symlink_to(blob)
    (tmp_path / "linked").symlink_to(snapshot)
    for folder in (snapshot, tmp_path / "linked", model):
        check_files(folder)
    other = tmp_path / f"hub/models--me--other/blobs/{0:040x}"
    other.parent.mkdir(parents=True)
    other.touch()
    (snapshot / "merges.txt").symlink_to(other)
    with pytest.raises(LangpruneError, match=r"merges\.txt leads out of its folder"):
        check_files(snapshot)
    (model / "merges.txt").symlink_to(tmp_path / "hub/models--me--mine/refs")
    (tmp_path / "hub/models--me--mine/refs").touch()
    with pytest.raises(LangpruneError, match=r"merges\.txt leads out of its folder"):
        check_files(model)


def test_names_that_climb_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "key").touch()
    with pytest.raises(LangpruneError, match="leads out"):
        plain_file(tmp_path / "in/../key", within=tmp_path / "in")


def test_pipes_and_sockets_are_no_files(model: Path, workspace: Path, tmp_path: Path) -> None:
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")
    one_sentence(langprune("plan", "--model", model), 1, "config.json is a named pipe, not a file")
    (model / "config.json").unlink()
    os.chdir(model)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("config.json")
        os.chdir(tmp_path)
        one_sentence(langprune("plan", "--model", model), 1, "config.json is a socket, not a file")
    os.mkfifo("text.jsonl")
    os.mkfifo("ids.safetensors")
    for name in ("text.jsonl", "ids.safetensors", "/dev/zero"):
        done = langprune("calibrate", "-w", workspace, "--model", "demo", "--data", name)
        one_sentence(done, 1, f"{name} is a pipe, a socket or a device, not a file: write its text to a file")
    (workspace / "stats/uk/manifest.json").unlink()
    os.mkfifo(workspace / "stats/uk/manifest.json")
    assert "uk-wanda" in did("ls", "-w", workspace).out
    assert "manifest.json is a named pipe" in langprune("verify", "-w", workspace, "stats/uk").out
    (workspace / "workspace.json").unlink()
    os.mkfifo(workspace / "workspace.json")
    one_sentence(
        langprune("calibrate", "-w", workspace, "--lang", "uk"), 1, "workspace.json is a named pipe, not a file"
    )
