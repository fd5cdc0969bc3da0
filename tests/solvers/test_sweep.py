"""The OBS sweep against a float64 one without any blocking, and the property that keeps `mask` and `apply` apart."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from langprune_cli.methods.method import get_method
from langprune_cli.numerics.patterns import Pattern, follows, prune_count
from langprune_cli.updates.update import get_update
from tests.reference.pruning import Target
from tests.reference.pruning import sparsegpt as literal
from tests.support.hessians import correlated, inverse_upper, loss, site_of

SPARSEGPT = get_method("sparsegpt")
UPDATE = get_update("sparsegpt").update
PATTERNS = [Pattern(0.5), Pattern(0.73), Pattern(0.5, (2, 4)), Pattern(7 / 12, (5, 12)), Pattern(0.75, (50, 200))]


def solve(*args: object) -> tuple[Tensor, Tensor]:
    assert SPARSEGPT.solve is not None
    solution = SPARSEGPT.solve(*args)  # type: ignore[arg-type] # a site and a pattern
    return solution.keep, solution.weight


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("width", [300, 256, 37])
def test_it_is_the_literal_sweep(pattern: Pattern, width: int) -> None:
    """Across edges of 128 columns, of the sweep's own blocks, and of groups of M, with tails; linears kept apart."""
    site = site_of((24, 8), correlated(2 * width, width))
    keep, weight = solve(site, pattern)
    u, target = inverse_upper(site.factor).numpy(), Target(f"{pattern.sparsity}", pattern.keep_of)
    for mask, new, w in zip(site.split(keep), site.split(weight), site.split(site.weight), strict=True):
        expected = literal(w.numpy(), u, target)
        assert (mask.numpy() == expected.keep).mean() > 0.999  # float32 may turn a near tie
        same = (mask.numpy() == expected.keep).all(axis=1)
        assert np.allclose(new.numpy()[same], expected.weight[same], atol=2e-3)


@given(
    st.integers(1, 40),
    st.integers(1, 300),
    st.sampled_from(PATTERNS),
    st.integers(0, 5),
)
@settings(deadline=None, max_examples=60)
def test_the_update_of_its_mask_is_its_weights(rows: int, width: int, pattern: Pattern, seed: int) -> None:
    """Bit by bit: `apply --update sparsegpt` makes of a mask exactly what the joint sweep made with it."""
    site = site_of((rows, 3), correlated(width + 5, width, seed), seed=seed)
    keep, weight = solve(site, pattern)
    assert torch.equal(UPDATE(site, keep).weight, weight)
    assert not weight[~keep].any()
    assert not torch.signbit(weight[~keep]).any()  # +0.0
    for mask in site.split(keep):
        assert follows(mask.float(), pattern)
        if not pattern.m:
            assert mask.numel() - int(mask.sum()) == prune_count(mask.numel(), pattern.sparsity)


def test_each_column_of_the_error_is_what_the_factor_says() -> None:
    """The damped loss of the sweep's weights is the sum of squares of its errors: nothing was lost on the way."""
    site = site_of((16,), correlated(400, 150))
    keep, weight = solve(site, Pattern(0.5))
    change = (site.weight - weight).double()
    errors = torch.linalg.solve_triangular(inverse_upper(site.factor), change, upper=True, left=False)
    assert float(errors[keep].abs().max()) < 1e-3  # a column that stays makes no error
    damped = site.hessian.double() + site.factor.added * torch.eye(150)
    assert torch.allclose((change @ damped * change).sum(1), errors.square().sum(1), rtol=1e-4)


@given(st.integers(1, 12), st.integers(1, 200), st.integers(0, 5), st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_the_error_of_each_row_is_known(rows: int, width: int, seed: int, kept: float) -> None:
    """Without the damping's part, dead columns included, for any mask: as a float64 product with the Hessian has it."""
    x = correlated(width + 40, width, seed)
    x[:, 1::7] = 0
    site = site_of((rows, 2), x, seed=seed)
    keep = torch.rand(rows + 2, width, generator=torch.Generator().manual_seed(seed)) < kept
    for solution in (UPDATE(site, keep), SPARSEGPT.solve(site, Pattern(0.5)) if SPARSEGPT.solve else None):
        assert solution is not None
        assert solution.error is not None
        scale = float(loss(site, torch.zeros_like(site.weight)).max())
        assert torch.allclose(solution.error, loss(site, solution.weight), rtol=1e-3, atol=1e-5 * scale)


@given(st.integers(0, 20))
@settings(deadline=None, max_examples=10)
def test_any_mask_loses_less_with_the_update(seed: int) -> None:
    site = site_of((20,), correlated(300, 80, seed))
    keep = torch.rand(20, 80, generator=torch.Generator().manual_seed(seed)) > 0.5
    updated = UPDATE(site, keep).weight
    assert not updated[~keep].any()
    assert float(loss(site, updated).sum()) < 0.8 * float(loss(site, site.weight * keep).sum())


def test_weights_of_dead_columns_leave_first_and_those_that_stay_are_not_changed() -> None:
    x = correlated(300, 64)
    dead = torch.zeros(64, dtype=torch.bool)
    dead[[0, 9, 40, 63]] = True
    x[:, dead] = 0
    site = site_of((10,), x)
    keep, _ = solve(site, Pattern(0.5))
    assert not keep[:, dead].any()
    everything = torch.ones_like(keep)
    assert torch.equal(UPDATE(site, everything).weight, site.weight)
    some = everything.clone()
    some[:, 5:30] = False
    assert torch.equal(UPDATE(site, some).weight[:, [40, 63]], site.weight[:, [40, 63]])


def test_all_kept_and_none_kept() -> None:
    site = site_of((6,), correlated(100, 33))
    for sparsity, expected in ((0.0, site.weight), (1.0, torch.zeros_like(site.weight))):
        keep, weight = solve(site, Pattern(sparsity))
        assert bool(keep.all()) is (sparsity == 0.0)
        assert torch.equal(weight, expected)


def test_a_weight_of_minus_zero_leaves_plus_zero_and_the_weights_given_are_left_alone() -> None:
    site = site_of((1,), correlated(100, 33))
    site.weight[:, 4:20] = -0.0
    before = site.weight.clone()
    weight = UPDATE(site, torch.arange(33)[None] > 15).weight
    assert torch.equal(site.weight, before)
    assert not torch.signbit(weight[:, :16]).any()


def test_its_score_is_what_the_first_columns_are_chosen_by() -> None:
    site = site_of((12,), correlated(300, 100))
    keep, _ = solve(site, Pattern(0.5))
    order = SPARSEGPT.score(site.weight, site).flatten().argsort()
    expected = torch.ones(1200, dtype=torch.bool)
    expected[order[:600]] = False
    assert torch.equal(keep.flatten(), expected)
