"""A recipe run, stage by stage: what is there already is found, what a killed run left goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from langprune_cli.errors import LangpruneError
from langprune_cli.machine.team import ALONE, Team
from langprune_cli.recipes.reading import STARTING, Stage, StageList, read
from langprune_cli.recipes.references import check, made_before
from langprune_cli.requests.shared.options import DryRunOptions, Request, SharingOptions
from langprune_cli.requests.shared.results import Made

if TYPE_CHECKING:
    from langprune_cli.store.building import Reporter


@dataclass(frozen=True)
class Ran:
    """A stage, and what its request gave back."""

    number: int  # from 1
    command: str
    result: object  # None of a stage of a dry run that follows from what earlier stages would make


def run_recipe(
    recipe: str | Path | Mapping[str, object],
    *,
    dry_run: bool = False,
    workspace: str | Path | None = None,
    reporter: Reporter | None = None,
) -> tuple[Ran, ...]:
    """Run the stages of a recipe: a YAML file, or a dictionary of the same form. All are checked before the first runs.

    dry_run: say what each would make, and make nothing. workspace: in place of the recipe's own.
    Raises UsageError for what is wrong in the recipe, with the line and the key; and what its stages raise.
    """
    return tuple(running(checked(recipe, workspace), dry_run=dry_run, reporter=reporter))


def checked(recipe: str | Path | Mapping[str, object], workspace: str | Path | None = None) -> StageList:
    """Return a recipe whose values, keys and names of artifacts have been checked, as far as can be without work."""
    found = read(recipe, workspace)
    check(found)
    return found


def running(
    recipe: StageList, *, dry_run: bool = False, reporter: Reporter | None = None, team: Team = ALONE
) -> Iterator[Ran]:
    """Run the stages, and yield each once it is done. Of several processes, each yields; only the first has all results."""
    known = True  # whether all that earlier stages make is there: of a dry run
    for place, stage in enumerate(recipe.stages):
        if reporter:
            reporter.note(f"Stage {stage.number} of {len(recipe.stages)}: {stage.command.name}")
        request = replace(stage.request, workspace=recipe.workspace, reporter=reporter)
        try:
            if dry_run:
                foreseen = known or _starts_anew(stage, recipe.stages[:place])
                result = _planned(stage, request) if foreseen else None
                known = known and _is_there(stage, result)
            else:
                result = _result(stage, request, team)
        except LangpruneError as error:
            raise recipe.failed(stage, error) from error
        yield Ran(stage.number, stage.command.name, result)


def _result(stage: Stage, request: Request, team: Team) -> object:
    """Run a stage: over all processes where it shares work, else in the first one alone."""
    if isinstance(request, SharingOptions):
        return stage.command.run(replace(request, team=team))
    found: list[object] = []
    team.first(lambda: found.append(stage.command.run(request)))
    return found[0] if found else None


def _planned(stage: Stage, request: Request) -> object:
    """Return what a stage would make; None of one that cannot say, and of one that makes no artifact."""
    measures = any(each.name == "speed" for each in fields(request)) and getattr(request, "times", False)
    if not isinstance(request, DryRunOptions) or measures:
        return None
    return stage.command.run(replace(request, dry_run=True))


def _is_there(stage: Stage, result: object) -> bool:
    """Return whether all is there already that a stage makes for others."""
    if isinstance(result, Made):
        return result.whole and all(each.there for each in result.planned or ())
    return stage.command.name not in {"combine", "eval"}


def _starts_anew(stage: Stage, earlier: tuple[Stage, ...]) -> bool:
    """Return whether a stage reads nothing that earlier ones make."""
    named = bool(getattr(stage.request, "model", None))
    return stage.command.name in STARTING and named and not made_before(stage, earlier)
