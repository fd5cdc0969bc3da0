"""The request behind `prune`: removes tokens first, then blocks, then channels and groups, then weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from langprune_cli.defaults import PROPAGATIONS
from langprune_cli.errors import UsageError
from langprune_cli.requests.calibrate import WITHOUT_EFFECT
from langprune_cli.requests.recover import recovered_after
from langprune_cli.requests.shared import vocabulary
from langprune_cli.requests.shared.choice import ChoiceOptions, PrunedModelOptions
from langprune_cli.requests.shared.names import UPDATES, check_name
from langprune_cli.requests.shared.options import GatheringOptions, ModelOptions, TextOptions, WindowOptions
from langprune_cli.requests.shared.results import Made
from langprune_cli.requests.shared.run import running
from langprune_cli.requests.shared.steps import BlockStep, Given, WholeStep
from langprune_cli.requests.shared.structured import part_options
from langprune_cli.requests.shared.tuning import Tuning, tuned
from langprune_cli.requests.shared.values import at_least, one_or_none, several
from langprune_cli.requests.shared.weights import method_of, settings_of, solving_of

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from langprune_cli.requests.shared.run import Run
    from langprune_cli.requests.shared.steps import Step
    from langprune_cli.stages.solving.updating import PrunedLinear
    from langprune_cli.store.building import Outcome
    from langprune_cli.streaming.opened import OpenedModel
    from langprune_cli.types import TextSpec


@dataclass(frozen=True, kw_only=True)
class PruneRequest(TextOptions, ModelOptions, WindowOptions, ChoiceOptions, GatheringOptions, PrunedModelOptions):
    """Run stages 1 to 4 block by block: calibrate, choose, update, write. The defaults measured best.

    lang, data, corpus: the text to prune for, as for `calibrate`
    model, revision: a hub id, a folder, "demo", or a model artifact; by default the workspace's model
    nsamples, seqlen, seed, sampling: the number of windows, their length in tokens, and the seed and kind of the draw
    pattern: "unstructured" (the default), "2:4", "channels:0.1", "kv-groups", "blocks", "experts", "vocab", ...; several if
        structured
    sparsity: the fraction to remove, by default 0.5, or 0.1 if structured
    method: the method that chooses weights or parts; "admm" by default for weights
    round_to, rounding: keep a multiple of this number of channels, rounding "down" or to the "nearest" (the option --round)
    coverage, vocab_size, keep_chat, max_tokens: for "vocab", the tokens to keep, and the most tokens to count
    variant, group, ties, exclude, refine, allocation: for single weights
    update: the update of kept weights, by default the method's own
    damping, min_expert_tokens: settings of the solvers
    tune, epochs, learning_rate: train the kept weights afterwards, for this many epochs
    recover: then train the model end to end on this many tokens of the text, such as "2M", as `recover` does
    propagation: calibrate each block on the outputs of the "pruned" or the "dense" blocks before it, or "corrected": of the
        pruned ones, and make up for what they have lost; by default the method's own
    dtype, device, batch_tokens, max_memory, all_experts: how text runs through the model
    cache_dir, trust_remote_code: how to open models of the hub
    out, max_shard_size: a folder to write to outside of the workspace, and its largest file of weights
    text_only: of a model that reads images, write the text tower alone, as a causal language model
    name, force, dry_run: the artifacts' name, whether to make existing ones again, and whether only to plan
    """

    max_tokens: int | None = None
    update: str | None = None
    propagation: str | None = None

    def check(self) -> None:
        """Raise UsageError for unknown names and values out of range."""
        super().check()
        check_name("--update", self.update, UPDATES)
        at_least("--max-tokens", self.max_tokens, 1)
        one_or_none("--propagation", self.propagation, PROPAGATIONS)


@dataclass(frozen=True, repr=False)
class PruneResult(Made):
    """The artifacts of `prune`: the model first, then those behind it."""

    linears: tuple[
        PrunedLinear, ...
    ] = ()  # the result of each linear, in the order of the blocks; empty if no linear was pruned
    seconds: dict[int, float] = field(default_factory=dict)  # by block; empty if the model existed before


def prune(request: PruneRequest) -> PruneResult:
    """Run stages 1 to 4 for each step of the request."""
    with running(request) as run:
        chain = Chain(run, request)
        made = run.made(chain.make)
        return PruneResult(made.outcomes, made.planned, made.whole, chain.linears(), chain.seconds)


class Chain:
    """Prunes a model step by step, and keeps the artifacts of each step."""

    model: OpenedModel  # the input of the next step
    dense: OpenedModel  # the target of tuning

    def __init__(self, run: Run, request: PruneRequest) -> None:
        self.run = run
        self.request = request
        self.steps = steps_of(request)
        self.seconds: dict[int, float] = {}  # by block of the last step
        self.made: list[Outcome] = []  # the last model first
        self._stayed: tuple[int, ...] | None = None  # the dense model's kept blocks

    def make(self) -> list[Outcome]:
        """Run all steps, and return their artifacts, the last model first."""
        from langprune_cli.stages.structured.block_cut import blocks_that_stayed  # noqa: PLC0415
        from langprune_cli.streaming.model_choice import ModelChoice  # noqa: PLC0415

        given, last = self._open(), self.steps[-1]
        for step in self.steps:
            # The requested name and folder are for the last model.
            to = self.request.target if step is last and not self.request.is_trained else self.request.target.between
            made = step.make(given if step is last else replace(given, text_only=False), self.model, to)
            self.made = [made.model, *made.parents, *self.made]
            self.seconds = made.seconds
            stayed = self.run.team.first(partial(blocks_that_stayed, made.parents[-1].artifact))
            self._stayed = stayed or self._stayed
            if step is not last:
                self.model = self.run.open(ModelChoice(str(made.model.artifact.folder)))
            if not step.touches_blocks:  # it computes the same as before, and reads the same ids as later models
                self.dense = self.model
        return self._trained(given)

    def _open(self) -> Given:
        """Find texts and model; raises UsageError for unsuitable texts and options."""
        from langprune_cli.stages.apply.text_only import TextTower  # noqa: PLC0415
        from langprune_cli.stages.calibrate.calibrate import CalibrationSettings  # noqa: PLC0415
        from langprune_cli.structured_patterns.pattern import check_tunable, get_pattern  # noqa: PLC0415

        request = self.request
        tokens, tokens_alone = (has(not step.touches_blocks for step in self.steps) for has in (any, all))
        if request.max_tokens is not None and not tokens:
            raise UsageError("--max-tokens goes with --pattern vocab only: leave it out")
        if request.tune:
            check_tunable(get_pattern(each.removal.kind) for each in self.steps if isinstance(each, WholeStep))
        choice = self.run.choose(request.model, request.revision)
        specs = self.run.texts_of(request, choice)
        _check_texts(specs, several(request.lang), tokens=tokens, tokens_alone=tokens_alone)
        if tokens_alone:
            if request.is_trained:
                option = "--tune" if request.tune else "--recover"
                raise UsageError(f"{option} has nothing to train if only tokens leave: leave it out")
            without = (*WITHOUT_EFFECT, "--propagation")
            request.refuse_given(without, "counting tokens needs no windows and runs no model")
        self.model = self.dense = self.run.open(choice, remember=True)
        if request.text_only:
            TextTower.of(self.model)
        if request.min_expert_tokens is not None:
            self.model.require_experts("--min-expert-tokens")
        calibration = CalibrationSettings(
            nsamples=request.nsamples, seqlen=request.seqlen, seed=request.seed, sampling=request.sampling
        )
        solving = solving_of(request.damping, request.min_expert_tokens)
        how = one_or_none("--propagation", request.propagation, PROPAGATIONS)
        return Given(
            self.run, specs, calibration, request.max_tokens, solving, how, request.max_shard_bytes, request.text_only
        )

    def _trained(self, given: Given) -> list[Outcome]:
        """Tune the last model if requested, then recover it if requested, and return all artifacts."""
        request = self.request
        if request.tune:
            how = Tuning(self.dense, given.specs[0], given.calibration, self._stayed)
            pruned, most = self.made[0].artifact, request.max_shard_bytes
            to = request.target.between if request.recover else request.target
            tune = partial(tuned, self.run, how, pruned, request, max_shard_bytes=most, to=to)
            self.made = [self.run.team.first(tune), *self.made]
        if request.recover:
            self.made = [recovered_after(self.run, self.made[0].artifact, request, request), *self.made]
        return self.made

    def linears(self) -> tuple[PrunedLinear, ...]:
        """Return the result of each linear, if the last step pruned block by block."""
        from langprune_cli.stages.apply.model_writing import read_pruned  # noqa: PLC0415

        if self.run.planned or not self.steps[-1].updates:
            return ()
        pruned = self.made[0].artifact
        return self.run.team.first(lambda: tuple(read_pruned(pruned)))


def steps_of(request: PruneRequest) -> list[Step]:
    """Return the steps of a request; raises UsageError for options that do not go together."""
    from langprune_cli.stages.solving.choosing import WeightChooser  # noqa: PLC0415
    from langprune_cli.stages.structured.removals import Removal  # noqa: PLC0415
    from langprune_cli.structured_patterns.pattern import get_pattern, split_patterns  # noqa: PLC0415
    from langprune_cli.structured_patterns.vocab import PATTERN  # noqa: PLC0415

    tokens, patterns = vocabulary.vocabulary_target(several(request.pattern) or ["unstructured"], request)
    structured, single = split_patterns(patterns)
    rounds = not tokens or any((units := get_pattern(each).units) and units.rounds for each in structured)
    for_parts, for_weights = _methods(request.method, together=bool(structured and single))
    parts = part_options(
        structured, for_parts, request, sparsity=None if single else request.sparsity,
        round_to=request.round_to if rounds else None,
        of_weights={} if single else request.of_weights | {"--variant": request.variant},
    )  # fmt: skip
    steps: list[Step] = [WholeStep(Removal(PATTERN.name, 0.0, tokens))] if tokens else []
    if parts:
        steps += [WholeStep(each, None if parts.units else parts.method) for each in parts.wholes]
        steps += [BlockStep.of_units(parts, None if single else request.update)] if parts.units else []
    if single:
        settings = settings_of(request, single)
        chooser = WeightChooser.of(method_of(for_weights or "admm", settings, variant=request.variant), settings)
        steps.append(BlockStep.of_weights(chooser, request.update))
    elif not structured:
        _refuse_for_tokens(request)
    if request.update and not steps[-1].updates:
        raise UsageError(
            f"--update {request.update} goes with patterns of weights, channels or KV groups: leave it out"
        )
    return steps


def _refuse_for_tokens(request: PruneRequest) -> None:
    options = {"--method": request.method, "--update": request.update, "--sparsity": request.sparsity}
    for option, value in (options | request.of_weights).items():
        if value is not None:
            raise UsageError(f"{option} has no effect if only tokens leave: leave it out")
    if request.variant or request.tells_solvers:
        raise UsageError(
            "--variant, --damping and --min-expert-tokens have no effect if only tokens leave: leave them out"
        )


def _methods(method: str | None, *, together: bool) -> tuple[str | None, str | None]:
    """Return the methods for parts and for single weights; a name that only one kind knows is for that kind.

    together: whether both leave.
    """
    from langprune_cli.methods.method import methods  # noqa: PLC0415
    from langprune_cli.structured_patterns.pattern import structured_patterns  # noqa: PLC0415

    if not together:
        return method, method
    of_parts = any(method in each.methods() for each in structured_patterns().values())
    return (method if of_parts else None), (method if method in methods() or not of_parts else None)


def _check_texts(specs: list[TextSpec], lang: list[str], *, tokens: bool, tokens_alone: bool) -> None:
    """Raise UsageError for unsuitable texts: several are possible only if only tokens leave."""
    from langprune_cli.text.windows import is_given  # noqa: PLC0415

    if tokens_alone:
        if specs[0].parts:
            raise UsageError(f"counting tokens draws no windows: leave out the number of --lang {lang[0]}")
        return
    if len(specs) > 1:
        raise UsageError(
            f"prune takes one text at a time, and {len(specs)} were given: run it once for each, or mix them by giving each "
            f"a number of windows, as in --lang {lang[0] if lang else 'uk'}:96"
        )
    ids = [each.source for spec in specs for each in spec.singles if is_given(each.source)]
    if tokens and ids:
        raise UsageError(
            f"--data {ids[0]} holds ids of the whole vocabulary, and the pruned vocabulary has other ids: give text"
        )
