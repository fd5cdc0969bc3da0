"""`langprune verify`: finds every changed byte of every file that it covers, and says what to do about it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langprune_cli.store.artifact import ArtifactWriter
from langprune_cli.store.files import readable_json
from langprune_cli.store.verifying import verify
from tests.support.artifact_making import RECIPE, written
from tests.support.command import did, langprune, one_sentence, snapshot, tree

PARTS = {
    "stats": "block-001.safetensors",
    "scores": "block-001.safetensors",
    "masks": "block-001.safetensors",
    "models": "model.safetensors",
    "evals": "result.json",
}


def part_of(workspace: Path, kind: str) -> Path:
    return next((workspace / kind).glob(f"*/{PARTS[kind]}"))


def flip(path: Path, place: int, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= mask
    path.write_bytes(data)


def test_a_workspace_that_is_whole(workspace: Path) -> None:
    before = snapshot(workspace)
    done = did("verify", "--all", "-w", workspace)
    assert done.out.count(" whole\n") + done.out.count(" whole ") == 6
    found = did("verify", "--all", "-w", workspace, "--json").json
    assert (found["schema"], found["whole"], len(found["artifacts"])) == (1, True, 6)
    for each in found["artifacts"]:
        manifest = json.loads((Path(each["path"]) / "manifest.json").read_bytes())
        assert each["bytes"] == sum(part["size"] for part in manifest["parts"].values())
        assert (each["files"], each["complete"], each["damaged"]) == (1 + len(manifest["parts"]), True, [])
    assert snapshot(workspace) == before


def test_every_flipped_byte_of_a_small_artifact_is_found(tmp_path: Path) -> None:
    written(tmp_path / "x")
    for name in tree(tmp_path / "x"):
        path = tmp_path / "x" / name
        whole = path.read_bytes()
        for place in range(len(whole)):
            for mask in (1, 2, 16, 32, 128):  # 32 turns letters to capitals and digits to control characters
                flip(path, place, mask)
                damaged = [damage.path for damage in verify("x", tmp_path / "x").damages]
                assert damaged == [path], (name, place, mask)
                path.write_bytes(whole)
    assert verify("x", tmp_path / "x").damages == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_manifest_is_found(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes changed to any others, taken out or put in: white space too, which JSON would not mind."""
    folder = tmp_path / "x"
    shutil.rmtree(folder, ignore_errors=True)
    written(folder)
    path = folder / "manifest.json"
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 3)))
    put = data.draw(st.binary(max_size=3) | st.sampled_from([b" ", b"\n", b"\t", b"0", b'"', b",", b"{", b"1e5"]))
    path.write_bytes(whole[:start] + put + whole[end:])
    changed = path.read_bytes() != whole
    assert [damage.path for damage in verify("x", folder).damages] == [path] * changed


@pytest.mark.parametrize(
    "change",
    [
        {"about": {"note": "for nobody"}},
        {"tool": "langprune 9"},
        {"environment": {"torch": "9"}},
        {"key": "0" * 64},
        {"parts": {}},
        {"complete": False},
        {"digest": ""},
        {"digest": None},
    ],
)
def test_a_manifest_that_was_written_anew_by_others_is_found(tmp_path: Path, change: dict[str, Any]) -> None:
    written(tmp_path / "x")
    path = tmp_path / "x/manifest.json"
    path.write_bytes(readable_json(json.loads(path.read_bytes()) | change))
    (damage,) = verify("x", tmp_path / "x").damages
    assert damage.says.startswith(f"{path} is damaged (its digest is not that of what it says): move ")


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda path: flip(path, path.stat().st_size // 2),
            r" is damaged \(its sha256 is another one\): remove it and",
        ),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            r" is damaged \(\d+ bytes where \d+ were written\): give",
        ),
        (Path.unlink, " is missing: give the command that made it again"),
    ],
    ids=["flipped", "truncated", "missing"],
)
def test_a_damaged_part_of_every_kind_is_named(
    workspace: Path, kind: str, change: Callable[[Path], None], says: str
) -> None:
    path = part_of(workspace, kind)
    change(path)
    for names in (["--all"], [f"{kind}/{path.parent.name}"]):
        done = langprune("verify", *names, "-w", workspace, "--json")
        assert (done.code, done.err) == (1, "")
        damaged = [one for each in done.json["artifacts"] for one in each["damaged"]]
        assert [one["path"] for one in damaged] == [str(path)]
        assert not done.json["whole"]
    shown = langprune("verify", "--all", "-w", workspace)
    assert shown.code == 1
    assert "damaged: 1 of its files" in shown.out
    assert re.search(re.escape(str(path)) + says, shown.out)


@pytest.mark.parametrize("part", ["stats/uk/block-001.safetensors", "models/uk-wanda-2x4/model.safetensors"])
def test_what_it_says_to_do_helps(workspace: Path, part: str, pico_text: Path) -> None:
    before = tree(workspace)
    flip(workspace / part, 100)
    (workspace / part).unlink()
    words = ["calibrate", "--lang", "uk", "--data", pico_text / "uk.jsonl", "--nsamples", "6", "--seqlen", "16"]
    did(*(words if "stats" in part else ["apply"]), "-w", workspace)
    did("verify", "--all", "-w", workspace)
    assert tree(workspace) == before


def test_what_lies_where_artifacts_do_and_is_none(workspace: Path) -> None:
    (workspace / "masks/torn").mkdir()
    (workspace / "masks/gone").symlink_to("/nowhere")
    (workspace / "masks/uk").mkdir()
    shutil.copytree(workspace / "stats/uk", workspace / "masks/uk", dirs_exist_ok=True)
    (workspace / "stats/.uk.lock").touch()
    found = langprune("verify", "--all", "-w", workspace, "--json").json["artifacts"]
    says = {each["label"]: each["damaged"][0]["says"] for each in found if each["damaged"]}
    assert says.keys() == {"masks/torn", "masks/gone", "masks/uk"}
    assert "has no manifest.json" in says["masks/torn"]
    assert says["masks/gone"].endswith("leads to a folder that is gone: langprune rm masks/gone forgets it")
    assert "holds stats and lies among masks" in says["masks/uk"]
    did("rm", "masks/gone", "-w", workspace)


def test_one_that_is_not_complete_is_no_damage(tmp_path: Path) -> None:
    ArtifactWriter(tmp_path / "masks/x", RECIPE).write("a.bin", b"first")
    done = did("verify", "x", "-w", tmp_path)
    assert "whole so far, not complete" in done.out
    flip(tmp_path / "masks/x/a.bin", 0)
    assert langprune("verify", "x", "-w", tmp_path).code == 1


def test_a_newer_schema_is_said(tmp_path: Path) -> None:
    written(tmp_path / "x")
    path = tmp_path / "x/manifest.json"
    path.write_bytes(readable_json(json.loads(path.read_bytes()) | {"schema": 2, "tool": "langprune 9"}))
    (damage,) = verify("x", tmp_path / "x").damages
    assert "has schema 2" in damage.says
    assert damage.says.endswith("use the version that wrote it (langprune 9)")


def test_exported_models(workspace: Path, tmp_path: Path) -> None:
    did("export", "-w", workspace, "--out", tmp_path / "mine", "--with-mask")
    assert did("verify", tmp_path / "mine", "--json").json["artifacts"][0]["complete"]
    for name in sorted(tree(tmp_path / "mine").keys() - {"README.md"}):
        path = tmp_path / "mine" / name
        whole = path.read_bytes()
        places = range(0, len(whole), 97) if name == "langprune.json" else [0, len(whole) // 2, len(whole) - 1]
        for place in places:
            flip(path, place)
            (damage,) = verify("mine", tmp_path / "mine").damages
            assert damage.path == path, (name, place)
            path.write_bytes(whole)
    did("verify", tmp_path / "mine")


@pytest.mark.parametrize(("words", "code", "says"), [
    ([], 2, "verify needs the names of artifacts: give some, or --all"),
    (["uk", "--all"], 2, "or --all"),
    (["nothing"], 1, r"there is no artifact 'nothing' in .*: give a name that langprune ls shows"),
])  # fmt: skip
def test_what_is_refused(workspace: Path, words: list[str], code: int, says: str) -> None:
    one_sentence(langprune("verify", *words, "-w", workspace), code, says)
