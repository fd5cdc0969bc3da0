"""`doctor`: what it tells of the machine is so, what it must not tell it does not, and its advice follows from the figures."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest

from langprune_cli.stages.doctor.doctor import Checkup, Place, Rate, advice_on, check_up
from tests.support.command import snapshot
from tests.support.paths import REPOSITORY

TOKEN = "hf_thisIsNobodysBusiness"  # noqa: S105 - of no hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of caches: 3000 bytes of models, which a link names a second time, and 500 of texts."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "hub/models--a--b/blobs").mkdir(parents=True)
    (folder / "hub/models--a--b/blobs/1").write_bytes(bytes(3000))
    (folder / "hub/models--a--b/snapshot").symlink_to("blobs/1")
    (folder / "datasets/x").mkdir(parents=True)
    (folder / "datasets/x/part").write_bytes(bytes(500))
    return folder


def doctor(home: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own: the hub's settings are read when its library is imported."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, "-m", "langprune_cli", "doctor", *words]
    settings = {"HF_HOME": str(home), "PYTHONPATH": str(REPOSITORY), **env}
    return subprocess.run(command, env=plain | settings, capture_output=True, text=True, check=False)


def test_what_is_told_is_so(home: Path, tmp_path: Path) -> None:
    before = snapshot(home)
    done = doctor(
        home, "--json", "--workspace", "here", HF_TOKEN=TOKEN, HF_HUB_OFFLINE="1", HF_ENDPOINT="https://me:secret@h"
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert "secret" not in done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["versions"]["torch"] == version("torch")
    assert told["versions"]["huggingface_hub"] == version("huggingface-hub")
    assert told["cpu"]["memory_bytes"] == pytest.approx(psutil.virtual_memory().total, rel=0.01)
    assert told["cpu"]["usable_cores"] == len(psutil.Process().cpu_affinity() or [])
    assert [place["bytes"] for place in told["places"]] == [0, 3000, 500]
    assert told["places"][0]["path"] == str(tmp_path / "here")
    assert told["hub"] == {"endpoint": "https://h", "offline": True, "token": True}
    assert {(rate["device"], rate["dtype"]) for rate in told["rates"]} >= {("cpu", "float32"), ("cpu", "bfloat16")}
    assert all(rate["gflops"] > 0 for rate in told["rates"])
    assert not list(tmp_path.iterdir())  # not even the workspace
    assert snapshot(home) == before


def test_the_page_says_whether_there_is_a_token(home: Path) -> None:
    (home / "token").write_text(TOKEN)
    page = doctor(home).stdout
    (home / "token").unlink()
    assert ", logged in, online" in page
    assert TOKEN not in page
    assert "hf auth login" not in page
    assert "models from the hub" in page
    assert f"torch {version('torch')}" in page


@pytest.fixture(scope="module")
def found() -> Checkup:
    """Return a check of a machine with nothing to complain of."""
    rates = [Rate("cpu", "float32", 1024, 100.0), Rate("cpu", "bfloat16", 1024, 400.0)]
    place = Place("workspace", "/w", 0, 10**12)
    cpu = {"threads": 4, "usable_cores": 4}
    return Checkup({"torch": "2"}, cpu, [], rates, [place], {"endpoint": "e", "offline": False, "token": True})


def test_nothing_to_complain_of(found: Checkup) -> None:
    assert advice_on(found) == []
    assert check_up(Path("w")).document().keys() == {"schema", *vars(found)}


@pytest.mark.parametrize(
    ("change", "driver", "says"),
    [
        (
            {"rates": [Rate("cpu", "float32", 8, 100.0), Rate("cpu", "bfloat16", 8, 20.0)]},
            False,
            "at 20% .* --dtype float32",
        ),
        ({"versions": {"torch": "2", "pyarrow": None}}, False, "pyarrow is missing: install"),
        ({"cuda": []}, True, "torch sees no GPU: install"),
        ({"places": [Place("a", "/a", 0, 5), Place("b", "/b", 0, 5)]}, False, "0.0 GB are free for a and b: free some"),
        ({"hub": {"offline": True, "token": False}}, False, "unset HF_HUB_OFFLINE"),
        ({"hub": {"offline": False, "token": False}}, False, "hf auth login"),
    ],
)
def test_advice_says_what_to_do(found: Checkup, change: dict[str, Any], driver: bool, says: str) -> None:  # noqa: FBT001
    (sentence,) = advice_on(replace(found, **change), driver=driver)
    assert re.search(says, sentence), sentence


def test_threads_that_a_setting_holds_back(found: Checkup, monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = replace(found, cpu={"threads": 1, "usable_cores": 4})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert advice_on(fewer) == ["torch uses 1 of 4 cores: unset OMP_NUM_THREADS to use all"]
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert advice_on(fewer) == []  # cores may be halves of one: torch knows
