"""The results of requests."""

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
    """The artifacts that a request made or found, the requested one first."""

    outcomes: tuple[Outcome, ...]
    planned: tuple[Planned, ...] | None = None  # of a dry run: existing artifacts, and those it would make
    whole: bool = True  # of a dry run: whether `planned` is complete; a step that depends on results cannot be planned

    @property
    def artifact(self) -> Artifact:
        """The requested artifact; raises LangpruneError if a dry run could not plan it."""
        if not self.outcomes:
            raise LangpruneError("this dry run ended before its last artifact: look at `planned`, or run it")
        return self.outcomes[0].artifact

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """All artifacts, the requested one first."""
        return tuple(outcome.artifact for outcome in self.outcomes)

    @property
    def name(self) -> str:
        """The name of the requested artifact."""
        return self.artifact.name

    @property
    def folder(self) -> Path:
        """The folder of the requested artifact."""
        return self.artifact.folder

    @property
    def cached(self) -> bool:
        """Whether the requested artifact existed before."""
        return bool(self.outcomes) and self.outcomes[0].cached

    def __repr__(self) -> str:
        """Return the artifacts' names and states only: manifests are long."""
        found = [(each.artifact.manifest.kind, each.artifact.name, each.cached) for each in self.outcomes]
        if self.planned is not None:
            found = [(each.recipe.kind, each.name, each.there) for each in self.planned]
        new = "" if self.planned is None else ", to be made"
        shown = [f"{kind}/{name}{', already there' if there else new}" for kind, name, there in found]
        return f"{type(self).__name__}({'; '.join(shown)})"
