"""`mask --pattern blocks`: which whole blocks stay, judged on the windows that the statistics were gathered on."""

from langprune_cli.depth_methods.method import blocks_that_stay, get_depth_method
from langprune_cli.stages.statistics.collecting import need_norms
from langprune_cli.stages.statistics.parts import BLOCKS_PART, WINDOWS_PART
from langprune_cli.stages.statistics.sites import calibration_text
from langprune_cli.stages.structured.structures import Structure
from langprune_cli.stages.structured.without_blocks import check_first_run, check_without
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, Outcome, Reporter, run_stage
from langprune_cli.store.files import readable_json
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel, check_same_model


def mask_blocks(
    workspace: Workspace,
    model: OpenedModel,
    stats: Artifact,
    structure: Structure,
    method: str,
    reporter: Reporter,
    *,
    name: str | None = None,
    force: bool = False,
) -> Outcome:
    """Write which blocks stay, and the figures that it was decided by.

    Of the statistics only the windows are used: the figures are of calibration text, never of what is reported later.
    Raises LangpruneError for an unknown method, token counts, statistics of another model, a share that removes none or all, and
    blocks without which the others compute something else.
    """
    need_norms(f"--method {method}", stats)
    check_same_model(stats, model)
    found = get_depth_method(method)
    recipe = Recipe(
        "masks",
        inputs={"model": model.digest, "stats": stats.key},
        params={"method": method, "pattern": str(structure), "sparsity": structure.sparsity, "exclude": None}
        | ({"untied": True} if found.by_losses and model.streamed.untied else {}),  # see Subject.identity
        about={"model": model.about, "stats": stats.name, "text": calibration_text(stats)},
        environment=model.environment(),
    )

    def make(writer: ArtifactWriter) -> Artifact:
        check_first_run(
            model, len(model.streamed.blocks) - blocks_that_stay(len(model.streamed.blocks), structure.sparsity)
        )
        depth = found.choose(model, stats.tensors(WINDOWS_PART)["windows"], structure.sparsity, reporter)
        check_without(model, depth.blocks)
        writer.write(BLOCKS_PART, readable_json({"stay": list(depth.blocks), **depth.record}))
        sizes = [_weights(model, index) for index in range(len(model.streamed.blocks))]
        return writer.finish(
            weights=sum(sizes),
            removed=sum(sizes[index] for index in depth.record["removed"]),
            removed_blocks=depth.record["removed"],
            linears=0,
            dense_tail_columns={},
        )

    default = f"{stats.name}-{method}-{structure.kind}-{structure.sparsity:g}"
    return run_stage(recipe, Destination(workspace, default, name, force=force), make)


def _weights(model: OpenedModel, index: int) -> int:
    return sum(map(model.streamed.checkpoint.elements, model.streamed.tensor_names(index)))
