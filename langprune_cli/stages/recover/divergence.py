"""The loss of distillation: how far a model's next-token distribution is from its teacher's."""

import torch
from torch import Tensor

_LEAST = torch.finfo(torch.float32).min
PIECE_BYTES = 64 << 20  # of float32 logits looked at together


def distillation_loss(
    logits: Tensor,  # [.., v]
    teacher: Tensor,  # [.., w]
    rows: Tensor | None = None,  # int64 [v], the teacher's number of each token, -1 for none; None: the same tokens
) -> Tensor:
    """Return the Kullback-Leibler divergence KL(teacher || model) in nats, summed over positions, in float32.

    All of the vocabulary counts (Hinton et al. 2015, arXiv 1503.02531, at temperature 1). For a model with fewer tokens, the
    teacher's distribution is that over the tokens they share, renormalised; what the model gives to other tokens is lost.
    """
    loss: Tensor = _Divergence.apply(logits, teacher, rows)  # type: ignore[no-untyped-call] # torch's own
    return loss


def truncated_loss(
    logits: Tensor,  # [.., v]
    tokens: Tensor,  # int64 [.., k], the teacher's most likely ones
    log_probs: Tensor,  # float32 [.., k + 1], of these, and of all other tokens together; normalised here
    lost: Tensor | None = None,  # int64 [l], tokens that the teacher does not have
) -> Tensor:
    """Return the divergence in nats, summed over positions, with all but the teacher's most likely tokens taken as one.

    That is at most the divergence over all tokens, since merging outcomes loses information. What the model gives to tokens
    that are `lost` counts as lost, as in `distillation_loss`.
    """
    loss: Tensor = _Truncated.apply(logits, tokens, log_probs, lost)  # type: ignore[no-untyped-call] # torch's own
    return loss


class _Truncated(torch.autograd.Function):
    """Computes that loss and its gradient in pieces.

    q are the model's probabilities, p the teacher's, and r is what p leaves to the other tokens: the gradient of the most likely
    is q - p, that of another token q (1 - r / sum of q over the others). All of it is taken relative to the largest logit of the
    others, so that none of it vanishes where a model is almost sure.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, tokens: Tensor, log_probs: Tensor, lost: Tensor | None) -> Tensor:  # type: ignore[no-untyped-def] # noqa: ANN001
        own, chosen = logits.flatten(0, -2), tokens.flatten(0, -2)
        given = log_probs.flatten(0, -2).float().log_softmax(-1).clamp_(min=_LEAST)
        gradient = torch.empty_like(own) if logits.requires_grad else None
        total = torch.zeros((), dtype=torch.float64, device=own.device)
        for start in range(0, len(own), step := max(1, PIECE_BYTES // (4 * own.shape[1]))):
            piece = slice(start, start + step)
            top, target = chosen[piece], given[piece]
            here = own[piece].to(torch.float32, copy=True)
            of_top = here.gather(-1, top)
            here.scatter_(-1, top, -torch.inf)
            of_lost = here[:, :0] if lost is None else here[:, lost]
            if lost is not None:
                here[:, lost] = -torch.inf
            most = here.amax(-1, keepdim=True).clamp_(min=_LEAST)  # -inf where there are no others
            sums = here.sub_(most).exp_().sum(-1, keepdim=True)
            rest = most + sums.log()
            whole = torch.cat([of_top, rest, of_lost], dim=-1).logsumexp(-1, keepdim=True)
            reached = (torch.cat([of_top, rest], dim=-1) - whole).clamp_(min=_LEAST)
            likely = target.exp()
            total += (likely * (target - reached)).sum(dtype=torch.float64)
            if gradient is not None:
                # Of the others, if there are any, the largest has made a 1 of the sum.
                slope = here.mul_((most - whole).exp() - likely[:, -1:] / sums.clamp_(min=1.0))
                if lost is not None:
                    slope[:, lost] = (of_lost - whole).exp()
                slope.scatter_(-1, top, (of_top - whole).exp() - likely[:, :-1])
                gradient[piece] = slope.to(gradient.dtype)
        if gradient is not None:
            ctx.save_for_backward(gradient.view_as(logits))
        return total.float()

    @staticmethod
    def backward(ctx, scale: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def] # noqa: ANN001
        (gradient,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None, None, None


class _Divergence(torch.autograd.Function):
    """Computes the loss and its gradient in one pass over pieces, so that no float32 copy of all logits is made."""

    @staticmethod
    def forward(ctx, logits: Tensor, teacher: Tensor, rows: Tensor | None) -> Tensor:  # type: ignore[no-untyped-def] # noqa: ANN001
        wanted = logits.requires_grad
        own, theirs = logits.flatten(0, -2), teacher.flatten(0, -2)
        gradient = torch.empty_like(own) if wanted else None
        total = torch.zeros((), dtype=torch.float64, device=own.device)
        shared = None if rows is None else (rows >= 0).nonzero().flatten()
        step = max(1, PIECE_BYTES // (4 * max(own.shape[1], theirs.shape[1])))
        for start in range(0, len(own), step):
            piece = slice(start, start + step)
            here = own[piece].float().log_softmax(-1).clamp_(min=_LEAST)  # some models mask tokens with -inf
            target = theirs[piece].float()
            if rows is not None and shared is not None:
                target = target[:, rows[shared]]
            target = target.log_softmax(-1).clamp_(min=_LEAST)
            likely = target.exp()
            of_shared = here if shared is None else here[:, shared]
            total += (likely * (target - of_shared)).sum(dtype=torch.float64)
            if gradient is not None:
                slope = here.exp_()  # the model's distribution less the teacher's
                if shared is None:
                    slope -= likely
                else:
                    slope[:, shared] -= likely
                gradient[piece] = slope.to(gradient.dtype)
        if gradient is not None:
            ctx.save_for_backward(gradient.view_as(logits))
        return total.float()

    @staticmethod
    def backward(ctx, scale: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def] # noqa: ANN001
        (gradient,) = ctx.saved_tensors
        return gradient * scale.to(gradient.dtype), None, None
