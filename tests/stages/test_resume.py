"""Commands that are killed at any point and run again end byte-identical to ones that were not interrupted."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from langprune_cli.store.temporary import TEMPORARY
from tests.support.command import DRAW, Done, did, langprune, tree
from tests.support.paths import REPOSITORY

# Runs in one process that imports everything once and then forks a child for each run. In a child, the n-th call of one
# function becomes the end: a signal before the call, after it, or after half of the bytes that it was to write.
RUNS = """
import importlib, json, os, signal, sys
from pathlib import Path
import langprune_cli.stages.apply.apply, langprune_cli.stages.calibrate.calibrate
import langprune_cli.stages.evaluate.evaluate, langprune_cli.stages.mask.mask
import langprune_cli.cli.app, langprune_cli.requests.shared.run, langprune_cli.stages.mask.score
import torch._dynamo, transformers
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast
from langprune_cli.__main__ import main
from langprune_cli.streaming import resuming

def strike(target, number, when, what):
    module, _, path = target.partition(":")
    owner = importlib.import_module(module)
    *above, name = path.split(".")
    for each in above:
        owner = getattr(owner, each)
    real, calls = getattr(owner, name), []
    def struck(*args, **kwargs):
        calls.append(1)
        if len(calls) < number:
            return real(*args, **kwargs)
        if when == "after":
            real(*args, **kwargs)
        if when == "half":
            real(args[0], args[1][: len(args[1]) // 2])
        os.kill(os.getpid(), getattr(signal, what))
        return real(*args, **kwargs)
    setattr(owner, name, struck)

def child(run):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests were started in the background
    os.dup2(os.open(run["stderr"], os.O_WRONLY | os.O_CREAT), 2)
    strike(*run["strike"])
    if run["save_after"] is not None:
        resuming.SAVE_AFTER_SECONDS = run["save_after"]
    return main(run["words"])

for run in json.load(sys.stdin):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = child(run)
        sys.stderr.flush()
        os._exit(code)
    status = os.waitpid(pid, 0)[1]
    Path(run["status"]).write_text(str(os.waitstatus_to_exitcode(status)))
"""

FILES = "langprune_cli.store.files:"
SAVE = "langprune_cli.store.artifact:ArtifactWriter._save_manifest"  # calls: 1 at the start, then one after each part
TENSORS = "langprune_cli.store.artifact:ArtifactWriter.write_tensors"
BYTES = "pathlib:Path.write_bytes"
RENAME = "pathlib:Path.replace"
STATES = "langprune_cli.streaming.resuming:save_states"
UPDATED = "langprune_cli.stages.apply.apply:updated_block"  # calls: each block
CHECK = "langprune_cli.stages.apply.model_writing:ModelWriter.check"
SHARD = "langprune_cli.stages.apply.model_writing:write_shard"

COMMANDS: dict[str, list[str]] = {
    "calibrate": ["calibrate", "--lang", "uk", "--data", "TEXT/uk.jsonl", *DRAW, "--seed", "3", "--name", "new"],
    "score": ["score", "--stats", "uk", "--method", "ria", "--name", "new"],
    "mask": ["mask", "--stats", "uk", "--pattern", "4:8", "--name", "new"],
    "apply": ["apply", "--name", "new", "--max-shard-size", "90KB"],
    "prune": [
        "prune",
        "--lang",
        "uk",
        "--data",
        "TEXT/uk.jsonl",
        *DRAW,
        "--method",
        "sparsegpt",
        "--update",
        "pcg",
        "--pattern",
        "2:4",
        "--name",
        "new",
        "--max-shard-size",
        "90KB",
    ],
    "cut": [
        "prune",
        "--lang",
        "uk",
        "--data",
        "TEXT/uk.jsonl",
        *DRAW,
        "--pattern",
        "blocks:0.34",
        "--pattern",
        "channels:0.34",
        "--pattern",
        "kv-groups:0.5",
        "--round-to",
        "8",
        "--name",
        "new",
        "--max-shard-size",
        "70KB",
    ],
    "eval": ["eval", "--lang", "uk", "--data", "TEXT/uk.jsonl", "--seqlen", "24", "--name", "new"],
}
# (command, function, which call, when, seconds after which hidden states are saved)
STRIKES: list[tuple[str, str, int, str, float | None]] = [
    ("calibrate", TENSORS, 1, "before", None),  # the folder is there, with a manifest of nothing
    ("calibrate", TENSORS, 3, "before", None),  # one block is done
    ("calibrate", TENSORS, 4, "after", None),  # all are done, but that is not yet on record
    ("calibrate", SAVE, 1, "before", None),
    ("calibrate", SAVE, 4, "before", None),  # a part is in place and not in the manifest
    ("calibrate", BYTES, 5, "half", None),  # half a part
    ("calibrate", BYTES, 6, "half", None),  # half a manifest
    ("calibrate", RENAME, 5, "before", None),
    ("calibrate", STATES, 1, "before", 0.0),
    ("calibrate", STATES, 2, "before", 0.0),  # the states after block 0 are there, blocks 0 and 1 are done
    ("calibrate", STATES, 2, "after", 0.0),  # newer ones lie beside, without their name
    ("calibrate", TENSORS, 4, "before", 0.0),
    ("calibrate", SAVE, 5, "before", 0.0),
    ("score", TENSORS, 2, "after", None),
    ("mask", TENSORS, 2, "before", None),
    ("mask", SAVE, 3, "before", None),
    ("mask", BYTES, 4, "half", None),
    ("apply", UPDATED, 2, "before", None),  # in the middle of a shard
    ("apply", SHARD, 1, "after", None),
    ("apply", SAVE, 2, "before", None),  # a shard is in place and not in the manifest
    ("apply", SHARD, 2, "before", None),
    ("apply", CHECK, 1, "before", None),  # all is written, nothing checked
    ("prune", TENSORS, 1, "before", None),
    ("prune", TENSORS, 3, "before", None),  # block 0 has statistics and no masks
    ("prune", TENSORS, 4, "before", None),  # block 0 is done, and its shard is not
    ("prune", SAVE, 9, "before", None),
    ("prune", BYTES, 7, "half", None),
    ("prune", SHARD, 2, "after", None),
    ("prune", STATES, 1, "after", 0.0),
    ("prune", STATES, 2, "before", 0.0),
    ("prune", TENSORS, 6, "after", 0.0),  # block 2 has statistics, the states before it are there
    ("prune", CHECK, 1, "before", 0.0),  # statistics and masks are complete, the model is not checked
    ("cut", BYTES, 12, "half", None),  # in the first model, from which a block leaves
    ("cut", "langprune_cli.depth_methods.search:search_windows", 1, "after", None),
    ("cut", SHARD, 1, "after", None),
    ("cut", CHECK, 1, "before", None),
    ("cut", TENSORS, 3, "before", None),  # block 0 has statistics and no masks
    ("cut", TENSORS, 5, "after", None),
    ("cut", SHARD, 3, "after", None),
    ("cut", STATES, 1, "after", 0.0),
    ("cut", CHECK, 2, "before", None),
    ("eval", TENSORS, 3, "before", None),
    ("eval", BYTES, 8, "half", None),
]


def words_of(command: str, text: Path) -> list[str]:
    return [word.replace("TEXT", str(text)) for word in COMMANDS[command]]


def run_all(runs: list[dict[str, Any]]) -> list[int]:
    """Run commands that are struck, each in a process of its own, and return their exit codes."""
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUNS], input=json.dumps(runs), env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [int(Path(run["status"]).read_text()) for run in runs]


@pytest.fixture(scope="module")
def killed(made: Path, pico_text: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return workspaces in which one command was killed, one for each of STRIKES."""
    runs, folders = [], []
    for number, (command, target, call, when, save_after) in enumerate(STRIKES):
        here = tmp_path_factory.mktemp(f"killed{number}")
        folders.append(here / "ws")
        shutil.copytree(made, here / "ws")
        words = [*words_of(command, pico_text), "-w", str(here / "ws")]
        runs.append({
            "words": words, "strike": [target, call, when, "SIGKILL"], "save_after": save_after,
            "stderr": str(here / "stderr"), "status": str(here / "status"),
        })  # fmt: skip
    assert run_all(runs) == [-signal.SIGKILL] * len(STRIKES)
    return folders


@pytest.fixture(scope="module")
def whole(made: Path, pico_text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a workspace for each command in which it ran without interruption."""
    folders = {}
    for command in COMMANDS:
        folders[command] = tmp_path_factory.mktemp(command) / "ws"
        shutil.copytree(made, folders[command])
        did(*words_of(command, pico_text), "-w", folders[command])
    return folders


def _label(strike: tuple[str, str, int, str, float | None]) -> str:
    command, target, call, when, save_after = strike
    return (
        f"{command}-{when}-{target.rpartition('.')[2].rpartition(':')[2]}-{call}{'-states' * (save_after is not None)}"
    )


@pytest.mark.parametrize("number", range(len(STRIKES)), ids=[_label(strike) for strike in STRIKES])
def test_killed_and_run_again_is_byte_identical(
    killed: list[Path], whole: dict[str, Path], pico_text: Path, number: int
) -> None:
    command, folder = STRIKES[number][0], killed[number]
    expected = tree(whole[command])
    assert tree(folder) != expected
    did(*words_of(command, pico_text), "-w", folder)
    assert tree(folder) == expected


LOST = {
    "calibrate": [
        "stats/new/windows.safetensors",
        "stats/new/block-000.safetensors",
        "stats/new/block-002.safetensors",
    ],
    "score": ["scores/new/block-001.safetensors"],
    "mask": ["masks/new/block-001.safetensors"],
    "apply": ["models/new/model-00001-of-*.safetensors", "models/new/pruning.json", "models/new/config.json"],
    "prune": ["models/new/model-00001-of-*.safetensors", "models/new/pruning.json", "models/new/config.json"],
    "cut": ["models/new/model-00001-of-*.safetensors", "models/new/pruning.json", "models/new/config.json"],
    "eval": ["evals/new/windows-0.safetensors", "evals/new/result.json", "evals/new/nats-*.safetensors"],
}


@pytest.mark.parametrize(("command", "part"), [(command, part) for command, parts in LOST.items() for part in parts])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_lost_part_is_made_again_byte_identical(
    whole: dict[str, Path], tmp_path: Path, pico_text: Path, command: str, part: str, damage: str
) -> None:
    shutil.copytree(whole[command], tmp_path / "ws")
    path = next((tmp_path / "ws").glob(part))
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    words = [*words_of(command, pico_text), "-w", tmp_path / "ws", "--json"]
    assert did(*words).json["cached"] is False
    assert tree(tmp_path / "ws") == tree(whole[command])
    assert did(*words).json["cached"] is True


@pytest.mark.parametrize("at", range(2, 9))
def test_results_that_are_lost_and_a_run_that_fails_while_it_makes_them_again(
    whole: dict[str, Path], tmp_path: Path, pico_text: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The results of the shards that were written again are not taken for those of all shards."""
    shutil.copytree(whole["apply"], tmp_path / "ws")
    (tmp_path / "ws/models/new/pruning.json").unlink()
    words = [*words_of("apply", pico_text), "-w", tmp_path / "ws"]
    real, calls = os.replace, []

    def failing(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        assert langprune(*words).code == 1
    did(*words)
    assert tree(tmp_path / "ws") == tree(whole["apply"])


def test_ctrl_c_ends_with_130_and_can_be_resumed(
    made: Path, whole: dict[str, Path], pico_text: Path, tmp_path: Path
) -> None:
    shutil.copytree(made, tmp_path / "ws")
    words = [*words_of("mask", pico_text), "-w", str(tmp_path / "ws")]
    run = {
        "words": words, "strike": [TENSORS, 2, "before", "SIGINT"], "save_after": None,
        "stderr": str(tmp_path / "stderr"), "status": str(tmp_path / "status"),
    }  # fmt: skip
    assert run_all([run]) == [130]
    said = (tmp_path / "stderr").read_text().split("\n")
    assert [line for line in said if line] == ["interrupted: run the same command again, it goes on where it stopped"]
    assert not list((tmp_path / "ws").rglob(f"*{TEMPORARY}"))
    done: Done = did(*words, "--json")
    assert done.json["cached"] is False
    assert tree(tmp_path / "ws") == tree(whole["mask"])
