"""The recipe behind an artifact of a workspace."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import
    from langprune_cli.store.building import Reporter


def recipe_behind(workspace: Path, kind: str, name: str, reporter: "Reporter") -> str:
    """Return the recipe that makes an artifact in an empty workspace: its stages, from the first inputs to it.

    Raises LangpruneError where there is no such artifact, and where no stages make it.
    """
    from langprune_cli.stages.report.collecting import sources_of  # noqa: PLC0415 - see above
    from langprune_cli.stages.report.recipe import recipe_of  # noqa: PLC0415 - see above
    from langprune_cli.store.workspace import Workspace  # noqa: PLC0415

    opened = Workspace(workspace, dry=True)
    artifact = opened.find(kind, name)
    return recipe_of(artifact, sources_of(opened, artifact, reporter))
