"""The scripts of docs/guide.md, run as they stand but for the model, which is the demo's, and for sizes."""

import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from langprune_cli.location.location import DEMO_FOLDER
from tests.support.command import did
from tests.support.paths import REPOSITORY

GUIDE = REPOSITORY / "docs" / "guide.md"
SCRIPTS = re.findall(
    r"<!-- guide-([\w-]+) -->\n```sh\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)

# Words in whose place others are put; after these options, numbers.
MODELS = {"meta-llama/Llama-3.2-1B": "demo", "Qwen/Qwen3-0.6B": "demo"}
SIZES = {"--seqlen": "64", "--nsamples": "8", "--max-windows": "4"}
BUDGETS = {"uk:96": "uk:6", "en:32": "en:2"}


def test_the_guide_has_two_scripts() -> None:
    assert [name for name, _ in SCRIPTS] == ["one-language", "two-languages"]
    text = GUIDE.read_text(encoding="utf-8")
    assert text.count("```sh") == len(SCRIPTS)
    for _, script in SCRIPTS:
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(not (DEMO_FOLDER / "config.json").is_file(), reason="the demo model has not been made")
@pytest.mark.parametrize("script", [script for _, script in SCRIPTS], ids=[name for name, _ in SCRIPTS])
def test_a_script_runs_as_written(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced = set()
    for line in script.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "export":
            monkeypatch.setenv(*words[1].split("=", 1))
        elif words:
            assert words[0] == "langprune"
            replaced |= {*MODELS, *BUDGETS} & set(words)
            short = [MODELS.get(word, BUDGETS.get(word, SIZES.get(before, word))) for before, word in pairwise(words)]
            did(*short)
    assert replaced & MODELS.keys()
    named = re.findall(r"--out (\S+)", script)
    assert named
    for place in named:
        assert (Path(place) if place.endswith(".html") else Path(place) / "config.json").is_file()
