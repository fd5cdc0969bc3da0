"""New values of a block's pruned linears: the cell of the grid that `apply` and `prune` share."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.models.checkpoint import DTYPES
from langprune_cli.models.streamed import Linear
from langprune_cli.numerics.gram import output_energy
from langprune_cli.numerics.site import Site
from langprune_cli.numerics.values import all_finite
from langprune_cli.stages.opened import OpenedModel
from langprune_cli.stages.sites import BlockSite, Solving, block_sites
from langprune_cli.stages.statistics import BlockStats
from langprune_cli.updates.update import Update, get_update

_ROWS = 128


@dataclass(frozen=True)
class Pruned:
    """What became of one linear."""

    block: int
    linear: str
    weights: int
    removed: int
    error: float | None  # relative squared error of what the linear puts out on the calibration text; None: not known
    damping: float | None  # as the Hessian's factorisation took it; None where there was none

    @property
    def sparsity(self) -> float:
        """Return the fraction removed."""
        return self.removed / self.weights


@dataclass(frozen=True)
class Updated:
    """A linear's new values, as the checkpoint is to hold them, and what became of it."""

    tensor: Tensor
    pruned: Pruned


def updated_block(
    model: OpenedModel,
    index: int,
    masks: Sequence[tuple[Linear, Tensor]],
    update: Update,
    stats: BlockStats | None,
    solving: Solving,
) -> dict[str, Updated]:
    """Return the new values of block `index`'s linears by name, given their keep masks [o, i]."""
    keep = {linear.name: mask for linear, mask in masks}
    found: dict[str, Updated] = {}
    for site in block_sites(model, index, [linear for linear, _ in masks], stats, solving):
        stacked = torch.cat([keep[linear.name] for linear in site.linears]).to(site.site.weight.device)
        found |= finished(model, index, site, stacked, updated_weight(site.site, stacked, update))
    return found


def updated_weight(
    site: Site,
    keep: Tensor,  # bool [r, i]
    update: Update,
) -> Tensor:  # float32 [r, i]
    """Return what an update makes of a site; an expert without statistics keeps the values that stay."""
    known = site.stats is not None or update.needs == "nothing"
    return (update if known else get_update("none")).update(site, keep)


def finished(
    model: OpenedModel,
    index: int,
    site: BlockSite,
    keep: Tensor,  # bool [r, i]
    weight: Tensor,  # float32 [r, i]
) -> dict[str, Updated]:
    """Return the linears of a site of block `index` in the checkpoint's dtype and layout, with the errors that they make.

    Raises LangpruneError where a new value is not finite in that dtype.
    """
    errors = _relative_errors(site.site, weight)
    found = {}
    for (linear, new), mask, error in zip(site.split(weight), site.site.split(keep), errors, strict=True):
        stored = new.to(DTYPES[model.streamed.checkpoint.entries[linear.name].dtype])
        if not all_finite(stored):
            raise LangpruneError(
                f"the update of {linear.name} (site {site.name}) gave values that are not finite: calibrate on more text, or "
                "give a larger --damping"
            )
        removed = mask.numel() - int(torch.count_nonzero(mask))
        pruned = Pruned(index, linear.name, mask.numel(), removed, error, site.site.damping_used)
        found[linear.name] = Updated((stored.t() if linear.transposed else stored).contiguous().cpu(), pruned)
    return found


def _relative_errors(site: Site, weight: Tensor) -> list[float | None]:
    """Return each linear's squared error over its squared output, both summed over the calibration text.

    Without a Hessian, from column norms alone: inputs are then taken to be uncorrelated.
    """
    if site.stats is None:
        return [None] * len(site.rows)
    errors: list[float | None] = []
    for dense, new in zip(site.split(site.weight), site.split(weight), strict=True):
        total = _energy(site, dense)
        errors.append(_energy(site, dense - new) / total if total > 0 else None)
    return errors


def _energy(site: Site, w: Tensor) -> float:
    if site.norms.hessian is None:
        sums = (
            site.norms.sum_sq.float()
        )  # rows in a core's cache, where squares of the whole would make trips to memory
        return sum(float((rows.square() @ sums).sum(dtype=torch.float64)) for rows in torch.split(w, _ROWS))
    return output_energy(w, site.hessian)
