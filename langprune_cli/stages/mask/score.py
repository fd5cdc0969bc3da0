"""Stage 2, `score`: writes the importance of each weight; optional, since `mask` computes the same scores itself."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from langprune_cli.methods.method import Method
from langprune_cli.models.streamed import Linear
from langprune_cli.stages.solving.choosing import score_of
from langprune_cli.stages.statistics.collecting import BlockStats
from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.stages.statistics.sites import block_sites, block_stats, calibration_text, named, needed_stats
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, Outcome, Reporter, run_stage
from langprune_cli.store.files import need_space
from langprune_cli.store.target import TARGET, Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel


def block_scores(
    model: OpenedModel, linears: Sequence[Linear], method: Method, known: BlockStats | None
) -> dict[str, Tensor]:
    """Return the scores of some linears of a block, float32 [o, i] by name; raises as `block_sites` does."""
    found: dict[str, Tensor] = {}
    for site in block_sites(model, linears, known):
        with named(site.name):
            found |= {
                linear.name: score_of(method, weight, site.site).cpu()
                for linear, weight in site.split(site.site.weight)
            }
    return found


def score(
    workspace: Workspace,
    model: OpenedModel,
    method: Method,
    stats: Artifact | None,
    reporter: Reporter,
    *,
    to: Target = TARGET,
) -> Outcome:
    """Write the score of every prunable weight, float32, one part per block.

    Raises UsageError and LangpruneError as `needed_stats` and `block_sites` do.
    """
    stats = needed_stats(method.needs, f"--method {method.name}", stats, model)
    recipe = Recipe(
        "scores",
        inputs={"model": model.digest, "stats": stats.key if stats else None},
        params={"method": method.name},
        about={
            "model": model.about,
            "stats": stats.name if stats else None,
            "text": calibration_text(stats),
            "paper": method.paper,
        },
        environment=model.environment(),
    )
    default = f"{stats.name}-{method.name}" if stats else method.name

    def size(blocks: Iterable[int]) -> int:
        names = [linear.name for index in blocks for linear in model.streamed.linears(index)]
        return 4 * sum(map(model.streamed.checkpoint.elements, names))

    def make(writer: ArtifactWriter) -> Artifact:
        blocks = len(model.streamed.blocks)
        todo = [index for index in range(blocks) if not writer.has(block_part(index))]
        need_space(writer.folder, size(todo))
        reporter.begin(f"score {writer.folder.name}", blocks, 0)
        for index in todo:
            known = block_stats(stats, model, index)
            writer.write_tensors(block_part(index), block_scores(model, model.streamed.linears(index), method, known))
            reporter.tick(index, 0)
        reporter.end()
        return writer.finish()

    place = Destination.of(workspace, default, to)
    return run_stage(recipe, place, make, lambda: size(range(len(model.streamed.blocks))))
