"""How transformers converts checkpoint tensors to parameters on loading, read from its own tables."""

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, get_model_conversion_mapping
from transformers.core_model_loading import Chunk, Concatenate, MergeModulelist, Split, WeightConverter, WeightRenaming


class Model(Protocol):
    """What is read of a model of transformers."""

    base_model_prefix: str

    @property
    def config(self) -> object:
        """Return its configuration."""

    @property
    def set_submodule(self) -> Callable[[str, nn.Module], None]:
        """Return what puts a module in the place of another."""

    @property
    def named_modules(self) -> Callable[[], Iterator[tuple[str, nn.Module]]]:
        """Return what yields its modules with their paths."""


@dataclass(frozen=True)
class Target:
    """The parameter that a checkpoint tensor becomes."""

    path: str  # of the parameter in transformers' modules; the first of several
    rule: WeightConverter | None = None  # None: the tensor is only renamed
    source: int = 0  # number of the rule's source pattern that the tensor matches
    number: int | None = None  # of the module, if the rule merges a list of modules

    @property
    def operations(self) -> tuple[str, ...]:
        """Return the names of the rule's operations."""
        return tuple(type(each).__name__ for each in self.rule.operations) if self.rule else ()

    @property
    def is_merged(self) -> bool:
        """Return whether transformers merges the tensor with those of other modules."""
        return (
            self.rule is not None and self.number is not None and isinstance(self.rule.operations[0], MergeModulelist)
        )

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the parameters that the rule makes of the tensor, with others or alone."""
        patterns = self.rule.target_patterns if self.rule else [""]
        return tuple(self.path.replace(patterns[0], pattern, 1) for pattern in patterns)

    @property
    def chunks(self) -> tuple[str, ...]:
        """Return the parameters whose rows the tensor concatenates; none if it does not."""
        if self.rule is None or len(self.rule.operations) > 1:
            return ()
        (operation,) = self.rule.operations
        return self.paths if isinstance(operation, Chunk | Split) and operation.dim == 0 and len(self.paths) > 1 else ()

    @property
    def is_composed(self) -> bool:
        """Return whether a rule makes something of the tensor that no other property names."""
        return self.rule is not None and not self.is_merged and not self.chunks

    @property
    def is_stacked(self) -> bool:
        """Return whether the parameter concatenates the rows of this tensor and others."""
        if self.rule is None or len(self.rule.operations) > 1:
            return False
        (operation,) = self.rule.operations
        return isinstance(operation, Concatenate) and operation.dim == 0 and self.number is None


class Conversions:
    """The renamings and conversions of one model."""

    def __init__(self, model: Model) -> None:
        rules = get_model_conversion_mapping(model)
        self._base = f"{model.base_model_prefix}."
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]

    def targets(self, names: Iterable[str]) -> dict[str, Target]:
        """Return the target of each tensor. Goes through sorted names, as transformers does: some renamings need that order."""
        return {name: self._target(name) for name in sorted(names)}

    def _target(self, name: str) -> Target:
        for renaming in self._renamings:
            name, _ = renaming.rename_source_key(name)
        for rule in self._converters:
            path, pattern = rule.rename_source_key(name)
            if pattern is not None:
                found = re.search(pattern.replace("*.", r"(?P<number>\d+)\."), name) if "*." in pattern else None
                number = int(found["number"]) if found else None
                return Target(path, rule, rule.source_patterns.index(pattern), number)
        return Target(name)

    def spellings(self, path: str) -> tuple[str, str, str]:
        """Return the possible spellings of a path: checkpoints have the base model's prefix or not."""
        return path, path.removeprefix(self._base), self._base + path

    def merged(self, names: Iterable[str]) -> dict[str, int]:
        """Return parameter path -> number of tensors per module, for those that transformers merges from these."""
        found = [each for each in self.targets(names).values() if each.rule and each.is_merged]
        return {
            path: len(each.rule.source_patterns) for each in found if each.rule for path in self.spellings(each.path)
        }

    def reordered(self, names: Iterable[str]) -> dict[str, Target]:
        """Return parameter path -> target, for parameters that transformers makes of one tensor of another form."""
        found = [each for each in self.targets(names).values() if each.rule and not each.is_merged]
        alone = [
            each
            for each in found
            if each.rule and len(each.rule.source_patterns) == len(each.rule.target_patterns) == 1
        ]
        return {path: each for each in alone for path in self.spellings(each.path)}

    def merges(self, path: str) -> int:
        """Return how many tensors of each module transformers merges into a parameter, 0 if it does not."""
        for rule in self._converters:
            if isinstance(rule.operations[0], MergeModulelist) and path.endswith(rule.target_patterns[0]):
                return len(rule.source_patterns)
        return 0

    def composes(self, path: str) -> list[Target]:
        """Return the targets of the tensors that transformers makes a parameter of, perhaps with others; none without such."""
        for rule in self._converters:
            merges = isinstance(rule.operations[0], MergeModulelist)
            ends = path.endswith(rule.target_patterns[0]) or path.removesuffix(".weight").endswith(
                rule.target_patterns[0]
            )
            if not merges and ends:
                found = [Target(path, rule, source) for source in range(len(rule.source_patterns))]
                return [] if found[0].chunks else found
        return []

    def reorders(self, path: str) -> Target | None:
        """Return the target of the tensor that becomes the parameter at `path` in another form, None if there is none."""
        for rule in self._converters:
            alone = len(rule.source_patterns) == len(rule.target_patterns) == 1
            merges = isinstance(rule.operations[0], MergeModulelist)
            if alone and not merges and path.endswith(rule.target_patterns[0]):
                return Target(path, rule)
        return None


def converts_as(kind: str, whole: str) -> bool:
    """Return whether a type of models converts all that a type of models around it does, so that its layout is the same there."""
    types = (get_checkpoint_conversion_mapping(each) or [] for each in (kind, whole))
    own, around = (
        {tuple(rule.target_patterns) for rule in rules if isinstance(rule, WeightConverter)} for rules in types
    )
    return own >= around


def converted(model: Model, path: str, sources: Sequence[tuple[str, Target]], tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the parameter at `path` as transformers' own conversion computes it from checkpoint tensors.

    sources: the names and targets of these tensors. Raises KeyError if the conversion gives no such parameter.
    """
    return _all_converted(model, sources, tensors)[path]


def _all_converted(
    model: Model, sources: Sequence[tuple[str, Target]], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return all parameters that transformers' own conversion computes from checkpoint tensors, by path."""
    rule, first = sources[0][1].rule, sources[0][1].path
    if rule is None:
        return {first: tensors[sources[0][0]]}
    rule = copy.deepcopy(rule)
    for name, target in sources:
        rule.add_tensor(first, name, rule.source_patterns[target.source], tensors[name])
    found: Mapping[str, Tensor | list[Tensor]] = rule.convert(first, model=model, config=model.config)
    return {path: made[0] if isinstance(made, list) else made for path, made in found.items()}


def rows_made(
    model: Model,
    targets: Sequence[Target],
    rows: int,
) -> list[Tensor] | None:  # int [rows of each parameter]
    """Return the row of the tensors of `targets`, one after the other, that each row of each parameter is.

    None if a row is anything else. rows: of all these tensors, each with equally many. Runs transformers' own conversion on small
    tensors of row numbers.
    """
    columns = 2
    numbers = torch.arange(rows * columns, device="cpu").view(rows, columns)
    parts = dict(zip(map(str, range(len(targets))), numbers.chunk(len(targets)), strict=True))
    try:
        made = _all_converted(model, list(zip(parts, targets, strict=True)), parts)
        found = [made[path] for path in targets[0].paths]
    except (RuntimeError, ValueError, AttributeError, KeyError):  # a conversion that needs the parameters' own shapes
        return None
    orders = [each[:, 0] // columns for each in found if each.dim() == 2]
    if len(orders) < len(found) or not torch.equal(torch.cat(orders).sort().values, torch.arange(rows, device="cpu")):
        return None
    return orders if all(torch.equal(each, numbers[order]) for each, order in zip(found, orders, strict=True)) else None


def row_order(
    model: Model,
    target: Target,
    rows: int,
) -> Tensor | None:  # int [rows]
    """Return the row of a tensor [e, rows, columns] that each row of its parameter is, None if it is not just reordered.

    Runs transformers' own conversion on a small tensor of row numbers.
    """
    columns = 2
    numbers = torch.arange(rows * columns, device="cpu").view(1, rows, columns)
    try:
        made = converted(model, target.path, [("", target)], {"": numbers})
    except (RuntimeError, ValueError, AttributeError, KeyError):  # a conversion that needs the parameter's own shape
        return None
    if made.shape != numbers.shape:
        return None
    order = made[0, :, 0] // columns
    return order if torch.equal(made[0], numbers[0, order]) else None
