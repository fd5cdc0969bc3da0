"""A Llama in numpy, float64, from the papers' formulas: nothing shared with transformers or with the product.

Shapes: t tokens of one window, d hidden size, h heads, k their width, f the width of the FFN, v tokens of the vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Tokens = NDArray[np.int64]

# Input site of a block -> its linears, by the names of a checkpoint.
SITES = {
    "attention": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "heads": ("self_attn.o_proj",),
    "ffn": ("mlp.gate_proj", "mlp.up_proj"),
    "inner": ("mlp.down_proj",),
}


@dataclass(frozen=True)
class Shape:
    """What a checkpoint's tensors do not say."""

    blocks: int
    heads: int
    kv_heads: int
    head_dim: int
    theta: float = 10000.0
    eps: float = 1e-6


class Llama:
    """The weights by their names in the checkpoint, and what is computed with them. Pruning replaces weights in place."""

    def __init__(self, shape: Shape, weights: dict[str, Matrix]) -> None:
        self.shape = shape
        self.weights = {name: weight.astype(np.float64) for name, weight in weights.items()}

    def embed(self, ids: Tokens) -> Matrix:  # [t, d]
        return self.weights["model.embed_tokens.weight"][ids]

    def block(self, index: int, x: Matrix, see: Callable[[str, Matrix], None] | None = None) -> Matrix:
        """Return the hidden states after a block; `see` is shown what each input site reads: its name, [t, i]."""
        show = see or (lambda _site, _rows: None)
        normed = self._norm(x, f"model.layers.{index}.input_layernorm.weight")
        show("attention", normed)
        attended = self._attend(index, normed)
        show("heads", attended)
        x = x + self._linear(index, "self_attn.o_proj", attended)
        normed = self._norm(x, f"model.layers.{index}.post_attention_layernorm.weight")
        show("ffn", normed)
        gate = self._linear(index, "mlp.gate_proj", normed)
        inner = gate / (1 + np.exp(-gate)) * self._linear(index, "mlp.up_proj", normed)  # SwiGLU, arXiv 2002.05202
        show("inner", inner)
        return x + self._linear(index, "mlp.down_proj", inner)

    def loss(self, ids: Tokens) -> float:
        """Return the mean over a window's tokens but the first of -ln p(token | those before it)."""
        x = self.embed(ids)
        for index in range(self.shape.blocks):
            x = self.block(index, x)
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        logits = self._norm(x, "model.norm.weight")[:-1] @ head.T  # [t - 1, v]
        highest = logits.max(axis=1)
        log_sums = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
        return float((log_sums - logits[np.arange(len(ids) - 1), ids[1:]]).mean())

    def perplexity(self, windows: Tokens) -> float:
        """Return the exponential of the mean loss of the windows, which are of one length."""
        return math.exp(sum(self.loss(ids) for ids in windows) / len(windows))

    def _linear(self, index: int, name: str, x: Matrix) -> Matrix:
        return x @ self.weights[f"model.layers.{index}.{name}.weight"].T

    def _norm(self, x: Matrix, name: str) -> Matrix:
        """Divide each token by its root mean square, and scale each column (RMSNorm, arXiv 1910.07467, equation 4)."""
        return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + self.shape.eps) * self.weights[name]

    def _attend(self, index: int, x: Matrix) -> Matrix:  # [t, h * k]
        """Return the heads' outputs side by side: causal attention, several heads to a key (arXiv 2305.13245)."""
        heads, width, group = self.shape.heads, self.shape.head_dim, self.shape.heads // self.shape.kv_heads
        q, k, v = (self._linear(index, f"self_attn.{part}_proj", x) for part in "qkv")
        out = np.zeros((len(x), heads * width))
        future = np.triu(np.ones((len(x), len(x)), dtype=bool), 1)
        for head in range(heads):
            own, shared = slice(head * width, (head + 1) * width), head // group * width
            keys = self._rotate(k[:, shared : shared + width])
            scores = self._rotate(q[:, own]) @ keys.T / math.sqrt(width)
            scores[future] = -np.inf
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, own] = shares / shares.sum(axis=1, keepdims=True) @ v[:, shared : shared + width]
        return out

    def _rotate(self, x: Matrix) -> Matrix:  # [t, k]
        """Turn the pairs (j, j + k/2) of token t by t * theta^(-2j/k) (RoPE, arXiv 2104.09864, section 3.2.2)."""
        half = x.shape[1] // 2
        angles = np.arange(len(x))[:, None] * self.shape.theta ** (-np.arange(half) / half)
        first, second = x[:, :half], x[:, half:]
        return np.concatenate(
            [
                first * np.cos(angles) - second * np.sin(angles),
                second * np.cos(angles) + first * np.sin(angles),
            ],
            axis=1,
        )
