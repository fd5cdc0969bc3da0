"""The request behind `calibrate`: which text goes through which model, and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langprune_cli.defaults import MAX_TOKENS
from langprune_cli.errors import UsageError
from langprune_cli.requests.shared.options import (
    GatheringOptions,
    ModelOptions,
    TargetOptions,
    TextOptions,
    WindowOptions,
)
from langprune_cli.requests.shared.run import Run, running
from langprune_cli.requests.shared.values import at_least, one_of, several, shard_of

if TYPE_CHECKING:  # torch takes seconds to import, and a request that is wrong is refused before
    from langprune_cli.requests.shared.results import Made
    from langprune_cli.store.building import Outcome

COLLECTS = ("norms", "hessian", "tokens")
# Options that are about windows, or about running a model.
WITHOUT_EFFECT = (
    "--nsamples",
    "--seqlen",
    "--seed",
    "--sampling",
    "--dtype",
    "--device",
    "--batch-tokens",
    "--all-experts",
)


@dataclass(frozen=True, kw_only=True)
class CalibrateRequest(TextOptions, ModelOptions, WindowOptions, GatheringOptions, TargetOptions):
    """Run text through a model and keep the norms of what each linear reads: one artifact of statistics for each text.

    lang: languages, such as "uk", or several of them; "uk:96" and "en:32" make one text of so many windows each
    data: files, folders or hub datasets to read, paired with `lang` in order; a known corpus of each language if left out
    corpus: where the text of each language comes from, such as "wikipedia"
    model, revision: a hub id, a folder, "demo", or a model artifact; the workspace's own if left out
    nsamples, seqlen, seed, sampling: how many windows are drawn of each text, their tokens, the draw's seed, and how
    collect: "norms", "hessian" (what sparsegpt, admm and the updates need), or "tokens" (how often each token occurs)
    max_tokens: of "tokens", how many are counted of each text
    shard: "i/n", the i-th of n parts of the windows
    dtype, device, batch_tokens, max_memory, all_experts: how text goes through the model
    cache_dir, trust_remote_code: how a model of the hub is opened
    name, force, dry_run: the artifact's name, whether it is made again where it is there, and whether nothing is made
    """

    collect: str = "norms"
    max_tokens: int | None = None
    shard: str | None = None

    def check(self) -> None:
        """Raise UsageError for options that do not go with what is collected."""
        super().check()
        one_of("--collect", self.collect, COLLECTS)
        at_least("--max-tokens", self.max_tokens, 1)
        if self.collect == "tokens":
            self.refuse_given(WITHOUT_EFFECT, "--collect tokens runs no model and draws no windows")
        elif self.max_tokens is not None:
            raise UsageError("--max-tokens goes with --collect tokens: add it, or give --nsamples")
        shard_of(self.shard)


def calibrate(request: CalibrateRequest) -> Made:
    """Make one artifact of statistics for each text."""
    with running(request) as run:
        if request.collect == "tokens":  # there are no windows to share
            return run.made(lambda: run.team.first(lambda: _counted(run, request)))
        return run.made(lambda: _gathered(run, request))


def _gathered(run: Run, request: CalibrateRequest) -> list[Outcome]:
    from langprune_cli.stages.calibrate.calibrate import CalibrationSettings, calibrate  # noqa: PLC0415

    settings = CalibrationSettings(
        nsamples=request.nsamples,
        seqlen=request.seqlen,
        seed=request.seed,
        sampling=request.sampling,
        collect="hessian" if request.collect == "hessian" else "norms",
        shard=shard_of(request.shard),
    )
    choice = run.choose(request.model, request.revision)
    specs = run.texts_of(request, choice)
    opened = run.open(choice, remember=True)
    return calibrate(run.workspace, opened, specs, settings, run.reporter, to=request.target)


def _counted(run: Run, request: CalibrateRequest) -> list[Outcome]:
    from langprune_cli.stages.calibrate.token_counts import count_tokens  # noqa: PLC0415
    from langprune_cli.streaming.opened import open_tokenizer  # noqa: PLC0415

    choice = run.choose(request.model, request.revision)
    specs = run.texts_of(request, choice)
    if specs[0].parts:
        first = several(request.lang)[0]
        raise UsageError(f"--collect tokens draws no windows, and --lang {first} says how many: leave out the number")
    opened = open_tokenizer(run.workspace, choice, run.compute, run.reporter)
    run.remember(choice, opened.location.about)
    most = MAX_TOKENS if request.max_tokens is None else request.max_tokens
    return count_tokens(run.workspace, opened, specs, run.reporter, max_tokens=most, to=request.target)
