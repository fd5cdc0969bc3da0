"""Weights for adding up statistics: each text's share of the sum, and the factor of its sums.

A weighted sum is T Σ_p w_p S_p / t_p over texts p with sums S_p over t_p tokens, where T = Σ t_p. So the mean per token is the
weighted mean, and tokens and windows stay counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from langprune_cli.errors import UsageError
from langprune_cli.store.artifact import Artifact

Per = Literal["token", "window"]


@dataclass(frozen=True)
class Weights:
    """Each text's share of the sum."""

    of: tuple[float, ...]  # one per artifact, above 0, with any sum
    per: Per = "token"

    def shares(self) -> tuple[float, ...]:
        """Return the weights scaled to a sum of 1, rounded to twelve digits, so that 7 and 3 become exactly 0.7 and 0.3."""
        return tuple(round(weight / sum(self.of), 12) for weight in self.of)


def in_order(parents: Sequence[Artifact], weights: Weights) -> tuple[Sequence[Artifact], Weights]:
    """Return both in the order of the parents' keys; raises UsageError for weights that do not fit the parents."""
    given = ", ".join(f"{weight:g}" for weight in weights.of)
    if len(weights.of) != len(parents):
        raise UsageError(f"--weights {given} has {len(weights.of)} for {len(parents)} artifacts: give one for each")
    shares = weights.shares() if all(0 < weight < math.inf for weight in weights.of) else ()
    if not shares or min(shares) <= 0:
        raise UsageError(f"--weights {given} cannot be shares of a sum: give numbers above 0, such as 0.7,0.3")
    pairs = sorted(zip(parents, shares, strict=True), key=lambda pair: pair[0].key)
    return [parent for parent, _ in pairs], Weights(tuple(share for _, share in pairs), weights.per)


def factors_of(tensors: dict[str, Tensor], parent: Artifact, share: float, per: Per) -> dict[str, tuple[float, float]]:
    """Return for each site of a block the text's weight, and that weight over its tokens: the factor of its sums.

    tensors: one block's part of `parent`.
    Per token the weight is the text's own. Per window it is multiplied by the tokens per window at the site, which differ only
    at
    experts: some languages reach them more often than others.
    """
    found = {}
    for name, tensor in tensors.items():
        site, _, what = name.rpartition("/")
        if what == "tokens":
            tokens = int(tensor)
            weight = share * tokens / parent.manifest.inputs["text"]["windows"] if per == "window" else share
            found[site] = weight, weight / tokens
    return found
