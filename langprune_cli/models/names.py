"""Maps module paths to checkpoint tensors, or to parts of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from langprune_cli.errors import LangpruneError
from langprune_cli.layouts.composed import Composed
from langprune_cli.layouts.conversions import Conversions, Target, converted
from langprune_cli.layouts.experts import AnyExperts, Experts, SharedExperts
from langprune_cli.models.checkpoint import Checkpoint
from langprune_cli.models.protocols import CausalModel
from langprune_cli.models.tensor_entry import TensorEntry


@dataclass(frozen=True)
class Made:
    """A parameter that transformers computes from one or more checkpoint tensors."""

    path: str
    sources: tuple[tuple[str, Target], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the checkpoint tensors."""
        return tuple(name for name, _ in self.sources)

    @property
    def explanation(self) -> str:
        """Return what transformers does, for error messages."""
        how = ", ".join(self.sources[0][1].operations)
        return f"{self.names[0]}, which transformers changes by {how} on loading"

    def value(self, model: CausalModel, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the parameter; tensors: those of `names`."""
        return converted(model, self.path, self.sources, tensors)


Place = tuple[str, nn.Module, str]  # path in the model, module, name of the attribute


@dataclass(frozen=True)
class Slot:
    """One parameter: its checkpoint tensor, and every place in the modules that holds it (several if tied)."""

    name: str
    path: str  # in the model, the first of several
    owners: tuple[tuple[nn.Module, str], ...]
    copies: tuple[str, ...] = ()  # further tensors with the same values: some files store a tied head too
    made: Made | None = None  # how it is computed, if it is not a checkpoint tensor itself

    @property
    def names(self) -> tuple[str, ...]:
        """Return the checkpoint tensors it is read from."""
        return self.made.names if self.made else (self.name,)


class TensorNames:
    """Finds the checkpoint tensor of a parameter, or the part of one.

    Families renamed their modules over the years but not their checkpoints (gpt_neox stores its head as embed_out, mixtral an
    expert's gate as w1), and some checkpoints have the base model's prefix, some not.
    """

    def __init__(self, model: CausalModel, tensors: Mapping[str, TensorEntry]) -> None:
        """Read transformers' conversions. model: with separate experts; tensors: those of the checkpoint's files."""
        self._model = model
        self._tensors = tensors
        self._rules = Conversions(model)
        self._shapes = {path: tuple(each.shape) for path, each in model.named_parameters(remove_duplicate=False)}
        separate = AnyExperts | SharedExperts
        experts = {path: each for path, each in model.named_modules() if isinstance(each, separate)}
        self._experts = {path: each for path, each in experts.items() if isinstance(each, AnyExperts)}
        self._composed = {path for path, each in model.named_modules() if isinstance(each, Composed)}
        self._merged = {
            f"{path}.{parameter}": [f"{path}.{each}" for each in places]
            for path, module in experts.items()
            for parameter, places in module.paths()
        }
        self.parts: dict[str, TensorEntry] = {}  # in the place of their tensors
        self._by_path: dict[str, str] = {}
        self._sources: dict[str, list[tuple[str, Target]]] = {}  # of computed parameters
        for name, target in self._rules.targets(tensors).items():
            self._place(name, target)

    def find(self, path: str) -> str | None:
        """Return the tensor or part of the parameter at `path`, None if the checkpoint has none."""
        return next((self._by_path[each] for each in self._rules.spellings(path) if each in self._by_path), None)

    def made(self, path: str) -> Made | None:
        """Return how transformers computes the parameter at `path`, None if it does not."""
        found = next((each for each in self._rules.spellings(path) if each in self._sources), None)
        if found is None:
            return None
        return Made(found, tuple(sorted(self._sources[found], key=lambda each: (each[1].source, each[1].number or 0))))

    def explanation(self, path: str) -> str | None:
        """Return why no tensor holds the parameter at `path`, None if the checkpoint has nothing like it."""
        whole = next((each for each, places in self._merged.items() if path in places), path)
        made = self.made(whole)
        return made.explanation if made else None

    def _place(self, name: str, target: Target) -> None:
        """Record the parameter of a tensor."""
        spelled = self._rules.spellings(target.path)
        path = next((each for each in spelled if each in self._shapes or each in self._merged), target.path)
        if (
            path not in self._shapes and target.rule is None
        ):  # a renaming that was meant for others (deepseek_v4's .norm.)
            path = next((each for each in self._rules.spellings(name) if each in self._shapes), path)
        if target.is_merged:
            for each in self._linear(path, target):
                self._by_path[each] = name
        elif path in self._merged and (target.rule is None or self._is_reordered(path)):
            self._split(name, self._merged[path])
        elif target.rule is None:
            self._by_path[path] = name
        elif target.chunks:
            self._chunk(name, target.chunks)
        elif composed := [each for each in map(self._composed_at, target.paths) if each]:
            self._by_path |= dict.fromkeys((f"{each}.sources.{target.source}.weight" for each in composed), name)
        else:
            for each in target.paths:
                known = (spelled for spelled in self._rules.spellings(each) if spelled in self._shapes)
                self._sources.setdefault(path if each == target.path else next(known, each), []).append((name, target))

    def _composed_at(self, path: str) -> str | None:
        """Return the path of the `Composed` in the place of the linear whose weight is at `path`."""
        spelled = (each.removesuffix(".weight") for each in self._rules.spellings(path))
        return next((each for each in spelled if each in self._composed), None)

    def _is_reordered(self, path: str) -> bool:
        """Return whether the rows of a parameter of all experts are those of its tensor in another order."""
        parent, _, parameter = path.rpartition(".")
        experts = self._experts.get(parent)
        return isinstance(experts, Experts) and experts.order is not None and parameter == experts.form.first

    def _linear(self, path: str, target: Target) -> Iterator[str]:
        """Yield the path of the expert's linear that a tensor holds."""
        experts, _, parameter = path.rpartition(".")
        for each in self._rules.spellings(experts):
            if each in self._experts:
                linears = self._experts[each].linears_of(parameter)
                if target.source < len(linears):
                    yield f"{each}.{target.number}.{linears[target.source]}.weight"

    def _split(self, name: str, places: list[str]) -> None:
        """Make each expert's matrix in a tensor a part of its own."""
        entry = self._tensors[name]
        if entry.shape[:1] != (len(places),) or any(entry.shape[1:] != self._shapes[place] for place in places):
            self._by_path |= dict.fromkeys(places, name)  # a wrong shape: loading reports it
            return
        for number, place in enumerate(places):
            part = entry.matrix(number)
            self._add(name, part, place)

    def _chunk(self, name: str, paths: tuple[str, ...]) -> None:
        """Make the rows of each parameter in a tensor a part of their own."""
        entry, start = self._tensors[name], 0
        found = [next((each for each in self._rules.spellings(path) if each in self._shapes), path) for path in paths]
        rows = [self._shapes.get(path, (0,))[0] for path in found]
        if sum(rows) != entry.shape[0]:
            self._by_path |= dict.fromkeys(found, name)
            return
        for path, count in zip(found, rows, strict=True):
            self._add(name, entry.rows(start, start + count), path)
            start += count

    def _add(self, name: str, part: TensorEntry, path: str) -> None:
        suffix = part.part.suffix if part.part else ""
        self.parts[f"{name}{suffix}"] = part
        self._by_path[path] = f"{name}{suffix}"


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
    if not any(names.values()) and (made := tensors.made(places[0][0])):
        return [Slot(made.names[0], places[0][0], tuple((module, attr) for _, module, attr in places), made=made)]
    copies: dict[str, list[str]] = {}  # first tensor -> tensors equal to it
    same: dict[str, str] = {}
    for name in dict.fromkeys(name for name in names.values() if name):
        first = next((each for each in copies if checkpoint.same_values(each, name, dtype)), name)
        copies.setdefault(first, []).append(name)
        same[name] = first
    if not copies:
        raise _lacks(*places[0], model, checkpoint.folder, tensors)
    sources: dict[str, str] = getattr(model, "all_tied_weights_keys", {})
    owners: dict[str, list[Place]] = {name: [] for name in copies}
    for path, module, attr in places:
        name = names[path] or names.get(sources.get(path, "")) or next(iter(copies))
        owners[same[name]].append((path, module, attr))
    return [
        Slot(name, held[0][0], tuple((module, attr) for _, module, attr in held), tuple(copies[name][1:]))
        for name, held in owners.items()
    ]


def _lacks(
    path: str, owner: nn.Module, attr: str, model: CausalModel, folder: Path, tensors: TensorNames
) -> LangpruneError:
    if owner is model.get_output_embeddings() and attr == "weight":
        return LangpruneError(
            f"{folder} has no head ({path}), and its config.json does not tie it to the embeddings, so "
            "transformers would fill it with random values: get the checkpoint again, or set tie_word_embeddings to true "
            "in config.json"
        )
    if made := tensors.explanation(path):
        return LangpruneError(f"{folder} has {made}: this layout is not supported")
    return LangpruneError(
        f"no tensor of {folder} was found to be {path} of {type(model).__name__}: get the checkpoint again; if that is "
        "whole, this family is not supported"
    )
