"""Which channels and KV groups of a block stay: what `Chooser` is for single weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langprune_cli.models.families import Axis, Kind, Slice
from langprune_cli.models.streamed import Linear
from langprune_cli.numerics.patterns import Pattern
from langprune_cli.numerics.site import Needs, Solution
from langprune_cli.numerics.units import UnitSite
from langprune_cli.stages.solving.choosing import Chooser, MaskSettings
from langprune_cli.stages.statistics.sites import SOLVING, BlockSite, Solving
from langprune_cli.stages.structured.narrowed import narrowing_of
from langprune_cli.stages.structured.structures import DOWN, Rounding, Structure, check_distinct, spelled
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.structured_patterns.pattern import get_pattern, method_of
from langprune_cli.unit_methods.method import UnitMethod, get_unit_method


@dataclass(frozen=True)
class UnitChooser:
    """A method, and how many units of each kind stay; it looks at the one linear that reads them, and at what writes them."""

    method: UnitMethod
    structures: tuple[Structure, ...]
    axes: tuple[Axis, ...]
    kept: dict[Kind, int]
    settings: MaskSettings
    rounding: Rounding = DOWN

    @classmethod
    def of(
        cls,
        method: UnitMethod,
        structures: tuple[Structure, ...],  # of units, not of the whole model
        model: OpenedModel,
        rounding: Rounding = DOWN,
        solving: Solving = SOLVING,
    ) -> "UnitChooser":
        """Settle the widths; raises LangpruneError for families and widths that cannot be had."""
        kept: dict[Kind, int] = {}
        axes: list[Axis] = []
        for structure in structures:
            units = get_pattern(structure.kind).units
            if units is None:
                raise ValueError(f"{structure.kind} are no units of a block")
            here = units.axes(model.streamed.config)
            check_distinct(structure, here, kept)
            kept |= {axis.kind: rounding.kept(structure, axis, rounds=units.rounds) for axis in here}
            axes += here
        narrowing_of(model, axes, kept)  # now, and not when the work is done: what transformers would not open
        return cls(
            method,
            structures,
            tuple(axes),
            kept,
            MaskSettings(Pattern(structures[0].sparsity), solving=solving),
            rounding,
        )

    @property
    def needs(self) -> Needs:
        """Return the statistics that the method needs."""
        return self.method.needs

    @property
    def what(self) -> str:
        """Return the option that is to blame for these needs."""
        return f"--method {self.method.name}"

    @property
    def label(self) -> str:
        """Return a short name of all this, for artifacts."""
        return "-".join([self.method.name, *(f"{each.kind}-{each.sparsity:g}" for each in self.structures)])

    def params(self) -> dict[str, object]:
        """Return what of this changes a mask, for its key."""
        return {
            "method": self.method.name,
            "pattern": spelled(self.structures),
            "sparsity": self.structures[0].sparsity,
            "exclude": None,
            "kept": dict(self.kept),
            **self.settings.solving.params(self.needs),
        }

    def about(self) -> dict[str, object]:
        """Return what was asked for, and is in a mask's key by what came of it: how the widths were rounded."""
        rounding = self.rounding
        return {"rounding": {"round_to": rounding.to, "round": rounding.name}}

    def linears(self, model: OpenedModel, index: int) -> list[Linear]:
        """Return the linears of a block that read the units."""
        readers = readers_of(model, index, self.axes)
        return [linear for linear in model.streamed.linears(index) if linear.name in readers]

    def choose(
        self, model: OpenedModel, index: int, site: BlockSite, _pattern: Pattern
    ) -> tuple[Tensor, Solution | None]:
        """Return the keep mask [r, i] of a site that is a reader's alone, whose columns stay or leave whole."""
        axis = readers_of(model, index, self.axes)[site.linears[0].name]
        known = site.site.stats is not None or self.needs == "nothing"
        method = self.method if known else get_unit_method("magnitude")  # of an expert: see Solving
        keep = method.choose(UnitSite(site.site, axis.size, _writers(model, index, axis)), self.kept[axis.kind])
        return keep.repeat_interleave(axis.size).expand(site.site.weight.shape), None


AnyChooser = Chooser | UnitChooser


def unit_method(structures: Sequence[Structure], name: str | None) -> UnitMethod:
    """Return the method that chooses these units together: the one named, else the first pattern's own.

    Raises LangpruneError for a name that one of the patterns does not have.
    """
    found = [get_pattern(each.kind).methods()[method_of(structures, name)] for each in structures]
    method = found[0]
    if not isinstance(method, UnitMethod) or any(each is not method for each in found):
        raise ValueError(f"{spelled(structures)} are not chosen by one method of units")
    return method


def readers_of(model: OpenedModel, index: int, axes: Sequence[Axis]) -> dict[str, Axis]:
    """Return the axes that block `index` has, by the linear that reads each."""
    paths = model.streamed.tensor_paths(index)
    here = {axis: paths.get(f"{axis.reader}.weight") for axis in axes}
    return {name: axis for axis, name in here.items() if name}


def _writers(model: OpenedModel, index: int, axis: Axis) -> tuple[Tensor, ...]:
    """Return the matrices that write an axis' units, float32 [units, *]."""
    paths = model.streamed.tensor_paths(index)
    written = [each for each in axis.slices if each.path != f"{axis.reader}.weight" and each.path in paths]
    tensors = model.streamed.checkpoint.read(paths[each.path] for each in written)
    matrices = [(each, tensors[paths[each.path]]) for each in written]
    return tuple(
        part.to(model.streamed.device)
        for each, tensor in matrices
        if tensor.dim() == 2
        for part in _by_unit(each, tensor, axis.units)
    )


def _by_unit(each: Slice, tensor: Tensor, units: int) -> Sequence[Tensor]:
    """Return a tensor's segments, float32 [units, *]."""
    rows = tensor.movedim(each.dim, 0)
    segments = torch.split(rows, [units * size for size in each.sizes])
    return [segment.float().reshape(units, -1) for segment in segments]
