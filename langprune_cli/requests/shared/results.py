"""What a request gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langprune_cli.errors import LangpruneError

if TYPE_CHECKING:
    from pathlib import Path

    from langprune_cli.store.artifact import Artifact
    from langprune_cli.store.building import Outcome
    from langprune_cli.store.planned import Planned


@dataclass(frozen=True, repr=False)
class Made:
    """The artifacts that a request made or found made already, the one that was asked for first."""

    outcomes: tuple[Outcome, ...]
    planned: tuple[Planned, ...] | None = None  # of a dry run: what is there, and what would be made
    whole: bool = True  # of a dry run: whether `planned` is all; what follows from results cannot be foreseen

    @property
    def artifact(self) -> Artifact:
        """The artifact that was asked for; raises LangpruneError where a dry run could not foresee it."""
        if not self.outcomes:
            raise LangpruneError("this dry run ended before its last artifact: look at `planned`, or run it")
        return self.outcomes[0].artifact

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """All artifacts, the one that was asked for first."""
        return tuple(outcome.artifact for outcome in self.outcomes)

    @property
    def name(self) -> str:
        """The name of the artifact that was asked for."""
        return self.artifact.name

    @property
    def folder(self) -> Path:
        """The folder that the artifact lies in."""
        return self.artifact.folder

    @property
    def cached(self) -> bool:
        """Whether the artifact was there already."""
        return bool(self.outcomes) and self.outcomes[0].cached

    def __repr__(self) -> str:
        """Return the artifacts, and whether each was there already: a manifest is long."""
        found = [(each.artifact.manifest.kind, each.artifact.name, each.cached) for each in self.outcomes]
        if self.planned is not None:
            found = [(each.recipe.kind, each.name, each.there) for each in self.planned]
        new = "" if self.planned is None else ", to be made"
        shown = [f"{kind}/{name}{', already there' if there else new}" for kind, name, there in found]
        return f"{type(self).__name__}({'; '.join(shown)})"
