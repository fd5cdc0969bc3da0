"""The package as it is published: what the archives hold, and an installation from the wheel that runs the demo offline."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import langprune_cli
from langprune_cli.location.location import DEMO_FOLDER
from tests.support.paths import REPOSITORY

TOOLS = all(find_spec(name) for name in ("build", "hatchling", "twine"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TOOLS, reason="needs build, hatchling and twine: nox -s package has them"),
]

# Refuses every connection that leaves the machine, in every Python of the environment that it is put into.
NO_NETWORK = """
import socket
def refuse(self, address):
    raise AssertionError(f"the network was asked for {address}")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda *asked, **more: refuse(None, asked)
"""


def run(*command: object, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, out: Path, kind: str) -> Path:
    run(sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", out, source, cwd=out.parent)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(REPOSITORY, tmp_path_factory.mktemp("built") / "wheel", "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(REPOSITORY, tmp_path_factory.mktemp("built") / "sdist", "sdist")


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    files = contents(wheel)
    package = REPOSITORY / "langprune_cli"
    expected = {
        path.relative_to(REPOSITORY).as_posix(): path.read_bytes()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    own = {name: data for name, data in files.items() if ".dist-info/" not in name}
    assert own.keys() == expected.keys()
    assert own == expected
    folder = f"langprune-{langprune_cli.__version__}.dist-info"
    assert {name for name in files if name.startswith(folder)} == {
        f"{folder}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }
    assert b"langprune = langprune_cli.__main__:main" in files[f"{folder}/entry_points.txt"]


def test_the_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    again = build(source, tmp_path / "wheel", "wheel")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)
    assert (source / "tests/conftest.py").is_file()
    assert (source / "constraints.txt").is_file()


def test_the_index_would_take_both(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    said = run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel, cwd=tmp_path)
    assert said.count("PASSED") == 2


@pytest.mark.skipif(not (DEMO_FOLDER / "config.json").is_file(), reason="the demo model has not been made")
def test_an_installation_runs_the_demo_offline(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, with the versions of constraints.txt, then with every socket shut."""
    place = tmp_path / "venv"
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-c", REPOSITORY / "constraints.txt", wheel, cwd=tmp_path)
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    Path(packages, "sitecustomize.py").write_text(NO_NETWORK)
    shut = subprocess.run(
        [python, "-c", "import socket; socket.create_connection(('127.0.0.1', 9))"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "the network was asked for" in shut.stderr
    home = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "HOME": str(tmp_path), "PYTHONPATH": ""}
    out = run(place / "bin" / "langprune", "demo", cwd=tmp_path, **home)
    assert "dense" in out
    assert "pruned for uk" in out
    assert (tmp_path / "langprune-demo" / "models").is_dir()
    for words in (
        ("report", "--out", "report.html"),
        ("export", "--out", "shared"),
    ):  # both need the package's templates
        run(place / "bin" / "langprune", *words, "--workspace", "langprune-demo", cwd=tmp_path, **home)
    assert "Perplexity" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "## Evaluation" in (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")
    assert langprune_cli.__version__ in run(place / "bin" / "langprune", "--version", cwd=tmp_path, **home)
