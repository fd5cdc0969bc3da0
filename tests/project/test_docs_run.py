"""The commands that the documentation shows: each runs, with the built-in model in the place of a reader's, or has a reason.

Blocks of shell and commands in prose and tables are found by themselves. What is new either runs here, or its reason has to be
written down below. The offline example, the guide and the demo have tests of their own.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import typer

from langprune_cli.cli.app import app
from langprune_cli.errors import LangpruneError
from langprune_cli.text.sources import BUILTIN_PREFIX, read_documents
from tests.project.test_docs import (
    _FENCE,
    CHANGELOG,
    COMMANDS,
    DOCUMENTS,
    README,
    _example,
    _inline_code,
    _read,
    _shell_lines,
)
from tests.project.test_guide import GUIDE, SCRIPTS
from tests.support.command import did, langprune
from tests.support.paths import REPOSITORY

# What a reader has, and what stands for it here. Fewer tokens: the built-in model is small, and its context short.
TEXTS = ("calibration.jsonl", "held-out.jsonl", "news.jsonl", "texts.jsonl", "wikitext-2.test.jsonl")
STANDS_FOR = {
    "meta-llama/Llama-2-7b-hf": "demo",
    "Qwen/Qwen3-0.6B": "demo",
    "./smollm2": "demo",
    "MODEL": "demo",
    "uk-...": "uk-wanda-2x4",
    "./uk-to-share/mask/keep_masks.safetensors": "shared/mask/keep_masks.safetensors",
    # The built-in model has six blocks, and one KV group in each, which has to stay.
    "blocks": "blocks:0.2",  # a tenth of six is none
    "blocks:0.1": "blocks:0.2",
    "kv-groups:0.125": "blocks:0.2",
    **dict.fromkeys(TEXTS, "own.jsonl"),
}
SIZES = {"--seqlen": "64", "--nsamples": "8", "--max-windows": "3", "--tokens": "2100", "--recover": "2100"}

# Commands that are not run here, by how they begin. Each is at least read: its command, options, module or session exist.
ENVIRONMENT = "makes an environment from the package index; CI runs it"
MINUTES = "takes minutes or hours"
NETWORK = "reads the Hub"
HARNESS = "needs lm-evaluation-harness and its data: tests/stages/evaluate/test_tasks.py runs a task of its own"
QUANTIZER = "needs the extra bnb: tests/stages/evaluate/test_load_bits.py runs it where that is installed"
REASONS = {
    "python3 -m venv": ENVIRONMENT,
    "pip install": ENVIRONMENT,
    "nox -s": ENVIRONMENT,
    "hf auth login": "asks for a token",
    "langprune --install-completion": "writes to the user's shell: tests/cli/test_command_line.py asks what it would write",
    "langprune demo": "test_the_demo_prints_its_table runs it",
    "langprune eval --model uk-wanda-0.5 --tasks": HARNESS,
    "eval --tasks": HARNESS,
    "langprune eval --model uk-wanda-0.5 --load-bits": QUANTIZER,
    "eval --load-bits": QUANTIZER,
    "eval --lang en --corpus wikitext": NETWORK,
    "torchrun": "starts processes of its own: tests/machine/test_teams.py does",
    "python -m tests.harnesses.kill_harness": f"{MINUTES}: tests/project/test_kills.py runs some of its kills",
    "python -m tests.harnesses.flips": f"{MINUTES}: tests/store/test_written.py flips some bits",
    "python -m tests.harnesses.fuzz": f"{MINUTES}: tests/project/test_hostile.py runs what it draws from",
    "langprune prune --model google/gemma-3-4b-it": "needs such a model: tests/stages/apply/test_text_only.py has tiny ones",
    "python -m tests.benchmarks": MINUTES,
    "python tests/benchmarks/quality.py": MINUTES,
    "python -m tests.survey": "writes docs/models.md: tests/project/test_models_page.py compares it",
    "python -m langprune_cli": "starts a process: tests/machine/test_teams.py does",
    "python -m scripts.architecture": "writes docs/architecture.md: tests/project/test_layers.py compares it",
    "python -m scripts.goldens.make": "writes tests/goldens: tests/project/test_small_goldens.py makes a part of it",
    "python scripts/make_command_reference.py": "writes docs/commands.md: tests/project/test_docs.py compares it",
    "python -m scripts.make_report_picture": "writes docs/report.png: tests/stages/report/test_report_picture.py makes another",
}

SHOWN = [each for each in DOCUMENTS if each != CHANGELOG]  # what it says of the past need not run
_PROGRAMS = ("langprune", "python", "python3", "nox", "pip", "hf", "torchrun")
_SHELL = {"sh", "bash", "console"}
_NAME = re.compile(r"\w+( stats| masks)?( --?[\w-]+)?")  # of a command or option: `apply`, `eval --mask`


def _line(words: list[str]) -> str:
    """Return a command as text, its program without the folder that it lies in."""
    return shlex.join([Path(words[0]).name, *words[1:]]).replace("'", "")


def block_lines(block: str) -> Iterator[str]:
    """Yield the commands of a block of shell; variables that it sets aside."""
    for whole in block.replace("\\\n", " ").splitlines():
        line = shlex.shlex(whole, posix=True, punctuation_chars=True)
        line.whitespace_split = True
        for separates, part in groupby(line, key={"&&", ";", "|"}.__contains__):
            words = list(part)
            if not separates and words[0] not in {"export", "."}:
                yield _line(words)


def inline_lines(document: Path) -> list[str]:
    """Return the commands in prose and tables; names alone are none. Those of commands.md are made from the program."""
    found = []
    for code in _inline_code(document) if document.name != "commands.md" else ():
        first, *rest = code.split()
        line = " ".join([first, *rest])
        if (first in _PROGRAMS and rest and not _incomplete([first, *rest])) or (
            first in COMMANDS and not _NAME.fullmatch(line)
        ):
            found.append(line)
    return list(dict.fromkeys(found))


def _incomplete(words: list[str]) -> bool:
    """Return whether a command stands without what it must be given, such as `langprune show`: then it is a name."""
    group: Any = typer.main.get_command(app)
    params = group.commands[words[1]].params if words[0] == "langprune" and words[1] in COMMANDS else []
    needed = [each for each in params if each.param_type_name == "argument" and (each.required or each.nargs == -1)]
    return len([word for word in words[2:] if not word.startswith("-")]) < len(needed) and "--all" not in words


def reason(line: str) -> str | None:
    """Return how a command that is not run begins."""
    return next((start for start in REASONS if line == start or line.startswith((f"{start} ", f"{start}."))), None)


def _parse(words: list[str]) -> None:
    """Let the command line read a command: options have values of their types, and nothing that is needed is missing.

    Artifacts and folders that it names are not here.
    """
    group: Any = typer.main.get_command(app)
    if words[0] in COMMANDS:
        try:
            group.commands[words[0]].make_context(words[0], words[1:])
        except LangpruneError as error:
            if not re.search("artifact is called|there is no folder", str(error)):
                raise


@pytest.mark.parametrize("document", SHOWN, ids=lambda path: path.name)
def test_commands_are_read_by_the_command_line(document: Path) -> None:
    for words in _shell_lines(document):
        _parse(words)
    for line in inline_lines(document):
        words = line.removeprefix("langprune ").split()
        if "--help" not in words:
            _parse(words)


def blocks() -> Iterator[tuple[str, str]]:
    """Yield the blocks that are run here, by what they begin with, in the order of the documents."""
    elsewhere = {_example(README, "offline-example"), *(script for _, script in SCRIPTS)}
    for document in SHOWN:
        for language, block in _FENCE.findall(_read(document)):
            if language in _SHELL and block not in elsewhere:
                lines = [line for line in block_lines(block) if reason(line) is None]
                if lines:
                    yield f"{document.stem}: {lines[0]}", block


def test_every_command_runs_or_has_a_reason() -> None:
    """A program that is none of ours cannot be run here; what is not run is there, as far as that can be seen."""
    fenced = [line for document in SHOWN for language, block in _FENCE.findall(_read(document))
              if language in _SHELL for line in block_lines(block)]  # fmt: skip
    lines = [*fenced, *(line for document in SHOWN for line in inline_lines(document))]
    assert len(lines) > 100
    without = [line for line in lines if line.split()[0] not in {"langprune", *COMMANDS} and reason(line) is None]
    assert without == [], "not run, and no reason is given"
    assert set(REASONS) - {reason(line) for line in lines} == set(), "reasons for what is no longer shown"
    for line in lines:
        if reason(line):
            _check_existence(line)


def _check_existence(line: str) -> None:
    words = line.split()
    if words[0] == "nox":
        sessions = re.findall(r"^@nox\.session\ndef (\w+)", _read(REPOSITORY / "noxfile.py"), re.MULTILINE)
        assert words[2] in sessions, line
    elif words[0] == "torchrun":
        _parse(words[words.index("langprune_cli") + 1 :])
    elif words[0] == "python":
        named, options = (words[2].replace(".", "/"), words[3:]) if words[1] == "-m" else (words[1], words[2:])
        path = REPOSITORY / named if words[1] != "-m" else REPOSITORY / f"{named}.py"
        source = _read(path if path.is_file() else REPOSITORY / named / "__main__.py")
        for option in options:
            assert not option.startswith("--") or f'"{option}"' in source, line
    elif "'.[" in line:
        extra = line.partition("[")[2].partition("]")[0]
        assert f"\n{extra} = [" in _read(REPOSITORY / "pyproject.toml"), line


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what sections before have left behind: a text, statistics, masks, models, an evaluation, a folder that was shared."""
    folder = tmp_path_factory.mktemp("prepared")
    at = ("-w", folder / "langprune-workspace")
    documents = list(read_documents(f"{BUILTIN_PREFIX}uk:test"))[:60]
    (folder / "own.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in documents))
    did("calibrate", *at, "--lang", "en", "--lang", "uk", "--collect", "tokens", "--max-tokens", "20000")
    drawn = ("--nsamples", "8", "--seqlen", "64")
    did("calibrate", *at, "--lang", "uk", *drawn, "--collect", "hessian")
    for language in ("en", "uk"):
        did("calibrate", *at, "--lang", language, *drawn)
        did("mask", *at, "--stats", language)
    did("mask", *at, "--pattern", "2:4")
    did("apply", *at, "--mask", "uk-wanda-0.5")
    did("apply", *at)
    did("eval", *at, "--lang", "uk", "--lang", "en", "--max-windows", "3", "--seqlen", "64")
    did("export", *at, "--out", folder / "shared", "--with-mask")
    recipe = re.search(r"<!-- recipe -->\n```yaml\n(.*?)```", _read(REPOSITORY / "docs" / "recipes.md"), re.DOTALL)
    assert recipe is not None
    (folder / "recipe.yaml").write_text(recipe[1], encoding="utf-8")
    shutil.copytree(folder / "langprune-workspace" / "models" / "uk-wanda-2x4", folder / "tuned")
    (folder / "tuned" / "manifest.json").unlink()  # what another program trained has none
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path) -> Path:
    """Copy what is prepared into the folder that commands run in."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path


def run(line: str) -> None:
    """Run a command of the documentation, short texts in the place of long ones."""
    words = line.removeprefix("langprune ").split()
    given = [SIZES.get(option, STANDS_FOR.get(word, word)) for option, word in zip(["", *words], words, strict=False)]
    drawn, read = (
        given[0] in {"calibrate", "prune"} and "tokens" not in given,
        given[0] == "eval" and "--speed" not in given,
    )
    if (drawn or read or given[0] in {"calibrate", "recover"}) and not {"--lang", "--data", "--help"} & set(given):
        given += ["--lang", "uk", "--data", "own.jsonl"]  # what is shown is about another option
    trained = given[0] == "recover"
    short = {"--nsamples": drawn, "--max-windows": read, "--seqlen": drawn or read or trained, "--tokens": trained}
    given += [word for option, of in short.items() if of and option not in given for word in (option, SIZES[option])]
    done = langprune(*given)
    assert done.code == 0, f"{line}: {done.err}"


@pytest.mark.slow
@pytest.mark.parametrize("block", [pytest.param(each, id=name) for name, each in blocks()])
@pytest.mark.usefixtures("place")
def test_a_block_runs(block: str) -> None:
    for line in block_lines(block):
        if reason(line) is None:
            run(line)


@pytest.mark.slow
@pytest.mark.parametrize("document", [each for each in SHOWN if inline_lines(each)], ids=lambda path: path.name)
@pytest.mark.usefixtures("place")
def test_commands_in_prose_run(document: Path) -> None:
    for line in inline_lines(document):
        if reason(line) is None:
            run(line)


@pytest.mark.slow
def test_the_demo_prints_its_table() -> None:
    """The figures of the README, but for the last digits, in which processors differ."""
    number = re.compile(r"[+-]?\d+\.\d+")
    shown = _example(README, "demo-table: langprune demo").splitlines()
    printed = did("demo").out.splitlines()
    assert [number.sub("", line).split() for line in printed[: len(shown)]] == [
        number.sub("", line).split() for line in shown
    ]
    for here, there in zip(printed, shown, strict=False):
        figures = [[float(each) for each in number.findall(line)] for line in (here, there)]
        assert figures[0] == pytest.approx(figures[1], rel=0.02, abs=0.3 if "%" in here else 0.0)


def test_blocks_are_found() -> None:
    names = [name for name, _ in blocks()]
    assert {name.partition(":")[0] for name in names} == {
        "README", "coming-from", "commands", "evaluation", "languages", "patterns", "publishing", "recipes", "smollm2",
        "stages",
    }  # fmt: skip
    assert len(names) >= 6 + len(COMMANDS) - 2  # commands.md has an example of each command but the demo's
    assert GUIDE in SHOWN
