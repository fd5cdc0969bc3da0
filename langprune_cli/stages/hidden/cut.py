"""The cut of a mask of the hidden size: every tensor that has it, in fewer coordinates."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.families import Axis
from langprune_cli.models.model_files import CONFIG
from langprune_cli.models.narrowing import Narrowing
from langprune_cli.models.protocols import Configuration
from langprune_cli.models.tensor_entry import TensorEntry
from langprune_cli.stages.hidden.moments import LAST
from langprune_cli.stages.structured.cut import Cut, Masks, as_json, readable
from langprune_cli.stages.structured.narrowed import narrowing_of
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.units.coordinates import Coordinates, Part, Stream
from langprune_cli.units.hidden import found_stream, hidden_count

HIDDEN = "hidden"
HIDDEN_PART = "hidden.safetensors"  # of a mask: the new coordinates, and what norms multiply by
_TIED = "tie_word_embeddings"
PARTED = "parted"  # in it: whether the head is parted from the embeddings


@dataclass(frozen=True)
class StreamOf:
    """The residual stream of an opened model, with the names of its tensors."""

    model: OpenedModel
    stream: Stream
    outside: Mapping[str, Part]  # by name
    sources: Mapping[str, str]  # new name -> the checkpoint's tensor that it is made of

    @classmethod
    def of(cls, model: OpenedModel, *, parted: bool = False) -> "StreamOf":
        """Find the stream; parted: with a head of its own for a model whose head is the embeddings.

        Raises LangpruneError for a family of which it is not known, a checkpoint in another layout, and a head that cannot be
        parted.
        """
        stream, streamed = found_stream(model.streamed.config), model.streamed
        places = {id(module): path for path, module in streamed.model.named_modules()}
        owners = {
            name: [f"{places[id(owner)]}.weight" for owner in found]
            for name, found in streamed.outside_owners().items()
        }
        ends = streamed.model.get_input_embeddings(), streamed.model.get_output_embeddings()
        embeddings, head = (f"{places[id(end)]}.weight" for end in ends)
        both = [name for name, paths in owners.items() if {embeddings, head} <= {*paths}]
        stream = replace(stream, tied=bool(both) and not parted)
        outside = {
            name: part for name, paths in owners.items() for path in paths[:1] if (part := stream.part_outside(path))
        }
        sources = {}
        if parted:
            if len(both) != 1 or streamed.config.get_text_config() is not streamed.config or head in owners:
                raise LangpruneError(
                    f"the head of {model.label} would have to be parted from its embeddings, which this kind of checkpoint does "
                    "not allow: prune its channels or blocks instead of its hidden size"
                )
            sources = {head: both[0]}
            outside |= {head: stream.outside[head]}
        found = cls(model, stream, outside, sources)
        found.check()
        return found

    @property
    def parted(self) -> bool:
        """Return whether the head gets a matrix of its own."""
        return bool(self.sources)

    def head_weights(self, left: int) -> int:
        """Return the weights of a head with `left` columns."""
        return sum(self.model.streamed.checkpoint.entries[name].shape[0] for name in self.sources.values()) * left

    def scale(self) -> Tensor:  # D, float64 [d]
        """Return what the stream's coordinates are multiplied by before they are turned."""
        return self.stream.scale(self.norm(LAST, self.stream.last))

    def check(self) -> None:
        """Raise LangpruneError if the checkpoint stores tensors with the hidden size in another layout than modules have."""
        streamed = self.model.streamed
        for index, block in enumerate(streamed.blocks):
            shapes = {path: tuple(each.shape) for path, each in block.named_parameters()}
            paths = streamed.tensor_paths(index)
            for path in self.stream.blocks.keys() & shapes.keys():
                name = paths.get(path)
                if name is None or streamed.checkpoint.entries[name].shape != shapes[path]:
                    raise LangpruneError(
                        f"{self.model.label} stores {path} of block {index} in another layout than transformers saves, so that "
                        "its hidden size cannot be changed: prune its channels or blocks"
                    )

    def part(self, group: int, name: str) -> Part | None:
        """Return the part of a tensor of block `group` (-1: outside of blocks), None if it has no part in the stream."""
        if group < 0:
            return self.outside.get(name)
        return self.stream.blocks.get(self._path(group, name))

    def place(self, group: int, name: str) -> str:
        """Return the path of the module that holds a tensor, inside of its block if it has one."""
        path = self._path(group, name) if group >= 0 else f"{self.stream.last}.weight"
        return path.rpartition(".")[0]

    def norm(self, group: int, path: str) -> Tensor:
        """Return the weight of a norm of block `group` (-1: outside of blocks)."""
        streamed = self.model.streamed
        paths = streamed.tensor_paths(group) if group >= 0 else streamed.outside_paths()
        name = paths[f"{path}.weight"]
        return streamed.checkpoint.read([name])[name]

    def _path(self, group: int, name: str) -> str:
        return next(path for path, each in self.model.streamed.tensor_paths(group).items() if each == name)


def hidden_axis(config: Configuration, *, parted: bool = False) -> Axis:
    """Return how a configuration states its hidden size; parted: with a head that is not the embeddings any more."""
    count = hidden_count(config)
    return Axis(HIDDEN, count.units, 1, "", (), count.numbers, (*count.fixed, *((_TIED, False),) * parted))


def hidden_cut(model: OpenedModel, masks: Masks) -> "HiddenCut":
    """Return the cut of a mask of the hidden size; raises LangpruneError for an unsupported model."""
    tensors = readable(masks).tensors(HIDDEN_PART)
    parted = bool(tensors[PARTED])
    turn, of = tensors["turn"].double(), StreamOf.of(model, parted=parted)
    constants = {name.removeprefix("constant/"): float(each) for name, each in tensors.items() if "/" in name}
    narrowing = narrowing_of(model, (hidden_axis(model.streamed.config, parted=parted),), {HIDDEN: turn.shape[1]})
    return HiddenCut(model, of, Coordinates(of.stream, turn, tensors["scale"].double()), constants, narrowing)


@dataclass(frozen=True)
class HiddenCut(Cut):
    """Gives every tensor that reads or writes the residual stream fewer coordinates."""

    model: OpenedModel
    of: StreamOf
    coordinates: Coordinates
    constants: Mapping[str, float]  # by block and path of the norm: "3/input_layernorm"
    narrowing: Narrowing

    @property
    def sources(self) -> Mapping[str, str]:
        """Return the head as made of the embeddings, if it is parted from them."""
        return self.of.sources

    def entry(self, group: int, name: str, entry: TensorEntry) -> TensorEntry:
        """Return the entry with fewer coordinates."""
        part = self.of.part(group, name)
        if part is None:
            return entry
        dim = 1 if part.role in {"reads", "embeds"} else 0
        left, whole = self.coordinates.left, entry.shape[dim]
        shape = (*entry.shape[:dim], left, *entry.shape[dim + 1 :])
        return replace(entry, shape=shape, size=entry.size // whole * left)

    def copies(self, group: int, name: str) -> bool:
        """Return whether the tensor has no part in the stream."""
        return self.of.part(group, name) is None

    def tensor(self, group: int, name: str, tensor: Tensor) -> Tensor:
        """Return the tensor in the new coordinates."""
        part = self.of.part(group, name)
        if part is None:
            return tensor
        if part.role == "scales":
            constant = self.constants[f"{group}/{self.of.place(group, name)}"]
            return self.coordinates.tensor(part, tensor, None, constant)
        gain = self.of.stream.gain(self.of.norm(group, part.norm)) if part.norm else None
        return self.coordinates.tensor(part, tensor, gain, 1.0)

    def file(self, name: str, data: bytes) -> bytes | None:
        """Return config.json with the new hidden size, other files unchanged."""
        if name != CONFIG:
            return data
        return as_json(self.narrowing.config(json.loads(data), self.model.streamed.config))
