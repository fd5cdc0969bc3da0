"""The request behind `plan`: what a pruning would leave and take, before any weight is downloaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from langprune_cli import defaults
from langprune_cli.errors import UsageError
from langprune_cli.requests.shared.choice import PatternOptions
from langprune_cli.requests.shared.options import HubOptions, ModelOptions
from langprune_cli.requests.shared.run import running
from langprune_cli.requests.shared.values import at_least, several
from langprune_cli.requests.shared.vocabulary import planned_tokens, vocabulary_target

if TYPE_CHECKING:  # torch takes seconds to import, and a request that is wrong is refused before
    from langprune_cli.stages.plan.plan import Plan
    from langprune_cli.tokens.choice import VocabularyChoice


@dataclass(frozen=True, kw_only=True)
class PlanRequest(PatternOptions, ModelOptions, HubOptions):
    """Say what a pruning would leave: parameters, disk and memory, from the configuration alone. No weights are fetched.

    model, revision: a hub id, a folder, a config.json, "demo", or a model artifact; the workspace's own if left out
    pattern: "channels" if left out, "2:4", "kv-groups:0.125", "blocks", "vocab", ...; several of parts
    sparsity: the fraction removed; 0.5 if left out, of parts 0.1
    round_to, rounding: which numbers of channels stay: multiples of this, "down" or to the "nearest" (the option --round)
    coverage, vocab_size, keep_chat, stats: of "vocab", which tokens stay, and the counts that say so
    nsamples, seqlen: the windows that memory and time are estimated for
    cache_dir, trust_remote_code: how a model of the hub is opened
    """

    stats: str | None = None
    nsamples: int = defaults.NSAMPLES
    seqlen: int | None = None

    def check(self) -> None:
        """Raise UsageError for windows that cannot be drawn."""
        super().check()
        at_least("--nsamples", self.nsamples, 1)
        at_least("--seqlen", self.seqlen, 2)


@dataclass(frozen=True)
class PlanResult:
    """What would be left, and how long it takes here at the least."""

    plan: Plan
    vocabulary: VocabularyChoice | None  # which tokens would stay, where that was counted
    device: str
    flops_per_second: float  # that the device reaches in a large product

    @property
    def seconds(self) -> float:
        """What the operations of `prune` take at that rate."""
        return self.plan.costs.flops / self.flops_per_second

    def document(self) -> dict[str, object]:
        """Return the plan as --json shows it."""
        timed = {"flops_per_second": self.flops_per_second, "seconds": self.seconds, "device": self.device}
        return self.plan.document() | timed


def plan(request: PlanRequest) -> PlanResult:
    """Count what a pruning would leave."""
    with running(request) as run:
        from langprune_cli.stages.plan.cost import measured_rate  # noqa: PLC0415
        from langprune_cli.stages.plan.plan import find_config, plan, read_patterns  # noqa: PLC0415
        from langprune_cli.stages.structured.structures import Rounding, Structure  # noqa: PLC0415
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
            leaving = Structure(PATTERN.name, 0.0, VocabularyTarget(size=tokens))
            asked = replace(asked, structures=(*asked.structures, leaving), chat=chosen.chat if chosen else None)
        found = find_config(run.workspace, choice, run.compute)
        for note in found.notes:
            run.reporter.note(note)
        made = plan(
            found, asked, windows=request.nsamples, seqlen=request.seqlen, trust_remote_code=request.trust_remote_code
        )
        device = run.compute.torch_device()
        return PlanResult(made, chosen, str(device), measured_rate(made.dtype, device))
