"""The documentation against the product: every command, option, link, example and figure of the format that it shows."""

import dataclasses
import hashlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import save_file

import langprune_cli
from langprune_cli.cli.app import app
from langprune_cli.location.location import DEMO_FOLDER
from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.numerics.packing import pack_mask
from langprune_cli.store.artifact import KINDS, Recipe
from langprune_cli.store.manifest import SCHEMA, Manifest
from langprune_cli.store.temporary import TEMPORARY
from langprune_cli.text.windows import fingerprint
from tests.support.paths import REPOSITORY

ROOT = REPOSITORY
PACKAGE = Path(langprune_cli.__file__).parent
README = ROOT / "README.md"
CHANGELOG = ROOT / "CHANGELOG.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", CHANGELOG, *sorted((ROOT / "docs").glob("*.md"))]
FORMAT = ROOT / "docs" / "format.md"
COMING_FROM = ROOT / "docs" / "coming-from.md"
STAGES = ROOT / "docs" / "stages.md"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")  # may go on in the next line
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_OPTION = re.compile(r"--[a-z][\w-]*")


def _read(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def _commands() -> dict[str, set[str]]:
    """Return the options of every command; those of the program itself under the empty name."""
    group: Any = typer.main.get_command(app)
    found = {"": {name for each in group.params for name in (*each.opts, *each.secondary_opts)} | {"--help", "-h"}}
    for name, command in group.commands.items():
        options = [each for each in command.params if each.param_type_name == "option"]
        found[name] = {opt for each in options for opt in (*each.opts, *each.secondary_opts)}
        found[name] |= {"--help", "-h", "--debug"}
    return found


COMMANDS = _commands()
ALL_OPTIONS = set().union(*COMMANDS.values())


def _example(document: Path, marker: str) -> str:
    """Return the fenced block that follows the comment `marker`."""
    after = _read(document).partition(f"<!-- {marker} -->\n")[2]
    found = _FENCE.match(after)
    assert found, f"{document.name} has no block after <!-- {marker} -->"
    return found[2]


def _shell_lines(document: Path) -> Iterator[list[str]]:
    """Yield the words of every langprune command in fenced shell blocks."""
    for language, block in _FENCE.findall(_read(document)):
        if language in {"sh", "bash", "console"}:
            yield from _shell_words(block)


def _shell_words(block: str) -> Iterator[list[str]]:
    """Yield the words of every langprune command in a block of shell."""
    for line in re.split(r"&&|;|\||\n", block.replace("\\\n", " ")):
        words = shlex.split(line, comments=True)
        if words and Path(words[0]).name == "langprune":
            yield words[1:]


def _inline_code(document: Path) -> Iterator[str]:
    """Yield inline code; of coming-from.md without the left column of its tables, which is other tools' switches."""
    text = _FENCE.sub("", _read(document))
    if document == COMING_FROM:
        text = re.sub(r"^\|[^|]*\|", "|", text, flags=re.MULTILINE)
    yield from _CODE.findall(text)


def _check(words: list[str], where: str) -> None:
    """Check one command line without its `langprune`."""
    command = words[0] if words and not words[0].startswith("-") else ""
    assert command in COMMANDS, f"{where}: there is no command {command}"
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    unknown = [option for option in options if option not in COMMANDS[command]]
    assert not unknown, f"{where}: langprune {command} has no {unknown[0]}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_shell_examples_name_commands_and_options_that_exist(document: Path) -> None:
    for words in _shell_lines(document):
        _check(words, f"{document.name}: langprune {' '.join(words)}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_inline_code_names_commands_and_options_that_exist(document: Path) -> None:
    for code in _inline_code(document):
        words = code.split()
        if words[0] == "langprune" and words[1:] and not words[1].isupper():  # capitals: a placeholder
            _check(words[1:], f"{document.name}: `{code}`")
        elif words[0] in COMMANDS and len(words) > 1:
            _check(words, f"{document.name}: `{code}`")
        elif words[0].startswith("--") and len(words[0]) > 2:
            unknown = [option for option in _OPTION.findall(code) if option not in ALL_OPTIONS]
            assert not unknown, f"{document.name}: `{code}`: no command has {unknown[0]}"


def test_readme_mentions_every_command() -> None:
    shown = {words[0] for words in _shell_lines(README)}
    shown |= {code.removeprefix("langprune ").split()[0] for code in _inline_code(README)}
    assert sorted(set(COMMANDS) - shown - {""}) == []


def test_every_option_is_explained() -> None:
    group: Any = typer.main.get_command(app)
    bare = [
        f"{name} {each.opts[0]}"
        for name, command in {"": group, **group.commands}.items()
        for each in command.params
        if each.param_type_name == "option" and not each.help
    ]
    assert bare == []


def test_command_reference_is_up_to_date() -> None:
    reference = runpy.run_path(str(ROOT / "scripts" / "make_command_reference.py"))["reference"]
    assert _read(ROOT / "docs" / "commands.md") == reference(), "run python scripts/make_command_reference.py"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_resolve(document: Path) -> None:
    for target in _LINK.findall(_read(document)):
        if not target.startswith(("https://", "http://")):
            path, _, anchor = target.partition("#")
            linked = document.parent / path if path else document
            assert linked.exists(), f"{document.name} links to {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", _read(linked), re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
                assert anchor in slugs, f"{document.name} links to {target}"


def test_readme_links_to_every_document() -> None:
    linked = set(_LINK.findall(_read(README)))
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f"docs/{path.name}" not in linked] == []


def test_the_site_has_a_place_for_every_document() -> None:
    named = re.findall(r"^ +- [^:]+: (\S+\.md)$", _read(ROOT / "mkdocs.yml"), re.MULTILINE)
    beside = ["index.md", "contributing.md", "changelog.md"]  # README.md and what else lies outside of docs/
    assert sorted(named) == sorted([*beside, *(path.name for path in (ROOT / "docs").glob("*.md"))])


def test_the_readme_is_short() -> None:
    assert len(_read(README).splitlines()) <= 200


def test_worked_key_recomputes() -> None:
    record = json.loads(_example(FORMAT, "key-example"))
    blocks = [block for _, block in _FENCE.findall(_read(FORMAT).partition("<!-- key-example -->")[2])]
    canonical, key = blocks[1].strip(), blocks[2].strip()
    assert json.dumps(record, sort_keys=True, separators=(",", ":")) == canonical
    assert hashlib.sha256(canonical.encode("ascii")).hexdigest() == key
    assert record["schema"] == SCHEMA
    assert Recipe(record["kind"], record["inputs"], record["params"]).key == key


def test_worked_mask_recomputes() -> None:
    bits, _, packed = _example(FORMAT, "mask-example").strip().partition(" -> ")
    keep = torch.tensor([[bit == "1" for bit in bits]])
    assert pack_mask(keep).tolist() == [list(bytes.fromhex(packed))]


def test_worked_fingerprint_recomputes() -> None:
    assert fingerprint(torch.tensor([[1, 2, 3], [4, 5, 6]])) == _example(FORMAT, "fingerprint-example").strip()


def test_checkpoint_digest_is_as_specified(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(3000.0), "a": torch.ones(2, 3, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(b'{"model_type": "llama"}')
    digest = hashlib.sha256(b'{"model_type": "llama"}')
    digest.update(b'["a","BF16",[2,3]]' + b"\x80\x3f" * 6)
    values = tensors["b"].numpy().astype("<f4").tobytes()
    digest.update(b'["b","F32",[3000]]' + values[:4096] + values[3952 : 3952 + 4096] + values[7904:])
    assert Checkpoint(tmp_path).digest() == digest.hexdigest()


def test_format_names_every_kind_and_field() -> None:
    text = _read(FORMAT)
    fields = [field.name for field in dataclasses.fields(Manifest)]
    assert [name for name in fields if f"| `{name}` |" not in text] == []
    assert [kind for kind in KINDS if f"\n## {kind}\n" not in text] == []
    assert f"`.<name>.<owner>{TEMPORARY}`" in text


@pytest.mark.slow
@pytest.mark.skipif(not (DEMO_FOLDER / "config.json").is_file(), reason="the demo model has not been made")
def test_offline_example_runs_as_written(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LANGPRUNE_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
    }
    script = _example(README, "offline-example")
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = {path.parent.relative_to(tmp_path / "langprune-workspace").as_posix() for path in tmp_path.rglob(
        "langprune-workspace/*/*/manifest.json")}  # fmt: skip
    table = [row for row in re.findall(r"`(\w+/[\w.-]+)/`", _read(STAGES)) if row.split("/")[0] in KINDS]
    assert table, "docs/stages.md no longer says where artifacts lie"
    assert set(table) <= made
    assert (tmp_path / "demo-for-ukrainian" / "config.json").is_file()
