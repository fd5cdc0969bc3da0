"""Allocations made to meet a total: exact shifts of sparsities, and whole numbers N of N:M."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langprune_cli.allocations.allocation import fit, mix_of_n, most_sparsity, unit_range
from langprune_cli.errors import LangpruneError
from langprune_cli.numerics.patterns import prune_count

relaxed = settings(deadline=None)

fractions = st.floats(-0.5, 1.5).map(lambda x: round(x, 4))
block_sizes = st.integers(1, 10**9)


@st.composite
def spreads(draw: st.DrawFn, sizes: st.SearchStrategy[int] = block_sizes) -> tuple[list[float], list[int]]:
    count = draw(st.integers(1, 12))
    return [draw(fractions) for _ in range(count)], [draw(sizes) for _ in range(count)]


def exact_fit(sparsities: list[float], sizes: list[int], total: float, high: float) -> list[Fraction]:
    """Return the same by exact rational numbers: between two neighbouring points where a block is clipped, solve."""
    values, top = [Fraction(x) for x in sparsities], Fraction(high)

    def at(shift: Fraction) -> list[Fraction]:
        return [min(max(x + shift, Fraction(0)), top) for x in values]

    def removed(shift: Fraction) -> Fraction:
        return sum((s * n for s, n in zip(at(shift), sizes, strict=True)), Fraction(0))

    wanted = Fraction(total) * sum(sizes)
    points = sorted({-x for x in values} | {top - x for x in values})
    for left, right in itertools.pairwise(points):
        if removed(left) <= wanted <= removed(right):
            rise = removed(right) - removed(left)
            return at(left + ((right - left) * (wanted - removed(left)) / rise if rise else 0))
    raise AssertionError("no shift gives this total")


@relaxed
@given(spreads(), st.floats(0.001, 0.999))
def test_fit_meets_the_total_and_keeps_the_order(case: tuple[list[float], list[int]], total: float) -> None:
    sparsities, sizes = case
    fitted = fit(sparsities, sizes, total)
    assert fitted == pytest.approx([float(x) for x in exact_fit(*case, total, most_sparsity(total))], abs=1e-12)
    removed = math.fsum(s * n for s, n in zip(fitted, sizes, strict=True))
    assert removed == pytest.approx(total * sum(sizes), rel=0, abs=1e-15 * sum(sizes))
    assert all(0 <= each <= most_sparsity(total) < 1 for each in fitted)
    by_value = sorted(zip(sparsities, fitted, strict=True))
    assert [each for _, each in by_value] == sorted(fitted)
    assert fit(fitted, sizes, total) == pytest.approx(fitted, abs=1e-14)


def test_fit_at_its_edges() -> None:
    assert fit([0.9, -3.0], [5, 7], 0.0) == [0.0, 0.0]
    assert fit([0.9, 0.1], [5, 7], 1.0) == [1.0, 1.0]
    assert fit([0.2, 0.2, 0.2], [1, 2, 3], 0.7) == [0.7, 0.7, 0.7]  # the very number: as if nothing had been allocated
    assert fit([0.2, 0.4], [0, 0], 0.7) == [0.7, 0.7]
    assert fit([], [], 0.7) == []
    near = fit([0.0, 0.5], [10, 10], 0.999)
    assert near == pytest.approx([0.9981, 0.9999], abs=1e-12)
    assert near[1] < 1
    for total in (-0.1, 1.1, math.nan):
        with pytest.raises(LangpruneError, match="not a fraction: give a number between 0 and 1"):
            fit([0.5], [1], total)
    with pytest.raises(LangpruneError, match="not finite"):
        fit([0.5, math.nan], [1, 1], 0.5)
    with pytest.raises(ValueError, match="shorter"):
        fit([0.5, 0.5], [1], 0.5)


@relaxed
@given(
    linears=st.lists(st.lists(st.integers(1, 10**7), min_size=1, max_size=6), min_size=1, max_size=6),
    total=st.integers(0, 1000).map(lambda thousandths: thousandths / 1000),
    data=st.data(),
)
def test_the_whole_is_exact_to_one_weight_per_linear(
    linears: list[list[int]], total: float, data: st.DataObject
) -> None:
    sparsities = [data.draw(fractions) for _ in linears]
    fitted = fit(sparsities, [sum(block) for block in linears], total)
    removed = sum(prune_count(n, s) for block, s in zip(linears, fitted, strict=True) for n in block)
    wanted = total * sum(map(sum, linears))
    assert wanted - sum(map(len, linears)) < removed <= wanted + 1e-6


@relaxed
@given(
    sparsities=st.lists(fractions, min_size=1, max_size=32),
    m=st.sampled_from([2, 4, 8, 16]),
    size=block_sizes,
    data=st.data(),
)
def test_a_mix_of_equal_blocks_is_exact(sparsities: list[float], m: int, size: int, data: st.DataObject) -> None:
    blocks = len(sparsities)
    gone = data.draw(st.integers(blocks, (m - 1) * blocks))  # of M, in all blocks together
    kept = mix_of_n(sparsities, [size] * blocks, m, gone / (m * blocks))
    assert sum(m - n for n in kept) == gone
    assert all(1 <= n <= m - 1 for n in kept)
    by_value = sorted(zip(sparsities, (m - n for n in kept), strict=True))
    assert [each for _, each in by_value] == sorted(each for _, each in by_value)


@settings(deadline=None, max_examples=60)
@given(
    spreads(st.one_of(st.integers(1, 50), st.sampled_from([64, 96]))), st.sampled_from([4, 8]), st.floats(0.25, 0.75)
)
def test_a_mix_is_the_nearest_of_all_roundings(case: tuple[list[float], list[int]], m: int, total: float) -> None:
    sparsities, sizes = case[0][:7], case[1][:7]
    gone = [m - n for n in mix_of_n(sparsities, sizes, m, total)]
    ideal = [m * x for x in clipped_fit(sparsities, sizes, total, m)]
    assert all(abs(r - x) < 1 + 1e-6 and 1 <= r <= m - 1 for r, x in zip(gone, ideal, strict=True))

    def distance(removed: Sequence[float]) -> float:
        return abs(sum(r * n for r, n in zip(removed, sizes, strict=True)) - m * total * sum(sizes))

    roundings = itertools.product(*[{math.floor(x + 1e-9), math.ceil(x - 1e-9)} for x in ideal])
    assert distance(gone) == pytest.approx(min(map(distance, roundings)), abs=1e-3)


def clipped_fit(sparsities: list[float], sizes: list[int], total: float, m: int) -> list[float]:
    """Return the fit within 1/M..1-1/M: that within 0..top of everything shifted down by 1/M."""
    if total in {1 / m, 1 - 1 / m}:
        return [total] * len(sizes)
    fitted = exact_fit([x - 1 / m for x in sparsities], sizes, total - 1 / m, 1 - 2 / m)
    return [float(x) + 1 / m for x in fitted]


def test_mixes_that_can_be_read() -> None:
    assert mix_of_n([0.5] * 6, [10] * 6, 4, 0.5) == [2] * 6
    assert mix_of_n([0.5] * 6, [10] * 6, 4, 0.625) == [2, 2, 2, 1, 1, 1]  # of equal blocks the later ones lose more
    assert mix_of_n([0.3, 0.5, 0.7], [10] * 3, 8, 0.5) == [6, 4, 2]
    assert mix_of_n([0.0, 1.0], [10, 10], 4, 0.5) == [3, 1]  # neither dense nor gone
    # 2.4 of 4 is the ideal of all: the small blocks alone give what is nearest.
    assert mix_of_n([0.6, 0.6, 0.6], [60, 20, 20], 4, 0.6) == [2, 1, 1]
    assert mix_of_n([0.1, 0.9], [10, 10], 4, 0.25) == [3, 3]
    assert mix_of_n([0.1, 0.9], [10, 10], 4, 0.75) == [1, 1]
    assert mix_of_n([0.5], [10], 2, 0.5) == [1]
    assert mix_of_n([0.4, 0.6], [0, 10], 4, 0.5) == [3, 2]  # an empty block goes where the others' shift takes it


@pytest.mark.parametrize("total", [0.0, 0.2, 0.8, 1.0, math.nan])
def test_mixes_that_no_n_gives_are_refused(total: float) -> None:
    with pytest.raises(LangpruneError, match=r"N:4 blocks cannot reach .*: give 0\.25 to 0\.75"):
        mix_of_n([0.5, 0.5], [8, 8], 4, total)


def test_a_mix_of_many_sizes_is_near() -> None:
    generator = np.random.default_rng(0)
    sparsities, sizes = generator.uniform(0.3, 0.7, 60).tolist(), generator.integers(10**6, 10**7, 60).tolist()
    kept = mix_of_n(sparsities, sizes, 8, 0.5)
    removed = sum((8 - n) * size for n, size in zip(kept, sizes, strict=True)) / 8
    assert removed == pytest.approx(0.5 * sum(sizes), rel=1e-6)


def test_unit_range() -> None:
    assert unit_range([[3.0], [], [1.0, 99.0], [2.0]]) == [1.0, 0.5, 0.0, 0.5]
    assert unit_range([[3.0], [3.0], []]) == [0.5, 0.5, 0.5]
    assert unit_range([]) == []
