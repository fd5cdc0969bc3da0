"""Shows a request's result: lines or one JSON document on stdout, and the same in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langprune_cli.cli.display.console import ConsoleReporter, print_json
from langprune_cli.cli.display.log import running_log
from langprune_cli.cli.display.planned import planned_document, print_planned
from langprune_cli.cli.display.pruning import print_returned, print_vocabulary
from langprune_cli.cli.display.results import print_outcomes, print_pruned

if TYPE_CHECKING:
    from pathlib import Path

    from langprune_cli.requests.prune import PruneResult
    from langprune_cli.requests.shared.results import Made
    from langprune_cli.store.building import Outcome


def console(workspace: Path, *, dry_run: bool = False) -> ConsoleReporter:
    """Return the console for a command's notes and progress, logged in the workspace except in a dry run."""
    if not dry_run and (log := running_log()):
        log.workspace = workspace.expanduser()
    return ConsoleReporter()


def show_pruned(made: PruneResult, *, json: bool) -> None:
    """Print the artifacts of `prune`, and the result of each linear."""
    if not made.linears:
        show_made(made, json=json)
        return
    if not json:
        _print_kept_tokens(made)
        print_pruned(made.linears, made.seconds)
    _show(made, pruned_document(made), json=json)


def show_made(made: Made, *, json: bool) -> None:
    """Print a request's artifacts, or the plan of a dry run."""
    if not json:
        _print_kept_tokens(made)
        for each in made.artifacts:
            if reapplied := each.manifest.about.get("reapplied"):
                print_returned(reapplied)
    _show(made, made_document(made), json=json)


def _print_kept_tokens(made: Made) -> None:
    for each in made.artifacts:
        if each.manifest.kind == "masks" and (vocabulary := each.manifest.about.get("vocabulary")):
            print_vocabulary(vocabulary)


def _show(made: Made, shown: dict[str, object], *, json: bool) -> None:
    """Print the artifacts, and log them. shown: the same as a JSON document."""
    if made.planned is not None:
        print_planned(made.planned, json=json, whole=made.whole)
        return
    log_made(made)
    if json:
        print_json({"schema": 1, **shown})
    else:
        print_outcomes(made.outcomes)


def log_made(made: Made) -> None:
    """Write the artifacts into the log of the command that is running."""
    log = running_log()
    for each in map(document, made.outcomes if log else ()):
        state = "already there" if each["cached"] else f"{each['seconds']} s"
        assert log is not None  # noqa: S101 - or there would be none to write
        log.write(f"{each['kind']}/{each['name']} ({state}), key {each['key']}, in {each['path']}")


def made_document(made: Made, **more: object) -> dict[str, object]:
    """Return what a request made, or would make, as --json shows it. more: what the document says besides."""
    if made.planned is not None:
        return planned_document(made.planned, whole=made.whole)
    documents = [document(outcome) for outcome in made.outcomes]
    return {**documents[0], **more, "artifacts": documents}


def pruned_document(made: PruneResult) -> dict[str, object]:
    """Return what `prune` made as --json shows it, with what became of each linear."""
    if not made.linears:
        return made_document(made)
    blocks = [{"block": block, "seconds": round(seconds, 3)} for block, seconds in made.seconds.items()]
    return made_document(made, layers=[vars(each) for each in made.linears], blocks=blocks)


def document(outcome: Outcome) -> dict[str, object]:
    """Return an outcome for --json."""
    artifact = outcome.artifact
    return {
        "kind": artifact.manifest.kind,
        "name": artifact.name,
        "path": str(artifact.folder.absolute()),
        "key": artifact.key,
        "cached": outcome.cached,
        "seconds": round(outcome.seconds, 3),
        "about": artifact.manifest.about,
    }
