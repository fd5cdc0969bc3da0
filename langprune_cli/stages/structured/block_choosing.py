"""`mask --pattern blocks`: which whole blocks stay, judged on the windows that the statistics were gathered on."""

from typing import cast

from langprune_cli.depth_methods.method import blocks_that_stay, get_depth_method
from langprune_cli.stages.statistics.collecting import need_norms
from langprune_cli.stages.statistics.parts import WINDOWS_PART
from langprune_cli.stages.statistics.sites import calibration_text
from langprune_cli.stages.structured.block_cut import BLOCKS_PART
from langprune_cli.stages.structured.choosing import Choosing
from langprune_cli.stages.structured.structures import Structure
from langprune_cli.stages.structured.without_blocks import check_first_run, check_without
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.store.building import Reporter
from langprune_cli.store.files import readable_json
from langprune_cli.streaming.opened import OpenedModel, check_same_model


def choosing_blocks(
    model: OpenedModel, stats: Artifact, structure: Structure, method: str, reporter: Reporter
) -> Choosing:
    """Return how it is chosen which blocks stay.

    Of the statistics only the windows are used: the figures are of calibration text, never of what is reported later.
    Raises LangpruneError for an unknown method, token counts and statistics of another model; the work does for a share that
    removes none or all, and for blocks without which the others compute something else.
    """
    need_norms(f"--method {method}", stats)
    check_same_model(stats, model)
    found = get_depth_method(method)

    def write(writer: ArtifactWriter) -> dict[str, object]:
        check_some_can_leave(model, structure)
        depth = found.choose(model, stats.tensors(WINDOWS_PART)["windows"], structure.sparsity, reporter)
        check_without(model, depth.blocks)
        writer.write(BLOCKS_PART, readable_json({"stay": list(depth.blocks), **depth.record}))
        sizes = [_weights(model, index) for index in range(len(model.streamed.blocks))]
        removed = cast("list[int]", depth.record["removed"])
        return {
            "weights": sum(sizes),
            "removed": sum(sizes[index] for index in removed),
            "removed_blocks": removed,
        }

    return Choosing(
        stats,
        params={"method": method, "pattern": str(structure), "sparsity": structure.sparsity}
        | ({"untied": True} if found.by_losses and model.streamed.untied else {}),  # see Subject.identity
        text=calibration_text(stats),
        label=f"{method}-{structure.kind}-{structure.sparsity:g}",
        write=write,
    )


def check_some_can_leave(model: OpenedModel, structure: Structure) -> None:
    """Raise LangpruneError where as many blocks as are asked for cannot leave, whichever: see `check_first_run`."""
    total = len(model.streamed.blocks)
    check_first_run(model, total - blocks_that_stay(total, structure.sparsity))


def _weights(model: OpenedModel, index: int) -> int:
    return sum(map(model.streamed.checkpoint.elements, model.streamed.tensor_names(index)))
