"""What weights add to make up for an error: least squares where it is told by the inputs, nothing where it is chance."""

import numpy as np
import torch
from torch import Tensor

from langprune_cli.numerics.factor import damped_factor
from langprune_cli.solvers.correction import correction


def halves_of(x: Tensor, e: Tensor) -> Tensor:
    half = len(x) // 2
    return torch.stack([e[:half].T @ x[:half], e[half:].T @ x[half:]])


def text(tokens: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator)
    return torch.randn(tokens, width, generator=generator) @ mix


def test_an_error_that_the_inputs_tell_is_the_least_squares_solution() -> None:
    x = text(4000, 12)
    wanted = torch.randn(5, 12, generator=torch.Generator().manual_seed(3))
    found = correction(damped_factor(x.T @ x, 1e-6), halves_of(x, x @ wanted.T))
    exact = np.linalg.lstsq(x.double().numpy(), (x.double() @ wanted.double().T).numpy())[0].T
    # Halves of a text differ a little, and so does what one confirms of the other: here, by half a percent.
    assert np.allclose(found.numpy(), exact, rtol=0.02, atol=1e-3)


def test_damping_is_that_of_the_factor() -> None:
    x = text(400, 12)
    e = x @ torch.randn(12, 5, generator=torch.Generator().manual_seed(3))
    factor = damped_factor(x.T @ x, 0.1)
    hessian = (x.T @ x).double()
    hessian += 0.1 * hessian.diagonal().mean() * torch.eye(12)
    assert torch.allclose(factor.solve(e.T @ x).double(), (e.T @ x).double() @ hessian.inverse(), rtol=1e-3, atol=1e-4)


def test_what_is_chance_on_few_tokens_is_left_alone() -> None:
    """Least squares explains a third of noise with a third as many inputs as tokens; little of it remains after shrinking."""
    x, noise = text(300, 100), torch.randn(300, 40, generator=torch.Generator().manual_seed(5))
    factor = damped_factor(x.T @ x, 1e-4)
    plain = factor.solve(noise.T @ x)
    found = correction(factor, halves_of(x, noise))
    fresh = text(5000, 100, seed=0)[300:]
    assert float((fresh @ found.T).square().mean()) < 0.1 * float((fresh @ plain.T).square().mean())


def test_it_predicts_other_text_better_than_least_squares_where_signal_and_chance_mix() -> None:
    x, wanted = text(600, 100), 0.05 * torch.randn(40, 100, generator=torch.Generator().manual_seed(3))
    signal = x @ wanted.T
    noisy = signal + 3 * signal.std() * torch.randn(600, 40, generator=torch.Generator().manual_seed(5))
    factor = damped_factor(x.T @ x, 1e-4)
    fresh = text(5000, 100)[600:]

    def missed(weights: Tensor) -> float:
        return float((fresh @ (weights - wanted).T).square().mean() / (fresh @ wanted.T).square().mean())

    found = missed(correction(factor, halves_of(x, noisy)))
    assert found < 0.7 * missed(factor.solve(noisy.T @ x))
    assert found < 1.0


def test_rows_without_error_and_one_half_alone_add_nothing() -> None:
    x = text(200, 12)
    e = torch.zeros(200, 3)
    e[:, 1] = x[:, 0]
    factor = damped_factor(x.T @ x, 0.01)
    found = correction(factor, halves_of(x, e))
    assert not found[0].any()
    assert found[1].any()
    alone = halves_of(x, e)
    alone[1] = 0
    assert not correction(factor, alone).any()
