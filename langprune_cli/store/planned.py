"""The plan of a dry run: each artifact that exists or would be made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from langprune_cli.store.artifact import Recipe


@dataclass(frozen=True)
class Planned:
    """One artifact of a dry run: found, or to be made."""

    recipe: Recipe
    name: str
    folder: Path
    there: bool
    size: int | None  # bytes, None where that is not known beforehand


class OnlyPlannedError(Exception):
    """Ends a dry run whose next step reads the previous step's result.

    planned: the plan so far.
    """

    def __init__(self, planned: Sequence[Planned]) -> None:
        super().__init__("this depends on the result of an earlier step")
        self.planned = planned
