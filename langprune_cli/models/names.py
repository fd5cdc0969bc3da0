"""Maps the parameters of a model to the tensors of its checkpoint."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming

from langprune_cli.errors import LangpruneError
from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.models.experts import expert_path
from langprune_cli.models.protocols import CausalModel

Place = tuple[str, nn.Module, str]  # path in the model, module, name of the attribute


@dataclass(frozen=True)
class Slot:
    """One parameter: its checkpoint tensor, and every place in the modules that holds it (several if tied)."""

    name: str
    path: str  # in the model, the first of several
    owners: tuple[tuple[nn.Module, str], ...]
    copies: tuple[str, ...] = ()  # further tensors with the same values: some files store a tied head too


class TensorNames:
    """Finds the checkpoint tensor of a parameter.

    Families renamed their modules over the years but not their checkpoints (gpt_neox stores its head as embed_out, mixtral an
    expert's gate as w1), and some checkpoints have the base model's prefix, some not.
    """

    def __init__(self, model: CausalModel, names: Iterable[str]) -> None:
        rules = get_model_conversion_mapping(model)
        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        mergers = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._base = f"{model.base_model_prefix}."
        self._by_path: dict[str, str] = {}
        for name in names:
            path = name
            for rule in renamings:
                path, _ = rule.rename_source_key(path)
            self._by_path[expert_path(mergers, path)] = name

    def find(self, path: str) -> str | None:
        """Return the tensor of the parameter at `path`, None if the checkpoint has none."""
        for candidate in (path, path.removeprefix(self._base), self._base + path):
            if candidate in self._by_path:
                return self._by_path[candidate]
        return None


def slots_of(model: CausalModel, checkpoint: Checkpoint, names: TensorNames, dtype: torch.dtype) -> Iterator[Slot]:
    """Yield each distinct parameter of a model, tied ones once. dtype: in which values of tied tensors are compared.

    Raises LangpruneError for a parameter without a tensor.
    """
    places: dict[int, list[Place]] = {}
    for prefix, module in model.named_modules():
        for attr, parameter in module.named_parameters(recurse=False):
            path = f"{prefix}.{attr}" if prefix else attr
            places.setdefault(id(parameter), []).append((path, module, attr))
    for found in places.values():
        yield from _untied(found, model, checkpoint, names, dtype)


def _untied(
    places: list[Place], model: CausalModel, checkpoint: Checkpoint, tensors: TensorNames, dtype: torch.dtype
) -> list[Slot]:
    """Return the slots of one parameter: one, or several if it is tied but the checkpoint has several values for it.

    transformers ties what the configuration ties, unless the checkpoint holds both tensors with different values: then each
    keeps its own. A place without a tensor takes that of the place it is tied to.
    """
    names = {path: tensors.find(path) for path, _, _ in places}
    copies: dict[str, list[str]] = {}  # first tensor -> tensors equal to it
    same: dict[str, str] = {}
    for name in dict.fromkeys(name for name in names.values() if name):
        first = next((each for each in copies if checkpoint.same_values(each, name, dtype)), name)
        copies.setdefault(first, []).append(name)
        same[name] = first
    if not copies:
        raise _lacks(*places[0], model, checkpoint.folder)
    sources: dict[str, str] = getattr(model, "all_tied_weights_keys", {})
    owners: dict[str, list[Place]] = {name: [] for name in copies}
    for path, module, attr in places:
        name = names[path] or names.get(sources.get(path, "")) or next(iter(copies))
        owners[same[name]].append((path, module, attr))
    return [
        Slot(name, held[0][0], tuple((module, attr) for _, module, attr in held), tuple(copies[name][1:]))
        for name, held in owners.items()
    ]


def _lacks(path: str, owner: nn.Module, attr: str, model: CausalModel, folder: Path) -> LangpruneError:
    if owner is model.get_output_embeddings() and attr == "weight":
        return LangpruneError(
            f"{folder} has no head ({path}), and its config.json does not tie it to the embeddings, so "
            "transformers would fill it with random values: get the checkpoint again, or set tie_word_embeddings to true "
            "in config.json"
        )
    return LangpruneError(
        f"{folder} has no tensor for {path} of {type(model).__name__}: get the checkpoint again; if that is "
        "whole, this family is not supported"
    )
