"""`apply --reapply`: applies a mask again after training, which brings pruned weights back."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.models.shards import MAX_SHARD_BYTES
from langprune_cli.models.streamed import Linear
from langprune_cli.numerics.packing import unpack_mask
from langprune_cli.numerics.pattern_names import is_structured
from langprune_cli.numerics.patterns import Pattern
from langprune_cli.records import ReturnedRecord, Saved
from langprune_cli.stages.apply.apply import ApplySettings, MaskOf, check_target, model_recipe
from langprune_cli.stages.apply.model_writing import ModelWriter
from langprune_cli.stages.solving.allocating import BlockPattern
from langprune_cli.stages.solving.updating import PrunedLinear, UpdatedLinear
from langprune_cli.stages.structured.keep_masks import remove_pruned
from langprune_cli.store.artifact import PROVENANCE, Artifact, ArtifactWriter
from langprune_cli.store.building import Destination, Outcome, Reporter, run_stage
from langprune_cli.store.files import disk_errors, sha256_file
from langprune_cli.store.plain import plain_file
from langprune_cli.store.target import TARGET, Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.store.written import Written
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.updates.update import get_update


@dataclass(frozen=True)
class SavedMask:
    """Keep masks on disk: an artifact's, or an exported model's."""

    of: MaskOf  # key: the artifact's, or the sha256 of a file
    made_for: str | None  # the digest of the mask's model, None if unknown
    files: tuple[Path, ...]

    @cached_property
    def where(self) -> dict[str, Path]:
        """Return the file of each linear's mask; raises LangpruneError for a file that is not safetensors."""
        found: dict[str, Path] = {}
        for path in self.files:
            with _readable(path), safe_open(path, framework="pt") as opened:
                found |= dict.fromkeys(opened.keys(), path)
        return found

    def packed(self, linear: str) -> Tensor:  # uint8 [o, ceil(i / 8)]
        """Return a linear's packed mask from disk."""
        path = self.where[linear]
        with _readable(path), safe_open(path, framework="pt") as opened:
            found: Tensor = opened.get_tensor(linear)
        return found


def mask_of_artifact(mask: Artifact) -> SavedMask:
    """Return an artifact's masks after checking their hashes; raises LangpruneError for a structured mask."""
    params, about = mask.manifest.params, mask.manifest.about
    if is_structured(params["pattern"]):
        raise _nothing_came_back(mask.name)
    parts = [part for part in sorted(mask.manifest.parts) if part.startswith("block-")]
    for part in parts:
        mask.read(part)
    of = MaskOf(mask.name, mask.key, params, {**about, "stats": about.get("stats") or mask.manifest.stats})
    return SavedMask(of, mask.manifest.inputs["model"], tuple(mask.folder / part for part in parts))


def mask_of_file(path: Path) -> SavedMask:
    """Return the masks of an exported model (mask/keep_masks.safetensors) with the export's record of them.

    Raises LangpruneError if the file is missing.
    """
    with disk_errors(path, reading=True):
        if not plain_file(path).exists():
            raise LangpruneError(
                f"{path} does not exist: name an exported model's mask/keep_masks.safetensors with --mask"
            )
        Written(path.parent.parent).check(f"{path.parent.name}/{path.name}")
        key = sha256_file(path)
    record: Saved = {"about": {}, "inputs": {}}
    with suppress(LangpruneError, OSError, ValueError, AttributeError):  # the file may have left its folder
        record |= json.loads(plain_file(path.parent.parent / PROVENANCE).read_bytes())
    about = record["about"]
    said = about.get("mask") or {}
    params = {name: value for name, value in said.items() if name != "name"}
    known = {name: value for name, value in about.items() if name != "mask"}
    mask = MaskOf(said.get("name", path.stem), key, params, known)
    return SavedMask(mask, record["inputs"].get("model"), (path,))


class MaskSetAgain:
    """A saved mask on a model whose linears have the same names and shapes as those of the mask's model."""

    def __init__(self, saved: SavedMask, model: OpenedModel) -> None:
        """Compare names and shapes; raises LangpruneError if a mask fits no linear of this model."""
        self._saved = saved
        self._model = model
        streamed = model.streamed
        known = {linear.name: linear for index in range(len(streamed.blocks)) for linear in streamed.linears(index)}
        for name in saved.where:
            if name not in known:
                raise self._of_another(f"has a mask of {name}, which is no linear of {model.label}")
            self._keep(known[name])

    def block(self, index: int) -> list[tuple[Linear, Tensor]]:
        """Return the pruned linears of block `index` with their keep masks [o, i]; none for -1, the tensors outside of blocks."""
        if index < 0:
            return []
        linears = self._model.streamed.linears(index)
        return [(linear, self._keep(linear)) for linear in linears if linear.name in self._saved.where]

    def cleared(self, index: int) -> dict[str, UpdatedLinear]:
        """Return block `index`'s pruned linears with pruned weights at +0.0 and the others unchanged."""
        found = {}
        for linear, keep in self.block(index):
            tensor, weight = self._read(linear)
            remove_pruned(weight, keep)
            removed = keep.numel() - int(keep.sum())
            found[linear.name] = UpdatedLinear(
                tensor, PrunedLinear(index, linear.name, keep.numel(), removed, None, None)
            )
        return found

    def returned(self, index: int) -> ReturnedRecord:
        """Count the pruned weights of block `index`, and those of them that training made nonzero."""
        masked = returned = 0
        for linear, keep in self.block(index):
            masked += keep.numel() - int(keep.sum())
            returned += int(self._read(linear)[1].masked_fill(keep, 0.0).count_nonzero())
        return {"block": index, "masked": masked, "returned": returned}

    def _read(self, linear: Linear) -> tuple[Tensor, Tensor]:
        """Return a linear's tensor from the checkpoint, and its view as [o, i]."""
        tensor = self._model.streamed.checkpoint.read([linear.name])[linear.name]
        return tensor, tensor.t() if linear.transposed else tensor

    def _keep(self, linear: Linear) -> Tensor:
        rows, columns = self._model.streamed.shape(linear)
        packed = self._saved.packed(linear.name)
        if packed.shape[0] == 1 < rows:
            raise _nothing_came_back(self._saved.of.name)
        fits = tuple(packed.shape) == (rows, -(-columns // 8))
        if not fits or (columns % 8 and bool((packed[:, -1] >> columns % 8).any())):
            raise self._of_another(f"does not fit {linear.name} of {self._model.label}, which is [{rows}, {columns}]")
        return unpack_mask(packed, columns)

    def _of_another(self, how: str) -> LangpruneError:
        return LangpruneError(f"mask {self._saved.of.name} {how}: name a model trained from the mask's own model")


def reapply(
    workspace: Workspace,
    model: OpenedModel,
    saved: SavedMask,
    reporter: Reporter,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    to: Target = TARGET,
) -> Outcome:
    """Write `model`, trained from a mask's model, with the pruned weights at +0.0 again.

    All other values keep their bytes. `about.reapplied` counts, by block and in total, the pruned weights (`masked`) and those
    of them that training made nonzero (`returned`).
    Raises UsageError for the model's own folder and for the mask's own model, LangpruneError for a model whose linears have
    other names or shapes, a full disk, or a folder that holds other things.
    """
    check_target(workspace, model, to)
    if saved.made_for == model.digest:
        raise UsageError(f"mask {saved.of.name} was made for this model itself, {model.label}: leave out --reapply")
    masks = MaskSetAgain(saved, model)
    recipe = model_recipe(model, saved.of, get_update("none"), ApplySettings(max_shard_bytes=max_shard_bytes), None)

    def make(writer: ArtifactWriter) -> Artifact:
        target = ModelWriter(writer, model, max_shard_bytes)
        target.need_space()
        blocks = []
        reporter.begin(f"compare {writer.folder.name}", target.blocks, 0)
        for index in range(target.blocks):
            blocks.append(masks.returned(index))
            reporter.tick(index, 0)
        reporter.begin(f"apply {writer.folder.name}", target.blocks, 0)
        target.write(masks.cleared, lambda index: reporter.tick(index, 0))
        reporter.end()
        found = {"blocks": blocks, **{each: sum(block[each] for block in blocks) for each in ("masked", "returned")}}
        return target.finish(masks, [BlockPattern(Pattern(0.0))] * target.blocks, reporter, reapplied=found)

    place = Destination.of(workspace, f"{saved.of.name}-on-{model.label}", to)
    return run_stage(recipe, place, make, model.streamed.checkpoint.size)


def _nothing_came_back(name: str) -> LangpruneError:
    return LangpruneError(
        f"mask {name} removes whole parts of the model, which training does not bring back: leave out --reapply"
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        with disk_errors(path, reading=True):
            yield
    except SafetensorError as error:
        raise LangpruneError(
            f"{path} is not a safetensors file ({error}): export the model again with --with-mask"
        ) from error
