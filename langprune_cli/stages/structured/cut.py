"""The interface of a cut: removes parts from a model's tensors, names and files."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from langprune_cli.models.streamed import StreamedModel
from langprune_cli.models.tensor_entry import TensorEntry
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.streaming.opened import OpenedModel

Masks = Artifact | ArtifactWriter  # a writer while the parts are being made


def readable(masks: Masks) -> Artifact:
    """Return masks as an artifact; only the parts on disk can be read."""
    return masks if isinstance(masks, Artifact) else Artifact(masks.folder, masks.manifest)


class Cut(ABC):
    """Gives each tensor, name and file of the model without the removed parts."""

    model: OpenedModel

    @property
    def blocks(self) -> tuple[int, ...]:
        """Return the kept blocks, by their index in the dense model."""
        return tuple(range(len(self.model.streamed.blocks)))

    @property
    def sources(self) -> Mapping[str, str]:
        """Return the tensor of the dense model, outside of its blocks, that each further one is made of, by its name."""
        return {}

    def check_dense(self) -> None:  # noqa: B027 - most cuts have nothing to measure
        """Raise LangpruneError if the smaller model would compute something else than the dense one without these parts."""

    def name(self, _group: int, name: str) -> str | None:
        """Return the new name of a tensor of block `group` (-1: outside of blocks), None if it leaves."""
        return name

    @abstractmethod
    def entry(self, group: int, name: str, entry: TensorEntry) -> TensorEntry:
        """Return the new entry, with shape and size, of a tensor of block `group` (-1: outside of blocks)."""

    def copies(self, _group: int, _name: str) -> bool:
        """Return whether a tensor is known to stay as it is: then it is compared in pieces."""
        return False

    @abstractmethod
    def tensor(self, group: int, name: str, tensor: Tensor) -> Tensor:
        """Return the kept values of a tensor of block `group` (-1: outside of blocks)."""

    @abstractmethod
    def file(self, name: str, data: bytes) -> bytes | None:
        """Return the new content of a small file, None if it leaves."""

    def check(self, folder: Path) -> dict[str, int]:
        """Open the smaller model in `folder`, and count the parameters of both checkpoints.

        Raises LangpruneError if its tensors do not match its configuration.
        """
        return sizes_of_opened(self.model, folder)


def sizes_of_opened(dense: OpenedModel, folder: Path) -> dict[str, int]:
    """Open the smaller model in `folder`, every tensor of it, and count the parameters of both checkpoints.

    Raises LangpruneError if its tensors do not match its configuration.
    """
    smaller = StreamedModel(folder, trust_remote_code=dense.compute.trust_remote_code)
    for index in range(len(smaller.blocks)):
        with smaller.block(index):
            pass
    smaller.check_outside()
    return sizes(dense.streamed, smaller)


def sizes(dense: StreamedModel, smaller: StreamedModel) -> dict[str, int]:
    """Return the number of parameters of both checkpoints, for a manifest."""
    return {"parameters_before": dense.checkpoint.parameters(), "parameters_after": smaller.checkpoint.parameters()}


def as_json(record: dict[str, object]) -> bytes:
    """Return a configuration in transformers' JSON style, its keys in their order."""
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
