"""The request behind `combine`: make one artifact from several of one kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from langprune_cli.errors import UsageError
from langprune_cli.requests.shared.options import HubOptions, ModelOptions, NamingOptions
from langprune_cli.requests.shared.run import running
from langprune_cli.requests.shared.values import Names, one_of, several

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from langprune_cli.requests.shared.results import Made

# Options of only one kind; masks also take those that open the model, for the shapes of its matrices.
_OF = {
    "stats": ("--weights", "--per"),
    "masks": ("--how", "--sparsity", "--model", "--revision", "--cache-dir", "--trust-remote-code"),
}
COMBINED = tuple(_OF)  # kinds of artifacts
PER: tuple[Literal["token", "window"], ...] = ("token", "window")


@dataclass(frozen=True, kw_only=True)
class CombineRequest(ModelOptions, HubOptions, NamingOptions):
    """Add up statistics of one model on several texts, or token counts; or make one keep mask from several.

    kind: "stats" or "masks"
    names: two or more artifacts
    weights, per: for statistics, each one's share, such as "0.7,0.3", of the mean over tokens ("token") or windows ("window")
    how: for masks, "and", "or", "vote", or "vote:K"
    sparsity: for masks, the exact fraction to remove, by default as `how` gives
    model, revision, cache_dir, trust_remote_code: for masks, the model, by default theirs, and how to open it
    name, force: the artifact's name, and whether to make it again
    """

    kind: str
    names: Names
    weights: str | None = None
    per: str = "token"
    how: str = "vote"
    sparsity: float | None = None

    @property
    def shares(self) -> tuple[float, ...] | None:
        """The weights as numbers."""
        if self.weights is None:
            return None
        try:
            return tuple(float(number) for number in self.weights.split(","))
        except ValueError as error:
            raise UsageError(
                f"--weights {self.weights!r} are not numbers separated by commas: write them as 0.7,0.3"
            ) from error

    def check(self) -> None:
        """Raise UsageError for options of the other kind."""
        super().check()
        one_of("KIND", self.kind, COMBINED)
        others = [each for kind, options in _OF.items() if kind != self.kind for each in options if each in self.given]
        if others:
            raise UsageError(f"combine {self.kind} has no use for {', '.join(others)}: leave it out")
        if self.kind == "stats":
            one_of("--per", self.per, PER)
            if self.shares is None and "--per" in self.given:
                raise UsageError(f"--per {self.per} needs --weights: add them, or leave it out")


def combine(request: CombineRequest) -> Made:
    """Make one artifact from several."""
    with running(request, device="cpu") as run:
        from langprune_cli.stages.combine.combine import combine_stats  # noqa: PLC0415
        from langprune_cli.stages.combine.combine_masks import combine_masks  # noqa: PLC0415
        from langprune_cli.stages.combine.weights import Weights  # noqa: PLC0415

        parents = [run.workspace.find(request.kind, each) for each in several(request.names)]
        if request.kind == "stats":
            weights = Weights(request.shares, one_of("--per", request.per, PER)) if request.shares is not None else None
            return run.made(
                lambda: [combine_stats(run.workspace, parents, run.reporter, weights=weights, to=request.target)]
            )
        opened = run.open(run.choose(request.model, request.revision, parents[0]))
        return run.made(
            lambda: [
                combine_masks(
                    run.workspace, opened, parents, request.how, run.reporter,
                    sparsity=request.sparsity, to=request.target,
                )
            ]
        )  # fmt: skip
