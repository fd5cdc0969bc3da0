"""Solves the sites of a block for `prune`; several processes share them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from langprune_cli.machine.team import Team
from langprune_cli.models.streamed import Linear
from langprune_cli.stages.solving.allocating import BlockPattern
from langprune_cli.stages.solving.unit_choosing import AnyChooser
from langprune_cli.stages.solving.updating import UpdatedLinear, finished, solution_of
from langprune_cli.stages.statistics.collecting import BlockStats
from langprune_cli.stages.statistics.sites import BlockSite, block_sites, named
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.updates.update import Update


@dataclass(frozen=True)
class Solver:
    """The settings of pruning a block."""

    chooser: AnyChooser
    update: Update
    pattern: BlockPattern

    def site(self, model: OpenedModel, index: int, site: BlockSite) -> "SolvedSite":
        """Choose and update the weights of one site of block `index`."""
        with named(site.name):
            keep, solution = self.pattern.choose(self.chooser, model, index, site)
            damping = site.site.damping_used  # of the choice; the update's own is recorded with the weights
            if solution is None or self.update.name != self.chooser.method.update:
                solution = solution_of(site.site, keep, self.update)
        masks = {linear.name: part.cpu() for linear, part in site.split(keep)}
        return SolvedSite(site.name, masks, finished(model, index, site, keep, solution), damping)

    def sites(self, model: OpenedModel, index: int, known: BlockStats | None) -> list["SolvedSite"]:
        """Solve the sites of a block, one in memory at a time, each in one of the run's processes."""
        if known is None or model.compute.team.size == 1:
            return self._solved(model, index, self.chooser.linears(model, index), known)
        return self._shared(model.compute.team, model, index, known)

    def _shared(self, team: Team, model: OpenedModel, index: int, known: BlockStats) -> list["SolvedSite"]:
        """Solve this process's sites, and return those of all processes."""
        owned = _owners(known, team.size)[team.rank]
        covered = {linear for linears in known.sites.values() for linear in linears}
        mine = {linear for name in owned for linear in known.sites[name]}
        linears = self.chooser.linears(model, index)
        # An expert without tokens has no site; the leader solves it.
        ours = [each for each in linears if each.name in mine or (team.leads and each.name not in covered)]
        part = BlockStats(known.tensors, {name: known.sites[name] for name in owned}, known.windows)
        found = [each for solved in team.all_gather(self._solved(model, index, ours, part)) for each in solved]
        place = {linear.name: number for number, linear in enumerate(linears)}
        return sorted(found, key=lambda each: place[next(iter(each.masks))])

    def _solved(
        self, model: OpenedModel, index: int, linears: Sequence[Linear], known: BlockStats | None
    ) -> list["SolvedSite"]:
        solving = self.chooser.settings.solving
        # Not a loop: its variable would keep a site in memory while the next one is made.
        return list(map(partial(self.site, model, index), block_sites(model, linears, known, solving)))


@dataclass(frozen=True)
class SolvedSite:
    """The solved linears of one site."""

    name: str
    masks: dict[str, Tensor]  # keep masks by linear, bool [o, i]
    updated: dict[str, UpdatedLinear]
    damping: float | None


def _owners(known: BlockStats, processes: int) -> list[list[str]]:
    """Return the sites of each process: the widest first, each to the process with the least work so far."""
    owned: list[list[str]] = [[] for _ in range(processes)]
    work = [0.0] * processes
    widths = {name: len(known.tensors[f"{name}/sum_sq"]) for name in known.sites}
    for name in sorted(widths, key=lambda each: -widths[each]):
        least = min(range(processes), key=work.__getitem__)
        owned[least].append(name)
        work[least] += float(widths[name]) ** 2 * (widths[name] + 1)
    return owned
