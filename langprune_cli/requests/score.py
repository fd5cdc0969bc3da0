"""The request behind `score`: the importance of each weight."""

from dataclasses import dataclass

from langprune_cli.requests.shared.inputs import stats_for
from langprune_cli.requests.shared.names import METHODS, check_name
from langprune_cli.requests.shared.options import ModelOptions, OpeningOptions, TargetOptions
from langprune_cli.requests.shared.results import Made
from langprune_cli.requests.shared.run import running


@dataclass(frozen=True, kw_only=True)
class ScoreRequest(ModelOptions, OpeningOptions, TargetOptions):
    """Write the importance of each weight, for `mask`, which otherwise computes the same scores itself.

    method: such as "wanda" or "ria"
    stats: the statistics to use, by default the newest that fit
    model, revision: the model, by default that of the statistics
    device, cache_dir, trust_remote_code: how to open the model
    name, force, dry_run: the artifact's name, whether to make it again, and whether to make nothing
    """

    method: str = "wanda"
    stats: str | None = None

    def check(self) -> None:
        """Raise LangpruneError for an unknown method."""
        super().check()
        check_name("--method", self.method, METHODS)


def score(request: ScoreRequest) -> Made:
    """Make one artifact of scores."""
    with running(request) as run:
        from langprune_cli.methods.method import get_method  # noqa: PLC0415
        from langprune_cli.stages.mask.score import score  # noqa: PLC0415

        method = get_method(request.method)
        stats = stats_for(run, method.needs, f"--method {request.method}", request.stats)
        opened = run.open_named(request, stats)
        return run.made(lambda: [score(run.workspace, opened, method, stats, run.reporter, to=request.target)])
