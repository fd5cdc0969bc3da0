"""The cut of a mask of units or whole blocks: the smaller model's tensors, names and configuration."""

import json
from dataclasses import dataclass, field

from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.composites import held_blocks
from langprune_cli.models.model_files import CONFIG
from langprune_cli.models.narrowing import Narrowing
from langprune_cli.models.tensor_entry import TensorEntry
from langprune_cli.stages.structured.cut import Cut, Masks, as_json, readable
from langprune_cli.stages.structured.keep_masks import MaskReader
from langprune_cli.stages.structured.without_blocks import check_without
from langprune_cli.streaming.opened import OpenedModel


@dataclass(frozen=True)
class NarrowingCut(Cut):
    """A narrowing of a model, with the mask of the units that stay in each block."""

    model: OpenedModel
    narrowing: Narrowing
    masks: Masks
    _kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # of the latest block

    @property
    def blocks(self) -> tuple[int, ...]:
        """Return the narrowing's blocks."""
        return self.narrowing.blocks

    def check_dense(self) -> None:
        """Measure it if blocks leave: the computation of the others may depend on their number."""
        if len(self.blocks) < len(self.model.streamed.blocks):
            if left := held_blocks(self.model.config) - {*self.blocks}:
                kind = self.model.config.model_type
                raise LangpruneError(
                    f"block {min(left)} of {self.model.label} cannot leave, since this {kind} puts what it sees of images "
                    "between its blocks by their numbers: make the mask again"
                )
            check_without(self.model, self.blocks)

    def name(self, group: int, name: str) -> str | None:
        """Return the name with the block's new number, None if the tensor leaves."""
        if len(self.blocks) == len(self.model.streamed.blocks):
            return name
        return self.narrowing.leftover(name) if group < 0 else self.narrowing.name(name, group)

    def entry(self, group: int, name: str, entry: TensorEntry) -> TensorEntry:
        """Return the entry with the new number of units."""
        return entry if group < 0 else self.narrowing.entry(self._path(group, name), entry)

    def copies(self, group: int, _name: str) -> bool:
        """Return whether the tensor lies outside of the blocks."""
        return group < 0

    def tensor(self, group: int, name: str, tensor: Tensor) -> Tensor:
        """Return the kept units."""
        if group < 0:
            return tensor
        if group not in self._kept:
            self._kept.clear()
            self._kept[group] = self._keep(group)
        return self.narrowing.tensor(self._path(group, name), tensor, self._kept[group]).contiguous()

    def file(self, name: str, data: bytes) -> bytes | None:
        """Return config.json with the new numbers, other files unchanged."""
        if name != CONFIG:
            return data
        return as_json(self.narrowing.config(json.loads(data), self.model.streamed.config))

    def _path(self, group: int, name: str) -> str:
        return next(path for path, each in self.model.streamed.tensor_paths(group).items() if each == name)

    def _keep(self, group: int) -> dict[str, Tensor]:
        """Return a block's kept units, bool [units] by reader, from the columns of the mask."""
        reader = MaskReader(readable(self.masks), self.model)
        columns = {linear.name: keep[0] for linear, keep in reader.block(group)}
        paths = self.model.streamed.tensor_paths(group)
        here = {axis: paths.get(f"{axis.reader}.weight") for axis in self.narrowing.axes}
        return {axis.reader: columns[name][:: axis.size] for axis, name in here.items() if name}
