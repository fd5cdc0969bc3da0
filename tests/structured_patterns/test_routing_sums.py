"""The two sums of a router are read from statistics without the rest of a part, and checked all the same."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.support.artifact_making import sign
from tests.support.command import did, langprune, one_sentence
from tests.support.pico import save_pico

PART = "block-001.safetensors"
ROUTED, OUTPUTS = "experts/routed", "experts/outputs"
MASK = ("mask", "--stats", "stats", "--pattern", "experts:0.25", "--force")


@pytest.fixture
def stats(tmp_path: Path) -> Path:
    """Return the folder of statistics with Hessians of a mixture, in the workspace `w`."""
    save_pico("mixtral", tmp_path / "dense")
    return calibrated(tmp_path, "stats", seed=1)


def calibrated(tmp_path: Path, name: str, seed: int) -> Path:
    """Calibrate the model with Hessians on some windows, and return the folder of the statistics."""
    windows = torch.randint(3, 97, (4, 24), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    save_file({"windows": windows}, tmp_path / f"{name}.safetensors")
    text = "--data", tmp_path / f"{name}.safetensors", "--collect", "hessian"
    did("calibrate", "-w", tmp_path / "w", "--model", tmp_path / "dense", *text, "--name", name)
    return tmp_path / "w" / "stats" / name


def flip(part: Path, tensor: str) -> None:
    """Change the lowest bit of a tensor's first byte in the file."""
    data = bytearray(part.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start + json.loads(data[8:start])[tensor]["data_offsets"][0]] ^= 1
    part.write_bytes(data)


def chosen(stats: Path) -> object:
    """Return the choice of experts from the statistics."""
    made = did(*MASK, "-w", stats.parents[1], "--json").json
    return json.loads((Path(made["path"]) / "experts.json").read_text())


def without_digests(stats: Path) -> None:
    """Make the manifest one of an earlier version."""
    record = json.loads((stats / "manifest.json").read_bytes())
    for entry in record["parts"].values():
        entry.pop("tensors", None)
    sign(stats / "manifest.json", record)


def test_the_rest_of_a_part_is_not_read(stats: Path) -> None:
    """A byte that has changed in a Hessian is not noticed, since nothing but the sums is read; who reads it notices."""
    before = chosen(stats)
    with safe_open(stats / PART, "pt") as part:
        hessian = next(name for name in part.keys() if name.endswith("/hessian"))  # noqa: SIM118 - no mapping
    flip(stats / PART, hessian)
    assert chosen(stats) == before
    one_sentence(
        langprune("mask", "--stats", "stats", "--pattern", "channels:0.25", "-w", stats.parents[1]),
        1,
        rf"{PART} is damaged .+ run langprune calibrate again with --force$",
    )


@pytest.mark.parametrize("tensor", [ROUTED, OUTPUTS])
def test_a_changed_sum_is_refused(stats: Path, tensor: str) -> None:
    flip(stats / PART, tensor)
    one_sentence(langprune(*MASK, "-w", stats.parents[1]), 1, rf"{PART} is damaged")


def test_statistics_of_earlier_versions_are_read_whole(stats: Path) -> None:
    before = chosen(stats)
    without_digests(stats)
    assert chosen(stats) == before
    with safe_open(stats / PART, "pt") as part:
        hessian = next(name for name in part.keys() if name.endswith("/hessian"))  # noqa: SIM118 - no mapping
    flip(stats / PART, hessian)
    one_sentence(langprune(*MASK, "-w", stats.parents[1]), 1, rf"{PART} is damaged")


def test_a_missing_part_is_named(stats: Path) -> None:
    (stats / PART).unlink()
    one_sentence(langprune(*MASK, "-w", stats.parents[1]), 1, rf"{PART}")


@pytest.mark.parametrize("tensors", [3, {ROUTED: 3}], ids=str)
def test_a_forged_list_of_tensors_is_refused(stats: Path, tensors: object) -> None:
    record = json.loads((stats / "manifest.json").read_bytes())
    record["parts"][PART]["tensors"] = tensors
    sign(stats / "manifest.json", record)
    one_sentence(langprune(*MASK, "-w", stats.parents[1]), 1, "is not a langprune manifest")


def test_sums_of_statistics_have_digests_too(stats: Path, tmp_path: Path) -> None:
    calibrated(tmp_path, "other", seed=2)
    did("combine", "stats", "stats", "other", "-w", tmp_path / "w", "--name", "sum")
    for name in ("stats", "other", "sum"):
        entry = json.loads((stats.parent / name / "manifest.json").read_bytes())["parts"][PART]
        tensors = load_file(stats.parent / name / PART)
        assert entry["tensors"] == {
            each: hashlib.sha256(tensors[each].numpy().tobytes()).hexdigest() for each in (ROUTED, OUTPUTS)
        }
