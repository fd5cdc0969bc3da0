"""Finds the tensors that a number of the configuration counts: changes the number and builds the model again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn
from transformers.pytorch_utils import Conv1D

from langprune_cli.errors import LangpruneError
from langprune_cli.layouts.experts import Experts
from langprune_cli.layouts.linears import linears_in
from langprune_cli.models.families import KV_GROUPS, Axis, Kind, Slice
from langprune_cli.models.narrowing import opened_as
from langprune_cli.models.protocols import CausalModel, Configuration
from langprune_cli.models.skeleton import Shapes, find_blocks, parameter_shapes

Build = Callable[[Configuration], CausalModel]
Numbers = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Count:
    """What a configuration says of one kind of units, and how it says it."""

    units: int
    numbers: Numbers  # keys of config.json, with what each counts of one unit
    fixed: Numbers = ()  # keys that are stated beside them
    heads: bool = False  # KV groups, else channels
    assumed: bool = False  # the configuration does not say how many units there are, or not what is fixed

    def stated(self, config: Configuration, left: int) -> Configuration:
        """Return the configuration in which so many units are left; raises what transformers raises for it."""
        raw = config.to_dict()
        part = raw
        text = config.get_text_config()
        if text is not config:
            key = next(key for key, value in vars(config).items() if value is text)
            inner = raw[key]
            if not isinstance(inner, dict):
                raise TypeError(key)
            part = inner
        for key, of_each in self.numbers:
            part[text.attribute_map.get(key, key)] = left * of_each
        for key, value in self.fixed:
            part[key] = value
        return opened_as(config, raw)


@dataclass(frozen=True)
class Skeleton:
    """A configuration and its model without weights."""

    config: Configuration
    model: CausalModel
    build: Build

    @cached_property
    def shapes(self) -> list[Shapes]:
        """Return the shapes of the parameters of each block, by path."""
        return parameter_shapes(self.model)[:-1]

    def axes(self, count: Count, left: int) -> tuple[Axis, ...] | None:
        """Return the axes of the units that `count` counts: what changes, and how, where `left` of them are left.

        Nothing where other things change as well, None where the model cannot be built. Each has one segment in every slice.
        """
        smaller = self._built(count, left)
        if smaller is None:
            return None
        before, after = parameter_shapes(self.model), parameter_shapes(smaller)
        if before[-1] != after[-1] or len(before) != len(after):
            return ()
        axes: dict[str, Axis] = {}
        slices: dict[str, Slice] = {}
        for block, here, there in zip(find_blocks(self.model)[1], before[:-1], after[:-1], strict=True):
            cuts = _cuts(here, there, count.units, left)
            if cuts is None:
                return ()
            found = _by_reader(block, cuts, count)
            for axis in found:
                known = axes.get(axis.reader, axis)
                axes[axis.reader] = replace(axis, slices=tuple(dict.fromkeys((*known.slices, *axis.slices))))
            read = {cut.path for axis in found for cut in axis.slices}
            if read != cuts.keys() or any(slices.setdefault(path, cut) != cut for path, cut in cuts.items()):
                return ()
        kinds = {axis.kind for axis in axes.values()}
        kind = next((each for each in ("channels", "expert-channels", *kinds) if each in kinds), "")
        return tuple(replace(axis, kind=kind) for axis in axes.values())

    def _built(self, count: Count, left: int) -> CausalModel | None:
        try:
            if count.assumed:
                same = self.build(count.stated(self.config, count.units))
                if parameter_shapes(same) != parameter_shapes(self.model):
                    return None
            return self.build(count.stated(self.config, left))
        except LangpruneError:
            return None
        except Exception:  # noqa: BLE001 - whatever a family's code says of numbers that it does not take
            return None


def _cuts(before: Shapes, after: Shapes, units: int, left: int) -> dict[str, Slice] | None:
    """Return what is cut of each parameter of a block; None where one changes in another way than its units leaving."""
    if before.keys() != after.keys():
        return None
    found: dict[str, Slice] = {}
    for path, shape in before.items():
        if shape == after[path]:
            continue
        dims = [dim for dim, (one, other) in enumerate(zip(shape, after[path], strict=False)) if one != other]
        if len(shape) != len(after[path]) or len(dims) != 1 or shape[dims[0]] % units:
            return None
        size = shape[dims[0]] // units
        if after[path][dims[0]] != size * left:
            return None
        found[path] = Slice(path, dims[0], (size,))
    return found


def _by_reader(block: nn.Module, cuts: Mapping[str, Slice], count: Count) -> list[Axis]:
    """Return an axis for each linear whose inputs are cut, with the tensors that are nearest to it."""
    linears = {id(linear): expert for linear, expert in linears_in(block)}
    modules = dict(block.named_modules())
    readers: dict[str, Slice] = {}
    writers: list[Slice] = []
    for path, cut in cuts.items():
        owner, _, name = path.rpartition(".")
        module = modules[owner]
        if isinstance(module, (nn.Linear, Conv1D)):
            inputs = 0 if isinstance(module, Conv1D) else 1
            if name == "weight" and cut.dim == inputs:
                if id(module) in linears:
                    readers[owner] = cut
                    continue
                return []
        elif len(getattr(module, name).shape) > 2:
            return []
        writers.append(cut)
    nearest: dict[str, list[Slice]] = {reader: [cut] for reader, cut in readers.items()}
    for cut in writers:
        expert = linears.get(id(modules[cut.path.rpartition(".")[0]]))
        reader = _nearest(cut.path, [each for each in readers if expert in (None, linears[id(modules[each])])])
        if reader is None:
            return []
        nearest[reader].append(cut)
    if any(len(each) < 2 for each in nearest.values()):
        return []
    experts = any(isinstance(module, Experts) for module in modules.values())
    kinds = {reader: _kind(linears[id(modules[reader])], experts=experts, count=count) for reader in readers}
    return [
        Axis(kinds[reader], count.units, readers[reader].sizes[0], reader, tuple(each), count.numbers, count.fixed)
        for reader, each in nearest.items()
    ]


def _kind(expert: int | None, *, experts: bool, count: Count) -> Kind:
    if count.heads:
        return KV_GROUPS
    return "expert-channels" if expert is not None else "shared-expert-channels" if experts else "channels"


def _nearest(path: str, readers: Sequence[str]) -> str | None:
    """Return the reader whose path has most in common with a parameter's; None where two have equally much."""
    parts = path.split(".")
    common = {reader: _common(parts, reader.split(".")) for reader in readers}
    best = max(common.values(), default=0)
    found = [reader for reader, length in common.items() if length == best]
    return found[0] if len(found) == 1 else None


def _common(one: list[str], other: list[str]) -> int:
    pairs: Iterator[bool] = (x == y for x, y in zip(one, other, strict=False))
    return next((number for number, same in enumerate(pairs) if not same), min(len(one), len(other)))
