"""Stage 3, `mask`: choose the weights that stay, one bit each."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.methods.method import Method, get_method
from langprune_cli.models.streamed import Linear
from langprune_cli.numerics.packing import pack_mask, unpack_mask
from langprune_cli.numerics.patterns import Group, Pattern, Ties, keep_mask
from langprune_cli.stages.opened import OpenedModel, check_same_model
from langprune_cli.stages.parts import block_part
from langprune_cli.stages.run import Destination, Outcome, Reporter, run_stage
from langprune_cli.stages.scoring import block_scores, calibration_text, needed_stats, prunable
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.files import need_space
from langprune_cli.store.workspace import Workspace


@dataclass(frozen=True)
class MaskSettings:
    """How weights are chosen from scores."""

    pattern: Pattern
    group: Group | None = None  # None: the method's own
    ties: Ties | None = None  # None: the method's own
    exclude: str | None = None  # regular expression over checkpoint tensor names


@dataclass(frozen=True)
class MaskSource:
    """What the scores come from: a method and statistics, or a scores artifact, which was made from the same."""

    method: Method
    stats: Artifact | None
    scores: Artifact | None = None


def source_of_scores(workspace: Workspace, scores: Artifact) -> MaskSource:
    """Return the source that a scores artifact stands for; the statistics themselves need not be there any more."""
    key = scores.manifest.inputs["stats"]
    return MaskSource(
        get_method(scores.manifest.params["method"]), workspace.by_key("stats", key) if key else None, scores
    )


def mask(
    workspace: Workspace,
    model: OpenedModel,
    source: MaskSource,
    settings: MaskSettings,
    reporter: Reporter,
    *,
    name: str | None = None,
    force: bool = False,
) -> Outcome:
    """Write the keep mask of every prunable linear, packed to bits, one part per block.

    A mask from scores has the same key as one from the statistics that the scores were made from: they are the same.
    Raises UsageError and LangpruneError as `needed_stats` and `block_scores` do, and when nothing is left to prune.
    """
    method = source.method
    if source.scores:
        check_same_model(source.scores, model)
        stats_key = source.scores.manifest.inputs["stats"]
        stats_name, text = source.scores.manifest.about.get("stats"), source.scores.manifest.about.get("text")
    else:
        source = replace(source, stats=needed_stats(method, source.stats, model))
        stats_key = source.stats.key if source.stats else None
        stats_name, text = source.stats.name if source.stats else None, calibration_text(source.stats)
    group, ties = _comparison(settings, method)
    chosen = {} if settings.pattern.keep_of else {"group": group, "ties": ties}
    recipe = Recipe(
        "masks",
        inputs={"model": model.digest, "stats": stats_key},
        params={
            "method": method.name,
            "pattern": str(settings.pattern),
            "sparsity": settings.pattern.sparsity,
            "exclude": settings.exclude,
            **chosen,
        },
        about={"model": model.about, "stats": stats_name, "text": text},
        environment=model.environment(),
    )
    label = f"{method.name}-{settings.pattern.slug}"

    def make(writer: ArtifactWriter) -> Artifact:
        blocks = len(model.streamed.blocks)
        shapes = {}
        for index in range(blocks):
            for linear in prunable(model, index, settings.exclude):
                shapes[linear.name] = model.streamed.shape(linear)
        if not shapes:
            raise LangpruneError(f"--exclude {settings.exclude!r} leaves nothing to prune: give a narrower pattern")
        need_space(writer.folder, sum(o * -(-i // 8) for o, i in shapes.values()))
        reporter.begin(f"mask {writer.folder.name}", blocks, 0)
        for index in range(blocks):
            if not writer.has(block_part(index)):
                kept = {
                    linear.name: pack_mask(keep_mask(found, settings.pattern, group=group, ties=ties).cpu())
                    for linear, found in _scores(model, index, source, settings.exclude)
                }
                writer.write_tensors(block_part(index), kept)
            reporter.tick(index, 0)
        reporter.end()
        return writer.finish(**_summary(writer, blocks, shapes, settings.pattern))

    to = Destination(workspace, f"{stats_name}-{label}" if stats_name else label, name, force=force)
    return run_stage(recipe, to, make)


def _comparison(settings: MaskSettings, method: Method) -> tuple[Group, Ties]:
    """Return what weights are compared within, and what becomes of ties; raises UsageError for what has no effect."""
    n_of_m = settings.pattern.keep_of is not None
    if n_of_m and settings.group:
        raise UsageError(
            f"--group {settings.group} does not go with --pattern {settings.pattern}, which compares M inputs"
        )
    group = settings.group or method.group
    if settings.ties and (n_of_m or group == "row"):
        raise UsageError(
            f"--ties {settings.ties} goes with --group layer only: the counts of rows and of N:M are exact"
        )
    return group, (settings.ties or method.ties) if group == "layer" else "exact"


def _scores(model: OpenedModel, index: int, source: MaskSource, exclude: str | None) -> Iterator[tuple[Linear, Tensor]]:
    if source.scores is None:
        yield from block_scores(model, index, source.method, source.stats, exclude)
        return
    tensors = source.scores.tensors(block_part(index))
    for linear in prunable(model, index, exclude):
        yield linear, tensors[linear.name]


def _summary(
    writer: ArtifactWriter, blocks: int, shapes: dict[str, tuple[int, int]], pattern: Pattern
) -> dict[str, object]:
    """Count what the finished parts say, resumed ones included."""
    artifact = Artifact(writer.folder, writer.manifest)
    kept = 0
    for index in range(blocks):
        for name, packed in artifact.tensors(block_part(index)).items():
            kept += int(unpack_mask(packed, shapes[name][1]).sum())
    weights = sum(o * i for o, i in shapes.values())
    tails = {name: pattern.tail(i) for name, (_, i) in shapes.items() if pattern.tail(i)}
    return {"weights": weights, "removed": weights - kept, "linears": len(shapes), "dense_tail_columns": tails}
