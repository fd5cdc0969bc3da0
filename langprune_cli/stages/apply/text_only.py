"""`--text-only`: the text tower of a model that reads images, written as a causal language model of its own."""

import json
from dataclasses import dataclass

from langprune_cli.errors import LangpruneError
from langprune_cli.models.composites import config_alone
from langprune_cli.models.model_files import CONFIG, OF_IMAGES
from langprune_cli.models.narrowing import blocks_prefix, opened_as
from langprune_cli.models.protocols import Configuration
from langprune_cli.models.skeleton import build_skeleton, find_blocks
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.stages.structured.cut import as_json
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.units.towers import check_alone, places_alone

_ENDS = ("bos_token_id", "eos_token_id")  # of text, which config.json may state beside the part for the text tower


@dataclass(frozen=True)
class TextTower:
    """The names and files of a text tower's own checkpoint."""

    model: OpenedModel  # the one that reads images
    before: str  # how the names of its blocks' tensors begin, before the number
    after: str  # how the tower's own begin
    outside: dict[str, str]  # tensor outside of the blocks -> name in the tower's checkpoint
    buffers: frozenset[str]  # tensors of the blocks that are no parameters
    tied: bool  # whether the head has the values of the embeddings

    @classmethod
    def of(cls, model: OpenedModel) -> "TextTower":
        """Find them, and try the tower on a small model (`check_alone`).

        Raises UsageError for a model that reads no images, and LangpruneError for a tower of which transformers makes no causal
        language model, or one that computes something else.
        """
        check_alone(model.streamed.config, model.label)
        streamed = model.streamed
        here = streamed.outside_paths()
        ends = (streamed.model.get_input_embeddings(), streamed.model.get_output_embeddings())
        holding = [name for name, owners in streamed.outside_owners().items() for end in ends if end in owners]
        tied = len(holding) > len({*holding})
        config = config_alone(streamed.config, model.label, tied=tied)
        alone = build_skeleton(config, streamed.dtype, names=streamed.checkpoint.tensors, experts_apart=False)
        after = find_blocks(alone)[0]
        places = places_alone(streamed.model, alone)
        kept = alone.state_dict().keys()
        outside: dict[str, str] = {}
        for path in [path for path in kept if not path.startswith(f"{after}.")]:
            name = here.get(places.get(path, ""))
            if name is None:
                raise _unnamed(model, path)
            outside.setdefault(name, path)
        count = range(len(streamed.blocks))
        buffers = frozenset(name for index in count for name in streamed.buffer_paths(index).values())
        try:
            before = blocks_prefix(streamed.tensor_paths(0), 0)
        except LangpruneError as error:
            raise _unnamed(model, f"{after}.0") from error
        found = cls(model, before, after, outside, buffers, tied)
        found.check(config)
        return found

    def name(self, group: int, name: str, written: str) -> str | None:
        """Return the name in the tower's checkpoint, None for a tensor that is not the tower's.

        group: the block, -1 outside of blocks; name: the tensor's; written: the one after a cut, with the block's new number.
        """
        if group < 0 and name in self.outside:
            return self.outside[name]
        if group < 0 and name not in self.buffers:
            return None
        return f"{self.after}.{written.removeprefix(f'{self.before}.')}"

    def file(self, name: str, data: bytes) -> bytes | None:
        """Return the tower's config.json, None for files about images or with code, and others unchanged."""
        if OF_IMAGES.fullmatch(name) or name.endswith(".py"):
            return None
        if name != CONFIG:
            return data
        raw = json.loads(data)
        alone = config_alone(opened_as(self.model.streamed.config, raw), self.model.label, tied=self.tied)
        ends = {key: raw[key] for key in _ENDS if raw.get(key) is not None}
        return as_json(json.loads(alone.to_json_string()) | ends)

    def _names(self) -> dict[str, str]:
        streamed = self.model.streamed
        groups = {index: streamed.tensor_names(index) for index in range(len(streamed.blocks))}
        groups[-1] = streamed.outside_names()
        new = {name: self.name(group, name, name) for group, names in groups.items() for name in names}
        return {name: each for name, each in new.items() if each}

    def check(self, config: Configuration) -> None:
        """Raise LangpruneError unless every parameter of the blocks has the tensors that it has with images.

        config: the tower's own.
        """
        streamed, names = self.model.streamed, self._names()
        checkpoint = streamed.checkpoint.renamed(names)
        folder, dtype = self.model.location.folder, streamed.dtype
        try:
            alone = StreamedModel(folder, config=config, dtype=dtype, checkpoint=checkpoint)
        except LangpruneError as error:
            raise LangpruneError(
                f"the text tower of {self.model.label} cannot be written alone, since a checkpoint of a {config.model_type} has "
                "other names for its tensors: leave out --text-only"
            ) from error
        for index in range(len(streamed.blocks)):
            found = alone.tensor_paths(index)
            expected = {path: names[name] for path, name in streamed.tensor_paths(index).items()}
            differs = [path for path in found | expected if found.get(path) != expected.get(path)]
            if differs:
                raise _unnamed(self.model, f"{self.after}.{index}.{differs[0]}")


def _unnamed(model: OpenedModel, path: str) -> LangpruneError:
    return LangpruneError(
        f"the text tower of {model.label} cannot be written alone, since its checkpoint has no tensor of its own for {path}: "
        "leave out --text-only"
    )
