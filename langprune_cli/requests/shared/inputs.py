"""Finds a command's statistics and scores: those named, else the newest that fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langprune_cli.errors import LangpruneError

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from langprune_cli.numerics.site import Needs
    from langprune_cli.requests.shared.run import Run
    from langprune_cli.store.artifact import Artifact
    from langprune_cli.store.manifest import Described


def stats_for(run: Run, needs: Needs, what: str, named: str | None) -> Artifact | None:
    """Return the named statistics, else the newest that fit, with a note; raises LangpruneError if there are none."""
    if needs == "nothing":
        if not named:
            return None
        run.reporter.note(f"{what} reads only weights: of --stats {named} only the model counts.")
    if named:
        return run.workspace.find("stats", named)

    from langprune_cli.stages.statistics.collecting import has_hessians, of_norms  # noqa: PLC0415
    from langprune_cli.store.manifest import of_pruned_blocks  # noqa: PLC0415

    def will_do(manifest: Described) -> bool:
        dense = of_norms(manifest) and not of_pruned_blocks(manifest)
        return dense and (needs != "hessian" or "hessian" in manifest.params["collect"])

    newest = run.workspace.newest("stats", where=will_do) or run.workspace.newest("stats", where=of_norms)
    if newest is None:
        collect = " --collect hessian" if needs == "hessian" else ""
        others = " except token counts" if run.workspace.newest("stats") else ""
        raise LangpruneError(
            f"the workspace {run.workspace.root} has no stats{others}: run langprune calibrate --lang LANGUAGE{collect} first"
        )
    if needs == "hessian" and not has_hessians(newest):
        return newest  # the stage says how to make them from the same text
    run.reporter.note(f"Using statistics {newest.name}.")
    return newest


def own_stats(run: Run, mask: Artifact, needs: Needs) -> Artifact | None:
    """Return the statistics that a mask was made from, if they still exist and fit."""
    from langprune_cli.stages.statistics.collecting import has_hessians, of_norms  # noqa: PLC0415

    key = mask.manifest.stats
    own = run.workspace.by_key("stats", key) if key else None
    return own if own and of_norms(own.manifest) and (needs != "hessian" or has_hessians(own)) else None


def newer_scores(run: Run) -> Artifact | None:
    """Return the newest scores, with a note, unless some statistics are newer."""
    from langprune_cli.stages.statistics.collecting import of_norms  # noqa: PLC0415

    newest = run.workspace.newest(
        "scores", "stats", where=lambda manifest: manifest.kind == "scores" or of_norms(manifest)
    )
    if newest is None or newest.manifest.kind != "scores":
        return None
    run.reporter.note(f"Using scores {newest.name}.")
    return newest
