"""The request behind `plan`: the size of a pruned model and the cost of pruning, before downloading weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from langprune_cli import defaults
from langprune_cli.errors import UsageError
from langprune_cli.requests.shared.choice import PatternOptions
from langprune_cli.requests.shared.names import ALLOCATIONS, check_name
from langprune_cli.requests.shared.options import HubOptions, ModelOptions
from langprune_cli.requests.shared.run import running
from langprune_cli.requests.shared.values import at_least, several, training_tokens
from langprune_cli.requests.shared.vocabulary import planned_tokens, vocabulary_target

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from langprune_cli.stages.plan.plan import Plan
    from langprune_cli.tokens.choice import VocabularyChoice


@dataclass(frozen=True, kw_only=True)
class PlanRequest(PatternOptions, ModelOptions, HubOptions):
    """Predict parameters, disk and memory of a pruned model from its configuration, without fetching weights.

    model, revision: a hub id, a folder, a config.json, "demo", or a model artifact; by default the workspace's
    pattern: "channels" (the default), "2:4", "kv-groups:0.125", "blocks", "experts", "vocab", ...; several if structured
    sparsity: the fraction to remove, by default 0.5, or 0.1 if structured
    round_to, rounding: round kept channels to multiples of this, "down" or to the "nearest" (the option --round)
    coverage, vocab_size, keep_chat, stats: for "vocab", which tokens to keep, and the token counts
    allocation: how sparsity of single weights is spread, for the estimate of time
    nsamples, seqlen: the windows for the estimate of memory and time
    recover: tokens to train the pruned model on, such as "2M": what each way of `recover` takes is predicted too
    cache_dir, trust_remote_code: how to open a hub model
    """

    allocation: str = "uniform"
    stats: str | None = None
    nsamples: int = defaults.NSAMPLES
    seqlen: int | None = None
    recover: str | None = None

    def check(self) -> None:
        """Raise UsageError for windows that cannot be drawn."""
        super().check()
        check_name("--allocation", self.allocation, ALLOCATIONS)
        at_least("--nsamples", self.nsamples, 1)
        at_least("--seqlen", self.seqlen, 2)
        if self.recover is not None:
            training_tokens("--recover", self.recover)


@dataclass(frozen=True)
class PlanResult:
    """The predicted size, and the least time of pruning on this machine."""

    plan: Plan
    vocabulary: VocabularyChoice | None  # the tokens to keep, if counts are known
    device: str
    flops_per_second: float  # the device's rate in a large product
    training_flops_per_second: float  # the same in the dtype that recovery computes in

    @property
    def seconds(self) -> float:
        """The time of `prune`'s operations at that rate."""
        return self.plan.costs.flops / self.flops_per_second

    def document(self) -> dict[str, object]:
        """Return the plan for --json."""
        timed = {"flops_per_second": self.flops_per_second, "seconds": self.seconds, "device": self.device}
        recovery = self.plan.recovery
        trained = {"recovery": recovery.document(self.training_flops_per_second)} if recovery else {}
        return self.plan.document() | timed | trained


def plan(request: PlanRequest) -> PlanResult:
    """Predict the size of a pruned model."""
    with running(request) as run:
        from langprune_cli.stages.plan.cost import measured_rate  # noqa: PLC0415
        from langprune_cli.stages.plan.plan import find_config, plan, read_patterns  # noqa: PLC0415
        from langprune_cli.stages.plan.recovery import RecoveryAsked  # noqa: PLC0415
        from langprune_cli.stages.solving.allocating import allocation_for  # noqa: PLC0415
        from langprune_cli.stages.structured.removals import Removal, Rounding  # noqa: PLC0415
        from langprune_cli.structured_patterns.vocab import PATTERN  # noqa: PLC0415
        from langprune_cli.tokens.choice import VocabularyTarget  # noqa: PLC0415

        target, patterns = vocabulary_target(several(request.pattern) or ["channels"], request)
        if request.stats and not target:
            raise UsageError(f"--stats {request.stats} goes with --pattern vocab only: leave it out")
        rounding = Rounding(None if target and not patterns else request.round_to, request.rounding == "nearest")
        choice = run.choose(request.model, request.revision)
        asked, chosen = read_patterns(patterns, request.sparsity, rounding), None
        if target:
            tokens, chosen = planned_tokens(run, choice, target, request.stats)
            leaving = Removal(PATTERN.name, 0.0, VocabularyTarget(size=tokens))
            asked = replace(asked, removals=(*asked.removals, leaving), chat=chosen.chat if chosen else None)
        if request.allocation != "uniform" and not asked.pattern:
            raise UsageError(
                f"--allocation {request.allocation} spreads single weights, and --pattern names none: leave it out, or add "
                "--pattern unstructured"
            )
        if asked.pattern:
            asked = replace(asked, allocation=allocation_for(request.allocation, asked.pattern))
        device = run.compute.torch_device()
        if request.recover:
            asked = replace(asked, recovery=RecoveryAsked(training_tokens("--recover", request.recover), device))
        found = find_config(run.workspace, choice, run.compute)
        for note in found.notes:
            run.reporter.note(note)
        made = plan(
            found, asked, windows=request.nsamples, seqlen=request.seqlen, trust_remote_code=request.trust_remote_code
        )
        rate = training = measured_rate(made.dtype, device)
        if made.recovery and made.recovery.dtype != made.dtype:
            training = measured_rate(made.recovery.dtype, device)
        return PlanResult(made, chosen, str(device), rate, training)
