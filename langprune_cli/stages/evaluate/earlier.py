"""Reads the evaluations of a workspace, and finds those of a model."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

from langprune_cli.errors import LangpruneError
from langprune_cli.stages.evaluate.rows import Result, Row
from langprune_cli.store.artifact import WEIGHTS, Artifact
from langprune_cli.store.index import Unreadable
from langprune_cli.store.workspace import Workspace

RESULT = "result.json"


def read_rows(artifact: Artifact) -> list[Row]:
    """Return the rows of an evaluation."""
    return read_result(artifact)["rows"]


def read_result(artifact: Artifact) -> Result:
    """Return the result of an evaluation."""
    result = json.loads(artifact.read(RESULT))
    return cast("Result", {name: result[name] for name in ("rows", "compare", "tasks") if name in result})


def evaluations_of(
    workspace: Workspace,
    pruned: set[tuple[str, str | None]],  # model digests and mask keys
    base: str,  # digest of their base model
    damaged: list[str],
    usable: Callable[[Artifact, list[Row]], bool],
) -> list[tuple[Artifact, list[Row]]]:
    """Return the usable evaluations with a row of `pruned`, and the newest with a row of `base` on each of their texts.

    They come oldest first, with their rows, except those of quantized models. Other evaluations of the base are not read, since
    every evaluation may have such a row. Adds the names of unreadable ones to `damaged`.
    """
    errors: list[Unreadable] = []
    found: dict[Path, tuple[Artifact, list[Row]]] = {}

    def read(artifact: Artifact) -> list[Row]:
        if artifact.folder not in found:
            rows = _sound_rows(artifact)
            damaged.extend([artifact.name] * (rows is None))
            rows = [row for row in rows or () if not row.get("bits")]
            found[artifact.folder] = artifact, rows if usable(artifact, rows) else []
        return found[artifact.folder][1]

    of_pruned = workspace.having("evals", lambda outline: any(cell[:2] in pruned for cell in outline.cells), errors)
    cells = {(base, None, row["fingerprint"], row["dtype"]) for artifact in of_pruned for row in read(artifact)}
    damaged += [each.folder.name for each, _ in errors]
    for artifact in workspace.newest_first("evals", lambda outline: not outline.cells.isdisjoint(cells)):
        rows = read(artifact)
        cells.difference_update(
            (row["model_digest"], row["mask_key"], row["fingerprint"], row["dtype"]) for row in rows
        )
    return [found[folder] for folder in workspace.oldest_first("evals") if folder in found]


def _sound_rows(artifact: Artifact) -> list[Row] | None:
    """Return the rows of an evaluation, None if they are unreadable or lack fields."""
    try:
        rows = read_rows(artifact)
        return rows if all(row.keys() >= Row.__required_keys__ for row in rows) else None
    except (LangpruneError, ValueError, KeyError, TypeError, AttributeError):
        return None


def has_bytes_of(artifact: Artifact, digest: str, weights: str) -> bool:
    """Return whether an evaluation's rows of the model `digest` belong to weights with the sha256 `weights`."""
    known = artifact.manifest.about.get(WEIGHTS)
    return isinstance(known, dict) and known.get(digest) == weights


class KnownCells:
    """Rows of earlier evaluations by cell, with the losses of their windows; reads only evaluations with that cell.

    Models must match in all bytes of their weights: `weights`, digest -> sha256.
    """

    def __init__(self, workspace: Workspace, weights: dict[str, str], *, none: bool = False) -> None:
        self._workspace = workspace
        self._weights = weights
        self._none = none

    def row(self, cell: str) -> tuple[Row, bytes] | None:
        """Return the row and the losses of the newest evaluation with that cell, None if there is none."""
        part = losses_part(cell)
        for artifact in [] if self._none else self._workspace.newest_first("evals", lambda each: part in each.parts):
            for row in _sound_rows(artifact) or ():
                digest = row["model_digest"]
                if (
                    row["cell"] == cell
                    and digest in self._weights
                    and has_bytes_of(artifact, digest, self._weights[digest])
                ):
                    with suppress(LangpruneError):
                        return row, artifact.read(part)
        return None


def losses_part(cell: str) -> str:
    """Return the part of an evaluation that has the losses of a cell's windows."""
    return f"nats-{cell}.safetensors"
