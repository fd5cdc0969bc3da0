"""Chooses which weights of a site to keep; shared by `mask` and `prune`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from langprune_cli.errors import UsageError
from langprune_cli.machine.threads import over_rows
from langprune_cli.methods.method import Method, get_method
from langprune_cli.models.streamed import Linear
from langprune_cli.numerics.patterns import Group, Pattern, Ties, keep_mask
from langprune_cli.numerics.site import Needs, Site, Solution, most_needed
from langprune_cli.refinements.refinement import Refinement
from langprune_cli.stages.statistics.sites import SOLVING, BlockSite, Solving, prunable
from langprune_cli.streaming.opened import OpenedModel


@dataclass(frozen=True)
class MaskSettings:
    """The settings of choosing weights."""

    pattern: Pattern
    group: Group | None = None  # None: the method's own
    ties: Ties | None = None  # None: the method's own
    exclude: str | None = None  # regular expression over checkpoint tensor names
    allocation: str = "uniform"
    refinement: Refinement | None = None
    solving: Solving = SOLVING


@dataclass(frozen=True)
class WeightChooser:
    """A method with matching settings."""

    method: Method
    settings: MaskSettings
    group: Group
    ties: Ties

    @classmethod
    def of(cls, method: Method, settings: MaskSettings) -> "WeightChooser":
        """Fill in the group and the ties; raises UsageError for settings without effect."""
        n_of_m = settings.pattern.m is not None
        if settings.group and (n_of_m or method.solve):
            reason = f"--pattern {settings.pattern}, which compares M inputs" if n_of_m else f"--method {method.name}"
            raise UsageError(f"--group {settings.group} does not go with {reason}: leave it out")
        group = settings.group or method.group
        if settings.ties and (n_of_m or group == "row"):
            raise UsageError(
                f"--ties {settings.ties} goes with --group layer only: the counts of rows and of N:M are exact"
            )
        return cls(method, settings, group, (settings.ties or method.ties) if group == "layer" else "exact")

    @property
    def needs(self) -> Needs:
        """Return the statistics that the method and the refinement need together."""
        refinement = self.settings.refinement
        return most_needed(self.method.needs, refinement.needs if refinement else "nothing")

    @property
    def what(self) -> str:
        """Return the option behind these needs, for messages."""
        refinement = self.settings.refinement
        if refinement and refinement.needs == self.needs:
            return f"--refine {refinement.name}"
        return f"--method {self.method.name}"

    def params(self) -> dict[str, object]:
        """Return the settings that change a mask, for its key."""
        settings, n_of_m = self.settings, self.settings.pattern.m is not None
        return {
            "method": self.method.name,
            "pattern": str(settings.pattern),
            "sparsity": settings.pattern.sparsity,
            "exclude": settings.exclude,
            **({} if n_of_m else {"group": self.group, "ties": self.ties}),
            **({"allocation": settings.allocation} if settings.allocation != "uniform" else {}),
            **({"refine": settings.refinement.name} if settings.refinement else {}),
            **settings.solving.params(self.needs),
        }

    def about(self) -> dict[str, object]:
        """Return requested settings outside of the key: none."""
        return {}

    @property
    def label(self) -> str:
        """Return a short name for artifacts."""
        refinement, allocation = self.settings.refinement, self.settings.allocation
        parts = [self.method.name, self.settings.pattern.slug]
        parts += [refinement.name] if refinement else []
        parts += [allocation] if allocation != "uniform" else []
        return "-".join(parts)

    def linears(self, model: OpenedModel, index: int) -> list[Linear]:
        """Return the linears of a block to prune; raises as `prunable` does."""
        return prunable(model, index, self.settings.exclude)

    def choose(
        self, _model: OpenedModel, _index: int, site: BlockSite, pattern: Pattern
    ) -> tuple[Tensor, Solution | None]:
        """See `choose_site`."""
        return self.choose_site(site.site, pattern)

    def choose_site(self, site: Site, pattern: Pattern) -> tuple[Tensor, Solution | None]:
        """Return the keep mask [r, i] and, for a joint method, the solution with its own update's weights."""
        seen = site.stats is not None or self.needs == "nothing"
        solution = self.method.solve(site, pattern) if self.method.solve and seen else None
        keep = solution.keep if solution else self._by_scores(site, pattern)
        if self.settings.refinement and seen:
            return self.settings.refinement.refine(site, keep, pattern), None
        return keep, solution

    def _by_scores(self, site: Site, pattern: Pattern) -> Tensor:
        keep = torch.empty(site.weight.shape, dtype=torch.bool, device=site.weight.device)
        for w, mask in zip(site.split(site.weight), site.split(keep), strict=True):

            def choose(rows: slice, w: Tensor = w, mask: Tensor = mask) -> None:
                mask[rows] = self.of_scores(score_of(self.method, w[rows], site), pattern)

            if self.method.by_rows and pattern.within_rows(self.group):
                over_rows(choose, w.shape, w.device)
            else:
                choose(slice(None))
        return keep

    def of_scores(self, score: Tensor, pattern: Pattern) -> Tensor:
        """Return the keep mask of one linear's scores, bool [o, i]."""
        return keep_mask(score, pattern, group=self.group, ties=self.ties)


def score_of(
    method: Method,
    w: Tensor,  # [o, i], of one linear
    site: Site,
) -> Tensor:  # float32 [o, i]
    """Return a method's scores, or magnitudes for an expert's linear without statistics."""
    known = site.stats is not None or method.needs == "nothing"
    return (method if known else get_method("magnitude")).score(w, site)
