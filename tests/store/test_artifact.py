"""Artifacts on disk: keys, manifests and hashes of parts, and what readers refuse."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from langprune_cli.errors import LangpruneError
from langprune_cli.store.artifact import ArtifactWriter, Recipe, open_artifact
from langprune_cli.store.files import canonical_json, readable_json
from langprune_cli.store.manifest import Manifest, is_artifact, read_manifest
from langprune_cli.store.workspace import Workspace
from tests.support.artifact_making import RECIPE, sign, written
from tests.support.command import tree


def test_key_is_sha256_of_canonical_json() -> None:
    text = (
        r'{"inputs":{"model":"ab","stats":null},"kind":"masks",'
        r'"params":{"exclude":"\u043c\u043e\u0432\u0430","sparsity":0.5},"schema":1}'
    )
    assert RECIPE.key == hashlib.sha256(text.encode()).hexdigest()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5), st.randoms())
def test_key_does_not_depend_on_insertion_order(record: dict[str, Any], draw: Any) -> None:
    items = list(record.items())
    draw.shuffle(items)
    assert Recipe("stats", record, record).key == Recipe("stats", dict(items), dict(items)).key
    assert json.loads(canonical_json(record)) == record


@pytest.mark.parametrize(
    "other",
    [
        Recipe("scores", RECIPE.inputs, RECIPE.params),
        Recipe("masks", RECIPE.inputs | {"model": "ac"}, RECIPE.params),
        Recipe("masks", RECIPE.inputs, RECIPE.params | {"sparsity": 0.25}),
        Recipe("masks", RECIPE.params, RECIPE.inputs),
    ],
)
def test_key_tells_recipes_apart(other: Recipe) -> None:
    assert other.key != RECIPE.key


def test_key_leaves_out_what_is_for_people() -> None:
    same = Recipe("masks", RECIPE.inputs, RECIPE.params, {"note": "another"}, {"torch": "9"})
    assert same.key == RECIPE.key


def test_manifest_on_disk(tmp_path: Path) -> None:
    artifact = written(tmp_path / "x")
    record = json.loads((tmp_path / "x/manifest.json").read_bytes())
    assert record == {
        "schema": 1,
        "kind": "masks",
        "tool": record["tool"],
        "key": RECIPE.key,
        "inputs": RECIPE.inputs,
        "params": RECIPE.params,
        "about": {"note": "for people", "removed": 3},
        "environment": {},
        "parts": {
            "a.bin": {"sha256": hashlib.sha256(b"first").hexdigest(), "size": 5},
            "sub/b.bin": {"sha256": hashlib.sha256(b"second").hexdigest(), "size": 6},
        },
        "complete": True,
        "digest": record["digest"],
    }
    rest = {name: value for name, value in record.items() if name != "digest"}
    assert record["digest"] == hashlib.sha256(
        json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()  # fmt: skip
    assert artifact.size() == 11
    assert open_artifact(tmp_path / "x", "masks").read("sub/b.bin") == b"second"


def test_manifest_depends_neither_on_time_nor_place_nor_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "x")
    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    monkeypatch.setattr("time.time", lambda: 1e9)
    backwards = Recipe(
        "masks", dict(reversed(RECIPE.inputs.items())), dict(reversed(RECIPE.params.items())), RECIPE.about
    )
    writer = ArtifactWriter(tmp_path / "y", backwards)
    writer.write("sub/b.bin", b"second")
    writer.write("a.bin", b"first")
    writer.finish(removed=3)
    assert tree(tmp_path / "x") == tree(tmp_path / "y")


def test_tensors_and_their_record_come_back(tmp_path: Path) -> None:
    writer = ArtifactWriter(tmp_path / "x", RECIPE)
    tensor = torch.arange(6.0).reshape(2, 3)
    writer.write_tensors("t.safetensors", {"w": tensor.t()}, {"sites": {"q": ["q", "k"]}})
    tensors, record = writer.finish().tensors_and_record("t.safetensors")
    assert torch.equal(tensors["w"], tensor.t())
    assert record == {"sites": {"q": ["q", "k"]}}


@pytest.mark.parametrize("change", ["flip", "cut", "grow"])
def test_every_changed_byte_of_a_part_is_refused(tmp_path: Path, change: str) -> None:
    writer = ArtifactWriter(tmp_path / "x", RECIPE)
    writer.write_tensors("t.safetensors", {"w": torch.arange(4, dtype=torch.uint8)})
    artifact, path = writer.finish(), tmp_path / "x/t.safetensors"
    whole = path.read_bytes()
    for place in range(len(whole)):
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        path.write_bytes({"flip": flipped, "cut": whole[:place], "grow": whole + bytes(place + 1)}[change])
        with pytest.raises(LangpruneError) as refused:
            artifact.tensors("t.safetensors")
        assert str(refused.value).startswith(f"{path} is damaged (")
        assert "\n" not in str(refused.value)


def test_missing_and_unknown_parts_are_refused(tmp_path: Path) -> None:
    artifact = written(tmp_path / "x")
    (tmp_path / "x/a.bin").unlink()
    with pytest.raises(LangpruneError, match=r"a\.bin is missing .*: run langprune mask again with --force"):
        artifact.read("a.bin")
    with pytest.raises(LangpruneError, match=r"has no part c\.bin: run langprune mask again with --force"):
        artifact.read("c.bin")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 2}, "has schema 2, this langprune .* reads schema 1"),
        ({"schema": "1"}, "has schema 1"),
        ({"kind": "stats"}, "holds stats, and masks are needed here"),
        ({"complete": False}, "is not complete: run the command that makes it again"),
        ({"surprise": 1}, "is not a langprune manifest"),
        ({"parts": None}, "is not a langprune manifest"),
        ({"parts": {"../../x": {"sha256": "", "size": 0}}}, "is not a langprune manifest"),
        ({"parts": {"/etc/passwd": {"sha256": "", "size": 0}}}, "is not a langprune manifest"),
    ],
)
def test_manifests_that_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    written(tmp_path / "x")
    path = tmp_path / "x/manifest.json"
    sign(path, json.loads(path.read_bytes()) | change)
    with pytest.raises(LangpruneError, match=says):
        open_artifact(tmp_path / "x", "masks")


@pytest.mark.parametrize("field", [each.name for each in fields(Manifest)])
def test_a_field_that_was_edited_is_refused_by_every_reader(tmp_path: Path, field: str) -> None:
    """Whatever the field: by who opens it, who goes on with it, who looks for the newest, and who asks for its name."""
    workspace = Workspace(tmp_path)
    folder = written(tmp_path / "masks/x").folder
    path = folder / "manifest.json"
    record = json.loads(path.read_bytes())
    edited = {"complete": False, "schema": True, "parts": {}, "tool": "langprune 9"}.get(
        field, record[field] | {"x": 1} if isinstance(record[field], dict) else f"{record[field]}0"
    )
    path.write_bytes(readable_json(record | {field: edited}))
    for read in (
        lambda: read_manifest(folder),
        lambda: open_artifact(folder, "masks"),
        lambda: ArtifactWriter(folder, RECIPE),
        lambda: ArtifactWriter(folder, RECIPE, fresh=True),
        lambda: workspace.find("masks", "x"),
        lambda: workspace.newest("masks"),
        lambda: workspace.free_name("masks", "x", RECIPE.key),
    ):
        with pytest.raises(
            LangpruneError, match=r"manifest\.json is damaged \(its digest .* move .* out of the way and give"
        ):
            read()
    assert workspace.entries() == []
    assert list(workspace.read_all("masks")[1]) == ["x"]
    assert is_artifact(folder)


@pytest.mark.parametrize("mask", [1, 16])
def test_a_manifest_with_a_flipped_bit_is_a_manifest_still(tmp_path: Path, mask: int) -> None:
    """Else a model's folder would be taken for somebody else's, whose weights nobody can check."""
    path = written(tmp_path / "x").folder / "manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
        assert is_artifact(tmp_path / "x")
        with pytest.raises(LangpruneError):
            read_manifest(tmp_path / "x")


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "null", "{}", '{"schema": 1}', "\udcff"])
def test_manifests_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(LangpruneError, match="is not a langprune manifest"):
        read_manifest(tmp_path)


def test_whose_folder_it_is_not_is_not_advised_to_be_removed(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "another program\'s"}')
    with pytest.raises(LangpruneError) as refused:
        read_manifest(tmp_path)
    assert "remove" not in str(refused.value)
    assert "--force" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (None, False),
        ("", False),
        ("{", False),
        ("[]", False),
        ('["schema", "kind", "key"]', False),
        ('{"name": "an app", "icons": []}', False),
        ('{"schema": 1, "kind": "models"}', False),
        ("[" * 100_000, False),
        ("\udcff", False),
        ('{"schema": 7, "kind": "models", "key": ""}', True),  # of another version, and refused where it is read
    ],
)
def test_what_is_an_artifact(tmp_path: Path, text: str | None, is_one: bool) -> None:  # noqa: FBT001 - a parameter of the test
    if text is not None:
        (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert is_artifact(tmp_path) is is_one
    assert not is_artifact(tmp_path / ("x" * 300))
    assert not is_artifact(Path("a\0b"))


def test_a_folder_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(LangpruneError, match=r"is no langprune artifact: it has no manifest\.json"):
        open_artifact(tmp_path, "masks")
