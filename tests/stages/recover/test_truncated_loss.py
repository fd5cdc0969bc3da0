"""The loss from the teacher's most likely tokens against its formula in float64, and its gradient against autograd's."""

import pytest
import torch
from torch import Tensor

from langprune_cli.stages.recover import divergence
from langprune_cli.stages.recover.divergence import distillation_loss, truncated_loss

INF = float("inf")


def literal(logits: Tensor, tokens: Tensor, probabilities: Tensor, lost: list[int]) -> Tensor:
    """Return the sum of p log(p / q) over the most likely tokens and over the rest taken as one, position by position.

    probabilities: [.., k + 1], the last is that of the rest. A p of 0 adds nothing.
    """
    total = torch.zeros((), dtype=torch.float64)
    for here, top, given in zip(
        logits.double().flatten(0, -2),
        tokens.flatten(0, -2).tolist(),
        probabilities.double().flatten(0, -2),
        strict=True,
    ):
        log_q = here.log_softmax(-1)
        others = [each for each in range(len(here)) if each not in top and each not in lost]
        reached = [log_q[each] for each in top] + ([log_q[others].logsumexp(-1)] if others else [])
        for p, log in zip(given, reached, strict=False):
            if p > 0:
                total = total + p * (p.log() - log)
    return total


def taught(teacher: Tensor, k: int, shared: list[int] | None = None) -> tuple[Tensor, Tensor]:
    """Return the k most likely tokens of the teacher's logits [.., v] among `shared`, and probabilities [.., k + 1]."""
    wide = teacher.double()
    if shared is not None:
        hidden = torch.ones(wide.shape[-1], dtype=torch.bool)
        hidden[shared] = False
        wide = wide.masked_fill(hidden, -INF)
    values, tokens = wide.softmax(-1).topk(k, dim=-1)
    rest = wide.softmax(-1).scatter(-1, tokens, 0.0).sum(-1, keepdim=True)
    return tokens, torch.cat([values, rest], dim=-1)


def check(logits: Tensor, tokens: Tensor, probabilities: Tensor, lost: list[int] | None = None) -> Tensor:
    """Compare loss and gradient with the formula's; return the gradient."""
    ours, theirs = (logits.detach().clone().requires_grad_() for _ in range(2))
    loss = truncated_loss(
        ours, tokens, probabilities.log().float(), torch.tensor(lost, dtype=torch.int64) if lost else None
    )
    expected = literal(theirs, tokens, probabilities, lost or [])
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=2e-7)
    (gradient,) = torch.autograd.grad(loss * 0.5, ours)
    (wanted,) = torch.autograd.grad(expected * 0.5, theirs)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours, logits)  # what the model put out is left as it was
    return gradient


@pytest.mark.parametrize("lost", [None, [3, 8]], ids=["same tokens", "fewer tokens"])
@pytest.mark.parametrize("piece", [1, 90, 1 << 20], ids=["position by position", "some at once", "all at once"])
def test_loss_and_gradient(lost: list[int] | None, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "PIECE_BYTES", piece)
    torch.manual_seed(0)
    logits, teacher = 3 * torch.randn(2, 5, 11), 3 * torch.randn(2, 5, 11)
    shared = [each for each in range(11) if each not in (lost or [])]
    check(logits, *taught(teacher, 4, shared), lost)


def test_all_tokens_kept_give_the_divergence_over_the_vocabulary() -> None:
    """Of a vocabulary no larger than what is kept nothing is left to the rest: r is 0, and so is what it adds."""
    torch.manual_seed(1)
    logits, teacher = 2 * torch.randn(1, 6, 9), 2 * torch.randn(1, 6, 9)
    tokens, probabilities = taught(teacher, 9)
    gradient = check(logits, tokens, torch.cat([probabilities[..., :-1], torch.zeros(1, 6, 1)], dim=-1))
    whole = logits.clone().requires_grad_()
    loss = distillation_loss(whole, teacher)
    stored = torch.cat([probabilities[..., :-1].log().float(), torch.full((1, 6, 1), -65504.0)], dim=-1)
    torch.testing.assert_close(truncated_loss(logits, tokens, stored), loss.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(loss * 0.5, whole)[0], rtol=1e-5, atol=1e-6)


def test_merging_loses_information_and_never_adds_to_the_loss() -> None:
    torch.manual_seed(2)
    logits, teacher = 2 * torch.randn(1, 50, 40), 2 * torch.randn(1, 50, 40)
    found = []
    for k in (1, 4, 16, 40):
        tokens, probabilities = taught(teacher, k)
        found.append(float(truncated_loss(logits, tokens, probabilities.log().float().clamp(min=-65504.0))))
    assert found == sorted(found)
    assert found[0] < found[-1]
    assert found[-1] == pytest.approx(float(distillation_loss(logits, teacher)), rel=1e-5)


def test_a_rest_without_probability_and_a_model_that_gives_it_some() -> None:
    """With r = 0 the gradient of other tokens is q, which lowers them."""
    logits = torch.tensor([[[1.0, 0.0, 2.0, -1.0]]])
    gradient = check(logits, torch.tensor([[[0, 2]]]), torch.tensor([[[0.25, 0.75, 0.0]]]).double())
    assert (gradient[0, 0, [1, 3]] > 0).all()


@pytest.mark.parametrize("sure", [20.0, 60.0, 300.0])
def test_a_model_that_is_almost_sure_still_learns_the_rest(sure: float) -> None:
    """In float32, 1 - sum of q would be 0 here, and so would be the probabilities of the other tokens."""
    logits = torch.tensor([[[sure, 0.0, 1.0, -1.0, 0.5]]])
    gradient = check(logits, torch.tensor([[[0]]]), torch.tensor([[[0.6, 0.4]]]).double())
    assert (gradient[0, 0, 1:] < -1e-3).all()


def test_tokens_that_a_model_masks() -> None:
    """-inf of the teacher is a probability of 0; -inf of the model among the other tokens adds nothing to their sum."""
    logits = torch.tensor([[[0.5, -INF, 1.0, 0.0, -0.5]]])
    teacher = torch.tensor([[[1.0, -INF, 0.0, -INF, -1.0]]])
    tokens, probabilities = taught(teacher, 4)
    gradient = check(logits, tokens[..., :2], taught(teacher, 2)[1])
    assert gradient[0, 0, 1] == 0
    stored = probabilities.log().float().clamp(min=-65504.0)
    loss = truncated_loss(logits.requires_grad_(), tokens, stored)
    assert loss.isfinite()
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_all_of_the_rest_masked_by_the_model() -> None:
    logits = torch.tensor([[[0.5, 1.0, -INF, -INF]]])
    gradient = check(logits, torch.tensor([[[0, 1]]]), torch.tensor([[[0.25, 0.75, 0.0]]]).double())
    assert torch.equal(gradient[0, 0, 2:], torch.zeros(2))


def test_logits_of_16_bits_are_widened_and_get_a_gradient_of_16_bits() -> None:
    torch.manual_seed(3)
    logits, teacher = (4 * torch.randn(1, 32, 200)).bfloat16(), 4 * torch.randn(1, 32, 200)
    tokens, probabilities = taught(teacher, 16)
    own = logits.clone().requires_grad_()
    loss = truncated_loss(own, tokens, probabilities.log().float())
    torch.testing.assert_close(loss.double(), literal(logits, tokens, probabilities, []), rtol=1e-5, atol=0)
    assert torch.autograd.grad(loss, own)[0].dtype == torch.bfloat16
