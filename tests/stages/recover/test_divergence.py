"""The loss of distillation against its formula in float64, and its gradient against autograd's."""

import pytest
import torch
from torch import Tensor

from langprune_cli.stages.recover import divergence
from langprune_cli.stages.recover.divergence import distillation_loss


def literal(logits: Tensor, teacher: Tensor, rows: Tensor | None) -> Tensor:
    """Return the sum over positions of p log(p / q), p the teacher's distribution over the tokens that both have."""
    here = logits.double().softmax(-1)
    if rows is not None:
        shared = [number for number, row in enumerate(rows.tolist()) if row >= 0]
        teacher, here = teacher[..., rows[shared]], here[..., shared]
    theirs = teacher.double().softmax(-1)
    return (theirs * (theirs / here).log()).sum()


ROWS = torch.tensor([4, 0, -1, 9, 2, -1])


@pytest.mark.parametrize("rows", [None, ROWS], ids=["same tokens", "fewer tokens"])
@pytest.mark.parametrize("piece", [1, 80, 1 << 20], ids=["position by position", "some at once", "all at once"])
def test_loss_and_gradient(rows: Tensor | None, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "PIECE_BYTES", piece)
    torch.manual_seed(0)
    logits = (3 * torch.randn(2, 5, 11 if rows is None else 6)).requires_grad_()
    teacher = 3 * torch.randn(2, 5, 11)
    loss = distillation_loss(logits, teacher, rows)
    expected = literal(logits, teacher, rows)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(loss * 0.5, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected * 0.5, logits)[0], rtol=1e-5, atol=1e-6)


def test_nothing_is_lost_against_oneself() -> None:
    logits = torch.randn(1, 4, 7, requires_grad=True)
    loss = distillation_loss(logits, logits.detach())
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.abs().max() < 1e-6


def test_logits_of_16_bits_are_widened_before_the_softmax() -> None:
    torch.manual_seed(0)
    logits, teacher = (8 * torch.randn(1, 64, 300)).bfloat16(), (8 * torch.randn(1, 64, 300)).bfloat16()
    torch.testing.assert_close(
        distillation_loss(logits, teacher).double(), literal(logits, teacher, None), rtol=1e-5, atol=0
    )


def test_a_token_without_probability_costs_nothing() -> None:
    """-inf of the teacher, as models mask tokens, times log of it is 0 and not NaN."""
    teacher = torch.tensor([[[0.0, float("-inf"), 1.0]]])
    logits = torch.zeros(1, 1, 3, requires_grad=True)
    loss = distillation_loss(logits, teacher)
    kept = torch.tensor([0.0, 1.0]).softmax(0)
    assert loss.item() == pytest.approx(float((kept * (kept * 3).log()).sum()), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
