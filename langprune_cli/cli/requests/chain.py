"""`prune`: tokens leave first, then blocks, then channels and groups, then single weights, each from the model before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langprune_cli.cli.requests import structured, vocabulary
from langprune_cli.cli.requests.pruning import (
    method_of,
    note_cost,
    of_weights,
    settings_of,
    solving_given,
    solving_of,
)
from langprune_cli.cli.requests.session import Session, one_of, size_in_bytes
from langprune_cli.cli.requests.structured import UnitOptions, unit_options
from langprune_cli.cli.requests.tuning import TuneOptions, target_of, tune_options, tuned
from langprune_cli.errors import UsageError
from langprune_cli.requests.calibrate import WITHOUT_EFFECT

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not
    from collections.abc import Collection

    from langprune_cli.stages.calibrate.calibrate import CalibrationSettings
    from langprune_cli.stages.prune.prune import Pruning
    from langprune_cli.stages.solving.choosing import Chooser
    from langprune_cli.stages.solving.unit_choosing import AnyChooser
    from langprune_cli.store.building import Outcome
    from langprune_cli.streaming.opened import OpenedModel
    from langprune_cli.tokens.choice import VocabularyTarget
    from langprune_cli.types import TextSpec


@dataclass(frozen=True)
class Steps:
    """What is to leave, kind by kind."""

    tokens: VocabularyTarget | None
    parts: UnitOptions | None
    weights: Chooser | None
    update: str | None  # of the last step; None: what belongs to its method

    def __post_init__(self) -> None:
        """Raise UsageError where an update has nothing to update."""
        if self.update and not self.weights and not (self.parts and self.parts.units):
            raise UsageError(f"--update {self.update} is for weights that stay in the blocks: leave it out")

    @property
    def tokens_alone(self) -> bool:
        """Return whether nothing but tokens is to leave."""
        return not self.parts and not self.weights


@dataclass
class Chain:
    """A model that becomes smaller step by step, and what is made on the way."""

    session: Session
    model: OpenedModel
    specs: list[TextSpec]
    calibration: CalibrationSettings
    propagation: Any  # "pruned" or "dense"
    max_shard_bytes: int
    to: dict[str, Any]  # name, out and force of the last model
    tune: TuneOptions | None
    made: list[Outcome] = field(default_factory=list)  # the model that was made last first

    def __post_init__(self) -> None:
        """Remember the model that the last one is to imitate where it is tuned."""
        self._dense = self.model
        self._stayed: tuple[int, ...] | None = None  # its blocks that are left

    def _target(self, *, last: bool) -> dict[str, Any]:
        """Return where a step's model goes: the name and folder that were asked for are the last one's."""
        return target_of(self.to, self.tune) if last else {"name": None, "out": None, "force": self.to["force"]}

    def without_tokens(self, target: VocabularyTarget, max_tokens: int | None, *, last: bool) -> None:
        """Let tokens leave."""
        specs = [each for spec in self.specs for each in spec.singles]
        self.model, made = vocabulary.without_tokens(
            self.session, self.model, specs, target, max_tokens=max_tokens, max_shard_bytes=self.max_shard_bytes,
            **self._target(last=last),
        )  # fmt: skip
        self.made = [*made, *self.made]
        self._dense = self.model  # what stays of it computes what it did, and reads the same ids as those after it

    def without_blocks(self, parts: UnitOptions, *, last: bool) -> None:
        """Let blocks leave, where some are to."""
        from langprune_cli.stages.structured.cutting import blocks_that_stayed  # noqa: PLC0415

        self.model, made = structured.without_blocks(
            self.session, self.model, self.specs[0], self.calibration, parts, max_shard_bytes=self.max_shard_bytes,
            **self._target(last=last),
        )  # fmt: skip
        if made:
            self._stayed = blocks_that_stayed(made[-1].artifact)
        self.made = [*made, *self.made]

    def pruned(self, chooser: AnyChooser, settings: Any, *, last: bool) -> Pruning:  # noqa: ANN401 - ApplySettings
        """Prune what the chooser says, block by block."""
        from langprune_cli.stages.prune.prune import PruneSettings, prune  # noqa: PLC0415
        from langprune_cli.streaming.opened import ModelChoice  # noqa: PLC0415

        how = PruneSettings(chooser, settings, self.calibration, self.propagation)
        session = self.session
        made = prune(session.workspace, self.model, self.specs[0], how, session.reporter, **self._target(last=last))
        self.made = [made.model, *made.parents, *self.made]
        if not last:
            self.model = session.open(ModelChoice(str(made.model.artifact.folder)))
        return made

    def tuned(self) -> list[Outcome]:
        """Return all that was made, the last model tuned where it is to be."""
        if self.tune is None:
            return self.made
        last = tuned(
            self.session, self._dense, self.made[0].artifact, self.specs[0], self.calibration, self.tune,
            blocks=self._stayed, **self.to,
        )  # fmt: skip
        return [last, *self.made]


def prune(
    session: Session, model: str | None, revision: str | None, lang: list[str], data: list[str], corpus: str | None, *,
    propagation: str, max_shard_size: str, calibration: dict[str, Any], training: dict[str, Any], max_tokens: int | None,
    to: dict[str, Any], given: Collection[str], **choice: Any,  # noqa: ANN401 - of `_steps`
) -> None:  # fmt: skip
    """Run stages 1 to 4, for each kind of part that is to leave. given: the options that stood on the command line."""
    from langprune_cli.stages.apply.apply import ApplySettings  # noqa: PLC0415
    from langprune_cli.stages.calibrate.calibrate import CalibrationSettings  # noqa: PLC0415

    propagated: Any = one_of("--propagation", propagation, ("pruned", "dense"))
    steps = _steps(choice)
    if max_tokens is not None and not steps.tokens:
        raise UsageError("--max-tokens goes with --pattern vocab only: leave it out")
    model_choice = session.choose(model, revision)
    specs = session.texts(lang, data, corpus, model_choice, given=given)
    _check_texts(specs, steps, lang)
    shard = size_in_bytes("--max-shard-size", max_shard_size)
    tune = tune_options(**training, max_shard_bytes=shard)
    if tune and steps.tokens_alone:
        raise UsageError("--tune has nothing to train where tokens alone leave: leave it out")
    if steps.tokens_alone and (needless := [each for each in (*WITHOUT_EFFECT, "--propagation") if each in given]):
        raise UsageError(
            f"tokens are counted without windows and without running a model: leave out {', '.join(needless)}"
        )
    opened = session.open(model_choice, remember=True)
    if choice["min_expert_tokens"] is not None:
        opened.require_experts("--min-expert-tokens")
    chain = Chain(session, opened, specs, CalibrationSettings(**calibration), propagated, shard, to, tune)
    parts, weights, solving = steps.parts, steps.weights, solving_of(choice)
    if steps.tokens:
        chain.without_tokens(steps.tokens, max_tokens, last=steps.tokens_alone)
    pruned = None
    if weights and (steps.update or weights.method.update) == "none":
        note_cost(session, weights.method.name, weights.settings)
    if parts:
        chain.without_blocks(parts, last=not parts.units and not weights)
    if parts and parts.units:
        units = parts.chooser(chain.model)
        update = units.method.update if weights else steps.update or units.method.update
        pruned = chain.pruned(units, ApplySettings(update, solving, shard), last=not weights)
    if weights:
        update = steps.update or weights.method.update
        pruned = chain.pruned(weights, ApplySettings(update, solving, shard), last=True)
    _show(session, chain, pruned)


def _show(session: Session, chain: Chain, pruned: Pruning | None) -> None:
    from langprune_cli.cli.display.results import print_pruned  # noqa: PLC0415
    from langprune_cli.stages.apply.model_writing import read_pruned  # noqa: PLC0415

    if pruned is None or session.workspace.planned is not None:
        session.show(chain.tuned())
        return
    linears = read_pruned(pruned.model.artifact)
    if not session.json:
        print_pruned(linears, pruned.seconds)
    blocks = [{"block": block, "seconds": round(seconds, 3)} for block, seconds in pruned.seconds.items()]
    session.show(chain.tuned(), layers=[vars(each) for each in linears], blocks=blocks)


def _steps(choice: dict[str, Any]) -> Steps:
    """Return what is to leave, and how it is chosen; raises UsageError for what does not go together."""
    from langprune_cli.stages.solving.choosing import Chooser  # noqa: PLC0415
    from langprune_cli.stages.structured.structures import split_patterns  # noqa: PLC0415

    update = choice.pop("update")
    patterns = choice.pop("pattern") or ["unstructured"]
    method, variant, rounding = (choice.pop(each) for each in ("method", "variant", "rounding"))
    sizes = {each: choice.pop(each) for each in ("coverage", "vocab_size", "keep_chat")}
    round_to = choice.pop("round_to")
    tokens, patterns = vocabulary.vocabulary_target(patterns, **sizes, round_to=round_to)
    structures, singles = split_patterns(patterns)
    if len(singles) > 1:
        raise UsageError(f"--pattern {' and --pattern '.join(singles)} are both about single weights: give one of them")
    own_round = round_to if not tokens or any(each.startswith("channels") for each in structures) else None
    for_parts, for_weights = _methods(method, structures, singles)
    parts = unit_options(
        structures, None if singles else choice["sparsity"], for_parts, round_to=own_round, rounding=rounding,
        solving=solving_of(choice), of_weights={} if singles else of_weights(choice) | {"--variant": variant},
    )  # fmt: skip
    weights = None
    if singles:
        settings = settings_of(pattern=singles[0], **choice)
        weights = Chooser.of(method_of(for_weights or "admm", settings, variant=variant), settings)
    elif not structures:
        _refuse_for_tokens(
            {"--method": method, "--update": update, "--sparsity": choice["sparsity"], **of_weights(choice)}
        )
        if variant or solving_given(choice):
            raise UsageError(
                "--variant, --damping and --min-expert-tokens have no use where tokens alone leave: leave them out"
            )
    return Steps(tokens, parts, weights, update)


def _refuse_for_tokens(options: dict[str, Any]) -> None:
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option} has no use where tokens alone leave: leave it out")


def _methods(method: str | None, structures: list[str], singles: list[str]) -> tuple[str | None, str | None]:
    """Return the methods for parts and for single weights: a name that only one of them has is for that one."""
    from langprune_cli.depth_methods.method import depth_methods  # noqa: PLC0415
    from langprune_cli.methods.method import methods  # noqa: PLC0415
    from langprune_cli.unit_methods.method import unit_methods  # noqa: PLC0415

    if not (structures and singles):
        return method, method
    of_parts = method in unit_methods() or method in depth_methods()
    return (method if of_parts else None), (method if method in methods() or not of_parts else None)


def _check_texts(specs: list[TextSpec], steps: Steps, lang: list[str]) -> None:
    """Raise UsageError for texts that will not do: several are taken only where tokens alone leave."""
    from langprune_cli.text.windows import is_given  # noqa: PLC0415

    if steps.tokens_alone:
        if specs[0].parts:
            raise UsageError(f"no windows are drawn where tokens alone leave: leave out the number of --lang {lang[0]}")
        return
    if len(specs) > 1:
        raise UsageError(
            f"prune works on one text at a time, and {len(specs)} were given: run it once for each, or say how many windows "
            f"of each make one text, as in --lang {lang[0] if lang else 'uk'}:96"
        )
    ids = [each.source for spec in specs for each in spec.singles if is_given(each.source)]
    if steps.tokens and ids:
        raise UsageError(
            f"--data {ids[0]} holds ids of the whole vocabulary, which the smaller one does not have: give text"
        )
