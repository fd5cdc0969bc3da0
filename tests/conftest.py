"""Fixtures that all tests share: a pico model with a tokenizer, texts, and a workspace in which every stage has run."""

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pico products are too small for two threads to meet
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported; hub fixtures start processes without it

import pytest
from hypothesis import settings

from langprune_cli.store.artifact import Artifact, open_artifact
from tests.support.command import DRAW, SEQLEN, did
from tests.support.hub.hub_process import HubProcess
from tests.support.pico import save_pico
from tests.support.text.text_corpora import byte_level, write_jsonl

settings.register_profile("untimed", deadline=None)  # how long an example takes depends on what else the machine does
settings.load_profile("untimed")

_WORDS = {
    "uk": ("калина", "лузі", "вітер", "село", "дорога", "ранок", "пісня", "мати", "хата", "поле", "степ", "зоря", "земля"),
    "en": ("river", "house", "morning", "clock", "winter", "garden", "letter", "window", "music", "road", "bread", "sea"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, with the default workspace in it, and let nothing out to the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LANGPRUNE_WORKSPACE", raising=False)
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in {"127.0.0.1", "::1", "localhost"}, address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture(scope="session")
def hub_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """Hold what all hubs of a session share: the fixture `hub` of `tests.support.hub` is given it."""
    with HubProcess(tmp_path_factory.mktemp("hub")) as process:
        yield process


@pytest.fixture(scope="session")
def pico_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a Llama of three blocks with a byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "pico"
    save_pico("llama", folder, vocab_size=len(byte_level()), max_position_embeddings=64)
    byte_level().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pico_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder with uk.jsonl and en.jsonl, 12 documents each."""
    folder = tmp_path_factory.mktemp("text")
    for name, words in _WORDS.items():
        texts = [" ".join(words[(i * 7 + k * (k + i)) % len(words)] for k in range(40)) for i in range(12)]
        write_jsonl(folder / f"{name}.jsonl", texts)
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, pico_model: Path, pico_text: Path) -> Path:
    """Make a workspace in which every stage has run once; tests use a copy, `workspace`."""
    folder = tmp_path_factory.mktemp("made")
    langs = ["--lang", "uk", "--data", pico_text / "uk.jsonl", "--lang", "en", "--data", pico_text / "en.jsonl"]
    did("calibrate", "-w", folder, "--model", pico_model, *langs, *DRAW)
    did("score", "-w", folder, "--stats", "uk")
    did("mask", "-w", folder, "--stats", "uk", "--pattern", "2:4")
    did("apply", "-w", folder)
    did("eval", "-w", folder, *langs, "--seqlen", SEQLEN, "--max-windows", "5")
    return folder


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    """Copy the workspace with stats uk and en, scores uk-wanda, mask and model uk-wanda-2x4, and an evaluation."""
    folder = tmp_path / "workspace"
    shutil.copytree(made, folder)
    return folder


@pytest.fixture
def opened(workspace: Path) -> Callable[[str, str], Artifact]:
    """Open an artifact of `workspace` by kind and name."""
    return lambda kind, name: open_artifact(workspace / kind / name, kind)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str, int], contextlib.AbstractContextManager[None]]:
    """Make a function of the operating system fail with an errno for as long as a context lasts."""

    @contextlib.contextmanager
    def fail(owner: Any, name: str, number: int) -> Iterator[None]:
        def refuse(*_args: Any, **_kwargs: Any) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            yield

    return fail
