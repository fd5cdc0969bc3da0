"""Conjugate gradient on a fixed support: against float64 least squares, and never worse than the sweep of SparseGPT."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from langprune_cli.solvers.conjugate_gradient import conjugate_gradient
from langprune_cli.updates.update import get_update
from tests.support.hessians import correlated, loss, site_of

PCG, SWEEP = get_update("pcg").update, get_update("sparsegpt").update


def half(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) > 0.5


def exact(w: Tensor, hessian: Tensor, keep: Tensor) -> Tensor:
    """Solve each row's normal equations on its support in float64."""
    w, hessian = w.double(), hessian.double()
    out = torch.zeros_like(w)
    for row, (target, mask) in enumerate(zip(w, keep, strict=True)):
        if mask.any():
            out[row, mask] = torch.linalg.solve(hessian[mask][:, mask], (hessian @ target)[mask])
    return out


def test_it_reaches_the_least_squares_optimum() -> None:
    site = site_of((10,), correlated(400, 40), damping=0.05)
    hessian = site.hessian + 0.05 * site.hessian.diagonal().mean() * torch.eye(40)
    keep = half(10, 40)
    found = conjugate_gradient(site.weight * keep, site.weight, hessian, keep, steps=60)
    expected = exact(site.weight, hessian, keep)
    assert torch.allclose(found.double(), expected, atol=1e-3)
    assert not found[~keep].any()


@given(st.integers(1, 30), st.integers(2, 120), st.integers(0, 8))
@settings(deadline=None, max_examples=30)
def test_it_never_loses_more_than_the_sweep(rows: int, width: int, seed: int) -> None:
    site = site_of((rows,), correlated(width + 30, width, seed), seed=seed)
    keep = half(rows, width, seed)
    change = site.weight - SWEEP(site, keep).weight
    better = site.weight - PCG(site, keep).weight
    damped = (site.hessian + site.factor.added * torch.eye(width)).double()
    before, after = (((each.double() @ damped) * each.double()).sum(1) for each in (change, better))
    assert bool((after <= before * (1 + 1e-4) + 1e-6).all())


def test_on_correlated_inputs_it_is_clearly_better() -> None:
    site = site_of((50,), correlated(600, 150))
    keep = half(50, 150)
    assert float(loss(site, PCG(site, keep).weight).sum()) < 0.9 * float(loss(site, SWEEP(site, keep).weight).sum())


@pytest.mark.parametrize("kept", [True, False])
def test_all_kept_is_the_dense_weight_and_none_kept_is_nothing(*, kept: bool) -> None:
    site = site_of((5,), correlated(100, 20))
    keep = torch.full((5, 20), kept)
    assert torch.equal(PCG(site, keep).weight, site.weight if kept else torch.zeros(5, 20))


def test_dead_columns_keep_their_weights_and_nothing_becomes_nan() -> None:
    x = correlated(200, 30)
    x[:, [2, 17]] = 0
    site = site_of((8,), x)
    keep = half(8, 30)
    keep[:, [2, 17]] = True
    found = PCG(site, keep).weight
    assert torch.equal(found[:, [2, 17]], site.weight[:, [2, 17]])
    nothing = site_of((3,), torch.zeros(10, 6))
    assert torch.equal(PCG(nothing, half(3, 6)).weight, nothing.weight * half(3, 6))
