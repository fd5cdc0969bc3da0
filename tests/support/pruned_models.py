"""What tests of `prune` read of its results: artifacts, statistics, and the linears of stock models."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from langprune_cli.stages.statistics.parts import block_part
from langprune_cli.store.artifact import Artifact, open_artifact


def linears_of(model: Any, place: str) -> dict[str, nn.Module]:
    """Return the linears of a whole model whose paths begin with `place`, by "<module>.weight"."""
    kinds = (nn.Linear, Conv1D)
    named = model.named_modules()
    return {f"{path}.weight": each for path, each in named if path.startswith(place) and isinstance(each, kinds)}


def weight_of(module: nn.Module) -> Tensor:
    """Return the weight [out, in] of a linear, to be read and written."""
    weight: Tensor = module.weight.data  # type: ignore[assignment] # a Parameter
    return weight.t() if isinstance(module, Conv1D) else weight


def artifacts(document: Any) -> dict[str, Artifact]:
    return {each["kind"]: open_artifact(Path(each["path"]), each["kind"]) for each in document["artifacts"]}


def sums_in(stats: Artifact, what: str) -> dict[str, Tensor]:
    """Return one statistic by linear: that of its site."""
    found: dict[str, Tensor] = {}
    for index in range(3):
        tensors, record = stats.tensors_and_record(block_part(index))
        found |= {linear: tensors[f"{site}/{what}"] for site, linears in record["sites"].items() for linear in linears}
    return found
