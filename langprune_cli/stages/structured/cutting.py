"""What a structured mask cuts from a model: the smaller model's tensors, names and configuration."""

import json
from dataclasses import dataclass, field

from torch import Tensor

from langprune_cli.models.checkpoint import TensorEntry
from langprune_cli.models.families import Kind, axes_of
from langprune_cli.models.model_files import CONFIG
from langprune_cli.models.narrowing import Narrowing, blocks_prefix
from langprune_cli.models.vocabulary_rows import VocabularyRows
from langprune_cli.stages.statistics.parts import BLOCKS_PART, VOCABULARY_PART
from langprune_cli.stages.structured.cut import Cut, as_json
from langprune_cli.stages.structured.keep_masks import MaskReader
from langprune_cli.stages.structured.structures import VOCABULARY, is_structured
from langprune_cli.stages.structured.vocabulary_cut import VocabularyCut
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.streaming.opened import OpenedModel


@dataclass(frozen=True)
class NarrowingCut(Cut):
    """A narrowing of a model, and the mask that says which units stay in each block."""

    model: OpenedModel
    narrowing: Narrowing
    masks: Artifact | ArtifactWriter  # a writer while its parts are being made
    _kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # of the block that was asked for last

    @property
    def blocks(self) -> tuple[int, ...]:
        """Return the narrowing's blocks."""
        return self.narrowing.blocks

    def name(self, group: int, name: str) -> str | None:
        """Return the name with the block's new number."""
        if len(self.blocks) == len(self.model.streamed.blocks):
            return name
        return self.narrowing.leftover(name) if group < 0 else self.narrowing.name(name, group)

    def entry(self, group: int, name: str, entry: TensorEntry) -> TensorEntry:
        """Return the entry with as many units as stay."""
        return entry if group < 0 else self.narrowing.entry(self._path(group, name), entry)

    def tensor(self, group: int, name: str, tensor: Tensor) -> Tensor:
        """Return the units that stay."""
        if group < 0:
            return tensor
        if group not in self._kept:
            self._kept.clear()
            self._kept[group] = self._keep(group)
        return self.narrowing.tensor(self._path(group, name), tensor, self._kept[group]).contiguous()

    def file(self, name: str, data: bytes) -> bytes | None:
        """Return config.json with the numbers that stay, other files as they are."""
        if name != CONFIG:
            return data
        return as_json(self.narrowing.config(json.loads(data), self.model.streamed.config))

    def _path(self, group: int, name: str) -> str:
        return next(path for path, each in self.model.streamed.tensor_paths(group).items() if each == name)

    def _keep(self, group: int) -> dict[str, Tensor]:
        """Return which units of a block stay, bool [units] by reader: the mask has them as columns of it."""
        masks = self.masks if isinstance(self.masks, Artifact) else Artifact(self.masks.folder, self.masks.manifest)
        columns = {linear.name: keep[0] for linear, keep in MaskReader(masks, self.model).block(group)}
        paths = self.model.streamed.tensor_paths(group)
        here = {axis: paths.get(f"{axis.reader}.weight") for axis in self.narrowing.axes}
        return {axis.reader: columns[name][:: axis.size] for axis, name in here.items() if name}


def cut_of(model: OpenedModel, masks: Artifact | ArtifactWriter) -> Cut | None:
    """Return what a mask cuts from a model, None where it sets single weights to zero.

    Raises LangpruneError for a family that cannot be cut so.
    """
    params = masks.manifest.params
    if not is_structured(params["pattern"]):
        return None
    if params["pattern"] == VOCABULARY:
        return VocabularyCut(model, VocabularyRows(model.streamed, _tokens_that_stay(masks)))
    blocks = blocks_that_stayed(masks) if isinstance(masks, Artifact) else None
    return NarrowingCut(model, narrowing_of(model, params.get("kept", {}), blocks), masks)


def blocks_that_stayed(masks: Artifact) -> tuple[int, ...] | None:
    """Return the blocks that a mask of whole blocks keeps, None for another mask."""
    if BLOCKS_PART not in masks.manifest.parts:
        return None
    return tuple(json.loads(masks.read(BLOCKS_PART))["stay"])


def _tokens_that_stay(masks: Artifact | ArtifactWriter) -> list[int]:
    held = masks if isinstance(masks, Artifact) else Artifact(masks.folder, masks.manifest)
    stay: list[int] = held.tensors(VOCABULARY_PART)["stay"].tolist()
    return stay


def narrowing_of(model: OpenedModel, kept: dict[Kind, int], blocks: tuple[int, ...] | None = None) -> Narrowing:
    """Return the narrowing of a model to so many units in each block, and to these blocks (None: all).

    Raises LangpruneError for a family that cannot be cut so, and where transformers would not open the result.
    """
    config, every = model.streamed.config, tuple(range(len(model.streamed.blocks)))
    axes = axes_of(config, kept)
    prefix = "" if blocks is None else blocks_prefix(model.streamed.tensor_paths(0), 0)
    narrowing = Narrowing(axes, kept, every if blocks is None else blocks, prefix)
    narrowing.config(json.loads((model.location.folder / CONFIG).read_bytes()), config)
    return narrowing
