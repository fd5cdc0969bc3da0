"""ADMM masks: exact counts, better than the masks they compete with, and weights that `pcg` makes of them."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from langprune_cli.methods.method import get_method
from langprune_cli.numerics.patterns import Pattern, follows, keep_mask, prune_count
from langprune_cli.solvers.thresholds import Thresholds
from langprune_cli.updates.update import get_update
from tests.support.hessians import correlated, loss, site_of

PCG = get_update("pcg").update
PATTERNS = [Pattern(0.5), Pattern(0.7), Pattern(0.5, (2, 4)), Pattern(4 / 7, (3, 7)), Pattern(0.6, (8, 20))]


def solve(name: str, *args: object) -> tuple[Tensor, Tensor]:
    method = get_method(name)
    assert method.solve is not None
    solution = method.solve(*args)  # type: ignore[arg-type] # a site and a pattern
    return solution.keep, solution.weight


@given(st.integers(1, 25), st.integers(1, 90), st.sampled_from(PATTERNS), st.integers(0, 5))
@settings(deadline=None, max_examples=30)
def test_counts_are_exact_and_the_weights_are_those_of_its_update(
    rows: int, width: int, pattern: Pattern, seed: int
) -> None:
    site = site_of((rows, 2), correlated(width + 5, width, seed), seed=seed)
    keep, weight = solve("admm", site, pattern)
    assert torch.equal(PCG(site, keep).weight, weight)
    for mask in site.split(keep):
        assert follows(mask.float(), pattern)
        tail = pattern.tail(width)
        count = mask.shape[0] * (width - tail)
        expected = prune_count(count, pattern.sparsity) if not pattern.m else round(count * pattern.sparsity)
        assert mask.numel() - int(mask.sum()) == expected


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_it_loses_less_than_sparsegpt_and_wanda_with_the_same_update(pattern: Pattern) -> None:
    """Without any guarantee for a single row, but clearly over many."""
    site = site_of((120,), correlated(800, 96))
    lost = float(loss(site, solve("admm", site, pattern)[1]).sum())
    sweep, _ = solve("sparsegpt", site, pattern)
    wanda = keep_mask(get_method("wanda").score(site.weight, site), pattern)
    for other in (sweep, wanda):
        assert lost < 0.97 * float(loss(site, PCG(site, other).weight).sum())


def test_small_rows_come_near_to_the_best_of_all_masks() -> None:
    site = site_of((40,), correlated(200, 8), damping=1e-6)
    pattern = Pattern(0.5, (4, 8))
    lost = loss(site, solve("admm", site, pattern)[1])
    hessian = site.hessian.double()
    best = torch.full((40,), torch.inf, dtype=torch.float64)
    for kept in itertools.combinations(range(8), 4):
        inside = list(kept)
        w = torch.zeros(40, 8, dtype=torch.float64)
        w[:, inside] = torch.linalg.solve(hessian[inside][:, inside], (hessian @ site.weight.double().t())[inside]).t()
        best = torch.minimum(best, loss(site, w))
    ratios = lost / best
    assert float(ratios.min()) > 0.999  # nothing is better than the best
    assert float(ratios.median()) < 1.2


def test_uncorrelated_inputs_give_nearly_the_mask_of_wanda_over_the_linear() -> None:
    """There it is the best of all masks; the ramp leaves a few near ties the other way."""
    x = torch.eye(64) * torch.linspace(0.5, 4, 64)
    site = site_of((20,), x)
    keep, weight = solve("admm", site, Pattern(0.5))
    best = keep_mask(get_method("wanda").score(site.weight, site), Pattern(0.5), group="layer")
    assert float((keep == best).double().mean()) > 0.99
    assert float(loss(site, weight).sum()) < 1.001 * float(loss(site, site.weight * best).sum())
    assert torch.allclose(weight, site.weight * keep, atol=1e-5)


def test_dead_columns_leave_first() -> None:
    x = correlated(300, 48)
    x[:, ::4] = 0
    keep, weight = solve("admm", site_of((9,), x), Pattern(0.5))
    assert not keep[:, ::4].any()
    assert bool(torch.isfinite(weight).all())


@given(st.floats(0, 1), st.sampled_from(PATTERNS), st.integers(1, 40))
def test_a_share_of_a_pattern_removes_that_share_of_what_it_removes(share: float, pattern: Pattern, width: int) -> None:
    values = torch.rand(11, width, generator=torch.Generator().manual_seed(0)) - 0.5
    thresholds = Thresholds(pattern, width, values.device)
    here, back = values[:, thresholds.order], thresholds.order.argsort()
    least = (thresholds.of(here.abs(), each).expand(11, 1) for each in (share, 1.0))
    found, last = (thresholds.kept(here, each)[:, back] for each in least)
    keep, whole = found != 0, last != 0
    assert torch.equal(found[keep], values[keep])
    assert bool((keep | ~whole).all())  # what stays at last has stayed all along
    leaving = whole.numel() - int(whole.sum())
    assert abs(keep.numel() - int(keep.sum()) - share * leaving) <= 1
    assert torch.equal(whole, keep_mask(values.abs(), pattern, group="layer"))


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_of_equal_values_none_stays_for_another_to_go(pattern: Pattern) -> None:
    values = torch.ones(3, 14)
    thresholds = Thresholds(pattern, 14, values.device)
    found = thresholds.kept(values, thresholds.of(values, 1.0).expand(3, 1))
    assert not found[:, : 14 - pattern.tail(14)].any()
