"""Gives a residual stream fewer coordinates: what each tensor that reads or writes it becomes.

A stream x [d] becomes Qᵀ (D x) [k], with orthonormal columns Q [d, k] and a diagonal D. A norm by the root mean square commutes
with Q, as SliceGPT uses it (Ashkboos et al., arXiv 2401.15024, section 3), once its weights are in the linears that read it. Of a
model whose head is the embeddings, the last norm's weights cannot go there: they go into D, so that the same matrix still embeds
and predicts. What a norm then divides by differs a little from token to token, and its mean is put right.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from langprune_cli.units.changes import Count

_LEAST = 1e-3  # of the last norm's weights, in units of their mean: what it all but removes must stay for the blocks

Role = Literal["reads", "writes", "scales", "embeds"]


@dataclass(frozen=True)
class Part:
    """What a tensor has to do with the stream: it reads or writes it, scales what is normed, or embeds tokens."""

    role: Role
    norm: str = ""  # path of the norm that is read, or by which what is written goes; "" for none


@dataclass(frozen=True)
class Stream:
    """A model's residual stream: its size, and the tensors that have it, found by `found_stream`."""

    count: Count  # how the configuration states the size
    blocks: Mapping[str, Part]  # by path of a parameter inside of a block
    outside: Mapping[str, Part]  # by path in the model
    last: str  # path of the norm before the head
    head: str  # path of the head's weight
    tied: bool  # whether that is the embeddings
    one_more: bool  # whether norms multiply by one more than their weights
    root: bool  # whether embeddings are multiplied by the root of the size

    @property
    def before(self) -> frozenset[str]:
        """Return the paths of a block's norms that linears read; "" where some read the stream itself."""
        return frozenset(each.norm for each in self.blocks.values() if each.role == "reads")

    @property
    def behind(self) -> frozenset[str]:
        """Return the paths of a block's norms by which what is written goes."""
        return frozenset(each.norm for each in self.blocks.values() if each.role == "writes" and each.norm)

    @property
    def alone(self) -> frozenset[str]:
        """Return the paths of a block's modules that read the stream itself, one of those that read the same."""
        found = {
            path.rpartition(".")[0] for path, each in self.blocks.items() if each.role == "reads" and not each.norm
        }
        return frozenset({path.rpartition(".")[0]: path for path in sorted(found)}.values())

    def part_outside(self, path: str) -> Part | None:
        """Return the part of a parameter outside of the blocks, None if it has no part in the stream."""
        return Part("embeds") if self.tied and path == self.head else self.outside.get(path)

    def gain(self, weight: Tensor) -> Tensor:  # float64 [d]
        """Return what a norm with this weight multiplies by."""
        return weight.double() + self.one_more

    def scale(self, last: Tensor) -> Tensor:  # float64 [d]
        """Return D; last: the weight of the last norm [d].

        Where the head is the embeddings, and what that norm multiplies by is positive, D is the root of it: then E D embeds, and
        E D (D x) predicts.
        """
        if not self.tied:
            return torch.ones_like(last, dtype=torch.float64)
        gain = self.gain(last)
        return (gain / gain.mean()).clamp_min(_LEAST).sqrt()


@dataclass(frozen=True)
class Coordinates:
    """The new coordinates of a stream."""

    stream: Stream
    turn: Tensor  # Q, float64 [d, k]
    scale: Tensor  # D, float64 [d]

    @property
    def left(self) -> int:
        """Return the number of coordinates."""
        return self.turn.shape[1]

    def tensor(
        self,
        part: Part,
        tensor: Tensor,
        gain: Tensor | None,  # float64 [d], what the part's norm multiplies by
        constant: float,  # what the norm multiplies by afterwards, of a part that scales
    ) -> Tensor:
        """Return a tensor in the new coordinates, in its dtype."""
        wide = tensor.double()
        if part.role == "scales":
            made = torch.full((self.left,), constant - self.stream.one_more, dtype=torch.float64)
        elif part.role == "embeds":
            made = (wide * self.scale) @ self.turn * self._root
        elif part.role == "reads":
            made = (wide * ((1.0 if gain is None else gain) / self.scale)) @ self.turn
        else:
            factor = self.scale * (1.0 if gain is None else gain)
            made = self.turn.T @ (factor[:, None] * wide if wide.dim() == 2 else factor * wide)
        return made.to(tensor.dtype)

    def constant(self, moment: Tensor, tokens: int, *, last: Tensor | None = None) -> float:
        """Return what a norm multiplies by afterwards, so that its outputs are as large as they were.

        moment: float [d, d], the sum of t tᵀ over the tokens, where t is D x / rms(x) for a norm of the stream x, and D y for one
        that puts out y for the stream. last: the weight of the last norm, if that is meant.
        """
        turn = self.turn.to(moment.dtype)
        mean = float(((moment @ turn) * turn).sum()) / (tokens * self.left)
        whole = 1.0
        if last is not None and self.stream.tied:  # D has the rest of the norm's weights; embeddings have the root
            whole = float(self.stream.gain(last).mean()) / self._root
        return math.sqrt(mean) * whole

    @property
    def _root(self) -> float:
        return math.sqrt(len(self.scale) / self.left) if self.stream.root else 1.0
