"""Watch what a block's linears read, and sum its column moments, once per input site."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.methods.method import SiteStats
from langprune_cli.models.streamed import Block, Linear
from langprune_cli.numerics.moments import ColumnMoments


@dataclass
class _Site:
    moments: ColumnMoments
    linears: list[str] = field(default_factory=list)


class MomentCollector:
    """Sums moments of every input site of the blocks that it watches, one block at a time.

    Linears that are given the very same tensor (q, k and v; gate and up) share a site, named after the first of them.
    """

    def __init__(self) -> None:
        self._sites: dict[str, _Site] = {}
        self._seen: list[tuple[Tensor, _Site]] = []  # tensors of the current forward, held so that none is reused

    @contextmanager
    def watch(self, block: Block) -> Iterator[None]:
        """Collect while the block's forwards run inside this context."""
        self._sites = {}
        handles = [block.module.register_forward_pre_hook(self._new_forward)]
        handles += [linear.module.register_forward_pre_hook(self._hook(linear)) for linear in block.linears]
        try:
            yield
        finally:
            self._seen = []
            for handle in handles:
                handle.remove()

    def _new_forward(self, _module: Any, _args: Any) -> None:  # noqa: ANN401 - a hook's signature
        self._seen = []

    def _hook(self, linear: Linear) -> Any:  # noqa: ANN401 - a hook
        def see(_module: Any, args: tuple[Tensor, ...]) -> None:  # noqa: ANN401 - a hook's signature
            x = args[0]
            site = next((site for tensor, site in self._seen if tensor is x), None)
            if site is None:
                site = self._sites.get(linear.name)
                if site is None:
                    site = self._sites[linear.name] = _Site(ColumnMoments.zeros(x.shape[-1], x.device))
                site.moments.add(x.reshape(-1, x.shape[-1]))
                self._seen.append((x, site))
            if linear.name not in site.linears:
                site.linears.append(linear.name)

        return see

    def tensors(self, block: Block) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
        """Return the block's sums by "<site>/<statistic>" and each site's linears.

        Raises LangpruneError when an activation was not finite.
        """
        tensors = {}
        for name, site in self._sites.items():
            if not torch.isfinite(site.moments.sum_sq).all():
                raise LangpruneError(
                    f"block {block.index}: the inputs of {name} are not finite: compute in another dtype, such as "
                    "--dtype float32, and check the checkpoint"
                )
            tensors[f"{name}/sum_sq"] = site.moments.sum_sq.cpu()
            tensors[f"{name}/sum_x"] = site.moments.sum_x.cpu()
            tensors[f"{name}/tokens"] = torch.tensor(site.moments.tokens)
        return tensors, {name: site.linears for name, site in self._sites.items()}


def linear_stats(tensors: dict[str, Tensor], sites: dict[str, list[str]], windows: int) -> dict[str, SiteStats]:
    """Return each linear's statistics from a stats part, the inverse of `MomentCollector.tensors`."""
    found: dict[str, SiteStats] = {}
    for site, linears in sites.items():
        stats = SiteStats(tensors[f"{site}/sum_sq"], tensors[f"{site}/sum_x"], int(tensors[f"{site}/tokens"]), windows)
        found |= dict.fromkeys(linears, stats)
    return found
