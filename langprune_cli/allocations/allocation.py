"""Describes allocations, which spread the total sparsity over blocks: a record and two functions in one file each."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import langprune_cli.allocations as package
from langprune_cli.errors import LangpruneError
from langprune_cli.numerics.site import Needs, Site
from langprune_cli.registry import record, records

# (site, sparsity) -> the site's weights, float32 [r, i], pruned (and updated) by the chosen method
Prune = Callable[[Site, float], Tensor]

# Every block keeps at least this share of the mean keep-rate: 5% of its weights at a total of 0.5, 3% at 0.7. No allocation
# intends to empty a block, which would add nothing to the hidden states any more.
_LEAST_KEPT = 0.1
_WHOLE = 1e-9  # a number of weights of M this near to a whole number is that number
_MOST_MIXES = 1024  # partial mixes kept by `mix_of_n`; with up to two sizes of block none is dropped


Measure = Callable[[Sequence[Site], Prune], list[float]]


@dataclass(frozen=True)
class Trials:
    """How linears are pruned one at a time, to measure how far that moves the model's next-token distribution."""

    sparsities: tuple[float, ...]  # rising
    prune: Prune
    steps: int = 0  # of least squares that it takes, for an estimate of its cost


@dataclass(frozen=True)
class Allocation:
    """One way to spread sparsity over blocks, or over linears.

    `measure` sees one block at a time (dense weights, statistics of the dense model) and returns its figures, if any. An
    allocation with `trials` spreads over linears instead, whose figures are the divergences from the dense model when one of
    them is pruned at each of their sparsities. `spread` gets the figures and the number of prunable weights of all
    blocks or linears, and the total sparsity; it returns a sparsity for each that together remove this share of all weights.
    """

    name: str
    needs: Needs
    paper: str
    measure: Measure | None
    spread: Callable[[Sequence[Sequence[float]], Sequence[int], float], list[float]]
    trials: Trials | None = None
    prunings: int = 0  # of each site by the chosen method, in `measure`


def allocations() -> dict[str, Allocation]:
    """Return every allocation of this package by name."""
    return records(package, Allocation)


def get_allocation(name: str) -> Allocation:
    """Return the allocation called `name`; raises LangpruneError with the nearest names if there is none."""
    return record(package, Allocation, "--allocation", name)


def most_sparsity(total: float) -> float:
    """Return the highest sparsity of a block when the total is `total`; 1 only for a total of 1."""
    return 1 - _LEAST_KEPT * (1 - total)


def fit(
    sparsities: Sequence[float],  # of each block, near 0..1
    sizes: Sequence[int],  # prunable weights of each block
    total: float,  # fraction removed of all weights
) -> list[float]:
    """Shift all sparsities by one number and clip them to 0..most_sparsity(total), so that the total is `total`.

    The sum of sparsity x size is then total x sum of sizes up to rounding, a few parts in 2^53, and blocks keep their order.
    The
    number of removed weights is right to one weight per linear: `prune_count` rounds size x sparsity down, by less than one
    weight per linear (for masks that count by linear: `Pattern(exact=True)`, or groups of a layer).
    Raises LangpruneError for a total outside of 0..1, or sparsities that are not finite.
    """
    if not 0 <= total <= 1:
        raise LangpruneError(f"sparsity {total:g} is not a fraction: give a number between 0 and 1")
    return _water_fill(sparsities, sizes, total, 0.0, most_sparsity(total))


def mix_of_n(
    sparsities: Sequence[float],  # of each block, near 0..1
    sizes: Sequence[int],  # prunable weights of each block, without the tails of rows that M does not divide
    m: int,
    total: float,  # fraction removed of all weights
) -> list[int]:  # N of each block: kept of every M
    """Round each block's sparsity to a whole number of weights of M, with a total as near as possible.

    The ideal is M times `fit` within 1/M..(M-1)/M, and each block gets it rounded up or down. Among blocks of one size, those
    with the largest remainders are rounded up (for equal remainders the later block, whose error travels through fewer
    others). How many of each size is searched for the nearest total, then for the least sum of squared departures. With one
    size the total is exact if total x M x blocks is a whole number; with two sizes it is the nearest possible; with more, the
    search keeps only the most promising mixes. N is 1..M-1: N = 0 would remove a block, and a dense block is not N:M and gains
    nothing.
    Raises LangpruneError if every mix is too sparse or too dense for `total`.
    """
    least = 1 / m
    if not least - _WHOLE <= total <= 1 - least + _WHOLE:
        raise LangpruneError(
            f"N:{m} blocks cannot reach sparsity {total:g}: give {least:g} to {1 - least:g}, or a larger M"
        )
    within = _water_fill(sparsities, sizes, min(max(total, least), 1 - least), least, 1 - least)
    ideal = [m * each for each in within]
    removed = [int(each + _WHOLE) for each in ideal]
    by_size = _by_remainder([each - whole for each, whole in zip(ideal, removed, strict=True)], sizes)
    for size, count in zip(by_size, _nearest_counts(by_size), strict=True):
        for block, _ in by_size[size][:count]:
            removed[block] += 1
    return [m - each for each in removed]


def cheapest(
    curves: Sequence[NDArray[np.float64] | None],  # of each block or linear, its cost at `grid`, rising; None: unknown
    sizes: Sequence[int],
    grid: NDArray[np.float64],  # sparsities with equal steps between
    total: float,
) -> list[float]:
    """Return the sparsities within `grid` with the least sum of costs that together remove `total`; where unknown, `total`.

    All begin at the lowest; then the cheapest step, by cost per removed weight, is taken until `total` is reached. The greedy
    choice is optimal because curves are made convex first: the steps of one never get cheaper.
    """
    low, width = float(grid[0]), float(grid[1] - grid[0])
    measured = enumerate(zip(curves, sizes, strict=True))
    known = {number: curve for number, (curve, size) in measured if curve is not None and size}
    chosen = [low if number in known else total for number in range(len(sizes))]
    # For equal prices the earlier step goes first, so that similar ones rise together, then the later block.
    steps = [
        (price / sizes[number], step, -number)
        for number, curve in known.items()
        for step, price in enumerate(convex(np.diff(curve)))
    ]
    budget = (total - low) * sum(sizes[number] for number in known)
    for _, _, negative in sorted(steps):
        if budget <= 0:
            break
        size = sizes[-negative]
        taken = min(width, budget / size)
        chosen[-negative] += taken
        budget -= taken * size
    return fit(chosen, sizes, total)  # corrects rounding


def grid_around(total: float, farthest: float, steps: int) -> NDArray[np.float64]:  # [steps + 1]
    """Return the sparsities within `farthest` of `total` that a block or linear may have, with equal steps between."""
    return np.linspace(max(0.0, total - farthest), min(most_sparsity(total), total + farthest), steps + 1)


def power_laws(
    trials: Sequence[float],  # rising sparsities
    costs: Sequence[float],  # at these
    sparsities: NDArray[np.float64],  # [n]
    least: float,  # smaller costs are rounding
) -> NDArray[np.float64]:  # [n]
    """Return a cost at other sparsities: power laws through the trials, which go on beyond the first and the last.

    Below the first one the law has an exponent of at least 1 and goes to 0. Costs that fall with sparsity, through noise, are
    first raised to the cost before.
    """
    places = np.log(trials)
    rising = np.log(np.maximum.accumulate(np.maximum(costs, least)))
    slopes = np.diff(rising) / np.diff(places)
    at = np.log(np.maximum(sparsities, 1e-12))
    inside = np.interp(at, places, rising)
    below = rising[0] + max(1.0, slopes[0]) * (at - places[0])
    above = rising[-1] + slopes[-1] * (at - places[-1])
    return np.exp(np.where(at < places[0], below, np.where(at > places[-1], above, inside)))


def convex(
    slopes: NDArray[np.float64],  # [n], of steps of one width
) -> list[float]:
    """Return the slopes of the largest convex curve below: runs of falling slopes get their mean."""
    runs: list[tuple[float, int]] = []  # (sum, how many)
    for slope in slopes.tolist():
        run = (slope, 1)
        while runs and runs[-1][0] / runs[-1][1] > run[0] / run[1]:
            before = runs.pop()
            run = (before[0] + run[0], before[1] + run[1])
        runs.append(run)
    return [total / count for total, count in runs for _ in range(count)]


def unit_range(measures: Sequence[Sequence[float]]) -> list[float]:
    """Return each block's first figure, rescaled to 0 for the lowest and 1 for the highest.

    Blocks without figures, and all blocks if no figures differ, get 0.5. Raises LangpruneError for a figure that is not finite.
    """
    require_finite(measures)
    figures = [figure for measure in measures for figure in measure[:1]]
    low, high = min(figures, default=0.0), max(figures, default=0.0)
    if low == high:
        return [0.5] * len(measures)
    return [(measure[0] - low) / (high - low) if measure else 0.5 for measure in measures]


def require_finite(measures: Iterable[Sequence[float]]) -> None:
    """Raise LangpruneError if any figure of a block is infinite or NaN."""
    for block, measure in enumerate(measures):
        if not all(map(math.isfinite, measure)):
            raise LangpruneError(
                f"a figure measured of block {block} is not finite: calibrate again, with --dtype float32"
            )


def _water_fill(
    sparsities: Sequence[float], sizes: Sequence[int], total: float, low: float, high: float
) -> list[float]:
    """Return clip(sparsity + shift, low, high) of each block, with the shift that makes the total sparsity `total`.

    low <= total <= high. The removed share grows continuously with the shift, so bisection finds it.
    """
    require_finite([[each] for each in sparsities])
    wanted = total * sum(sizes)
    if not wanted or total in {low, high} or min(sparsities) == max(sparsities):
        return [total for _ in zip(sparsities, sizes, strict=True)]

    def shifted(shift: float) -> list[float]:
        return [min(max(each + shift, low), high) for each in sparsities]

    below, above = low - max(sparsities), high - min(sparsities)
    for _ in range(64):  # from a width of 2 or 3 to below the sum's rounding
        middle = (below + above) / 2
        if math.fsum(each * size for each, size in zip(shifted(middle), sizes, strict=True)) < wanted:
            below = middle
        else:
            above = middle
    return shifted(above)


def _by_remainder(
    remainders: Sequence[float],  # of each block's ideal N, 0 <= remainder < 1
    sizes: Sequence[int],
) -> dict[int, list[tuple[int, float]]]:
    """Return the blocks that may be rounded up, with their remainders: by size, larger first, then by remainder."""
    by_size: dict[int, list[tuple[int, float]]] = {size: [] for size in sorted(set(sizes), reverse=True)}
    for block, (remainder, size) in enumerate(zip(remainders, sizes, strict=True)):
        if remainder > _WHOLE:
            by_size[size].append((block, remainder))
    for blocks in by_size.values():
        blocks.sort(key=lambda each: (-round(each[1], 9), -each[0]))  # equal up to rounding is equal
    return by_size


def _nearest_counts(by_size: dict[int, list[tuple[int, float]]]) -> tuple[int, ...]:
    """Return how many blocks of each size to round up, so that the removed share is nearest to the ideal.

    Within one size those with the largest remainders are rounded up. This is a knapsack, solved size by size: of the mixes that
    remove the same number, it keeps the one nearest to the ideals.
    """
    mixes: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}  # size x rounded up -> (departure, counts)
    wanted = 0.0
    for size, blocks in by_size.items():
        remainders = [remainder for _, remainder in blocks]
        wanted += size * math.fsum(remainders)
        departures = [
            math.fsum((1 - each) ** 2 for each in remainders[:count])
            + math.fsum(each**2 for each in remainders[count:])
            for count in range(len(blocks) + 1)
        ]
        grown: dict[int, tuple[float, tuple[int, ...]]] = {}
        for reached, (so_far, counts) in mixes.items():
            for count, departure in enumerate(departures):
                mix = (so_far + departure, (*counts, count))
                key = reached + count * size
                grown[key] = min(grown.get(key, mix), mix)
        nearest = sorted(grown, key=lambda reached: abs(reached - wanted))[:_MOST_MIXES]
        mixes = {reached: grown[reached] for reached in nearest}
    # Distances that differ only by rounding are equal.
    return min(mixes.items(), key=lambda each: (round(abs(each[0] - wanted), 3), each[1]))[1][1]
