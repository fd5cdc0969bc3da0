"""`mask` for patterns that are chosen once for the whole model, such as blocks and tokens."""

from langprune_cli.stages.structured.choosing import Choosing
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, Outcome, run_stage
from langprune_cli.store.target import TARGET, Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel


def mask_whole(workspace: Workspace, model: OpenedModel, choosing: Choosing, to: Target = TARGET) -> Outcome:
    """Write which parts stay, and the figures behind the choice; raises as the choice does."""
    basis = choosing.basis
    recipe = Recipe(
        "masks",
        inputs={"model": model.digest, "stats": basis.key, **choosing.inputs},
        params={"exclude": None, **choosing.params},
        about={"model": model.about, **basis.about},
        environment=model.environment(),
    )

    def make(writer: ArtifactWriter) -> Artifact:
        return writer.finish(linears=0, dense_tail_columns={}, **choosing.write(writer))

    return run_stage(recipe, Destination.of(workspace, f"{basis.name}-{choosing.label}", to), make)
