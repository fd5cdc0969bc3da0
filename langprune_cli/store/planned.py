"""What a dry run finds: each artifact that is there, or would be made."""

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
    """A dry run cannot go on: its next step reads what the step before would have made.

    planned: what it knows so far.
    """

    def __init__(self, planned: Sequence[Planned]) -> None:
        super().__init__("this is known once the step before has been made")
        self.planned = planned
