"""Writes and reads keep masks, and applies them to weights: for `apply` and `eval --mask`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from langprune_cli.models.streamed import Linear
from langprune_cli.numerics.packing import pack_mask, unpack_mask
from langprune_cli.numerics.pattern_names import is_structured
from langprune_cli.stages.statistics.parts import block_part, fitting
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.store.manifest import Manifest
from langprune_cli.streaming.opened import OpenedModel, check_same_model

TRAINED = "; if it was trained after pruning, apply --reapply applies the mask again"


@dataclass
class BlockMasks:
    """Collects the keep masks of one block."""

    index: int
    keep: dict[str, Tensor] = field(default_factory=dict)  # by linear, bool [o, i]
    damping: dict[str, float] = field(default_factory=dict)  # by site with a factored Hessian

    def add(self, site: str, keep: Mapping[str, Tensor], damping: float | None) -> None:
        """Add the masks [o, i] of a site's linears."""
        self.keep |= keep
        if damping is not None:
            self.damping[site] = damping

    def write(self, writer: ArtifactWriter) -> None:
        """Write them as the block's part, one bit per weight, with the damping that was used.

        A mask of whole columns (an expanded view of one row) is written as that row alone.
        """
        rows = {name: keep[:1] if keep.stride(0) == 0 else keep for name, keep in self.keep.items()}
        packed = {name: pack_mask(keep.cpu()) for name, keep in rows.items()}
        writer.write_tensors(block_part(self.index), packed, {"damping": self.damping} if self.damping else None)


class BlocksOfMasks(Protocol):
    """A source of keep masks for a model's linears."""

    def block(self, index: int) -> list[tuple[Linear, Tensor]]:
        """Return the pruned linears of block `index` with their keep masks [o, i]; none for -1, outside of all blocks."""


class MaskReader:
    """Reads the keep masks of a complete artifact for the linears of a model."""

    def __init__(self, artifact: Artifact, model: OpenedModel) -> None:
        """Open an artifact's masks; raises LangpruneError if they were made for another model."""
        trained = "" if is_structured(artifact.manifest.params["pattern"]) else TRAINED
        check_same_model(artifact, model, trained)
        self.artifact = artifact
        self._model = model

    def block(self, index: int) -> list[tuple[Linear, Tensor]]:
        """Return the pruned linears of block `index` with their keep masks [o, i]; none for -1, outside of all blocks.

        A mask chosen for the whole model has none.
        """
        if index < 0 or not of_linears(self.artifact.manifest):
            return []
        packed = self.artifact.tensors(block_part(index))
        found = []
        for linear in self._model.streamed.linears(index):
            if linear.name in packed:
                rows, columns = self._model.streamed.shape(linear)
                width = -(-columns // 8)
                shapes = (rows, width), (1, width)
                bits = fitting(self.artifact, block_part(index), packed, linear.name, torch.uint8, *shapes)
                found.append((linear, unpack_mask(bits, columns).expand(rows, columns)))
        return found

    def by_name(self, index: int) -> dict[str, Tensor]:
        """Return the keep masks by the linears' names, without dense linears."""
        return {linear.name: keep for linear, keep in self.block(index)}


def of_linears(mask: Manifest) -> bool:
    """Return whether a mask has bits for linears; a mask chosen for the whole model (blocks, tokens) has none."""
    return bool(mask.about.get("linears", True))


def remove_pruned(
    weight: Tensor,  # [o, i]
    keep: Tensor,  # bool [o, i]
) -> None:
    """Set pruned weights to +0.0, in place (a product with the mask would leave -0.0 and NaN)."""
    weight.masked_fill_(~keep.to(weight.device), 0.0)
