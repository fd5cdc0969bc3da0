"""The factor of the damped inverse: exact against float64, any scale, dead columns, and damping that grows where it must."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langprune_cli.errors import LangpruneError
from langprune_cli.numerics.factor import dead_columns, inverse_factor
from tests.hessians import correlated


def damped(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    return hessian.double() + damping * hessian.double().diagonal().mean() * torch.eye(len(hessian))


@given(st.integers(1, 90), st.sampled_from([1e-3, 0.01, 0.3]))
@settings(deadline=None)
def test_it_is_the_upper_cholesky_factor_of_the_inverse(width: int, damping: float) -> None:
    x = correlated(width + 20, width)
    hessian = x.t() @ x
    factor = inverse_factor(hessian, damping)
    assert factor.damping == damping
    assert torch.equal(factor.u, factor.u.triu())
    assert bool((factor.u.diagonal() > 0).all())
    expected = torch.linalg.cholesky(torch.linalg.inv(damped(hessian, damping)), upper=True)
    assert torch.allclose(factor.u.double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_the_scale_of_the_hessian_is_only_a_scale_of_the_factor() -> None:
    x = correlated(200, 40)
    x[:, 7] = 0
    small, large = inverse_factor(x.t() @ x), inverse_factor(4096 * (x.t() @ x))
    assert torch.allclose(small.u, 64 * large.u)


def test_dead_columns_touch_no_others() -> None:
    x = correlated(200, 20)
    x[:, [3, 11]] = 0
    hessian = x.t() @ x
    alive = ~dead_columns(hessian)
    assert alive.tolist() == [index not in {3, 11} for index in range(20)]
    u = inverse_factor(hessian).u
    assert not u[3, 4:].any()
    assert not u[:3, 3].any()
    others = inverse_factor(hessian[alive][:, alive]).u
    assert torch.allclose(u[alive][:, alive], others)


def test_columns_that_are_all_dead_leave_the_identity_to_scale() -> None:
    u = inverse_factor(torch.zeros(5, 5)).u
    assert torch.equal(u, u[0, 0] * torch.eye(5))


def test_damping_grows_until_the_factorisation_succeeds_and_says_so() -> None:
    hessian = torch.eye(6)
    hessian[0, 1] = hessian[1, 0] = 1.5  # eigenvalue -0.5: not positive definite before 0.5 of the mean is added
    factor = inverse_factor(hessian, 0.01)
    assert factor.damping == 1.0
    expected = torch.linalg.cholesky(torch.linalg.inv(damped(hessian, 1.0)), upper=True)
    assert torch.allclose(factor.u.double(), expected, rtol=1e-4)


def test_a_hessian_of_one_token_is_factored() -> None:
    x = correlated(1, 64)
    assert torch.isfinite(inverse_factor(x.t() @ x).u).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_hessian_that_is_not_finite_is_refused(bad: float) -> None:
    hessian = torch.eye(4)
    hessian[2, 2] = bad
    with pytest.raises(LangpruneError, match="not finite"):
        inverse_factor(hessian)


def test_a_hessian_that_nothing_mends_is_refused() -> None:
    hessian = torch.eye(3)
    hessian[0, 1] = hessian[1, 0] = 1e9
    with pytest.raises(LangpruneError, match="heavy damping"):
        inverse_factor(hessian)
