"""Observes the inputs of a block's linears, and sums column moments and Hessians once per input site."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor, nn

from langprune_cli.errors import LangpruneError
from langprune_cli.machine.team import ALONE, Team
from langprune_cli.models.streamed import Block, Linear
from langprune_cli.numerics.gram import add_gram, pack_upper, unpack_upper
from langprune_cli.numerics.moments import ColumnMoments
from langprune_cli.numerics.site import SiteStats
from langprune_cli.stages.statistics.parts import fitting
from langprune_cli.store.artifact import Artifact
from langprune_cli.store.manifest import Described
from langprune_cli.streaming.walk import EnoughSeen


@dataclass
class _Sums:
    moments: ColumnMoments
    hessian: Tensor | None  # float32 [i, i], upper triangle; None once it is packed
    linears: list[str] = field(default_factory=list)
    packed: Tensor | None = None  # float32 [i (i + 1) / 2]; only one form is kept, as Hessians are large

    @classmethod
    def zeros(cls, width: int, device: torch.device, *, hessian: bool) -> "_Sums":
        return cls(ColumnMoments.zeros(width, device), torch.zeros(width, width, device=device) if hessian else None)

    def add(self, x: Tensor) -> None:  # [t, i]
        self.moments.add(x)
        if self.hessian is not None:
            add_gram(self.hessian, x)

    def pack(self) -> None:
        if self.hessian is not None:
            self.packed, self.hessian = pack_upper(self.hessian), None


class StatsCollector:
    """Sums statistics of every input site, one block at a time.

    Linears that read the same tensor (q, k and v; gate and up) share a site, named after the first of them.
    """

    def __init__(self, *, hessian: bool, team: Team = ALONE) -> None:
        """Collect sums of squares and sums, and with `hessian` of x xᵀ. team: processes that each observe their own windows."""
        self._with_hessian = hessian
        self._team = team
        self._sums: dict[str, _Sums] = {}
        self._seen: list[
            tuple[Tensor, _Sums]
        ] = []  # tensors of the current forward pass, kept so that their memory is not
        # reused
        self._calls = 0  # of linears, in the current forward pass
        self._calls_in_all: int | None = None  # in a complete forward pass
        self._paused = False

    @contextmanager
    def watch(self, block: Block, *, inputs_only: bool = False) -> Iterator[None]:
        """Collect while the block's forward passes run inside this context.

        With `inputs_only`, for when nobody needs the outputs: the first forward pass counts the calls of linears, and
        EnoughSeen stops the others at the last call, before its product.
        """
        self._sums, self._calls_in_all = {}, None
        handles = [block.module.register_forward_pre_hook(self._new_forward)]
        handles += [linear.module.register_forward_pre_hook(self._hook(linear)) for linear in block.linears]
        if inputs_only and all(
            linear.expert is None for linear in block.linears
        ):  # with experts the number of calls varies
            handles.append(block.module.register_forward_hook(self._count))
        try:
            yield
        finally:
            self._seen = []
            for handle in handles:
                handle.remove()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what passes the block inside this context."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def _new_forward(self, _module: nn.Module, _args: object) -> None:
        self._seen, self._calls = [], 0

    def _count(self, _module: nn.Module, _args: object, _output: object) -> None:
        if not self._paused:
            self._calls_in_all = self._calls

    def _hook(self, linear: Linear) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def see(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if self._paused:
                return
            x = args[0]
            sums = next((sums for tensor, sums in self._seen if tensor is x), None)
            if sums is None:
                sums = self._sums.get(linear.name)
                if sums is None:
                    sums = self._sums[linear.name] = _Sums.zeros(x.shape[-1], x.device, hessian=self._with_hessian)
                sums.add(x.reshape(-1, x.shape[-1]))
                self._seen.append((x, sums))
            if linear.name not in sums.linears:
                sums.linears.append(linear.name)
            self._calls += 1
            if self._calls == self._calls_in_all:
                raise EnoughSeen

        return see

    def tensors(self, block: Block) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
        """Return the block's sums by "<site>/<statistic>" and each site's linears.

        They cover the windows of all processes. Raises LangpruneError if an activation was not finite.
        """
        if self._team.size > 1:
            self._all_reduce()
        tensors = {}
        for name, sums in self._sums.items():
            if not torch.isfinite(sums.moments.sum_sq).all():
                raise LangpruneError(
                    f"block {block.index}: the inputs of {name} are not finite: compute in another dtype, such as "
                    "--dtype float32, and check the checkpoint"
                )
            tensors[f"{name}/sum_sq"] = sums.moments.sum_sq.cpu()
            tensors[f"{name}/sum_x"] = sums.moments.sum_x.cpu()
            tensors[f"{name}/tokens"] = torch.tensor(sums.moments.tokens)
            sums.pack()
            if sums.packed is not None:
                tensors[f"{name}/hessian"] = sums.packed.cpu()
                sums.packed = None
        return tensors, {name: sums.linears for name, sums in self._sums.items()}

    def _all_reduce(self) -> None:
        """Replace the sums by those of all processes; a process has no sums for experts that its tokens did not reach."""
        mine = {
            name: (len(sums.moments.sum_sq), sums.moments.tokens, sums.linears) for name, sums in self._sums.items()
        }
        for name, width, tokens, linears in _all_sites(self._team.all_gather(mine)):
            device = next((sums.moments.sum_sq.device for sums in self._sums.values()), torch.device("cpu"))
            sums = self._sums.setdefault(name, _Sums.zeros(width, device, hessian=self._with_hessian))
            sums.pack()
            packed = [] if sums.packed is None else [sums.packed]
            self._team.all_reduce([sums.moments.sum_sq, sums.moments.sum_x, *packed])
            sums.moments.tokens, sums.linears = tokens, linears


def _all_sites(known: list[dict[str, tuple[int, int, list[str]]]]) -> Iterator[tuple[str, int, int, list[str]]]:
    """Yield (name, width, tokens of all processes, linears) of every site that any process saw, in the same order in all."""
    names = dict.fromkeys(name for sites in known for name in sites)
    for name in names:
        seen = [sites[name] for sites in known if name in sites]
        yield name, seen[0][0], sum(tokens for _, tokens, _ in seen), seen[0][2]


@dataclass(frozen=True)
class BlockStats:
    """One block's statistics: a part of a stats artifact, in memory."""

    tensors: dict[str, Tensor]  # by "<site>/<statistic>"
    sites: dict[str, list[str]]  # linears by site
    windows: int

    def tokens(self, site: str) -> int:
        """Return how many tokens a site saw."""
        return int(self.tensors[f"{site}/tokens"])

    def of(self, site: str) -> SiteStats:
        """Return the statistics of one site, with its Hessian unpacked."""
        packed = self.tensors.get(f"{site}/hessian")
        return SiteStats(
            self.tensors[f"{site}/sum_sq"],
            self.tensors[f"{site}/sum_x"],
            self.tokens(site),
            self.windows,
            None if packed is None else unpack_upper(packed),
        )


def read_block_stats(
    stats: Artifact, part: str, shapes: Mapping[str, tuple[int, int]] = MappingProxyType({})
) -> BlockStats:
    """Return the statistics of one block from an artifact.

    shapes: [o, i] of the model's linears, if known; the statistics must have the same widths.
    Raises LangpruneError as `Artifact.read` and `fitting` do.
    """
    tensors, record = stats.tensors_and_record(part)
    for site, linears in record.get("sites", {}).items():
        squares = tensors.get(f"{site}/sum_sq")
        own = squares.numel() if squares is not None else 0
        for i in dict.fromkeys(shapes[linear][1] if linear in shapes else own for linear in linears):
            fitting(stats, part, tensors, f"{site}/sum_sq", torch.float64, (i,))
            fitting(stats, part, tensors, f"{site}/sum_x", torch.float64, (i,))
            fitting(stats, part, tensors, f"{site}/tokens", torch.int64, ())
            if has_hessians(stats):
                fitting(stats, part, tensors, f"{site}/hessian", torch.float32, (i * (i + 1) // 2,))
    for linear, shape in shapes.items():
        if (drift := f"{linear}/drift") in tensors:
            fitting(stats, part, tensors, drift, torch.float32, (2, *shape))
    return BlockStats(tensors, record.get("sites", {}), stats.manifest.inputs["text"]["windows"])


def of_norms(manifest: Described) -> bool:
    """Return whether statistics hold column norms rather than token counts."""
    return "norms" in manifest.params["collect"]


def need_norms(what: str, stats: Artifact) -> None:
    """Raise LangpruneError if the statistics for `what` ("--method wanda") are token counts."""
    if not of_norms(stats.manifest):
        raise LangpruneError(
            f"{what} needs statistics of the model, and stats {stats.name} hold only token counts: run langprune "
            "calibrate without --collect tokens, or name others with --stats"
        )


def has_hessians(stats: Artifact) -> bool:
    """Return whether the statistics hold Hessians; they always hold norms."""
    return "hessian" in stats.manifest.params["collect"]
