"""`--pattern blocks`: chooses which blocks stay, judged on windows of text."""

from typing import cast

from langprune_cli.depth_methods.method import blocks_that_stay, get_depth_method
from langprune_cli.models.composites import held_blocks
from langprune_cli.stages.structured.block_cut import BLOCKS_PART
from langprune_cli.stages.structured.choosing import Choosing
from langprune_cli.stages.structured.judged_on import JudgedOn
from langprune_cli.stages.structured.removals import Removal
from langprune_cli.stages.structured.without_blocks import check_first_run, check_without
from langprune_cli.store.artifact import ArtifactWriter
from langprune_cli.store.building import Reporter
from langprune_cli.store.files import readable_json
from langprune_cli.streaming.opened import OpenedModel


def choosing_blocks(
    model: OpenedModel, judged_on: JudgedOn, removal: Removal, method: str, reporter: Reporter
) -> Choosing:
    """Return the choice of blocks.

    It uses calibration text alone, never the text of later evaluations. Raises LangpruneError for an unknown method. The work
    raises it for a share that removes none or all, and for blocks whose absence changes the others' computation.
    """
    found = get_depth_method(method)

    def write(writer: ArtifactWriter) -> dict[str, object]:
        total = len(model.streamed.blocks)
        check_first_run(model, total - blocks_that_stay(total, removal.sparsity))  # before the choice is known
        depth = found.choose(model, judged_on.ids(), removal.sparsity, reporter)
        check_without(model, depth.blocks)
        writer.write(BLOCKS_PART, readable_json({"stay": list(depth.blocks), **depth.record}))
        sizes = [_weights(model, index) for index in range(total)]
        removed = cast("list[int]", depth.record["removed"])
        return {
            "weights": sum(sizes),
            "removed": sum(sizes[index] for index in removed),
            "removed_blocks": removed,
        }

    return Choosing(
        judged_on,
        params={"method": method, "pattern": str(removal), "sparsity": removal.sparsity}
        | ({"held": sorted(held)} if (held := held_blocks(model.config)) else {})
        | ({"untied": True} if found.by_losses and model.streamed.untied else {}),  # see Subject.identity
        label=f"{method}-{removal.kind}-{removal.sparsity:g}",
        write=write,
    )


def _weights(model: OpenedModel, index: int) -> int:
    return sum(map(model.streamed.checkpoint.elements, model.streamed.tensor_names(index)))
