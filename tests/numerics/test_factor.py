"""The factor of the damped inverse: exact against float64, any scale, dead columns, and damping that grows where it must."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langprune_cli.errors import LangpruneError
from langprune_cli.numerics.factor import damped_factor, dead_columns
from tests.support.hessians import correlated, inverse_upper


def damped(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    return hessian.double() + damping * hessian.double().diagonal().mean() * torch.eye(len(hessian))


@given(st.integers(1, 90), st.sampled_from([1e-3, 0.01, 0.3]))
@settings(deadline=None)
def test_it_is_the_upper_cholesky_factor_of_the_inverse(width: int, damping: float) -> None:
    x = correlated(width + 20, width)
    hessian = x.t() @ x
    factor = damped_factor(hessian, damping)
    assert factor.damping == damping
    assert torch.equal(factor.lower, factor.lower.tril())
    assert torch.equal(factor.lower.diagonal(), torch.ones(width))
    assert bool((factor.pivots > 0).all())
    expected = torch.linalg.cholesky(torch.linalg.inv(damped(hessian, damping)), upper=True)
    assert torch.allclose(inverse_upper(factor), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_the_scale_of_the_hessian_is_only_a_scale_of_the_factor() -> None:
    x = correlated(200, 40)
    x[:, 7] = 0
    small, large = damped_factor(x.t() @ x), damped_factor(4096 * (x.t() @ x))
    assert torch.allclose(small.lower, large.lower, atol=1e-6)
    assert torch.allclose(4096 * small.pivots, large.pivots)


def test_dead_columns_touch_no_others() -> None:
    x = correlated(200, 20)
    x[:, [3, 11]] = 0
    hessian = x.t() @ x
    alive = ~dead_columns(hessian)
    assert alive.tolist() == [index not in {3, 11} for index in range(20)]
    lower = damped_factor(hessian).lower
    assert not lower[4:, 3].any()
    assert not lower[3, :3].any()
    others = damped_factor(hessian[alive][:, alive]).lower
    assert torch.allclose(lower[alive][:, alive], others)


def test_columns_that_are_all_dead_leave_the_identity_to_scale() -> None:
    factor = damped_factor(torch.zeros(5, 5))
    assert torch.equal(factor.lower, torch.eye(5))
    assert len(factor.pivots.unique()) == 1


def test_damping_grows_until_the_factorisation_succeeds_and_says_so() -> None:
    hessian = torch.eye(6)
    hessian[0, 1] = hessian[1, 0] = 1.5  # eigenvalue -0.5: not positive definite before 0.5 of the mean is added
    factor = damped_factor(hessian, 0.01)
    assert factor.damping == 1.0
    expected = torch.linalg.cholesky(torch.linalg.inv(damped(hessian, 1.0)), upper=True)
    assert torch.allclose(inverse_upper(factor), expected, rtol=1e-4)


def test_a_hessian_of_one_token_is_factored() -> None:
    x = correlated(1, 64)
    assert torch.isfinite(inverse_upper(damped_factor(x.t() @ x))).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_hessian_that_is_not_finite_is_refused(bad: float) -> None:
    hessian = torch.eye(4)
    hessian[2, 2] = bad
    with pytest.raises(LangpruneError, match="not finite"):
        damped_factor(hessian)


def test_a_hessian_that_nothing_mends_is_refused() -> None:
    hessian = torch.eye(3)
    hessian[0, 1] = hessian[1, 0] = 1e9
    with pytest.raises(LangpruneError, match="heavy damping"):
        damped_factor(hessian)
