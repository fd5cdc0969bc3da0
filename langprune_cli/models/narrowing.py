"""A narrower model: the tensors, names and configuration that remain when units and blocks are removed."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeGuard, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.families import KV_GROUPS, Axis, Kind, Slice, sparse_blocks
from langprune_cli.models.protocols import Configuration, block_count, block_key
from langprune_cli.models.tensor_entry import TensorEntry

# Configuration lists, of any family, with one entry per block.
_PER_BLOCK = (
    "layer_types", "mlp_layer_types", "layers_block_type", "attention_layers", "indexer_types", "no_rope_layers",
    "layer_rope_theta", "sliding_windows", "activation_sparsity_pattern", "intermediate_size", "num_attention_heads",
    "num_key_value_heads", "num_query_heads", "num_kv_heads", "num_attention_heads_per_layer",
    "num_key_value_heads_per_layer", "swiglu_limits", "swiglu_limits_shared",
)  # fmt: skip
# The number of blocks before the first one with a sliding window (qwen) or with experts (deepseek, afmoe).
_FIRST = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")


@dataclass(frozen=True)
class Narrowing:
    """Which units and blocks stay, by number.

    Every block keeps the same number of units, since a configuration states one width for all, but each block chooses its own.
    """

    axes: tuple[Axis, ...]
    kept: dict[Kind, int]  # kept units of each axis of a kind
    blocks: tuple[int, ...]  # old numbers of the kept blocks, ascending
    prefix: str  # of the blocks' tensors in the checkpoint, see `blocks_prefix`: "model.layers"

    def entry(self, path: str, entry: TensorEntry) -> TensorEntry:
        """Return a tensor's entry with its new shape and size; `path` is the parameter's path inside its block.

        Raises LangpruneError for a tensor whose shape contradicts the configuration.
        """
        for axis, cut in self._cuts(path):
            width, whole = sum(cut.sizes), entry.shape[cut.dim]
            if whole != axis.units * width:
                raise LangpruneError(
                    f"{path} has the shape {list(entry.shape)}, which does not hold {axis.units} {axis.kind} of {width}: "
                    "get the checkpoint again"
                )
            left = self.kept[axis.kind] * width
            shape = (*entry.shape[: cut.dim], left, *entry.shape[cut.dim + 1 :])
            entry = replace(entry, shape=shape, size=entry.size // whole * left)
        return entry

    def tensor(
        self,
        path: str,
        tensor: Tensor,  # as the checkpoint stores it
        keep: Mapping[str, Tensor],  # bool [units], this block's, by the axis' reader
    ) -> Tensor:
        """Return the kept entries of a block's tensor; `path` is the parameter's path inside its block.

        Raises ValueError for a mask that keeps another number of units than all blocks do.
        """
        for axis, cut in self._cuts(path):
            mask = keep[axis.reader].to(tensor.device)
            if mask.shape != (axis.units,) or int(mask.sum()) != self.kept[axis.kind]:
                raise ValueError(f"a mask of {axis.kind} must keep {self.kept[axis.kind]} of {axis.units}")
            segments = torch.split(tensor, [axis.units * size for size in cut.sizes], cut.dim)
            columns = [mask.repeat_interleave(size).nonzero()[:, 0] for size in cut.sizes]
            parts = [part.index_select(cut.dim, at) for part, at in zip(segments, columns, strict=True)]
            tensor = torch.cat(parts, cut.dim)
        return tensor

    def name(self, name: str, index: int) -> str:
        """Return the new name of a checkpoint tensor of block `index`, a kept block.

        Raises LangpruneError for a name without the block's number.
        """
        before = f"{self.prefix}.{index}."
        if not name.startswith(before):
            raise LangpruneError(
                f"The tensor {name} belongs to block {index} but does not begin with {before} as others do: blocks of this "
                "checkpoint cannot be removed"
            )
        return f"{self.prefix}.{self.blocks.index(index)}.{name.removeprefix(before)}"

    def leftover(self, name: str) -> str | None:
        """Return the new name of a checkpoint tensor that the model does not use, None if its block is removed.

        Old checkpoints hold such tensors, rotary frequencies and attention masks, in every block.
        """
        number = name.removeprefix(f"{self.prefix}.").partition(".")[0]
        if not name.startswith(f"{self.prefix}.") or not number.isdecimal():
            return name
        return self.name(name, int(number)) if int(number) in self.blocks else None

    def config(self, raw: dict[str, object], config: Configuration) -> dict[str, object]:
        """Return the smaller model's config.json. raw: the present one, as in the file; config: the same, opened.

        Raises LangpruneError if transformers could not open the smaller model. Call it before any work: the answer hardly
        depends on which blocks are removed. Whether the model computes the same is for `check_without` to measure.
        """
        text = config.get_text_config()
        smaller = self._written(raw, config)
        problem = self._problem(smaller, config)
        if problem and KV_GROUPS in self.kept:
            self._refuse_heads(raw, config)
        if problem:
            raise LangpruneError(
                f"transformers would not open this {text.model_type} after pruning ({problem}): prune less, or use an "
                "unstructured or N:M pattern"
            )
        return smaller

    def _written(self, raw: dict[str, object], config: Configuration) -> dict[str, object]:
        text, smaller = config.get_text_config(), copy.deepcopy(raw)
        part = smaller
        if text is not config:
            key = next(key for key, value in vars(config).items() if value is text)
            part = cast("dict[str, object]", smaller.setdefault(key, {}))
        for axis in {axis.kind: axis for axis in self.axes}.values():
            for key, of_each in axis.numbers:
                _state(part, text, key, self.kept[axis.kind] * of_each)
            for key, value in axis.fixed:
                _state(part, text, key, value)
        if len(self.blocks) < block_count(text):
            self._without_blocks(part, text)
        return smaller

    def _without_blocks(self, part: dict[str, object], text: Configuration) -> None:
        for key in _PER_BLOCK:
            # State the types of the kept blocks: gemma2, gemma3, qwen2 and qwen3 compute missing ones from the blocks'
            # numbers, and they would shift.
            values = part.get(key) or vars(text).get(key)
            if _one_per_block(values, text):
                part[key] = [values[index] for index in self.blocks]
        if "attention_types" in vars(text):  # gpt_neo: attention_layers as runs of one pattern
            part["attention_types"] = [[[text.attention_layers[index]], 1] for index in self.blocks]
        if attention := vars(text).get("attn_layer_indices"):  # bamba: the blocks with attention
            part["attn_layer_indices"] = [new for new, index in enumerate(self.blocks) if index in attention]
        for key in _FIRST:
            if vars(text).get(key) is not None:
                _state(part, text, key, sum(index < getattr(text, key) for index in self.blocks))
        if "decoder_sparse_step" in vars(text):  # qwen: blocks with experts, by their numbers
            sparse = sparse_blocks(text)
            part["mlp_only_layers"] = [new for new, index in enumerate(self.blocks) if not sparse[index]]
            part["decoder_sparse_step"] = 1
        _state(part, text, block_key(text), len(self.blocks))

    def _problem(self, smaller: dict[str, object], config: Configuration) -> str | None:
        """Return why transformers could not open the smaller model as intended, None if it can."""
        try:
            opened = opened_as(config, smaller).get_text_config()
        except (
            StrictDataclassError,
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
            IndexError,
            NotImplementedError,
        ) as error:
            return str(error).strip().splitlines()[-1].strip()[:200]
        text = config.get_text_config()
        if attention_blocks(text) and not attention_blocks(opened):
            return "none of its blocks with attention would stay, and without one it does not generate"
        for key in _PER_BLOCK:
            values = getattr(text, key, None)
            if _one_per_block(values, text) and list(getattr(opened, key)) != [values[index] for index in self.blocks]:
                return f"it computes {key} from the number of blocks"
        return None

    def opens(self, raw: dict[str, object], config: Configuration) -> bool:
        """Return whether transformers opens the smaller model's config.json as intended."""
        return self._problem(self._written(raw, config), config) is None

    def _refuse_heads(self, raw: dict[str, object], config: Configuration) -> None:
        """Raise LangpruneError if the number of KV groups is the problem."""
        units = next(axis.units for axis in self.axes if axis.kind == KV_GROUPS)
        possible = possible_groups(self.axes, raw, config)
        if self.kept[KV_GROUPS] in possible:
            return
        # Rounded up to four places: a slightly smaller share would remove one group fewer.
        shares = [
            f"--pattern kv-groups:{-(-10_000 * (units - each) // units) / 10_000:g} ({each} stay)" for each in possible
        ]
        nearest = ", or --round nearest for the nearest of these" if len(shares) > 1 else ""
        what = (
            f"give {' or '.join(shares)}{nearest}, or prune channels or blocks"
            if shares
            else "prune channels or blocks"
        )
        raise LangpruneError(
            f"transformers does not open this {config.get_text_config().model_type} with {self.kept[KV_GROUPS]} of its "
            f"{units} KV groups{'' if shares else ', nor with any other number'}: {what}"
        )

    def _cuts(self, path: str) -> list[tuple[Axis, Slice]]:
        return self._cuts_by_path.get(path, [])

    @cached_property
    def _cuts_by_path(self) -> dict[str, list[tuple[Axis, Slice]]]:
        found: dict[str, list[tuple[Axis, Slice]]] = {}
        for axis in self.axes:
            for cut in axis.slices:
                found.setdefault(cut.path, []).append((axis, cut))
        return found


def possible_groups(axes: Sequence[Axis], raw: dict[str, object], config: Configuration) -> list[int]:
    """Return the numbers of KV groups, largest first, that transformers opens a model with if all else stays.

    axes: with those of KV groups among them. Some configurations want the heads to divide the hidden size.
    """
    groups = tuple(axis for axis in axes if axis.kind == KV_GROUPS)
    every = tuple(range(block_count(config.get_text_config())))
    fewer = range(groups[0].units - 1, 0, -1)
    return [left for left in fewer if Narrowing(groups, {KV_GROUPS: left}, every, "").opens(raw, config)]


def opened_as(config: Configuration, raw: dict[str, object]) -> Configuration:
    """Return config.json's values opened as transformers does it, with the class of `config`.

    Infinity and NaN are spelled {"__float__": "Infinity"} there.
    """
    opened = type(config).from_dict(config._decode_special_floats(copy.deepcopy(raw)))  # noqa: SLF001 - its reader's own
    opened.name_or_path = config.name_or_path
    return opened


def blocks_prefix(paths: Mapping[str, str], index: int) -> str:
    """Return the names' common start before the block's number, such as "model.layers".

    paths: from `StreamedModel.tensor_paths` for block `index`. Raises LangpruneError if the names have no such start.
    """
    for path, name in paths.items():
        if name.endswith(f".{index}.{path}"):
            return name.removesuffix(f".{index}.{path}")
    number = f".{index}."  # the names after it may be others than the paths (deepseek_v4)
    found = {name.partition(number)[0] for name in paths.values()}
    if len(found) == 1 and all(number in name for name in paths.values()):
        return found.pop()
    raise LangpruneError(
        f"The names of block {index}'s tensors, such as {next(iter(paths.values()), 'none')}, do not have its number: blocks "
        "of this checkpoint cannot be removed"
    )


def _state(part: dict[str, object], text: Configuration, key: str, value: int) -> None:
    """Set a key in the family's own spelling, and in the usual one if the file has it."""
    part[text.attribute_map.get(key, key)] = value
    if key in part:
        part[key] = value


def attention_blocks(text: Configuration) -> list[int]:
    """Return the blocks whose attention is not linear, by the configuration's list of types; none if it has no such list."""
    types = getattr(text, "layer_types", None) or ()
    named = [isinstance(each, str) and "attention" in each and each != "linear_attention" for each in types]
    return [index for index, attends in enumerate(named) if attends]


def _one_per_block(values: object, text: Configuration) -> TypeGuard[Sequence[object]]:
    return isinstance(values, (list, tuple)) and len(values) == block_count(text)
