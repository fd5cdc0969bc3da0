"""A workspace with many artifacts: copies of small ones, each with a name, inputs and a key of its own, rightly signed."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from langprune_cli.store.artifact import Artifact, Recipe, open_artifact
from langprune_cli.store.files import canonical_json, document_digest, readable_json

Files = dict[str, bytes | Path]  # name of a part -> what is in it, or the part that it is a link to


def crowd(workspace: Path, names: dict[str, str], counts: dict[str, int]) -> None:
    """Add `counts` copies of the artifacts `names`, kind -> name; each comes from the copy of the same number before it.

    Parts are hard links, but for those that differ: so 2,000 artifacts take seconds, and no space.
    """
    origin = {kind: open_artifact(workspace / kind / name, kind) for kind, name in names.items()}
    for number in range(max(counts.values())):
        keys: dict[str, str] = {}
        for kind, change in _CHANGES.items():
            if number < counts.get(kind, 0):
                keys[kind] = _copy(origin[kind], f"copy-{number:04d}", change, number, keys)


def _copy(
    artifact: Artifact,
    name: str,
    change: Callable[[Artifact, dict[str, Any], Files, int, dict[str, str]], None],
    number: int,
    keys: dict[str, str],
) -> str:
    """Write a copy and return its key."""
    inputs: dict[str, Any] = json.loads(json.dumps(artifact.manifest.inputs))
    files: Files = {part: artifact.folder / part for part in artifact.manifest.parts}
    change(artifact, inputs, files, number, keys)
    folder = artifact.folder.with_name(name)
    folder.mkdir()
    parts = {}
    for part, content in files.items():
        if isinstance(content, Path):
            os.link(content, folder / part)
            (parts[part],) = (entry for known, entry in artifact.manifest.parts.items() if known == content.name)
        else:
            (folder / part).write_bytes(content)
            parts[part] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    key = Recipe(artifact.manifest.kind, inputs, artifact.manifest.params).key
    record = asdict(artifact.manifest) | {"inputs": inputs, "parts": parts, "key": key}
    (folder / "manifest.json").write_bytes(readable_json(record | {"digest": document_digest(record)}))
    return key


def _digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def _stats(_: Artifact, inputs: dict[str, Any], _files: Files, number: int, _keys: dict[str, str]) -> None:
    inputs["text"]["fingerprint"] = _digest(number)


def _from_stats(_: Artifact, inputs: dict[str, Any], _files: Files, number: int, keys: dict[str, str]) -> None:
    inputs["stats"] = keys.get("stats", _digest(number))


def _model(artifact: Artifact, inputs: dict[str, Any], files: Files, number: int, keys: dict[str, str]) -> None:
    inputs["mask"] = keys.get("masks", _digest(number))
    config = json.loads((artifact.folder / "config.json").read_bytes())
    files["config.json"] = json.dumps(config | {"copy": number}).encode()  # so that its digest is one of its own


def _evaluation(artifact: Artifact, inputs: dict[str, Any], files: Files, number: int, keys: dict[str, str]) -> None:
    """Let the rows of masks be of another mask; the dense rows stay as they are."""
    key = keys.get("masks", _digest(number))
    result: dict[str, Any] = json.loads((artifact.folder / "result.json").read_bytes())
    for cell, row in zip(inputs["cells"], result["rows"], strict=True):
        if cell["mask_key"]:
            cell["mask_key"] = row["mask_key"] = key
            before = f"nats-{row['cell']}.safetensors"
            row["cell"] = hashlib.sha256(canonical_json(cell).encode()).hexdigest()[:16]
            files[f"nats-{row['cell']}.safetensors"] = files.pop(before)
    files["result.json"] = readable_json(result)


_CHANGES = {"stats": _stats, "scores": _from_stats, "masks": _from_stats, "models": _model, "evals": _evaluation}
