"""Weights of statistics that are added up: what share of the sum each text has, and what its sums are multiplied with.

A weighted sum is T Σ_p w_p S_p / t_p over texts p with sums S_p over t_p tokens, T being Σ t_p: so the mean per token is the
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
    """What share of the sum each text has."""

    of: tuple[float, ...]  # one for each artifact, above 0, of any sum
    per: Per = "token"

    def shares(self) -> tuple[float, ...]:
        """Return them with the sum 1; in twelve digits, so that 7 and 3 are 0.7 and 0.3 whatever floats make of it."""
        return tuple(round(weight / sum(self.of), 12) for weight in self.of)


def in_order(parents: Sequence[Artifact], weights: Weights) -> tuple[Sequence[Artifact], Weights]:
    """Return both in the order of the parents' keys; raises UsageError for weights that do not fit the parents."""
    given = ", ".join(f"{weight:g}" for weight in weights.of)
    if len(weights.of) != len(parents):
        raise UsageError(f"--weights {given} are {len(weights.of)} for {len(parents)} artifacts: give one for each")
    shares = weights.shares() if all(0 < weight < math.inf for weight in weights.of) else ()
    if not shares or min(shares) <= 0:
        raise UsageError(f"--weights {given} are not shares of a sum: give numbers above 0, such as 0.7,0.3")
    pairs = sorted(zip(parents, shares, strict=True), key=lambda pair: pair[0].key)
    return [parent for parent, _ in pairs], Weights(tuple(share for _, share in pairs), weights.per)


def factors_of(tensors: dict[str, Tensor], parent: Artifact, share: float, per: Per) -> dict[str, tuple[float, float]]:
    """Return for each site of a block the weight of a text there, and that over its tokens: the factor of the text's sums.

    tensors: one block's part of `parent`.
    Per token the weight is the text's own. Per window it is that times the tokens which one of its windows brings to the
    site: the same everywhere but at experts, which some languages reach more often than others.
    """
    found = {}
    for name, tensor in tensors.items():
        site, _, what = name.rpartition("/")
        if what == "tokens":
            tokens = int(tensor)
            weight = share * tokens / parent.manifest.inputs["text"]["windows"] if per == "window" else share
            found[site] = weight, weight / tokens
    return found
