"""What tests of artifacts share: a recipe, and one artifact of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.files import document_digest, readable_json

RECIPE = Recipe("masks", {"model": "ab", "stats": None}, {"sparsity": 0.5, "exclude": "мова"}, {"note": "for people"})
Fail = Callable[[Any, str, int], AbstractContextManager[None]]


def written(folder: Path, recipe: Recipe = RECIPE) -> Artifact:
    writer = ArtifactWriter(folder, recipe)
    writer.write("a.bin", b"first")
    writer.write("sub/b.bin", b"second")
    return writer.finish(removed=3)


def sign(path: Path, record: dict[str, Any]) -> None:
    """Write a manifest or langprune.json with the digest that belongs to it, as who forges one would."""
    path.write_bytes(readable_json(record | {"digest": document_digest(record)}))
