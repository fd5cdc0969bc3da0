"""How fast this machine multiplies: the matrix products of a calibration with Hessians, and nothing else.

What `langprune calibrate --collect hessian` takes beyond these products is what its bookkeeping, the attention, the
norms and the disk cost.
"""

import time
from collections.abc import Callable

import torch

from langprune_cli.machine.precision import low_precision_inputs
from tests.benchmarks.speed_peers.setting import Setting

MICROBATCH = 2048  # tokens


def timed(products: Callable[[], object], times: int) -> float:
    """Return the seconds that `products` takes `times` times, after once to warm up."""
    products()
    begun = time.perf_counter()
    for _ in range(times):
        products()
    return time.perf_counter() - begun


def measure(setting: Setting) -> dict[str, float]:
    """Return seconds for all blocks and windows: `forward` of every linear, `hessians` as whole products of every site.

    Every block has weights of its own and every site an input of its own, as in a model: a loop over one matrix would
    find it in the cache.
    """
    tokens = setting.windows * setting.seqlen
    size = min(MICROBATCH, tokens)
    inputs = {width: torch.randn(size, width, dtype=torch.bfloat16) for width in set(setting.sites())}
    blocks = [[torch.randn(shape, dtype=torch.bfloat16) for shape in setting.linears()] for _ in range(setting.blocks)]

    def forward() -> None:
        for weights in blocks:
            for w in weights:
                torch.nn.functional.linear(inputs[w.shape[1]], w)

    seconds = timed(forward, times=tokens // size)
    sites = [inputs[width].float() for width in setting.sites()]
    sums = [torch.zeros(width, width) for width in setting.sites()]

    def hessians() -> None:
        for x, total in zip(sites, sums, strict=True):
            total.addmm_(x.t(), x)

    with low_precision_inputs(torch.bfloat16, torch.device("cpu")):  # which they once were
        return {"forward": seconds, "hessians": timed(hessians, times=tokens // size * setting.blocks)}
