"""The request behind `calibrate`: the text, the model and the statistics to collect."""

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

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from langprune_cli.requests.shared.results import Made
    from langprune_cli.store.building import Outcome

COLLECTS = ("norms", "hessian", "tokens")
# Options for windows, or for running a model.
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
    """Run text through a model and store the norms of each linear's inputs: one artifact of statistics for each text.

    lang: one or several languages, such as "uk"; "uk:96" and "en:32" make one text of 96 and 32 windows
    data: files, folders or hub datasets, paired with `lang` in order; by default a known corpus of each language
    corpus: the source of each language's text, such as "wikipedia"
    model, revision: a hub id, a folder, "demo", or a model artifact; by default the workspace's
    nsamples, seqlen, seed, sampling: number of windows per text, tokens per window, random seed, and way of drawing
    collect: "norms", "hessian" (for sparsegpt, admm and the updates), or "tokens" (how often each token occurs)
    max_tokens: for "tokens", how many to count in each text
    shard: "i/n", the i-th of n parts of the windows
    dtype, device, batch_tokens, max_memory, all_experts: how to run the model
    cache_dir, trust_remote_code: how to open a hub model
    name, force, dry_run: the artifact's name, whether to make it again, and whether to make nothing
    """

    collect: str = "norms"
    max_tokens: int | None = None
    shard: str | None = None

    def check(self) -> None:
        """Raise UsageError for options that do not go with `collect`."""
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
        if request.collect == "tokens":  # no windows to share
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
    from langprune_cli.streaming.opened_tokenizer import open_tokenizer  # noqa: PLC0415

    choice = run.choose(request.model, request.revision)
    specs = run.texts_of(request, choice)
    if specs[0].parts:
        first = several(request.lang)[0]
        raise UsageError(
            f"--collect tokens draws no windows, but --lang {first} has a number of them: leave out the number"
        )
    opened = open_tokenizer(run.workspace, choice, run.compute, run.reporter)
    run.remember(choice, opened.location.about)
    most = MAX_TOKENS if request.max_tokens is None else request.max_tokens
    return count_tokens(run.workspace, opened, specs, run.reporter, max_tokens=most, to=request.target)
