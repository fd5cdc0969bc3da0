"""Causal attention of bfloat16 on CPUs, against the formula in float64 and torch's own."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from langprune_cli.machine.attention import causal_attention


def heads(tokens: int, *, queries: int = 4, keys: int = 4, width: int = 32, value: int = 32) -> tuple[Tensor, ...]:
    """Return queries, keys and values of two sequences, laid out as models lay them out: [b, t, h, d], seen as [b, h, t, d]."""
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(2, tokens, queries, width), (2, tokens, keys, width), (2, tokens, keys, value)]
    return tuple(torch.randn(shape, generator=generator).bfloat16().transpose(1, 2) for shape in shapes)


def exact(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return softmax(scale Q Kᵀ) V in float64, token after token."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (each.double().repeat_interleave(repeats, dim=1) for each in (key, value))
    out = []
    for token in range(query.shape[2]):
        scores = scale * key[:, :, : token + 1] @ query[:, :, token, :, None].double()
        out.append((torch.softmax(scores[..., 0], -1)[..., None] * value[:, :, : token + 1]).sum(dim=2))
    return torch.stack(out, dim=2)


def error(found: Tensor, right: Tensor) -> float:
    return float((found.double() - right).norm() / right.norm())


@pytest.mark.parametrize("tokens", [1, 2, 127, 128, 129, 300, 513, 700])
@pytest.mark.parametrize("keys", [4, 2, 1])
def test_as_exact_as_torchs_own(tokens: int, keys: int) -> None:
    query, key, value = heads(tokens, keys=keys)
    right = exact(query, key, value, 1 / math.sqrt(32))
    own = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    found = causal_attention(query, key, value)
    assert found.shape == own.shape
    assert found.dtype == torch.bfloat16
    # Probabilities and the result are rounded to bfloat16, here as there: 2^-9 each.
    assert error(found, right) < max(1.3 * error(own, right), 2**-8)


def test_a_scale_and_values_of_another_width() -> None:
    query, key, value = heads(200, value=48)
    assert error(causal_attention(query, key, value, 0.5), exact(query, key, value, 0.5)) < 2**-8


def test_no_token_sees_a_later_one() -> None:
    query, key, value = heads(260)
    before = causal_attention(query, key, value)
    key[:, :, 129:], value[:, :, 129:] = 100.0, -100.0
    torch.testing.assert_close(causal_attention(query, key, value)[:, :, :129], before[:, :, :129], rtol=0, atol=0)


def test_each_sequence_by_itself() -> None:
    query, key, value = heads(130)
    both = causal_attention(query, key, value)
    alone = causal_attention(query[1:], key[1:], value[1:])
    torch.testing.assert_close(alone, both[1:], rtol=0, atol=2**-8)
