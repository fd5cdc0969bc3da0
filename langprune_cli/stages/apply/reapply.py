"""`apply --reapply`: a mask set once more on a model that was trained after pruning; what had come back leaves again."""

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
from langprune_cli.stages.solving.updating import Pruned, Updated
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
    """Keep masks on disk: an artifact's, or those that an export put beside the weights."""

    of: MaskOf  # key: the artifact's; of a file sha256 of its bytes
    made_for: str | None  # the digest of the model that the mask was chosen for, None where that is not known
    files: tuple[Path, ...]

    @cached_property
    def where(self) -> dict[str, Path]:
        """Return which file holds each linear's mask; raises LangpruneError for a file that is no safetensors."""
        found: dict[str, Path] = {}
        for path in self.files:
            with _readable(path), safe_open(path, framework="pt") as opened:
                found |= dict.fromkeys(opened.keys(), path)
        return found

    def packed(self, linear: str) -> Tensor:  # uint8 [o, ceil(i / 8)]
        """Return a linear's mask as it lies on disk."""
        path = self.where[linear]
        with _readable(path), safe_open(path, framework="pt") as opened:
            found: Tensor = opened.get_tensor(linear)
        return found


def mask_of_artifact(mask: Artifact) -> SavedMask:
    """Return an artifact's masks, their hashes checked; raises LangpruneError for one of parts that leave whole."""
    params, about = mask.manifest.params, mask.manifest.about
    if is_structured(params["pattern"]):
        raise _nothing_came_back(mask.name)
    parts = [part for part in sorted(mask.manifest.parts) if part.startswith("block-")]
    for part in parts:
        mask.read(part)
    of = MaskOf(mask.name, mask.key, params, {**about, "stats": about.get("stats") or mask.manifest.stats})
    return SavedMask(of, mask.manifest.inputs["model"], tuple(mask.folder / part for part in parts))


def mask_of_file(path: Path) -> SavedMask:
    """Return the masks of an exported model (mask/keep_masks.safetensors), with what the export says about them.

    Raises LangpruneError where there is no such file.
    """
    with disk_errors(path, reading=True):
        if not plain_file(path).exists():
            raise LangpruneError(
                f"{path} is not there: name an exported model's mask/keep_masks.safetensors with --mask"
            )
        Written(path.parent.parent).check(f"{path.parent.name}/{path.name}")
        key = sha256_file(path)
    record: Saved = {"about": {}, "inputs": {}}
    with suppress(
        LangpruneError, OSError, ValueError, AttributeError
    ):  # the file may have been taken out of its folder
        record |= json.loads(plain_file(path.parent.parent / PROVENANCE).read_bytes())
    about = record["about"]
    said = about.get("mask") or {}
    params = {name: value for name, value in said.items() if name != "name"}
    known = {name: value for name, value in about.items() if name != "mask"}
    mask = MaskOf(said.get("name", path.stem), key, params, known)
    return SavedMask(mask, record["inputs"].get("model"), (path,))


class MaskSetAgain:
    """A saved mask on a model with linears of the same names and shapes as the one that it was made for."""

    def __init__(self, saved: SavedMask, model: OpenedModel) -> None:
        """Compare names and shapes; raises LangpruneError where a mask is not one of this model's linears."""
        self._saved = saved
        self._model = model
        streamed = model.streamed
        known = {linear.name: linear for index in range(len(streamed.blocks)) for linear in streamed.linears(index)}
        for name in saved.where:
            if name not in known:
                raise self._of_another(f"has a mask of {name}, which {model.label} has not as a linear")
            self._keep(known[name])

    def block(self, index: int) -> list[tuple[Linear, Tensor]]:
        """Return the pruned linears of block `index` with their keep masks [o, i]; none for -1, outside of all blocks."""
        if index < 0:
            return []
        linears = self._model.streamed.linears(index)
        return [(linear, self._keep(linear)) for linear in linears if linear.name in self._saved.where]

    def cleared(self, index: int) -> dict[str, Updated]:
        """Return block `index`'s pruned linears with what the mask does not keep at +0.0, all else as it is."""
        found = {}
        for linear, keep in self.block(index):
            tensor, weight = self._read(linear)
            remove_pruned(weight, keep)
            removed = keep.numel() - int(keep.sum())
            found[linear.name] = Updated(tensor, Pruned(index, linear.name, keep.numel(), removed, None, None))
        return found

    def returned(self, index: int) -> ReturnedRecord:
        """Count the weights of block `index` that the mask does not keep, and those of them that are not zero (any more)."""
        masked = returned = 0
        for linear, keep in self.block(index):
            masked += keep.numel() - int(keep.sum())
            returned += int(self._read(linear)[1].masked_fill(keep, 0.0).count_nonzero())
        return {"block": index, "masked": masked, "returned": returned}

    def _read(self, linear: Linear) -> tuple[Tensor, Tensor]:
        """Return a linear's tensor as the checkpoint has it, and the same seen as [o, i]."""
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
        return LangpruneError(
            f"mask {self._saved.of.name} {how}: name a model that was trained from the one the mask was made for"
        )


def reapply(
    workspace: Workspace,
    model: OpenedModel,
    saved: SavedMask,
    reporter: Reporter,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    to: Target = TARGET,
) -> Outcome:
    """Write `model`, trained from the one that a mask was made for, with the weights that the mask does not keep at +0.0.

    All other values keep their bytes. `about.reapplied` counts what had come back, block by block and in all: masked
    weights (`masked`) and those of them that were not zero (`returned`).
    Raises UsageError for the model's own folder and for the model that the mask was made for, LangpruneError for a model
    whose linears have other names or shapes, a full disk, or a folder that holds other things.
    """
    check_target(workspace, model, to)
    if saved.made_for == model.digest:
        raise UsageError(f"mask {saved.of.name} was made for this very model, {model.label}: leave out --reapply")
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
        return target.finish(masks, [Pattern(0.0)] * target.blocks, reporter, reapplied=found)

    place = Destination.of(workspace, f"{saved.of.name}-on-{model.label}", to)
    return run_stage(recipe, place, make, model.streamed.checkpoint.size)


def _nothing_came_back(name: str) -> LangpruneError:
    return LangpruneError(
        f"mask {name} is of parts that left the model whole, and training does not bring them back: leave out --reapply"
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        with disk_errors(path, reading=True):
            yield
    except SafetensorError as error:
        raise LangpruneError(
            f"{path} is no safetensors file ({error}): export the model again with --with-mask"
        ) from error
