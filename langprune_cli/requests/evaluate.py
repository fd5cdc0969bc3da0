"""The request behind `eval`: the models and masks to measure, and the texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.requests.shared.options import ForwardOptions, TargetOptions, TextOptions
from langprune_cli.requests.shared.results import Made
from langprune_cli.requests.shared.run import running
from langprune_cli.requests.shared.values import Names, Paths, at_least, several

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from collections.abc import Mapping, Sequence

    from langprune_cli.requests.shared.run import Run
    from langprune_cli.stages.evaluate.rows import PairRow, Row, SizeRow, SpeedRow, TaskRow
    from langprune_cli.stages.evaluate.subjects import Subject
    from langprune_cli.store.artifact import Artifact
    from langprune_cli.store.building import Outcome
    from langprune_cli.store.manifest import Manifest
    from langprune_cli.streaming.model_choice import ModelChoice
    from langprune_cli.streaming.opened import OpenedModel


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(TextOptions, ForwardOptions, TargetOptions):
    """Measure perplexity and bits per byte, dense beside pruned, with the interval of each change.

    lang, data, corpus: the texts, as in `calibrate`; not needed with `tasks` or `speed`
    model: a hub id, a folder, "demo", or a model artifact; several artifacts of one model are compared
    mask: masks to apply on the fly; without models and masks, the newest model or mask
    revision: of a hub model
    seqlen, max_windows: tokens per window, and the largest number of windows
    tasks: tasks of lm-evaluation-harness, names or .yaml files separated by commas
    load_bits: 4 or 8, to quantize every model on load
    speed, semi_structured: also measure tokens per second, and again with 2:4 linears in torch's semi-structured form
    dtype, device, batch_tokens, max_memory: how to run the models
    cache_dir, trust_remote_code: how to open a hub model
    name, force, dry_run: the artifact's name, whether to make it again, and whether to make nothing
    """

    model: Paths = ()
    revision: str | None = None
    mask: Names = ()
    seqlen: int | None = None
    max_windows: int | None = None
    tasks: str | None = None
    load_bits: int | None = None
    speed: bool = False
    semi_structured: bool = False

    @property
    def times(self) -> bool:
        """Whether to measure speed."""
        return self.speed or self.semi_structured

    @property
    def task_names(self) -> list[str]:
        """The tasks by name."""
        return [each for each in (part.strip() for part in (self.tasks or "").split(",")) if each]

    def check(self) -> None:
        """Raise UsageError for values that do not exist or do not go together."""
        super().check()
        at_least("--seqlen", self.seqlen, 2)
        at_least("--max-windows", self.max_windows, 1)
        if self.times and self.dry_run:
            named = "--semi-structured" if self.semi_structured else "--speed"
            raise UsageError(f"{named} measures, and --dry-run runs nothing: leave out one of them")
        if self.load_bits is not None:
            if self.load_bits not in (4, 8):
                raise UsageError(f"--load-bits {self.load_bits} is not supported by bitsandbytes: give 4 or 8")
            if beside := "--tasks" if self.tasks else "--speed" if self.times else None:
                raise UsageError(
                    f"--load-bits quantizes for perplexity, and {beside} runs models unquantized: leave out one of them"
                )
        if self.tasks is not None and not self.task_names:
            raise UsageError("--tasks names no task: give names of lm-evaluation-harness, separated by commas")


@dataclass(frozen=True, repr=False)
class Evaluated(Made):
    """The result of `eval`: the figures of its artifact, and speeds, which no artifact stores."""

    rows: tuple[Row, ...] = ()  # of each text, the dense model first
    compare: tuple[PairRow, ...] = ()  # every pair of pruned models, by text
    tasks: tuple[TaskRow, ...] | None = None  # None: no tasks requested
    sizes: tuple[SizeRow, ...] | None = None  # the change in size and perplexity of smaller models; None: only masks
    speed: tuple[SpeedRow, ...] | None = None  # None: not measured

    def document(self) -> dict[str, Sequence[Mapping[str, object]]]:
        """Return the figures for --json."""
        found: dict[str, Sequence[Mapping[str, object]] | None] = {
            "rows": self.rows,
            "compare": self.compare,
            "tasks": self.tasks,
            "sizes": self.sizes,
            "speed": self.speed,
        }
        return {name: rows for name, rows in found.items() if rows is not None}


@dataclass(frozen=True)
class Lineup:
    """What to evaluate: the dense model, pruned models with their lineages, and masks."""

    dense: ModelChoice
    named: bool  # whether the user named the dense model, which then becomes the workspace's
    chains: list[list[Artifact]]  # a pruned model, its source if that was pruned too, and so on
    masks: list[Artifact]

    def manifests(self, models: list[OpenedModel]) -> dict[str, list[Manifest]]:
        """Return label -> manifests of its chain, for each pruned model. models: opened, the dense one first."""
        return {
            opened.label: [each.manifest for each in chain]
            for opened, chain in zip(models[1:], self.chains, strict=True)
        }


def evaluate(request: EvaluateRequest) -> Evaluated:
    """Evaluate the dense model, then the pruned ones; with speed or tasks and no text, only those."""
    with running(request) as run:
        from langprune_cli.stages.evaluate.speeds import measured_speeds  # noqa: PLC0415

        bits = _bits(run, request)
        lineup = _lineup(run, request)
        tasks = _checked_tasks(request, lineup)
        lang, data = several(request.lang), several(request.data)
        no_text = not lang and not data and not request.corpus and (request.times or bool(tasks))
        specs = [] if no_text else run.resolve(lang, data, request.corpus, lineup.dense, evaluation=True)
        dense = run.open(lineup.dense, remember=lineup.named)
        models = [dense, *(run.open(type(lineup.dense)(str(chain[0].folder))) for chain in lineup.chains)]
        speed = None
        if request.times:
            speed = tuple(measured_speeds(models, run.reporter, semi_structured=request.semi_structured))
        if no_text and not tasks:
            run.workspace.run_starts()
            return Evaluated((), speed=speed)

        def make() -> list[Outcome]:
            from langprune_cli.stages.evaluate.evaluate import EvaluationSettings, evaluate  # noqa: PLC0415

            return [
                evaluate(
                    run.workspace, _subjects(models, lineup.masks, bits), specs, run.reporter,
                    EvaluationSettings(tasks, request.seqlen, request.max_windows), to=request.target,
                )
            ]  # fmt: skip

        return _figures(run, run.made(make), lineup, models, speed)


def _figures(
    run: Run, made: Made, lineup: Lineup, models: list[OpenedModel], speed: tuple[SpeedRow, ...] | None
) -> Evaluated:
    """Return the figures of an evaluation, or only its plan in a dry run."""
    from langprune_cli.stages.evaluate.earlier import read_result  # noqa: PLC0415
    from langprune_cli.stages.evaluate.rows import size_rows  # noqa: PLC0415
    from langprune_cli.stages.evaluate.ruined import ruined_notes  # noqa: PLC0415

    if made.planned is not None:
        return Evaluated(made.outcomes, made.planned, made.whole)
    result = read_result(made.artifact)
    chains = lineup.manifests(models)
    newest = {label: chain[0] for label, chain in chains.items()}
    for note in ruined_notes(result["rows"], newest | {each.name: each.manifest for each in lineup.masks}):
        run.reporter.note(note)
    return Evaluated(
        made.outcomes,
        rows=tuple(result["rows"]),
        compare=tuple(result["compare"]),
        tasks=tuple(result["tasks"]) if "tasks" in result else None,
        sizes=tuple(size_rows(result["rows"], chains)) if chains else None,
        speed=speed,
    )


def _lineup(run: Run, request: EvaluateRequest) -> Lineup:
    """Find the named models and masks, else the newest model or mask.

    Raises UsageError if more than one of several models is not a pruned model of the workspace, or if pruned models come from
    different ones.
    """
    from langprune_cli.stages.export.lineage import check_own_base, lineage  # noqa: PLC0415
    from langprune_cli.streaming.model_choice import model_artifact  # noqa: PLC0415

    model, workspace = several(request.model), run.workspace
    masks = [workspace.find("masks", each) for each in several(request.mask)]
    found = {each: model_artifact(workspace, each) for each in dict.fromkeys(model)}
    pruned = [each for each in found.values() if each]
    others = [each for each, artifact in found.items() if not artifact]
    if len(others) > 1:
        raise UsageError(
            f"--model {others[0]} and --model {others[1]}: all but one must be pruned models of the workspace, to be compared "
            f"with that one"
        )
    if not model and not masks:
        newest = workspace.newest("models", "masks")
        if newest:
            kind = newest.manifest.kind.removesuffix("s")
            run.reporter.note(f"Using {kind} {newest.name}.")
            (pruned if kind == "model" else masks).append(newest)
    chains = [lineage(workspace, each) for each in pruned]
    bases = {chain[-1].manifest.inputs["model"]: chain[0].name for chain in chains}
    if len(bases) > 1 and not others:
        first, second = list(bases.values())[:2]
        raise UsageError(f"{first} and {second} were made from different models: evaluate them one by one")
    if chains and not others:
        check_own_base(workspace, chains[0])
    made_from = chains[0][-1] if chains else masks[0] if masks else None
    dense = run.choose(others[0] if others else None, request.revision, made_from)
    return Lineup(dense, bool(others), chains, masks)


def _subjects(models: list[OpenedModel], masks: list[Artifact], bits: int | None) -> list[Subject]:
    """Return the models, then the masks, each with its model."""
    from langprune_cli.stages.evaluate.subjects import Subject  # noqa: PLC0415

    subjects = [Subject(opened, bits=bits) for opened in models]
    for each in masks:  # a mask may belong to the dense model, or to one pruned from it
        fits = [opened for opened in models if opened.digest == each.manifest.inputs["model"]]
        subjects.append(Subject(fits[0] if fits else models[0], each, bits))
    return subjects


def _bits(run: Run, request: EvaluateRequest) -> int | None:
    """Return the bits of --load-bits; raises LangpruneError without a quantizer."""
    if request.load_bits is not None:
        from langprune_cli.stages.evaluate.quantized import check_quantizer  # noqa: PLC0415

        check_quantizer(run.compute.torch_device())
    return request.load_bits


def _checked_tasks(request: EvaluateRequest, lineup: Lineup) -> list[str]:
    """Return the tasks of --tasks a,b; raises UsageError for unknown tasks, LangpruneError for masks or a missing harness."""
    names = request.task_names
    if names and lineup.masks:
        mask = lineup.masks[0].name
        raise LangpruneError(
            f"--tasks runs models from disk, and mask {mask} is applied on the fly: run langprune apply --mask "
            f"{mask}, then eval --model with the result"
        )
    if names:
        from langprune_cli.stages.evaluate.tasks import check_tasks  # noqa: PLC0415

        check_tasks(names)
    return names
