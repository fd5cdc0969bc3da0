"""The request behind `mask`: which weights, channels, KV groups, experts, blocks or tokens to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langprune_cli.errors import UsageError
from langprune_cli.requests.shared import vocabulary
from langprune_cli.requests.shared.choice import ChoiceOptions
from langprune_cli.requests.shared.inputs import newer_scores, stats_for
from langprune_cli.requests.shared.options import ModelOptions, OpeningOptions, TargetOptions
from langprune_cli.requests.shared.run import running
from langprune_cli.requests.shared.structured import part_options
from langprune_cli.requests.shared.values import several
from langprune_cli.requests.shared.weights import method_of, note_cost, settings_of
from langprune_cli.structured_patterns.pattern import Judged, get_pattern

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from collections.abc import Sequence

    from langprune_cli.methods.method import Method
    from langprune_cli.requests.shared.results import Made
    from langprune_cli.requests.shared.run import Run
    from langprune_cli.requests.shared.structured import PartOptions
    from langprune_cli.stages.mask.mask import MaskSource
    from langprune_cli.stages.solving.choosing import MaskSettings
    from langprune_cli.store.building import Outcome
    from langprune_cli.tokens.choice import VocabularyTarget


@dataclass(frozen=True, kw_only=True)
class MaskRequest(ChoiceOptions, ModelOptions, OpeningOptions, TargetOptions):
    """Choose what to keep of a model, one bit per weight; runs no forward pass.

    pattern: "unstructured" (the default), "2:4", "channels:0.1", "kv-groups", "blocks", "experts", "vocab"; several if structured
    sparsity: the fraction to remove, by default 0.5, or 0.1 if structured
    method: how to choose weights or parts, by default "wanda" for weights
    round_to, rounding: round kept channels to multiples of this, "down" or to the "nearest" (the option --round)
    coverage, vocab_size, keep_chat: for "vocab", which tokens to keep
    variant, group, ties, exclude, refine, allocation: for single weights
    damping, min_expert_tokens: settings of solvers
    stats, scores: the statistics or the scores to use, by default the newest that fit
    model, revision: the model, by default that of the statistics or scores
    device, cache_dir, trust_remote_code: how to open the model
    name, force, dry_run: the artifact's name, whether to make it again, and whether to make nothing
    """

    stats: str | None = None
    scores: str | None = None


def mask(request: MaskRequest) -> Made:
    """Make one mask."""
    with running(request) as run:
        target, patterns = vocabulary.vocabulary_target(several(request.pattern) or ["unstructured"], request)
        if target:
            _check_for_tokens(patterns, request)
            return run.made(lambda: [_of_tokens(run, request, target)])
        parts = part_options(
            patterns, request.method, request, sparsity=request.sparsity, round_to=request.round_to,
            of_weights=request.of_weights | {"--variant": request.variant, "--scores": request.scores},
        )  # fmt: skip
        if parts:
            return run.made(lambda: [_of_parts(run, request, parts)])
        return run.made(lambda: [_of_weights(run, request, patterns[0])])


def _check_for_tokens(others: Sequence[str], request: MaskRequest) -> None:
    """Raise UsageError for patterns and options that do not go with a mask of tokens."""
    if others:
        raise UsageError(
            f"tokens need a mask of their own: run mask and apply for them first, then for {others[0]} on that model, or all "
            "at once with langprune prune"
        )
    options = request.of_weights | {
        "--variant": request.variant,
        "--scores": request.scores,
        "--method": request.method,
        "--sparsity": request.sparsity,
        "--damping": request.damping,
        "--min-expert-tokens": request.min_expert_tokens,
        "--round": None if request.rounding == "down" else request.rounding,
    }
    for option, value in options.items():
        if value:
            raise UsageError(f"{option} has no use for --pattern vocab: leave it out")


def _of_tokens(run: Run, request: MaskRequest, target: VocabularyTarget) -> Outcome:
    counts = vocabulary.token_counts(run, request.stats)
    opened = run.open_named(request, counts)
    return vocabulary.masked(run, opened, counts, target, request.target)


def _of_parts(run: Run, request: MaskRequest, options: PartOptions) -> Outcome:
    from langprune_cli.stages.mask.mask import MaskSource, mask  # noqa: PLC0415
    from langprune_cli.stages.mask.whole import mask_whole  # noqa: PLC0415
    from langprune_cli.stages.structured.judged_on import JudgedOn  # noqa: PLC0415

    first, *others = *options.wholes, *options.units
    pattern = get_pattern(first.kind)
    if pattern.whole and others:
        raise UsageError(
            f"{first.kind} need a mask of their own: run mask and apply for them first, then for the rest on that model, or all "
            "at once with langprune prune"
        )
    if isinstance(pattern.leaves, Judged):
        method = options.method or pattern.method
        stats = stats_for(run, "norms", f"--method {method}", request.stats)
        opened = run.open_named(request, stats)
        assert stats is not None  # noqa: S101 - "norms" are never nothing
        judged_on = JudgedOn.of_stats(opened, stats, f"--method {method}")
        choosing = pattern.leaves.choosing(opened, judged_on, first, pattern.check_method(method), run.reporter)
        return mask_whole(run.workspace, opened, choosing, request.target)
    chosen = options.method_of_units()
    stats = stats_for(run, chosen.needs, f"--method {chosen.name}", request.stats)
    opened = run.open_named(request, stats)
    source = MaskSource(stats)
    return mask(run.workspace, opened, source, options.chooser(opened), run.reporter, to=request.target)


def _of_weights(run: Run, request: MaskRequest, pattern: str) -> Outcome:
    from langprune_cli.stages.mask.mask import mask  # noqa: PLC0415
    from langprune_cli.stages.solving.choosing import WeightChooser  # noqa: PLC0415

    settings = settings_of(request, pattern)
    source, method = _source(run, request, settings)
    opened = run.open_named(request, source.scores or source.stats)
    if request.min_expert_tokens is not None:
        opened.require_experts("--min-expert-tokens")
    chooser = WeightChooser.of(method, settings)
    note_cost(run, method.name, settings)
    return mask(run.workspace, opened, source, chooser, run.reporter, to=request.target)


def _source(run: Run, request: MaskRequest, settings: MaskSettings) -> tuple[MaskSource, Method]:
    """Return the basis of choice: scores if named or newer than all statistics, else statistics."""
    from langprune_cli.methods.method import get_method  # noqa: PLC0415
    from langprune_cli.numerics.site import most_needed  # noqa: PLC0415
    from langprune_cli.stages.mask.mask import MaskSource, source_of_scores  # noqa: PLC0415
    from langprune_cli.stages.solving.allocating import chosen_allocation  # noqa: PLC0415
    from langprune_cli.stages.solving.choosing import WeightChooser  # noqa: PLC0415

    method = method_of(request.method or "wanda", settings, variant=request.variant)
    named = request.stats or request.method or request.variant
    if request.scores:
        if named or request.tells_solvers:
            raise UsageError(
                "--scores already fixes --stats, --method, --variant, --damping and --min-expert-tokens: leave those out"
            )
        scores = run.workspace.find("scores", request.scores)
        return source_of_scores(run.workspace, scores), get_method(scores.manifest.params["method"])
    on_statistics = settings.refinement or settings.allocation != "uniform" or request.tells_solvers
    newest = None if named or on_statistics else newer_scores(run)
    if newest:
        return source_of_scores(run.workspace, newest), get_method(newest.manifest.params["method"])
    chooser = WeightChooser.of(method, settings)
    allocation = chosen_allocation(chooser)
    needs, what = chooser.needs, chooser.what
    if most_needed(allocation.needs, needs) != needs:
        needs, what = allocation.needs, f"--allocation {allocation.name}"
    return MaskSource(stats_for(run, needs, what, request.stats)), method
