"""Disks that are small, full, read-only or broken: one sentence, nothing half-written, and the next run goes on."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from langprune_cli.errors import LangpruneError
from langprune_cli.stages.apply import model_writing
from langprune_cli.stages.calibrate import calibrate
from langprune_cli.stages.export import export
from langprune_cli.stages.mask import mask, score
from langprune_cli.stages.prune import making
from langprune_cli.stages.recover import cached_logits, distilling
from langprune_cli.store.files import write_bytes
from langprune_cli.store.temporary import TEMPORARY
from tests.support.command import DRAW, langprune, one_sentence, snapshot, tree

COMMANDS = {
    "calibrate": ["calibrate", "--lang", "uk", "--data", "TEXT/uk.jsonl", *DRAW, "--seed", "5"],
    "score": ["score", "--method", "ria"],
    "mask": ["mask", "-p", "4:8"],
    "apply": ["apply", "--name", "x"],
    "prune": ["prune", "--lang", "uk", "--data", "TEXT/uk.jsonl", *DRAW, "--method", "sparsegpt", "--name", "x"],
    "export": ["export", "--out", "mine"],
    "recover": [
        "recover",
        "--lang",
        "uk",
        "--data",
        "TEXT/uk.jsonl",
        "--tokens",
        "2k",
        "--batch-tokens",
        "64",
        "--seqlen",
        "16",
        "--train",
        "norms",
        "--name",
        "x",
    ],
}


def words_of(command: str, text: Path) -> list[str]:
    return [word.replace("TEXT", str(text)) for word in COMMANDS[command]]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_small_disk_is_noticed_before_it_is_full(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, pico_text: Path, command: str
) -> None:
    """The figure is injected: shutil.disk_usage says that hardly anything is free."""
    before = snapshot(workspace)
    monkeypatch.setattr("shutil.disk_usage", lambda _place: type("Usage", (), {"free": 100}))
    done = langprune(*words_of(command, pico_text), "-w", workspace)
    one_sentence(done, 1, r"MB will be written and the disk has 0\.0 MB free")
    assert snapshot(workspace) == before
    assert not list(Path.cwd().glob("*mine*"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 2 MB in memory, which needs root."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("room", [0, 1, 3])
@pytest.mark.parametrize("command", ["calibrate", "score", "mask", "apply", "prune", "recover"])
def test_a_disk_that_fills_up(
    made: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, pico_text: Path, command: str, room: int
) -> None:
    """A real full disk; only the look at its free space beforehand is left out, so that writing itself fails."""
    for stage in (cached_logits, calibrate, making, mask, model_writing, score):
        monkeypatch.setattr(stage, "need_space", lambda *_: None)
    shutil.copytree(made, disk / "ws")
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - room * 4096))
    before = tree(disk)
    words = words_of(command, pico_text)
    one_sentence(langprune(*words, "-w", disk / "ws"), 1, "the disk is full: free some space")
    assert not list(disk.rglob(f"*{TEMPORARY}"))
    assert {name: tree(disk)[name] for name in before} == before
    (disk / "filler").unlink()
    assert langprune(*words, "-w", disk / "ws").code == 0


def test_a_disk_that_fills_up_while_the_state_of_training_is_saved(
    made: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, pico_text: Path
) -> None:
    monkeypatch.setattr(model_writing, "need_space", lambda *_: None)
    monkeypatch.setattr(distilling, "SAVE_AFTER_SECONDS", 0.0)
    shutil.copytree(made, disk / "ws")
    words = [*words_of("recover", pico_text), "--train", "all", "--online", "-w", disk / "ws"]
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 50_000))
    before = tree(disk)
    one_sentence(langprune(*words), 1, "resume.*: the disk is full: free some space")
    assert tree(disk) == before


@pytest.mark.parametrize("command", ["calibrate", "score", "mask", "apply", "prune", "recover"])
def test_a_read_only_disk(made: Path, disk: Path, pico_text: Path, command: str) -> None:
    shutil.copytree(made, disk / "ws")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = langprune(*words_of(command, pico_text), "-w", disk / "ws")
    one_sentence(done, 1, "the file system is read-only: choose a --workspace")


def test_export_to_a_full_or_read_only_disk(workspace: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["export", "-w", workspace, "--out", disk / "mine"]
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 4096))
    one_sentence(langprune(*words), 1, "MB will be written and the disk has 0.0 MB free")
    monkeypatch.setattr(export, "need_space", lambda *_: None)
    done = langprune(*words)
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith(f"error: {disk / 'mine'}: the disk is full")
    assert [path.name for path in disk.iterdir()] == ["filler"]
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    one_sentence(langprune(*words), 1, "the file system is read-only")


def test_a_disk_that_breaks(
    workspace: Path, failing: Callable[[Any, str, int], AbstractContextManager[None]], pico_text: Path
) -> None:
    """The error is injected: fsync fails as it does when a disk breaks."""
    before = tree(workspace)
    with failing(os, "fsync", errno.EIO):
        done = langprune(*words_of("mask", pico_text), "-w", workspace)
    one_sentence(done, 1, "the disk reported an input/output error")
    assert tree(workspace) == before


@pytest.mark.parametrize("place", [(os, "fsync"), (Path, "replace")], ids=["fsync", "replace"])
def test_a_file_that_cannot_be_replaced_stays(
    tmp_path: Path, failing: Callable[[Any, str, int], AbstractContextManager[None]], place: tuple[Any, str]
) -> None:
    """The error is injected, as above."""
    write_bytes(tmp_path / "file", b"old")
    with failing(*place, errno.EIO), pytest.raises(LangpruneError):
        write_bytes(tmp_path / "file", b"new")
    assert tree(tmp_path).keys() == {"file"}
    assert (tmp_path / "file").read_bytes() == b"old"
