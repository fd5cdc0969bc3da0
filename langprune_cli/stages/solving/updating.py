"""Computes new values of a block's pruned linears; shared by `apply` and `prune`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.machine.threads import over_rows
from langprune_cli.models.streamed import Linear
from langprune_cli.models.tensor_entry import DTYPES
from langprune_cli.numerics.gram import output_energy
from langprune_cli.numerics.site import Site, Solution
from langprune_cli.numerics.values import all_finite, count_true
from langprune_cli.stages.statistics.collecting import BlockStats
from langprune_cli.stages.statistics.sites import BlockSite, Solving, block_sites, named
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.updates.update import Update, get_update


@dataclass(frozen=True)
class PrunedLinear:
    """The result of pruning one linear."""

    block: int
    linear: str
    weights: int
    removed: int
    error: float | None  # relative squared error of the linear's output on the calibration text; None: unknown
    damping: float | None  # of the Hessian's factorisation; None without one

    @property
    def sparsity(self) -> float:
        """Return the fraction removed."""
        return self.removed / self.weights


@dataclass(frozen=True)
class UpdatedLinear:
    """A linear's new values in the checkpoint's layout, and the result of pruning it."""

    tensor: Tensor
    pruned: PrunedLinear


def updated_block(
    model: OpenedModel,
    index: int,
    masks: Sequence[tuple[Linear, Tensor]],
    update: Update,
    stats: BlockStats | None,
    solving: Solving,
) -> dict[str, UpdatedLinear]:
    """Return the new values of block `index`'s linears by name, given their keep masks [o, i]."""
    keep = {linear.name: mask for linear, mask in masks}
    found: dict[str, UpdatedLinear] = {}
    for site in block_sites(model, [linear for linear, _ in masks], stats, solving):
        stacked = torch.cat([keep[linear.name] for linear in site.linears]).to(site.site.weight.device)
        with named(site.name):
            solution = solution_of(site.site, stacked, update)
        found |= finished(model, index, site, stacked, solution)
    return found


def solution_of(
    site: Site,
    keep: Tensor,  # bool [r, i]
    update: Update,
) -> Solution | None:
    """Return an update's solution of a site, None if kept weights do not change, as in an expert without statistics."""
    if update.needs == "nothing" or site.stats is None:
        return None
    return update.update(site, keep)


def finished(
    model: OpenedModel,
    index: int,
    site: BlockSite,
    keep: Tensor,  # bool [r, i]
    solution: Solution | None,
) -> dict[str, UpdatedLinear]:
    """Return the linears of a site of block `index` in the checkpoint's dtype and layout, with their errors.

    Without a solution kept weights do not change. Raises LangpruneError if a new value is not finite in that dtype.
    """
    found, start = {}, 0
    for linear, rows in zip(site.linears, site.site.rows, strict=True):
        part = slice(start, start + rows)
        start += rows
        entry = model.streamed.checkpoint.entries[linear.name]
        tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype], device=keep.device)
        dense, new = site.site.part(part), solution.part(part) if solution else None
        counts = _store(tensor.t() if linear.transposed else tensor, dense, keep[part], new)
        if not counts.finite:
            raise LangpruneError(
                f"the update of {linear.name} (site {site.name}) gave infinite or NaN values: calibrate on more text, or "
                "give a larger --damping"
            )
        pruned = PrunedLinear(index, linear.name, tensor.numel(), counts.removed, counts.error, site.site.damping_used)
        found[linear.name] = UpdatedLinear(tensor.cpu(), pruned)
    return found


@dataclass(frozen=True)
class _Counts:
    """The result of pruning some rows."""

    removed: int
    finite: bool
    # Squared outputs of the rows, summed over the calibration text: of the error, and of the dense output.
    lost: float
    total: float  # 0 without statistics

    @property
    def error(self) -> float | None:
        return self.lost / self.total if self.total > 0 else None


def _store(
    stored: Tensor,  # [o, i], in the checkpoint's dtype
    dense: Site,  # of this linear alone
    keep: Tensor,  # bool [o, i]
    new: Solution | None,
) -> _Counts:
    """Write a linear's new weights into `stored`, and return the result.

    Without a Hessian, errors use column norms alone, as if inputs were uncorrelated.
    """
    hessian = dense.stats.hessian if dense.stats else None
    squares = dense.stats.sum_sq.float() if dense.stats and hessian is None else None
    stay = get_update("none").update
    if new is None and hessian is not None:
        new = stay(dense, keep)

    def store(rows: slice) -> _Counts:
        part = dense.part(rows)
        one = new.part(rows) if new else stay(part, keep[rows])
        stored[rows] = one.weight
        removed, finite = one.keep.numel() - count_true(one.keep), all_finite(stored[rows])
        lost = 0.0 if squares is None else _energy(part.weight - one.weight, squares)
        return _Counts(removed, finite, lost, 0.0 if squares is None else _energy(part.weight, squares))

    parts = over_rows(store, stored.shape, stored.device)
    lost, total = math.fsum(part.lost for part in parts), math.fsum(part.total for part in parts)
    if new and hessian is not None:
        lost = output_energy(dense.weight - new.weight, hessian) if new.error is None else float(new.error.sum())
        total = output_energy(dense.weight, hessian, coarse=True)
    return _Counts(sum(part.removed for part in parts), all(part.finite for part in parts), lost, total)


def _energy(w: Tensor, squares: Tensor) -> float:
    return float((w.square() @ squares).sum(dtype=torch.float64))
