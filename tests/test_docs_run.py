"""The commands that the documentation shows, run as they stand, the built-in model and text in the place of a reader's own."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from langprune_cli.cli.app import app
from langprune_cli.text.sources import BUILTIN_PREFIX, read_documents
from tests.conftest import did, langprune
from tests.test_docs import (
    _FENCE,
    COMING_FROM,
    COMMANDS,
    DOCUMENTS,
    README,
    _example,
    _read,
    _shell_lines,
    _shell_words,
)

# What a reader has, and what stands for it here. Fewer tokens: the built-in model is small, and its context short.
OWN = {"--model": "demo", "--seqlen": "64", "--nsamples": "8"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_shell_examples_are_read_by_the_command_line(document: Path) -> None:
    """Every option has its value, every value the option's type, and nothing that is needed is missing."""
    group = typer.main.get_command(app)
    for words in _shell_lines(document):
        if words[0] in COMMANDS:
            group.commands[words[0]].make_context(words[0], words[1:])  # type: ignore[attr-defined] # of a group


def blocks() -> Iterator[tuple[str, list[list[str]]]]:
    """Yield the blocks of commands that make something, in the order of the documents."""
    offline = list(_shell_words(_example(README, "offline-example")))  # has a test of its own, as has the demo
    for document in (README, COMING_FROM):
        for language, block in _FENCE.findall(_read(document)):
            commands = list(_shell_words(block)) if language == "sh" else []
            if commands and commands[0] != ["demo"] and commands != offline:
                yield f"{document.stem}: {' '.join(commands[0])}", commands


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Write a reader's own text: the built-in one."""
    file = tmp_path / "own.jsonl"
    documents = list(read_documents(f"{BUILTIN_PREFIX}uk:test"))[:60]
    file.write_text("".join(json.dumps({"text": each}) + "\n" for each in documents))
    return file


@pytest.mark.slow
@pytest.mark.parametrize("commands", [pytest.param(each, id=name) for name, each in blocks()])
def test_every_command_runs(commands: list[list[str]], text: Path) -> None:
    for language in ("en", "uk"):  # what the sections before have left in the workspace
        did("calibrate", "--lang", language, "--nsamples", "8")
        did("mask", "--stats", language)
    did("mask", "--pattern", "2:4")
    did("apply")
    did("eval", "--lang", "uk", "--lang", "en", "--max-windows", "3")
    for words in commands:
        own = OWN | {"--data": str(text)}
        given = [own.get(option, word) for option, word in zip(["", *words], words, strict=False)]
        # The built-in model has one KV group in a block, which has to stay.
        given = [re.sub("kv-groups:.*", "blocks:0.2", word) for word in given]
        if words[0] in {"calibrate", "prune"} and "--nsamples" not in given and "tokens" not in given:
            given += ["--nsamples", "8"]
        done = langprune(*given)
        assert done.code == 0, f"{' '.join(words)}: {done.err}"


def test_blocks_are_found() -> None:
    names = [name for name, _ in blocks()]
    assert len(names) >= 6
    assert any(re.match("coming-from", name) for name in names)
