"""What taking parts of a model away does to its tensors, names and files: what every kind of cut has to say."""

import json
from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor

from langprune_cli.models.streamed import StreamedModel
from langprune_cli.models.tensor_entry import TensorEntry
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.streaming.opened import OpenedModel

Masks = Artifact | ArtifactWriter  # a writer while its parts are being made


def readable(masks: Masks) -> Artifact:
    """Return masks as an artifact, of which those parts can be read that are there."""
    return masks if isinstance(masks, Artifact) else Artifact(masks.folder, masks.manifest)


class Cut(ABC):
    """What becomes of each tensor, name and file of a model when parts of it leave."""

    model: OpenedModel

    @property
    def blocks(self) -> tuple[int, ...]:
        """Return the blocks that stay, by their index in the model that is cut."""
        return tuple(range(len(self.model.streamed.blocks)))

    def check_dense(self) -> None:  # noqa: B027 - most cuts have nothing to measure
        """Raise LangpruneError where the smaller model would not compute what the dense one does without these parts."""

    def name(self, _group: int, name: str) -> str | None:
        """Return what a tensor of block `group` (-1: of none) is called afterwards, None where it leaves."""
        return name

    @abstractmethod
    def entry(self, group: int, name: str, entry: TensorEntry) -> TensorEntry:
        """Return the shape and size that a tensor of block `group` (-1: of none) has afterwards."""

    @abstractmethod
    def tensor(self, group: int, name: str, tensor: Tensor) -> Tensor:
        """Return what is left of a tensor of block `group` (-1: of none)."""

    @abstractmethod
    def file(self, name: str, data: bytes) -> bytes | None:
        """Return what a small file beside the weights holds afterwards, None where it leaves."""

    def check(self, folder: Path) -> dict[str, int]:
        """Open the smaller model in `folder`, and count the parameters of both checkpoints.

        Raises LangpruneError where its tensors are not those that its configuration asks for.
        """
        smaller = StreamedModel(folder, trust_remote_code=self.model.compute.trust_remote_code)
        for index in range(len(smaller.blocks)):
            with smaller.block(index):
                pass
        with smaller.outside():
            pass
        return sizes(self.model.streamed, smaller)


def sizes(dense: StreamedModel, smaller: StreamedModel) -> dict[str, int]:
    """Return how many parameters the checkpoints of a model have before and after whole parts left it."""
    return {"parameters_before": dense.checkpoint.parameters(), "parameters_after": smaller.checkpoint.parameters()}


def as_json(record: dict[str, object]) -> bytes:
    """Return a configuration as transformers writes it, its keys in their order."""
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
