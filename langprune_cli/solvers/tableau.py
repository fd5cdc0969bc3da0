"""The tableau: the cost of pruning, and the gain of restoring, every unit at once, kept exact by exchanges.

Let K be the kept columns of a linear, R the pruned ones, H the damped Hessian of its inputs, W the dense weights and
W' those of least error that are zero on R. The tableau holds, for all columns,

    M_KK = (H_KK)^-1          M_KR = -(H_KK)^-1 H_KR           Y_K = the columns of W' (transposed: rows)
    M_RK = H_RK (H_KK)^-1     M_RR = H_RR - H_RK (H_KK)^-1 H_KR    Y_R = the columns of (W - W') H

which is the principal pivot transform of H, with W H below it. For a unit u, of one column or several, tr(M_uu^-1 Y_u Y_uᵀ) is
how much the error grows when it leaves K, or falls when it joins K, with all other weights of K refitted. Columns D change
sides, in either direction and together, by one exchange: with E the others,

    M_DD <- M_DD^-1    M_ED <- M_ED M_DD^-1    M_DE <- -M_DD^-1 M_DE    M_EE <- M_EE - M_ED M_DD^-1 M_DE,

and Y in the same way. The entries of some columns C alone, Y_C but for a rotation of the outputs, follow from themselves
whatever changes sides within C. So long searches happen in a small tableau, and the large one sees one product for all of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_PAIRS = 2**22  # pairs evaluated together


@dataclass
class Tableau:
    """The state of a search for the units to keep; float64, as errors of exchanges add up."""

    m: Tensor  # float64 [i, i], M of the module's text
    y: Tensor  # float64 [i, o], Y of the module's text, columns of the weights as rows
    keep: Tensor  # bool [units], which units are in K
    size: int  # columns per unit

    @property
    def units(self) -> int:
        """Return the number of units, kept or pruned."""
        return len(self.keep)

    def _columns(
        self,
        units: Tensor,  # int64 [n]
    ) -> Tensor:  # int64 [n * size]
        return (units[:, None] * self.size + torch.arange(self.size, device=units.device)).flatten()

    def worth(self) -> Tensor:  # float64 [units]
        """Return how much the error grows when each unit of K leaves, or falls when each other unit joins."""
        if self.size == 1:
            norms: Tensor = torch.linalg.vector_norm(self.y, dim=1)
            return norms.square_() / self.m.diagonal()
        rows = self.y.view(self.units, self.size, -1)
        return _traces(self._diagonal(), rows @ rows.mT)

    def _diagonal(self) -> Tensor:  # float64 [units, size, size]
        blocks = self.m.view(self.units, self.size, self.units, self.size)
        return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)

    def exchange(
        self,
        units: Tensor,  # int64 [n], distinct
    ) -> None:
        """Exchange these units all at once: those in K leave it, the others join it."""
        d = self._columns(units)
        down = self.m[d]
        inverse = torch.linalg.inv(down[:, d])
        left = self.m[:, d] @ inverse
        self.m.addmm_(left, down, alpha=-1)
        self.m[:, d] = left
        self.m[d] = (inverse @ down).neg_()
        self.m[d[:, None], d] = inverse
        moved = inverse.t() @ self.y[d]
        self.y.addmm_(down.t(), moved, alpha=-1)
        self.y[d] = moved
        self.keep[units] = ~self.keep[units]

    def part(
        self,
        units: Tensor,  # int64 [n]
    ) -> "Tableau":
        """Return the tableau of some units alone: exchanges in it give the exact changes of the error."""
        c = self._columns(units)
        rows = self.y[c]
        if (
            rows.shape[1] > rows.shape[0]
        ):  # more outputs than columns: a rotation of the outputs leaves as many as columns
            rows = torch.linalg.qr(rows.t(), mode="r").R.t().contiguous()
        return Tableau(self.m[c[:, None], c], rows, self.keep[units], self.size)

    def swaps(
        self,
        leaves: Tensor,  # int64 [k], units of K
        joins: Tensor,  # int64 [r], others
    ) -> Iterator[tuple[slice, Tensor]]:  # float64 [k, places in the slice]
        """Yield the exact change of the error for every swap of one of `leaves` with one of `joins`, some joins at a time.

        After r has joined, M_kk becomes M_kk + M_kr M_rr^-1 M_krᵀ, and Y_k becomes Y_k + M_kr M_rr^-1 Y_r.
        """
        if self.size > 1:
            yield from self._swaps_of_blocks(leaves, joins)
            return
        staying, own = self.y[leaves], self.m.diagonal()[leaves, None]
        norms = torch.linalg.vector_norm(staying, dim=1, keepdim=True).square_()
        step = max(1, _PAIRS // max(1, len(leaves)))
        for start in range(0, len(joins), step):
            some = joins[start : start + step]
            coming, spread = self.y[some], self.m.diagonal()[some]
            gain = torch.linalg.vector_norm(coming, dim=1).square_()
            cross = self.m[leaves[:, None], some]
            moved = cross / spread
            cost = (staying @ coming.t()).mul_(2).addcmul_(moved, gain).mul_(moved).add_(norms)
            yield slice(start, start + step), cost.div_(cross.mul_(moved).add_(own)).sub_(gain / spread)

    def _swaps_of_blocks(self, leaves: Tensor, joins: Tensor) -> Iterator[tuple[slice, Tensor]]:
        rows = self.y.view(self.units, self.size, -1)
        staying = rows[leaves]
        own, gram = self._diagonal()[leaves], staying @ staying.mT
        blocks = self.m.view(self.units, self.size, self.units, self.size)
        for place, unit in enumerate(joins.tolist()):
            spread, coming = blocks[unit, :, unit], rows[unit]
            gain = coming @ coming.t()
            cross = blocks[:, :, unit][leaves]  # [k, size, size]
            moved = torch.linalg.solve(spread, cross.mT).mT
            half = (staying @ coming.t()) @ moved.mT
            after = gram + half + half.mT + moved @ gain @ moved.mT
            cost = _traces(own + moved @ cross.mT, after) - _traces(spread[None], gain[None])
            yield slice(place, place + 1), cost[:, None]


def _traces(
    spread: Tensor,  # [n, size, size]
    gram: Tensor,  # [n, size, size]
) -> Tensor:  # [n]
    """Return the trace of spread^-1 gram of each unit."""
    solved: Tensor = torch.linalg.solve(spread, gram)
    return solved.diagonal(dim1=1, dim2=2).sum(dim=1)
