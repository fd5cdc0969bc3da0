"""Everyday care of the command line: completion, logs, pages of help, and messages that say what to do."""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import langprune_cli.allocations
import langprune_cli.depth_methods
import langprune_cli.methods
import langprune_cli.refinements
import langprune_cli.unit_methods
import langprune_cli.updates
from langprune_cli import __version__
from langprune_cli.allocations.allocation import Allocation
from langprune_cli.cli.app import app
from langprune_cli.cli.display.log import MOST_LOGS, logged, running_log
from langprune_cli.depth_methods.method import depth_methods
from langprune_cli.methods.method import methods
from langprune_cli.refinements.refinement import Refinement
from langprune_cli.registry import names_in, records
from langprune_cli.unit_methods.method import unit_methods
from langprune_cli.updates.update import Update
from tests.support.command import DRAW, did, langprune, one_sentence
from tests.support.paths import REPOSITORY

GROUP: Any = typer.main.get_command(app)
PACKAGE = REPOSITORY / "langprune_cli"


# In a process that begins with this, whatever imports torch fails.
WITHOUT_TORCH = "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'numpy', 'huggingface_hub')))\n"


def completed(line: str, cwd: Path, **env: str) -> list[str]:
    """Return what bash is offered at the end of `line`; a process that imports torch fails."""
    words = line.split(" ")
    asked = {"_LANGPRUNE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    script = f"{WITHOUT_TORCH}from langprune_cli.__main__ import main; sys.exit(main([]))"
    environment = os.environ | asked | {"PYTHONPATH": str(REPOSITORY)} | env
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_windows_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    done = langprune("ls")
    monkeypatch.undo()
    one_sentence(done, 1, "^error: langprune needs a POSIX system, such as Linux: on Windows, run it in WSL$")


def test_commands_and_options_are_completed(tmp_path: Path) -> None:
    assert completed("langprune ca", tmp_path) == ["calibrate"]
    assert completed("langprune export --push", tmp_path) == ["--push-to-hub"]
    assert completed("langprune apply --rea", tmp_path) == ["--reapply"]


def test_values_of_options_are_completed(tmp_path: Path) -> None:
    assert completed("langprune mask --method w", tmp_path) == ["wanda", "wanda-variant", "wanda-sp"]
    assert completed("langprune prune --pattern v", tmp_path) == ["vocab"]
    assert completed("langprune apply --update ", tmp_path) == ["least-squares", "none", "pcg", "sparsegpt"]
    assert completed("langprune prune --allocation ", tmp_path) == ["alpha", "fisher", "owl", "search", "uniform"]
    assert completed("langprune mask --refine d", tmp_path) == ["dsnot"]
    assert completed("langprune calibrate --lang ukr", tmp_path) == ["ukrainian"]
    assert completed("langprune eval --lang укр", tmp_path) == ["українська"]
    assert completed("langprune eval --lang uk", tmp_path) == ["uk", "ukrainian"]


def test_names_by_files_are_those_of_records() -> None:
    """What completion offers, without importing torch, is what commands take."""
    assert names_in(langprune_cli.methods) == list(methods())
    assert names_in(langprune_cli.unit_methods) == list(unit_methods())
    assert names_in(langprune_cli.updates) == list(records(langprune_cli.updates, Update))
    assert names_in(langprune_cli.refinements) == list(records(langprune_cli.refinements, Refinement))
    assert names_in(langprune_cli.allocations) == list(records(langprune_cli.allocations, Allocation))
    assert names_in(langprune_cli.depth_methods) == list(depth_methods())


def test_names_of_artifacts_are_completed(workspace: Path, tmp_path: Path) -> None:
    assert completed("langprune mask --stats ", tmp_path, LANGPRUNE_WORKSPACE=str(workspace)) == ["en", "uk"]
    assert completed(f"langprune apply -w {workspace} --mask uk", tmp_path) == ["uk-wanda-2x4"]
    assert completed(f"langprune eval -w {workspace} --model ", tmp_path) == ["uk-wanda-2x4", "demo"]
    assert completed(f"langprune show -w {workspace} sc", tmp_path) == ["scores/uk-wanda"]
    workspace.rename(tmp_path / "langprune-workspace")
    assert completed("langprune export --model ", tmp_path) == ["uk-wanda-2x4"]
    assert (
        completed("langprune export --model ", tmp_path / "langprune-workspace") == []
    )  # none here, and that is no error


def test_artifacts_are_listed_shown_checked_and_removed_without_torch(workspace: Path) -> None:
    """It takes seconds to import, and of 200 artifacts all that `ls` reads takes a fraction of one."""
    commands = (["ls"], ["ls", "masks", "--json"], ["show", "stats/uk"], ["verify", "--all"], ["rm", "scores/uk-wanda"])
    script = f"{WITHOUT_TORCH}from langprune_cli.__main__ import main; sys.exit(main(sys.argv[1:]))"
    for words in commands:
        line = [sys.executable, "-c", script, *words, "-w", workspace]
        done = subprocess.run(
            line, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), words
        assert "uk" in done.stdout
    assert not (workspace / "scores/uk-wanda").exists()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["show", "nothing"], 1, r"^no artifact is called 'nothing'"),
        (["ls", "mask"], 2, r"^'mask' is not a kind of artifact: did you mean masks"),
        (["mask", "--sparsity", "half"], 2, r"Invalid value for .*--sparsity"),
        (["verify", "--al"], 2, r"No such option"),
    ],
)
def test_errors_are_documents_under_json(tmp_path: Path, words: list[str], code: int, says: str) -> None:
    """A script that reads stdout finds one JSON document there whatever happens; the sentence stays on stderr."""
    done = langprune(*words, "-w", tmp_path, "--json")
    assert (done.code, done.json["exit_code"]) == (code, code)
    assert re.search(says, done.json["error"])
    assert done.err
    assert langprune(*words, "-w", tmp_path).out == ""


def test_ls_says_when_of_which_model_and_what_was_evaluated(workspace: Path) -> None:
    rows = did("ls", "-w", workspace, "--json").json["artifacts"]
    by_kind = {row["kind"]: row for row in rows}
    assert (by_kind["masks"]["languages"], by_kind["evals"]["languages"]) == (["uk"], ["en", "uk"])
    assert by_kind["stats"]["model"] == by_kind["models"]["model"]
    assert by_kind["evals"]["evaluated"][1:]
    table = did("ls", "-w", workspace).out
    assert all(row["date"][:10] in table and row["what"] in table for row in rows)
    for order, field in {"name": "name", "size": "bytes"}.items():
        values = [row[field] for row in did("ls", "--sort", order, "-w", workspace, "--json").json["artifacts"]]
        assert values == sorted(values)
    assert langprune("ls", "--sort", "age", "-w", workspace).code == 2


def test_rm_says_as_json_what_it_removed(workspace: Path) -> None:
    removed = did("rm", "stats/uk", "scores/uk-wanda", "-w", workspace, "--json").json["removed"]
    assert [f"{each['kind']}/{each['name']}" for each in removed] == ["stats/uk", "scores/uk-wanda"]
    assert not any(Path(each["path"]).exists() for each in removed)


def test_completion_is_shown_and_installed_by_option(tmp_path: Path) -> None:
    # Typer looks among its parents for the shell: it is to find this one, whatever started the tests.
    in_bash = ["bash", "-c", '"$@"; exit $?', "bash"]
    shown = subprocess.run(
        [*in_bash, sys.executable, "-m", "langprune_cli", "--show-completion"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert "_LANGPRUNE_COMPLETE=complete_bash" in shown.stdout
    assert "complete -o default -F _langprune_completion langprune" in shown.stdout
    assert "--install-completion" in did("--help").out


def test_version() -> None:
    assert did("--version").out == f"langprune {__version__}\n"


@pytest.mark.parametrize("command", sorted(GROUP.commands))
def test_help_has_an_example_and_panels(command: str) -> None:
    text = GROUP.commands[command].help
    if command != "demo":  # it takes nothing
        assert f"[bold]langprune {command} " in text or text.endswith(f"[bold]langprune {command}[/bold]")
    options = [each for each in GROUP.commands[command].params if each.param_type_name == "option"]
    long = len(options) > 4
    assert [each.name for each in options if long and not each.rich_help_panel and each.name != "help"] == []


def messages() -> list[tuple[str, str]]:
    """Return where each error that a user reads is raised, and its message as the source has it, where it is written there."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"LangpruneError", "UsageError"}:
                for message in node.args[:1]:
                    if isinstance(message, (ast.JoinedStr, ast.Constant)):
                        pieces = message.values if isinstance(message, ast.JoinedStr) else [message]
                        text = "".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in pieces)
                        found.append((f"{path.relative_to(PACKAGE)}:{node.lineno}", text))
    return found


def test_every_message_says_what_to_do() -> None:
    """What is wrong, then a colon or semicolon, then what to do; or what to do alone."""
    imperative = re.compile(r"^(name|give|ask|choose) ")
    near = re.compile(r"\{\}$")  # near matches, or another function's sentence
    bare = [
        f"{where}: {text}"
        for where, text in messages()
        if not re.search(r"[:;] ?\S", text) and not imperative.match(text) and not near.search(text)
    ]
    assert len(messages()) > 150
    assert bare == []


def logs(workspace: Path) -> list[str]:
    return [path.read_text() for path in sorted((workspace / "logs").glob("*.log"))]


def test_a_log_says_what_ran(workspace: Path, pico_text: Path) -> None:
    before = set((workspace / "logs").glob("*"))
    words = ["-w", str(workspace), "--data", str(pico_text / "uk.jsonl"), *DRAW, "--seed", "5", "--name", "два"]
    done = did("calibrate", *words)
    (path,) = set((workspace / "logs").glob("*")) - before
    assert re.fullmatch(r"\d{8}T\d{6}-calibrate(-\d+)?\.log", path.name)
    stamped = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (.+)")
    lines = [stamped.fullmatch(line) for line in path.read_text().splitlines()]
    told = [line[1] for line in lines if line]
    assert len(told) == len(lines)
    assert shlex.split(told[0]) == ["langprune", "calibrate", *words]
    assert f"langprune {__version__}, torch " in told[1]
    assert "calibrate два: 3 blocks, 288 tokens" in told
    assert any(line.startswith("stats/два (") and ", key " in line for line in told)
    assert re.fullmatch(r"done after \d+\.\d s", told[-1])
    for note in done.err.splitlines():
        assert note in told


def test_a_failure_is_logged_where_work_had_begun(workspace: Path, failing: Any) -> None:
    before = len(logs(workspace))
    assert langprune("mask", "-w", workspace, "--stats", "ukr").code == 1  # refused before anything ran
    did("mask", "-w", workspace, "--stats", "uk", "--pattern", "2:4")  # there already
    assert len(logs(workspace)) == before
    with failing(Path, "replace", 28):
        assert langprune("mask", "-w", workspace, "--stats", "uk", "--pattern", "1:4").code == 1
    begun = len(logs(workspace))
    with failing(Path, "mkdir", 28):
        assert langprune("mask", "-w", workspace, "--stats", "uk", "--pattern", "1:4").code == 1
    assert len(logs(workspace)) == begun


def test_no_secret_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "my own token")
    words = ["calibrate", "--model", "https://me:pass@hub/x", "--name", "hf_AbCdEf123456", "--data", "my own token"]

    def command() -> None:
        with logged(words):
            log = running_log()
            assert log
            log.workspace = tmp_path
            log.start()
            log.write("the hub said: hf_AbCdEf123456\nis bad")
            raise ValueError("hf_AbCdEf123456")

    with pytest.raises(ValueError, match="hf_"):
        command()
    assert running_log() is None
    (text,) = logs(tmp_path)
    assert "hf_" not in text
    assert "my own token" not in text
    assert "pass" not in text
    assert "the hub said: ... is bad" in text
    assert "ended by ValueError (...) after 0." in text


def test_the_last_logs_stay(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for number in range(MOST_LOGS + 10):
        (tmp_path / "logs" / f"20200101T{number:06}-mask.log").write_text("old")
    (tmp_path / "logs/notes.txt").write_text("mine")
    for _ in range(3):  # of one second, most likely: none takes another's place
        with logged(["apply"]):
            log = running_log()
            assert log
            log.workspace = tmp_path
            log.start()
    names = sorted(path.name for path in (tmp_path / "logs").glob("*.log"))
    assert len(names) == MOST_LOGS
    assert [name for name in names if "apply" in name] == names[-3:]
    assert names[0] == "20200101T000013-mask.log"
    assert (tmp_path / "logs/notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mask", "--method", "wonda"], "--method 'wonda' is unknown: did you mean wanda"),
        (["prune", "--lang", "uk", "--pattern", "2x4"], "--pattern '2x4' is unknown"),
        (["apply", "--update", "pgc"], "--update 'pgc' is unknown: did you mean pcg"),
        (["mask", "--allocation", "owls"], "--allocation 'owls' is unknown: did you mean owl"),
        (["mask", "--refine", "swaps"], "--refine 'swaps' is unknown"),
        (["mask", "--stats", "ku"], "no stats artifact is called 'ku': did you mean uk"),
        (["eval", "--mask", "nothing", "--lang", "uk"], "no masks artifact is called 'nothing'"),
        (["calibrate", "--lang", "uk", "--model", "./nowhere"], "there is no folder ./nowhere"),
        (["export", "--model", "nothing", "--out", "x"], "no models artifact is called 'nothing'"),
    ],
)
def test_an_error_about_a_name_comes_before_torch(words: list[str], says: str, workspace: Path) -> None:
    script = """
import sys
from langprune_cli.__main__ import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""
    command = [sys.executable, "-c", script, *words, "-w", str(workspace)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in {1, 2}
    assert done.stderr.startswith(f"error: {says}")
