"""Where what is made goes, as its user asked for it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """The name and the folder of an artifact, and whether it is made again where it is there already."""

    name: str | None = None  # None: the stage's own
    out: Path | None = None  # None: a folder of the workspace
    force: bool = False

    @property
    def between(self) -> "Target":
        """Where something goes that is made on the way: the name and the folder are those of the last one."""
        return Target(force=self.force)


TARGET = Target()
