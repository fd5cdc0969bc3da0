"""Chooses which channels and KV groups of a block to keep, as `WeightChooser` does for single weights."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.families import Axis, Kind, Slice
from langprune_cli.models.model_files import CONFIG
from langprune_cli.models.streamed import Linear
from langprune_cli.numerics.patterns import Pattern
from langprune_cli.numerics.site import Needs, Solution
from langprune_cli.numerics.units import UnitSite
from langprune_cli.stages.solving.choosing import MaskSettings, WeightChooser
from langprune_cli.stages.statistics.sites import SOLVING, BlockSite, Solving
from langprune_cli.stages.structured.narrowed import Widths, narrowing_of
from langprune_cli.stages.structured.removals import DOWN, Removal, Rounding, check_distinct, spelled
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.structured_patterns.pattern import get_pattern, method_of
from langprune_cli.unit_methods.method import UnitMethod, get_unit_method


@dataclass(frozen=True)
class UnitChooser:
    """A unit method, and the number of units to keep of each kind; it reads the weights of the units' reader and writers."""

    method: UnitMethod
    removals: tuple[Removal, ...]
    axes: tuple[Axis, ...]
    kept: dict[Kind, int]
    settings: MaskSettings
    rounding: Rounding = DOWN

    @classmethod
    def of(
        cls,
        method: UnitMethod,
        removals: tuple[Removal, ...],  # of units, not of the whole model
        model: OpenedModel,
        rounding: Rounding = DOWN,
        solving: Solving = SOLVING,
    ) -> "UnitChooser":
        """Compute the widths; raises LangpruneError for unsupported families and widths."""
        kept: dict[Kind, int] = {}
        axes: list[Axis] = []
        raw = json.loads((model.location.folder / CONFIG).read_bytes())
        for removal in removals:
            units = get_pattern(removal.kind).units
            if units is None:
                raise ValueError(f"{removal.kind} are not units of a block")
            here = units.axes(model.streamed.config)
            check_distinct(removal, here, kept)
            kept |= Widths(removal, rounding, units.rounds).kept(here, raw, model.streamed.config)
            axes += here
        narrowing_of(model, axes, kept)  # raises before the work if transformers could not open the result
        return cls(
            method,
            removals,
            tuple(axes),
            kept,
            MaskSettings(Pattern(removals[0].sparsity), solving=solving),
            rounding,
        )

    @property
    def needs(self) -> Needs:
        """Return the statistics that the method needs."""
        return self.method.needs

    @property
    def what(self) -> str:
        """Return the option behind these needs, for messages."""
        return f"--method {self.method.name}"

    @property
    def label(self) -> str:
        """Return a short name for artifacts."""
        return "-".join([self.method.name, *(f"{each.kind}-{each.sparsity:g}" for each in self.removals)])

    def params(self) -> dict[str, object]:
        """Return the settings that change a mask, for its key."""
        return {
            "method": self.method.name,
            "pattern": spelled(self.removals),
            "sparsity": self.removals[0].sparsity,
            "exclude": None,
            "kept": dict(self.kept),
            **self.settings.solving.params(self.needs),
        }

    def about(self) -> dict[str, object]:
        """Return how the widths were rounded; the key holds only the resulting widths."""
        rounding = self.rounding
        return {"rounding": {"round_to": rounding.to, "round": rounding.name}}

    def linears(self, model: OpenedModel, index: int) -> list[Linear]:
        """Return the linears of a block that read the units."""
        readers = readers_of(model, index, self.axes)
        return [linear for linear in model.streamed.linears(index) if linear.name in readers]

    def choose(
        self, model: OpenedModel, index: int, site: BlockSite, _pattern: Pattern
    ) -> tuple[Tensor, Solution | None]:
        """Return the keep mask [r, i] of a site with one linear, the reader; it keeps or prunes whole columns."""
        axis = readers_of(model, index, self.axes)[site.linears[0].name]
        known = site.site.stats is not None or self.needs == "nothing"
        method = self.method if known else get_unit_method("magnitude")  # of an expert: see Solving
        keep = method.choose(UnitSite(site.site, axis.size, _writers(model, index, axis)), self.kept[axis.kind])
        return keep.repeat_interleave(axis.size).expand(site.site.weight.shape), None


AnyChooser = WeightChooser | UnitChooser


def unit_method(removals: Sequence[Removal], name: str | None) -> UnitMethod:
    """Return the method that chooses these units together: the named one, else the first pattern's default.

    Raises LangpruneError for a name that one of the patterns lacks.
    """
    found = [get_pattern(each.kind).methods()[method_of(removals, name)] for each in removals]
    method = found[0]
    if not isinstance(method, UnitMethod) or any(each is not method for each in found):
        raise ValueError(f"{spelled(removals)} do not share one unit method")
    return method


def readers_of(model: OpenedModel, index: int, axes: Sequence[Axis]) -> dict[str, Axis]:
    """Return the axes of block `index`, by the linear that reads each.

    Raises LangpruneError if the checkpoint stores the linears that write an axis in another layout than transformers saves.
    """
    paths = model.streamed.tensor_paths(index)
    here = {axis: paths.get(f"{axis.reader}.weight") for axis in axes}
    for axis, name in here.items():
        if name and sum(cut.path in paths for cut in axis.slices) < 2:
            raise LangpruneError(
                f"{model.label} stores what writes the {axis.kind} of {name} in another layout than transformers saves: open the "
                "model with transformers, save it with save_pretrained(FOLDER), and name that FOLDER"
            )
    return {name: axis for axis, name in here.items() if name}


def _writers(model: OpenedModel, index: int, axis: Axis) -> tuple[Tensor, ...]:
    """Return the matrices that write an axis's units, float32 [units, *]."""
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
