"""Allocations against literal float64 references."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from langprune_cli.allocations import alpha, owl, search
from langprune_cli.allocations.allocation import Allocation, allocations, convex, get_allocation, most_sparsity
from langprune_cli.errors import LangpruneError
from langprune_cli.numerics.gram import output_energy
from langprune_cli.numerics.patterns import Pattern, keep_mask
from langprune_cli.numerics.site import Site, SiteStats

relaxed = settings(deadline=None)
Matrix = NDArray[np.float64]
WINDOWS = 5


def site(rows: tuple[int, ...] = (6, 4), columns: int = 10, seed: int = 0, outlier: float = 1.0) -> Site:
    """Make a site whose inputs differ in size and hang together, as real ones do; column 3 is `outlier` times larger."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    x[:, 3] *= outlier
    stats = SiteStats(x.double().square().sum(dim=0), x.double().sum(dim=0), 200, WINDOWS, x.t() @ x)
    return Site(torch.randn(sum(rows), columns, generator=generator), rows, stats)


def by_magnitude(one: Site, sparsity: float) -> Tensor:
    return one.weight * keep_mask(one.weight.abs(), Pattern(sparsity, exact=True))


def never(_: Site, sparsity: float) -> Tensor:
    raise AssertionError(f"pruned on trial at {sparsity}")


def figures(found: Allocation, block: Sequence[Site]) -> list[float]:
    """Return what an allocation measures of a block; instead of divergences, output errors of its trials."""
    if found.measure:
        return found.measure(block, by_magnitude)
    assert found.trials
    return [
        math.fsum(output_energy(found.trials.prune(each, trial) - each.weight, each.hessian) for each in block)
        for trial in (found.trials.sparsities if block else ())
    ]


def test_the_registry_holds_the_allocations() -> None:
    needs = {name: found.needs for name, found in allocations().items()}
    assert needs == {
        "alpha": "nothing", "fisher": "hessian", "owl": "norms", "search": "hessian", "uniform": "nothing",
    }  # fmt: skip
    assert [name for name, found in allocations().items() if found.trials] == ["fisher"]
    for name, found in allocations().items():
        assert get_allocation(name) is found
        assert found.name == name
        assert found.paper.startswith("https://arxiv.org/abs/")
    with pytest.raises(LangpruneError, match=r"--allocation 'own' is unknown: did you mean owl"):
        get_allocation("own")


@pytest.mark.parametrize("name", allocations())
@pytest.mark.parametrize("total", [0.0, 0.05, 0.5, 0.7, 0.97, 1.0])
def test_every_allocation_meets_the_total(name: str, total: float) -> None:
    found = get_allocation(name)
    blocks = [[site((3 + seed, 4), seed=seed, outlier=1 + 20 * seed), site((5,), seed=seed + 9)] for seed in range(4)]
    sizes = [sum(each.weight.numel() for each in block) for block in blocks]
    before = [each.weight.clone() for block in blocks for each in block]
    measures = [figures(found, block) for block in blocks]
    assert all(torch.equal(*pair) for pair in zip(before, (each.weight for b in blocks for each in b), strict=True))
    assert measures == [figures(found, block) for block in blocks]
    sparsities = found.spread(measures, sizes, total)
    assert math.fsum(s * size for s, size in zip(sparsities, sizes, strict=True)) == pytest.approx(
        total * sum(sizes), rel=1e-14
    )
    assert all(0 <= each <= most_sparsity(total) for each in sparsities)
    if name != "uniform" and 0 < total < 1:
        assert len(set(sparsities)) > 1
    alike = found.spread([measures[0]] * 4, [sizes[0]] * 4, total)
    assert alike == pytest.approx([total] * 4, abs=0.004)


@pytest.mark.parametrize("name", allocations())
def test_blocks_with_nothing_to_prune_are_allowed(name: str) -> None:
    found = get_allocation(name)
    assert figures(found, []) == []
    measures = [figures(found, [site(seed=seed, outlier=30 * seed)]) for seed in (0, 1)]
    sparsities = found.spread([measures[0], [], measures[1]], [100, 0, 100], 0.5)
    assert sparsities[0] + sparsities[2] == pytest.approx(1, abs=1e-14)
    assert found.spread([[], []], [0, 0], 0.5) == [0.5, 0.5]
    assert found.spread([], [], 0.5) == []


@pytest.mark.parametrize("name", ["owl", "alpha", "search", "fisher"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_figures_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    with pytest.raises(LangpruneError, match="measured of block 1 is not finite: calibrate again"):
        get_allocation(name).spread([[0.1] * 5, [bad] * 5], [10, 10], 0.5)


def test_statistics_that_are_missing_are_an_error() -> None:
    bare = Site(torch.ones(2, 3), (2,), None)
    with pytest.raises(ValueError, match="column norms"):
        owl.measure([bare], never)
    with pytest.raises(ValueError, match="column norms"):
        search.measure([bare], by_magnitude)
    with pytest.raises(ValueError, match="Hessian"):
        search.measure([Site(torch.ones(2, 3), (2,), SiteStats(torch.ones(3), torch.ones(3), 1, 1))], by_magnitude)


# --- owl


def owl_by_definition(sites: Sequence[Site]) -> float:
    """Return the share of scores above 5 x the mean of all scores of the block, one score at a time."""
    scores = []
    for each in sites:
        w, sums = each.weight.double().numpy(), each.norms.sum_sq.numpy()
        scores += [abs(w[r, c]) * math.sqrt(sums[c] / WINDOWS) for r in range(w.shape[0]) for c in range(w.shape[1])]
    mean = math.fsum(scores) / len(scores)
    return sum(score > 5 * mean for score in scores) / len(scores)


@pytest.mark.parametrize("outlier", [0.0, 1.0, 30.0, 1000.0])
def test_owl_counts_outliers_over_the_whole_block(outlier: float) -> None:
    sites = [site((20, 7), 30, seed=1, outlier=outlier), site((9,), 20, seed=2)]
    (share,) = owl.measure(sites, never)
    assert share == owl_by_definition(sites)
    assert share > 0 or outlier < 30
    halves = [owl.measure([each], never)[0] * each.weight.numel() for each in sites]
    if outlier == 30:  # not the mean of what its linears would have alone
        assert share * sum(each.weight.numel() for each in sites) != sum(halves)


def test_owl_of_a_dead_block_is_zero_and_of_a_broken_one_is_refused() -> None:
    dead = Site(torch.zeros(3, 4), (3,), site(columns=4).stats)
    assert owl.measure([dead], never) == [0.0]
    ones = torch.ones(2, dtype=torch.float64)
    broken = Site(torch.tensor([[1.0, math.nan]]), (1,), SiteStats(ones, ones, 1, 1))
    with pytest.raises(LangpruneError, match="block 0 is not finite"):
        owl.spread([owl.measure([broken], never)], [2], 0.5)


@pytest.mark.parametrize("total", [0.5, 0.7])
def test_owl_spreads_keep_rates_as_published(total: float) -> None:
    shares = np.array([0.03, 0.011, 0.002, 0.017, 0.005])
    kept = (shares - shares.min()) / (shares.max() - shares.min()) * 0.16
    kept = kept - kept.mean() + (1 - total)  # the published formula, for blocks of one size
    np.testing.assert_allclose(owl.spread([[x] for x in shares], [64] * 5, total), 1 - kept, rtol=1e-13)


def test_owl_weights_the_mean_by_size_and_stays_above_zero() -> None:
    assert owl.spread([[0.0], [1.0]], [300, 100], 0.5) == pytest.approx([0.54, 0.38], abs=1e-14)
    assert owl.spread([[0.0], [1.0]], [100, 100], 0.05) == pytest.approx([0.1, 0.0], abs=1e-14)


# --- alpha


def alpha_by_definition(w: Matrix) -> float:
    """Return PL_Alpha_Hill with the beginning of least distance, up to 1.5 x the peak, by plain loops."""
    e = sorted(float(x) ** 2 for x in np.linalg.svd(w, compute_uv=False))
    low, high = math.log10(e[0]), math.log10(e[-1])
    counts = [0] * 100
    for x in e:
        counts[min(99, int((math.log10(x) - low) / (high - low) * 100))] += 1
    peak = 10 ** (low + (high - low) / 100 * counts.index(max(counts)))
    best = (math.inf, math.nan)
    for i in range(len(e) - 1):
        if e[i] > 1.5 * peak:
            break
        n = len(e) - i
        a = 1 + n / sum(math.log(x / e[i]) for x in e[i:])
        distance = max(abs(1 - (x / e[i]) ** (1 - a) - rank / n) for rank, x in enumerate(e[i:]))
        best = min(best, (distance, a))
    return best[1]


@pytest.mark.parametrize("shape", [(40, 40), (25, 60), (60, 25), (2, 9)])
@pytest.mark.parametrize("seed", range(3))
def test_alpha_is_its_definition(shape: tuple[int, int], seed: int) -> None:
    w = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.02
    exponent = alpha.tail_exponent(alpha.eigenvalues(w))
    assert exponent == pytest.approx(alpha_by_definition(w.double().numpy()), rel=1e-6)
    assert alpha.tail_exponent(alpha.eigenvalues(w.t())) == pytest.approx(exponent, rel=1e-6)
    assert alpha.tail_exponent(alpha.eigenvalues(w * 64)) == pytest.approx(exponent, rel=1e-6)


@pytest.mark.parametrize("exponent", [1.5, 2.5, 4.0])
def test_alpha_finds_the_exponent_of_a_power_law(exponent: float) -> None:
    share = (np.arange(400) + 0.5) / 400
    spectrum = (1 - share) ** (-1 / (exponent - 1))  # the quantiles of that law
    assert alpha.tail_exponent(spectrum) == pytest.approx(exponent, rel=0.03)


def test_alpha_is_the_mean_over_linears() -> None:
    one, other = site((12, 8), 16, seed=3), site((30,), 16, seed=4)
    linears = [one.weight[:12], one.weight[12:], other.weight]
    exponents = [alpha_by_definition(each.double().numpy()) for each in linears]
    assert alpha.measure([one, other], never) == pytest.approx([sum(exponents) / 3], rel=1e-6)


def test_alpha_leaves_out_what_has_no_spectrum() -> None:
    generator = torch.Generator().manual_seed(0)
    thin = torch.randn(9, 2, generator=generator) @ torch.randn(2, 12, generator=generator)
    assert len(alpha.eigenvalues(thin)) == 2
    assert alpha.tail_exponent(alpha.eigenvalues(thin)) is not None
    for flat in (torch.zeros(4, 6), torch.ones(4, 6), torch.eye(5), torch.randn(1, 7, generator=generator)):
        assert alpha.tail_exponent(alpha.eigenvalues(flat)) is None
        assert alpha.measure([Site(flat, (len(flat),), None)], never) == []
    both = Site(torch.cat([thin, torch.zeros(3, 12)]), (9, 3), None)
    assert alpha.measure([both], never) == alpha.measure([Site(thin, (9,), None)], never)
    with pytest.raises(LangpruneError, match="a weight is infinite or NaN"):
        alpha.eigenvalues(torch.tensor([[1.0, math.nan]]))


def test_alpha_spreads_linearly_as_published() -> None:
    exponents, sizes = np.array([2.1, 3.9, 2.6, 5.0]), np.array([400, 100, 100, 200])
    factors = 0.7 + 0.6 * (exponents - 2.1) / (5.0 - 2.1)
    expected = factors * 0.6 * sizes.sum() / (factors * sizes).sum()
    found = alpha.spread([[x] for x in exponents], sizes.tolist(), 0.6)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    high = alpha.spread([[2.0], [3.0], [4.0]], [10, 10, 10], 0.9)  # 1.3 x 0.9 is more than a block has
    assert high == pytest.approx([0.72, 0.99, 0.99], abs=1e-12)


# --- search


def error_by_definition(sites: Sequence[Site], sparsity: float) -> float:
    lost = whole = 0.0
    for each in sites:
        h, w = each.hessian.double().numpy(), each.weight.double().numpy()
        d = by_magnitude(each, sparsity).double().numpy() - w
        lost += np.trace(d @ h @ d.T)
        whole += np.trace(w @ h @ w.T)
    return lost / whole


def test_search_measures_the_share_of_the_output_that_is_lost() -> None:
    sites = [site(seed=5, outlier=8), site((12,), seed=6)]
    expected = [error_by_definition(sites, sparsity) for sparsity in (0.2, 0.4, 0.6, 0.75, 0.9)]
    assert search.measure(sites, by_magnitude) == pytest.approx(expected, rel=0.01)  # products of bfloat16 inputs
    assert error_by_definition(sites, 1.0) == 1


def test_search_of_outputs_that_are_all_zero_finds_no_error() -> None:
    silent = Site(torch.ones(2, 3), (2,), SiteStats(torch.zeros(3), torch.zeros(3), 9, 1, torch.zeros(3, 3)))
    assert search.measure([silent], never) == [0.0] * 5
    loud = search.measure([site()], by_magnitude)
    assert search.spread([[0.0] * 5, loud], [100, 100], 0.5) == pytest.approx([0.7, 0.3], abs=1e-12)


def gaussian(sparsity: float) -> float:
    """Return how much of a Gaussian's second moment lies in the middle `sparsity` of it."""
    edge = NormalDist().inv_cdf((1 + sparsity) / 2)
    return sparsity - 2 * edge * NormalDist().pdf(edge)


def laplacian(sparsity: float) -> float:
    edge = -math.log(1 - sparsity)
    return 1 - math.exp(-edge) * (edge**2 / 2 + edge + 1)


@pytest.mark.parametrize("true", [gaussian, laplacian])
def test_the_curve_between_trials_is_near_the_truth(true: Callable[[float], float]) -> None:
    at = np.linspace(0.2, 0.9, 71)
    curve = search.error_curve([true(sparsity) for sparsity in (0.2, 0.4, 0.6, 0.75, 0.9)], at)
    np.testing.assert_allclose(curve, [true(sparsity) for sparsity in at], rtol=0.04)
    ends = search.error_curve([true(sparsity) for sparsity in (0.2, 0.4, 0.6, 0.75, 0.9)], np.array([0.0, 1.0]))
    assert ends == pytest.approx([0, 1], abs=1e-9)


@relaxed
@given(st.lists(st.floats(-0.1, 2), min_size=5, max_size=5))
def test_curves_rise_whatever_was_measured(errors: list[float]) -> None:
    curve = search.error_curve(errors, np.linspace(0, 1, 101))
    assert np.isfinite(curve).all()
    assert (np.diff(curve) >= -1e-12).all()
    assert curve.min() >= 0
    assert curve.max() == 1


@pytest.mark.parametrize("sizes", [[100, 100, 100], [100, 150, 120]])
def test_search_finds_the_optimum_of_power_laws(sizes: list[int]) -> None:
    factors = [0.5, 0.6, 0.9]
    errors = [[factor * sparsity**3 for sparsity in (0.2, 0.4, 0.6, 0.75, 0.9)] for factor in factors]
    # Lagrange: 3 factor s^2 / size is the same everywhere.
    roots = [math.sqrt(size / factor) for size, factor in zip(sizes, factors, strict=True)]
    share = 0.55 * sum(sizes) / sum(root * size for root, size in zip(roots, sizes, strict=True))
    assert search.spread(errors, sizes, 0.55) == pytest.approx([share * root for root in roots], abs=0.004)


def test_search_stays_near_the_total_and_takes_the_cheapest_block() -> None:
    cheap, dear = [0.001, 0.002, 0.003, 0.004, 0.005], [0.2, 0.4, 0.6, 0.75, 0.9]
    assert search.spread([cheap, dear], [100, 100], 0.5) == pytest.approx([0.7, 0.3], abs=1e-12)
    assert search.spread([cheap, dear], [100, 300], 0.5) == pytest.approx([0.7, 0.5 - 0.2 / 3], abs=1e-12)
    assert search.spread([cheap, dear, []], [100, 100, 7], 0.95)[0] <= most_sparsity(0.95)


def test_search_makes_curves_convex_before_it_is_greedy() -> None:
    # The first curve is steep first and flat then: its flat part is only to be had together with the steep one.
    concave, straight = [0.001, 0.3, 0.301, 0.302, 0.303], [0.2, 0.4, 0.6, 0.75, 0.9]
    assert search.spread([concave, straight], [100, 100], 0.5) == pytest.approx([0.7, 0.3], abs=1e-12)
    slopes = convex(np.array([1.0, 3.0, 2.0, 5.0, 1.0, 6.0]))
    assert slopes == pytest.approx([1, 2.5, 2.5, 3, 3, 6])
