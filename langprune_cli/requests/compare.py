"""The request behind `compare`: the similarity of artifacts of one kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from langprune_cli.errors import LangpruneError, UsageError, near_matches
from langprune_cli.requests.shared.options import HubOptions, ModelOptions
from langprune_cli.requests.shared.run import running
from langprune_cli.requests.shared.values import Names, one_or_none, several
from langprune_cli.store.manifest import is_artifact, read_manifest

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from collections.abc import Sequence

    from langprune_cli.stages.combine.compare import Pair
    from langprune_cli.stages.combine.experts_used import ExpertsUsed
    from langprune_cli.store.workspace import Workspace

COMPARED = ("stats", "scores", "masks")  # kinds of artifacts


@dataclass(frozen=True, kw_only=True)
class CompareRequest(ModelOptions, HubOptions):
    """Show how similar statistics, scores or masks of one model are: overall, by block and by kind of linear.

    names: two or more artifacts of one kind
    kind: "stats", "scores" or "masks", if several kinds have these names
    model, revision, cache_dir, trust_remote_code: for masks, the model, by default theirs, and how to open it
    """

    names: Names
    kind: str | None = None

    def check(self) -> None:
        """Raise UsageError for a kind that cannot be compared."""
        super().check()
        one_or_none("--kind", self.kind, COMPARED)


@dataclass(frozen=True)
class Compared:
    """The similarity of artifacts, pair by pair."""

    kind: str
    pairs: tuple[Pair, ...]
    names: tuple[str, ...]
    experts: tuple[ExpertsUsed, ...] = ()  # of each block of a mixture, for statistics


def compare(request: CompareRequest) -> Compared:
    """Compare every pair of the artifacts."""
    with running(request, device="cpu") as run:
        from langprune_cli.stages.combine.compare import compare_artifacts  # noqa: PLC0415

        names = several(request.names)
        kind = request.kind or kind_of(names, run.workspace)
        artifacts = [run.workspace.find(kind, each) for each in names]
        opened = run.open(run.choose(request.model, request.revision, artifacts[0])) if kind == "masks" else None
        found = compare_artifacts(artifacts, opened, run.reporter)
        return Compared(kind, found.pairs, tuple(names), found.experts)


def kind_of(names: Sequence[str], workspace: Workspace, known: tuple[str, ...] = COMPARED) -> str:
    """Return the kind that has all names; raises UsageError or LangpruneError if there is none or several."""
    kinds = [{each for each in known if workspace.holds(each, name)} for name in names]
    for name, found in zip(names, kinds, strict=True):
        if not found and is_artifact(Path(name)):
            found.add(read_manifest(Path(name)).kind)
        if not found:
            hint = near_matches(name, {each for kind in known for each in workspace.names(kind)})
            raise LangpruneError(f"no {', '.join(known[:-1])} or {known[-1]} artifact is called {name!r}: {hint}")
    shared = set.intersection(*kinds)
    if not shared:
        raise UsageError(f"{' and '.join(names)} are artifacts of several kinds: name artifacts of one kind")
    if len(shared) > 1:
        raise UsageError(f"{' and '.join(sorted(shared))} have these names: choose one with --kind")
    return shared.pop()
