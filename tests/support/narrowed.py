"""What tests of smaller models share: a checkpoint narrowed into a folder, and the dense model that it has to equal."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from langprune_cli.models.families import KV_GROUPS, Axis, Kind
from langprune_cli.models.narrowing import Narrowing, blocks_prefix
from langprune_cli.models.protocols import Configuration
from langprune_cli.models.skeleton import find_blocks
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.units.axes import channel_axes, group_axes
from tests.reference.identity import output_is_input

IDS = torch.randint(3, 97, (2, 20), generator=torch.Generator().manual_seed(1))
CHANNELS: dict[Kind, int] = {"channels": 32}
EXPERTS: dict[str, dict[Kind, int]] = {
    "mixtral": {"expert-channels": 32},
    "qwen2_moe": {"channels": 32, "expert-channels": 16, "shared-expert-channels": 32},
    "qwen3_moe": {"channels": 32, "expert-channels": 16},
}

Keep = list[dict[str, Tensor]]  # by block, bool [units] by reader


@dataclass(frozen=True)
class Narrowed:
    """A smaller model that was written, and how it came about."""

    folder: Path
    narrowing: Narrowing
    keep: Keep


def narrow(dense: Path, folder: Path, kept: Mapping[Kind, int], blocks: Sequence[int] | None = None) -> Narrowed:
    """Write the model of `dense` with random units, other ones in each block, and all or the given blocks."""
    model = StreamedModel(dense)
    count = len(model.blocks)
    axes = axes_in(model.config, kept)
    prefix = blocks_prefix(model.tensor_paths(0), 0)
    narrowing = Narrowing(axes, dict(kept), tuple(range(count) if blocks is None else blocks), prefix)
    keep = [
        {axis.reader: some(axis.units, kept[axis.kind], index + 2 * number) for number, axis in enumerate(axes)}
        for index in range(count)
    ]
    raw = json.loads((dense / "config.json").read_text())
    before = json.dumps(raw)
    smaller = narrowing.config(raw, model.config)
    assert json.dumps(raw) == before
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(smaller))
    tensors = {}
    for name in model.outside_names():
        if left := narrowing.leftover(name):
            tensors[left] = model.checkpoint.read([name])[name]
    for index in narrowing.blocks:
        for path, name in model.tensor_paths(index).items():
            tensor = narrowing.tensor(path, model.checkpoint.read([name])[name], keep[index])
            entry = narrowing.entry(path, model.checkpoint.entries[name])
            assert (entry.shape, entry.size) == (tuple(tensor.shape), tensor.nbytes)
            tensors[narrowing.name(name, index)] = tensor.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return Narrowed(folder, narrowing, keep)


def axes_in(config: Configuration, kinds: Collection[Kind]) -> tuple[Axis, ...]:
    """Return the axes of these kinds that a model has."""
    groups = group_axes(config) if KV_GROUPS in kinds else ()
    channels = channel_axes(config) if set(kinds) - {KV_GROUPS} else ()
    return (*(axis for axis in channels if axis.kind in kinds), *groups)


def some(units: int, kept: int, seed: int) -> Tensor:
    """Return a random mask that keeps `kept` of `units`; with 1 of 2, seeds in turn keep one and the other."""
    order = torch.randperm(units, generator=torch.Generator().manual_seed(seed // 2))
    chosen = order[:kept] if seed % 2 == 0 else order[units - kept :]
    return torch.zeros(units, dtype=torch.bool).index_fill(0, chosen, value=True)


def as_if_narrowed(dense: Any, narrowed: Narrowed) -> Any:
    """Make the dense model compute what the narrowed one should: zeros where readers read, and blocks that do nothing."""
    blocks: nn.ModuleList = find_blocks(dense)[1]
    with torch.no_grad():
        for index, block in enumerate(blocks):
            if index not in narrowed.narrowing.blocks:
                block.register_forward_hook(output_is_input, with_kwargs=True)
            for axis in narrowed.narrowing.axes:
                weight, inputs_first = read_by(block, axis.reader)
                columns = narrowed.keep[index][axis.reader].repeat_interleave(axis.size)
                if weight is not None:
                    weight.mul_(columns[:, None] if inputs_first else columns)
    return dense


def read_by(block: Any, reader: str) -> tuple[Tensor | None, bool]:
    """Return a reader's weight in a model of transformers, None in a block that has none, and whether it is [in, out]."""
    before, _, expert = reader.partition(".experts.")
    if expert:
        merged = getattr(block.get_submodule(before), "experts", None)
        return (merged.down_proj[int(expert.split(".")[0])] if merged else None), False
    try:
        module = block.get_submodule(reader)
    except AttributeError:
        return None, False
    return module.weight, not isinstance(module, nn.Linear)  # Conv1D


def opened(folder: Path) -> Any:
    """Open a folder as anyone would, and make sure that transformers found exactly what it wanted."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


def logits(model: Any, ids: Tensor) -> Tensor:
    """Return the logits of windows of ids."""
    with torch.no_grad():
        result: Tensor = model(input_ids=ids, use_cache=False).logits
    return result


def equal(found: Tensor, expected: Tensor) -> None:
    """Compare logits of a smaller model with those of the dense one, whose sums have some more terms that are zero."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def numbers(folder: Path) -> int:
    """Return how many parameters a folder's file holds."""
    return sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
