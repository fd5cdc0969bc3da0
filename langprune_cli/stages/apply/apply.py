"""Stage 4, `apply`: update the kept weights, and write the pruned model as a Hugging Face folder."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from langprune_cli.errors import UsageError
from langprune_cli.methods.method import methods
from langprune_cli.models.shards import MAX_SHARD_BYTES
from langprune_cli.numerics.pattern_names import is_structured
from langprune_cli.numerics.patterns import Pattern, parse_pattern
from langprune_cli.records import BaseRecord, Params
from langprune_cli.stages.apply.cutting import cut_of
from langprune_cli.stages.apply.model_writing import ModelWriter
from langprune_cli.stages.apply.text_only import TextTower
from langprune_cli.stages.solving.allocating import BlockPattern, allocated_patterns
from langprune_cli.stages.solving.updating import UpdatedLinear, updated_block
from langprune_cli.stages.statistics.sites import SOLVING, Solving, block_stats, calibration_text, needed_stats
from langprune_cli.stages.structured.keep_masks import MaskReader
from langprune_cli.store.artifact import PROVENANCE, Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, Outcome, Reporter, run_stage
from langprune_cli.store.manifest import MANIFEST
from langprune_cli.store.target import TARGET, Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.structured_patterns.pattern import own_method
from langprune_cli.updates.update import Update, get_update


@dataclass(frozen=True)
class ApplySettings:
    """The settings of turning a mask into a model."""

    update: str = "none"
    solving: Solving = SOLVING
    max_shard_bytes: int = MAX_SHARD_BYTES
    text_only: bool = False  # whether of a model that reads images the text tower is written alone

    def tower(self, model: OpenedModel) -> TextTower | None:
        """Return the text tower to write alone, if any; raises as `TextTower.of` does."""
        return TextTower.of(model) if self.text_only else None


def apply(
    workspace: Workspace,
    model: OpenedModel,
    mask: Artifact,
    reporter: Reporter,
    settings: ApplySettings = ApplySettings(),
    *,
    stats: Artifact | None = None,
    to: Target = TARGET,
) -> Outcome:
    """Write `model` with the weights pruned by `mask` at +0.0, and the others updated.

    All other tensors keep their bytes. The folder opens with transformers' from_pretrained, and is checked before it is marked
    complete.
    stats: for updates that need them, of any text, and for the recorded errors.
    Raises UsageError for the model's own folder, LangpruneError for a mask of another model, statistics without Hessians that
    the update needs, a full disk, or a folder that holds other things.
    """
    check_target(workspace, model, to)
    update = get_update(settings.update)
    masks = MaskReader(mask, model)
    cut, tower = cut_of(model, mask), settings.tower(model)
    used = needed_stats(update.needs, f"--update {update.name}", stats, model)
    about = mask.manifest.about
    known = {
        "stats": about.get("stats") or mask.manifest.stats or (used.name if used else None),
        "text": about.get("text") or calibration_text(used),
    }
    made_of = MaskOf(mask.name, mask.key, mask.manifest.params, {**about, **known})
    recipe = model_recipe(model, made_of, update, settings, used.key if used else None)

    def new_weights(index: int) -> dict[str, UpdatedLinear]:
        known = block_stats(stats, model, index)
        return updated_block(model, index, masks.block(index), update, known, settings.solving)

    def make(writer: ArtifactWriter) -> Artifact:
        if cut:
            cut.check_dense()
        target = ModelWriter(writer, model, settings.max_shard_bytes, cut, tower)
        target.need_space()
        reporter.begin(f"apply {writer.folder.name}", target.blocks, 0)
        target.write(new_weights, lambda index: reporter.tick(index, 0))
        reporter.end()
        return target.finish(masks, mask_patterns(mask, target.blocks), reporter)

    own = model_name(mask.name, own_update(mask.manifest.params), update, text_only=settings.text_only)
    place = Destination.of(workspace, own, to)
    return run_stage(recipe, place, make, None if cut or tower else model.streamed.checkpoint.size)


def own_update(params: Params) -> str:
    """Return the update that belongs to the method of a mask with these parameters, "none" if the method is unknown."""
    method = own_method(params) if is_structured(params["pattern"]) else methods().get(params["method"])
    return method.update if method else "none"


def model_name(mask: str, own: str, update: Update, *, text_only: bool = False) -> str:
    """Return the default name of a model; it leaves out the update that belongs to the method."""
    name = mask if update.name == own else f"{mask}-{update.name}"
    return f"{name}-text" if text_only else name


def check_target(workspace: Workspace, model: OpenedModel, to: Target) -> None:
    """Raise UsageError if the output would overwrite the model itself."""
    target = to.out or (workspace.folder("models", to.name) if to.name else None)
    if target and target.resolve() == model.location.folder.resolve():
        raise UsageError(f"{target} is the model itself: choose another --name or --out")


def mask_patterns(mask: Artifact, blocks: int) -> list[BlockPattern]:
    """Return each block's pattern of a mask."""
    params = mask.manifest.params
    if is_structured(params["pattern"]):
        return [BlockPattern(Pattern(params["sparsity"] or 0.0))] * blocks
    return allocated_patterns(mask) or [BlockPattern(parse_pattern(params["pattern"], params["sparsity"]))] * blocks


@dataclass(frozen=True)
class MaskOf:
    """A mask in a model's recipe; it may not be complete yet."""

    name: str
    key: str
    params: Mapping[str, object]
    about: Mapping[str, object]


def model_recipe(
    model: OpenedModel, mask: MaskOf, update: Update, settings: ApplySettings, stats_key: str | None
) -> Recipe:
    """Return the recipe of a pruned model; stats_key: of the statistics for the update, None if it uses none."""
    base = _pruned_before(model.location.folder)
    return Recipe(
        "models",
        inputs={"model": model.digest, "mask": mask.key, **({"stats": stats_key} if stats_key else {})},
        params={
            "update": update.name,
            "max_shard_bytes": settings.max_shard_bytes,
            **({"text_only": True} if settings.text_only else {}),
            **settings.solving.params(update.needs),
        },
        about={
            "model": model.about,
            "mask": {"name": mask.name, **mask.params},
            "stats": mask.about.get("stats"),
            "text": mask.about.get("text"),
            "dense_tail_columns": mask.about.get("dense_tail_columns", {}),
            **({"base": base} if base else {}),
        },
        environment=model.environment(),
    )


def _pruned_before(folder: Path) -> BaseRecord | None:
    """Return {"mask": name and params} if `folder` holds a pruned model, as written or exported."""
    for name in (MANIFEST, PROVENANCE):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # another program's file of that name
            record = json.loads((folder / name).read_bytes())
            if {"model", "mask"} <= record["inputs"].keys() and record["tool"].startswith("langprune"):
                return {"mask": record["about"].get("mask")}
    return None
