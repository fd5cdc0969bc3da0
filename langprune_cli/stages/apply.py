"""Stage 4, `apply`: write the pruned model as a Hugging Face folder, then read it back and check it."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.models.checkpoint import Checkpoint, TensorEntry
from langprune_cli.models.model_files import INDEX, SMALL_FILES
from langprune_cli.models.shards import MAX_SHARD_BYTES, Shard, index_json, plan_shards, write_shard
from langprune_cli.models.streamed import Linear
from langprune_cli.numerics.patterns import follows, parse_pattern
from langprune_cli.stages.keep_masks import MaskReader, remove_pruned
from langprune_cli.stages.opened import OpenedModel
from langprune_cli.stages.run import Destination, Outcome, Reporter, run_stage
from langprune_cli.store.artifact import MANIFEST, Artifact, ArtifactWriter, Recipe
from langprune_cli.store.files import need_space
from langprune_cli.store.workspace import Workspace

PROVENANCE = "langprune.json"  # what an exported model has in place of a manifest
_SPARE_BYTES = 10_000_000  # for the small files beside the weights


def apply(
    workspace: Workspace,
    model: OpenedModel,
    mask: Artifact,
    reporter: Reporter,
    *,
    name: str | None = None,
    out: Path | None = None,
    force: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Outcome:
    """Write `model` with the weights that `mask` does not keep at +0.0; all other tensors stay as they are, byte by byte.

    The folder opens with transformers' from_pretrained. It is read back before it counts as complete.
    Raises UsageError for the model's own folder, LangpruneError for a mask of another model, a full disk, or a folder
    that holds other things.
    """
    target = out or (workspace.folder("models", name) if name else None)
    if target and target.resolve() == model.location.folder.resolve():
        raise UsageError(f"{target} is the model that is read: choose another --name or --out")
    reader = MaskReader(mask, model)
    known, base = mask.manifest.about, _pruned_before(model.location.folder)
    recipe = Recipe(
        "models",
        inputs={"model": model.digest, "mask": mask.key},
        params={"update": "none", "max_shard_bytes": max_shard_bytes},
        about={
            "model": model.about,
            "mask": {"name": mask.name, **mask.manifest.params},
            "stats": known.get("stats") or mask.manifest.inputs["stats"],
            "text": known.get("text"),
            "dense_tail_columns": known.get("dense_tail_columns", {}),
            **({"base": base} if base else {}),
        },
        environment=model.environment(),
    )

    def make(writer: ArtifactWriter) -> Artifact:
        return _Application(writer, model, reader, reporter).write(max_shard_bytes)

    return run_stage(recipe, Destination(workspace, mask.name, name, out, force), make)


def _pruned_before(folder: Path) -> dict[str, Any] | None:
    """Return {"mask": name and params} where `folder` holds a model that was pruned already, as written or exported."""
    for name in (MANIFEST, PROVENANCE):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # somebody else's file of that name
            record = json.loads((folder / name).read_bytes())
            if {"model", "mask"} <= record["inputs"].keys() and record["tool"].startswith("langprune"):
                return {"mask": record["about"].get("mask")}
    return None


@dataclass(frozen=True)
class _Application:
    writer: ArtifactWriter
    model: OpenedModel
    masks: MaskReader
    reporter: Reporter

    def write(self, max_shard_bytes: int) -> Artifact:
        """Write the shards that are not there yet, then the small files, then the index: the last makes it a model."""
        blocks = len(self.model.streamed.blocks)
        shards = plan_shards([self._entries(group) for group in range(-1, blocks)], max_shard_bytes)
        todo = [shard for shard in shards if not self.writer.has(shard.file)]
        need_space(self.writer.folder, sum(shard.size for shard in todo) + _SPARE_BYTES)
        self.reporter.begin(f"apply {self.writer.folder.name}", blocks, 0)
        for shard in todo:
            with self.writer.part(shard.file) as temporary:
                write_shard(temporary, shard, self._pruned_groups(shard))
        self.reporter.end()
        for path in sorted(self.model.location.folder.iterdir()):
            wanted = SMALL_FILES.fullmatch(path.name) or (self.model.compute.trust_remote_code and path.suffix == ".py")
            if wanted and path.name != INDEX and not self.writer.has(path.name):
                self.writer.write(path.name, path.read_bytes())
        if len(shards) > 1 and not self.writer.has(INDEX):
            self.writer.write(INDEX, index_json(shards))
        return self.writer.finish(checked=self._check(shards))

    def _names(self, group: int) -> list[str]:
        """Return the tensors of a block, or with -1 those outside of all blocks."""
        return self.model.streamed.outside_names() if group < 0 else self.model.streamed.tensor_names(group)

    def _entries(self, group: int) -> dict[str, TensorEntry]:
        entries = self.model.streamed.checkpoint.entries
        return {name: entries[name] for name in self._names(group)}

    def _pruned_groups(self, shard: Shard) -> Iterator[dict[str, Tensor]]:
        for place in shard.groups:
            yield from ({name: tensor} for name, _, tensor in self._pruned(place - 1))
            if place:
                self.reporter.tick(place - 1, 0)

    def _pruned(self, group: int) -> Iterator[tuple[str, Linear | None, Tensor]]:
        """Yield a group's tensors as they are to be written, one at a time, with the linear of those that are pruned."""
        masks = {linear.name: (linear, keep) for linear, keep in self.masks.block(group)}
        for name in self._names(group):
            tensor = self.model.streamed.checkpoint.read([name])[name]
            linear, keep = masks.get(name, (None, None))
            if linear is not None and keep is not None:
                remove_pruned(tensor.t() if linear.transposed else tensor, keep)
            yield name, linear, tensor

    def _check(self, shards: list[Shard]) -> dict[str, int | float]:
        """Open the folder that was written and compare every tensor with what it should be, bit by bit.

        Raises LangpruneError for a tensor that differs or does not follow the mask's pattern.
        """
        params = self.masks.artifact.manifest.params
        pattern = parse_pattern(params["pattern"], params["sparsity"])
        written = Checkpoint(self.writer.folder)
        streamed = self.model.streamed
        blocks = len(streamed.blocks)
        linears = {linear.name for index in range(blocks) for linear in streamed.linears(index)}
        zeros = pruned = unchanged = 0
        self.reporter.begin(f"check {self.writer.folder.name}", blocks, 0)
        for group in (place - 1 for shard in shards for place in shard.groups):
            for name, linear, wanted in self._pruned(group):
                found = written.read([name])[name]
                seen = found.t() if linear and linear.transposed else found
                if not torch.equal(_bits(found), _bits(wanted)) or (linear and not follows(seen, pattern)):
                    raise LangpruneError(
                        f"{self.writer.folder}: {name} reads back other than it was written: check the disk, then run the "
                        "command again with --force"
                    )
                if linear:
                    zeros += int((found == 0).sum())
                    pruned += found.numel()
                else:
                    unchanged += 1
            if group >= 0:
                self.reporter.tick(group, 0)
        self.reporter.end()
        return {
            "linear_weights": sum(streamed.checkpoint.elements(name) for name in linears),
            "pruned_weights": pruned,
            "zeros": zeros,
            "sparsity": zeros / pruned if pruned else 0.0,
            "untouched_tensors": unchanged,
        }


def _bits(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor, so that -0.0 differs from 0.0 and NaN equals itself."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
