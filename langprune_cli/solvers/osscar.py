"""OSSCAR: one-shot structured pruning of a linear's input columns (Meng et al., arXiv 2403.12983, sections 3 and 4).

When the columns S are pruned and the others refitted by least squares, the damped squared output error of the linear is

    f(S) = tr(W_S ((H^-1)_SS)^-1 W_Sᵀ),        H = sum of x xᵀ, plus damping * mean(diag H) on its diagonal.

Units (one or more columns each) are pruned one by one, always the one that raises f least; then pruned and kept units are
swapped while f falls. Both read the changes of f from a tableau (`tableau.py`), which starts as the inverse itself.
Weights that read dead columns count as zero, and units that read only such columns are pruned first.
"""

import torch
from torch import Tensor

from langprune_cli.numerics.factor import dampings, dead_columns, mean_diagonal
from langprune_cli.numerics.units import UnitSite
from langprune_cli.solvers.tableau import Tableau

# Wide linears: size of the shortlist of cheapest units, in columns and at least in units, from which units are pruned.
_LISTED = 256
_FEWEST_LISTED = 64
_LEAST_SHARE = 4  # one in so many of those listed leaves before the list is made anew: this bounds the number of lists

_SIDE = 96  # size of the shortlist of swaps, in units of each side
_ROUNDS = 40  # most shortlists of swaps
_WORTHWHILE = 1e-6  # least relative fall of the error by a swap


def eliminate(
    site: UnitSite,
    stay: int,
) -> Tensor:  # bool [units]
    """Return which `stay` units to keep, by backward elimination: prune the cheapest unit, again and again.

    With many units, the cheapest few hundred are shortlisted and pruned one by one, at costs that are exact given all units
    pruned so far; when units outside the shortlist may be cheaper, a new one is made. Of ties the earlier unit is pruned
    first.
    Raises ValueError for an impossible `stay`, LangpruneError for a Hessian that is not finite or cannot be factored.
    """
    site.check_stay(stay)
    if stay == site.units:
        return torch.ones(site.units, dtype=torch.bool, device=site.site.weight.device)
    tableau = _all_kept(site)
    _eliminate(tableau, stay, _dead_units(site))
    return tableau.keep


def swap(
    site: UnitSite,
    keep: Tensor,  # bool [units]
) -> Tensor:  # bool [units]
    """Swap a kept unit for a pruned one, always the best known pair, while the exact error falls.

    It ends when no swap lowers the error by a millionth, or after as many swaps as there are units, or after 40 shortlists of
    the best units of each side. The result is never worse than `keep`. Raises LangpruneError as `eliminate` does.
    """
    if bool(keep.all()) or not bool(keep.any()):
        return keep.clone()
    tableau = _all_kept(site)
    tableau.exchange((~keep).nonzero()[:, 0])
    _swap(site, tableau)
    return tableau.keep


def choose(
    site: UnitSite,
    stay: int,
) -> Tensor:  # bool [units]
    """Return the best `stay` units found by `swap(site, eliminate(site, stay))`, with one tableau for both.

    With few units (up to 192), a second search starts from none, adds the unit that lowers the error most, again and again,
    and swaps; the better of the two results is returned. Raises ValueError and LangpruneError as `eliminate` does.
    """
    site.check_stay(stay)
    if stay in (0, site.units):
        return torch.full((site.units,), bool(stay), device=site.site.weight.device)
    tableau = _all_kept(site)
    _eliminate(tableau, stay, _dead_units(site))
    _swap(site, tableau)
    if site.units > 2 * _SIDE:
        return tableau.keep
    first, error = tableau.keep.clone(), _error(site, tableau)
    tableau.exchange(first.nonzero()[:, 0])
    for _ in range(stay):
        tableau.exchange(tableau.worth().masked_fill_(tableau.keep, -1.0).argmax()[None])
    _swap(site, tableau)
    return tableau.keep if _error(site, tableau) < error * (1 - _WORTHWHILE) else first


def least_squares(
    w: Tensor,  # float32 [o, i]
    hessian: Tensor,  # [i, i], symmetric, any positive scale
    damping: float,
    keep_columns: Tensor,  # bool [i]
) -> Tensor:  # float32 [o, i]
    """Return the W' that is zero off the kept columns and minimises tr((W' - W) H (W' - W)ᵀ), H damped; exact, in float64.

    Kept dead columns do not change. Raises LangpruneError for a Hessian that is not finite or cannot be factored.
    """
    fitted, _ = _fit(w, hessian, damping, keep_columns)
    new = torch.zeros_like(w)
    new[:, keep_columns] = fitted.to(w.dtype).add_(0.0)  # -0.0 becomes 0.0
    return new


def removal_error(
    site: UnitSite,
    keep: Tensor,  # bool [units]
) -> float:
    """Return f(S) of the pruned units: the damped squared error after least squares.

    Computed from the refitted weights, not from the tableau. Raises LangpruneError as `least_squares` does.
    """
    columns = site.columns(keep)
    fitted, damped = _fit(site.site.weight, site.site.hessian, site.site.damping, columns)
    change = site.site.weight.double()
    change[:, columns] -= fitted
    change[:, dead_columns(site.site.hessian)] = 0.0
    return float(((change @ damped) * change).sum())


def _fit(w: Tensor, hessian: Tensor, damping: float, keep: Tensor) -> tuple[Tensor, Tensor]:  # [o, k], [i, i]
    """Return the kept columns of W', float64, and the damped H.

    W'_K = W_K + W_S H_SK (H_KK)^-1: columns with nothing to compensate come out unchanged.
    """
    damped, mean = _undamped(hessian)
    inner = damped[keep][:, keep]
    lower, used = _cholesky(inner, mean, damping)
    damped.diagonal().add_(used * mean)
    owed = damped[keep][:, ~keep] @ w[:, ~keep].double().t()
    return w[:, keep].double() + torch.cholesky_solve(owed, lower).t(), damped


def _undamped(hessian: Tensor) -> tuple[Tensor, float]:
    """Return a float64 copy with the live columns' mean diagonal in place of the dead ones', and this mean.

    Raises LangpruneError if the Hessian is not finite.
    """
    mean = mean_diagonal(hessian)
    wide = hessian.to(torch.float64, copy=True)
    wide.diagonal().add_(torch.where(dead_columns(hessian), mean, 0.0))
    return wide, mean


def _cholesky(matrix: Tensor, mean: float, damping: float) -> tuple[Tensor, float]:
    """Damp the matrix in place until it is positive definite; return its lower factor and the damping used.

    Raises LangpruneError if no damping is enough.
    """
    before = 0.0
    for used in dampings(damping):
        matrix.diagonal().add_((used - before) * mean)
        lower, failed = torch.linalg.cholesky_ex(matrix)
        if not bool(failed):
            break
        before = used
    return lower, used


def _all_kept(site: UnitSite) -> Tableau:
    """Return the tableau with all units kept: the inverse, and the dense weights."""
    hessian = site.site.hessian
    matrix, mean = _undamped(hessian)
    lower, _ = _cholesky(matrix, mean, site.site.damping)
    del matrix
    y = site.site.weight.t().to(torch.float64, copy=True, memory_format=torch.contiguous_format)
    y[dead_columns(hessian)] = 0.0
    keep = torch.ones(site.units, dtype=torch.bool, device=y.device)
    inverse = torch.cholesky_inverse(
        lower
    ).mT.contiguous()  # symmetric, and LAPACK gives it column after column: no copy
    return Tableau(inverse, y, keep, site.size)


def _dead_units(site: UnitSite) -> Tensor:  # bool [units]
    return dead_columns(site.site.hessian).view(site.units, site.size).all(dim=1)


def _costs(tableau: Tableau, dead: Tensor) -> Tensor:  # float64 [units]
    """Return the cost of pruning each unit: negative for dead ones, infinite for pruned ones."""
    return tableau.worth().masked_fill_(dead, -1.0).masked_fill_(~tableau.keep, torch.inf)


def _eliminate(tableau: Tableau, stay: int, dead: Tensor) -> None:
    most = max(_LISTED // tableau.size, _FEWEST_LISTED)
    if tableau.units <= most:
        _leave(tableau, tableau.units - stay, torch.inf, dead)
        return
    while (count := int(tableau.keep.sum()) - stay) > 0:
        costs, order = _costs(tableau, dead).sort(stable=True)
        left = count + stay
        listed = order[: min(most, left)].sort().values
        part = tableau.part(listed)
        _leave(part, min(count, len(listed)), float(costs[most]) if left > most else torch.inf, dead[listed])
        tableau.exchange(listed[~part.keep])


def _leave(tableau: Tableau, count: int, bound: float, dead: Tensor) -> None:
    """Prune up to `count` units one by one, while they cost at most `bound` or few have been pruned."""
    for gone in range(count):
        cost, unit = _costs(tableau, dead).min(dim=0)
        if gone >= tableau.units // _LEAST_SHARE and float(cost) > bound:
            return
        tableau.exchange(unit[None])


def _swap(site: UnitSite, tableau: Tableau) -> None:
    """Swap until no swap is worthwhile; undo swaps that only looked good by rounding."""
    before, error = tableau.keep.clone(), _error(site, tableau)
    if error > 0:
        _search_swaps(tableau, tableau.units, _WORTHWHILE * error)
        if not _error(site, tableau) <= error:
            tableau.keep = before


def _error(site: UnitSite, tableau: Tableau) -> float:
    """Return f(S), using that (W' - W) H is zero on the kept columns and W' on the others."""
    gone = ~site.columns(tableau.keep)
    return float((tableau.y[gone] * site.site.weight[:, gone].t()).sum())


def _search_swaps(tableau: Tableau, left: int, least: float) -> None:
    if tableau.units <= 2 * _SIDE:
        _descend(tableau, left, least)
        return
    for _ in range(_ROUNDS):
        listed = _promising(tableau, least)
        if not left or listed is None:
            return
        part = tableau.part(listed)
        left -= _descend(part, left, least)
        moved = listed[part.keep != tableau.keep[listed]]
        if not len(moved):
            return
        tableau.exchange(moved)


def _promising(tableau: Tableau, least: float) -> Tensor | None:  # int64 [n]
    """Return a shortlist of units of each side with the best swaps; None if no swap is worthwhile."""
    leaves, joins = tableau.keep.nonzero()[:, 0], (~tableau.keep).nonzero()[:, 0]
    of_leaves = torch.full((len(leaves),), torch.inf, dtype=torch.float64, device=leaves.device)
    of_joins = torch.full((len(joins),), torch.inf, dtype=torch.float64, device=joins.device)
    for some, change in tableau.swaps(leaves, joins):
        of_leaves = torch.minimum(of_leaves, change.amin(dim=1))
        of_joins[some] = change.amin(dim=0)
    if not float(of_joins.min()) < -least:
        return None
    best = [
        units[change.topk(min(_SIDE, len(units)), largest=False).indices]
        for units, change in ((leaves, of_leaves), (joins, of_joins))
    ]
    return torch.cat(best).sort().values


def _descend(tableau: Tableau, left: int, least: float) -> int:
    """Make the best swap, up to `left` times, while each lowers the error by `least`; return the number made."""
    for swapped in range(left):
        leaves, joins = tableau.keep.nonzero()[:, 0], (~tableau.keep).nonzero()[:, 0]
        change = torch.cat([change for _, change in tableau.swaps(leaves, joins)], dim=1)
        best = int(change.argmin())
        k, r = divmod(best, len(joins))
        if not float(change[k, r]) < -least:
            return swapped
        tableau.exchange(torch.stack([leaves[k], joins[r]]))
    return left
