"""Causal attention in bfloat16 on CPUs; torch's kernel shares work less evenly and, in short windows, computes masked scores."""

import math

import torch
from torch import Tensor

from langprune_cli.machine.precision import low_precision_inputs
from langprune_cli.machine.threads import over_rows

# Windows up to this length take 0.5 to 0.7 of torch's time on two cores; longer ones were not measured.
_LONGEST = 8192
# Rows of queries at once: of their scores, only a triangle on the diagonal is wasted.
_ROWS, _MANY_ROWS, _LONG = 128, 256, 512


def causal_attention(
    query: Tensor,  # bfloat16 [b, h, t, d]
    key: Tensor,  # bfloat16 [b, g, t, d]; g divides h
    value: Tensor,  # bfloat16 [b, g, t, v]
    scale: float | None = None,  # None: 1 / sqrt(d)
) -> Tensor:  # bfloat16 [b, h, t, v]
    """Return softmax(scale Q Kᵀ) V; each token attends to itself and earlier ones.

    Scores and softmax are float32, from the unrounded inputs; probabilities are rounded to bfloat16 for the product with V, as
    in torch's kernel.
    """
    batch, heads, tokens, width = query.shape
    repeats = heads // key.shape[1]
    if repeats > 1:
        key, value = (each.repeat_interleave(repeats, dim=1) for each in (key, value))
    queries, keys, values = (each.reshape(-1, tokens, each.shape[-1]) for each in (query, key, value))
    out = torch.empty_like(values)
    rows = _ROWS if tokens <= _LONG else _MANY_ROWS
    later = torch.full((rows, rows), -math.inf).triu_(1)  # from each query to the keys after it
    alpha = 1 / math.sqrt(width) if scale is None else scale
    nothing = torch.empty(1, 1, 1)  # not read, as beta = 0

    def attend(some: slice) -> None:
        wide_query, wide_key = queries[some].float(), keys[some].float().transpose(1, 2)
        for start in range(0, tokens, rows):
            end = min(start + rows, tokens)
            scores = torch.baddbmm(nothing, wide_query[:, start:end], wide_key[:, :, :end], beta=0, alpha=alpha)
            scores[:, :, start:] += later[: end - start, : end - start]
            torch.bmm(torch.softmax(scores, -1).to(query.dtype), values[some, :end], out=out[some, start:end])

    with low_precision_inputs(query.dtype, query.device):  # set here for all threads
        over_rows(attend, (batch * heads, rows * tokens), query.device)
    return out.view(batch, heads, tokens, -1)


def is_faster(query: Tensor, key: Tensor) -> bool:
    """Return whether `causal_attention` is the faster one: bfloat16 on a CPU, windows of a measured length, no gradients."""
    square = query.dim() == 4 and 1 < query.shape[-2] == key.shape[-2] <= _LONGEST
    here = query.device.type == "cpu" and query.dtype == key.dtype == torch.bfloat16
    return square and here and not torch.is_grad_enabled()
