"""`eval`: which models and masks on which texts, and how the figures are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from langprune_cli.cli.commands.speed_table import measured_speeds, show_speeds
from langprune_cli.cli.display.console import print_json
from langprune_cli.cli.display.matrix import print_evaluation, print_tasks
from langprune_cli.cli.display.results import print_outcomes, print_sizes, size_rows
from langprune_cli.cli.requests.options import COMPUTE, OUTPUT
from langprune_cli.cli.requests.session import Session, document
from langprune_cli.errors import LangpruneError, UsageError

if TYPE_CHECKING:  # torch takes seconds to import, and --help must not
    from langprune_cli.stages.evaluate.subjects import Subject
    from langprune_cli.store.artifact import Artifact
    from langprune_cli.streaming.opened import ModelChoice, OpenedModel

LoadBits = Annotated[
    int | None,
    typer.Option(
        help="Quantize every model on load, to 4 or 8 bits, with bitsandbytes (pip install '.\\[bnb]'): what is lost once "
        "quantized as well. Models are in memory whole then, and read window by window.",
        rich_help_panel=COMPUTE,
    ),
]
Speed = Annotated[
    bool,
    typer.Option(
        "--speed",
        help="Measure tokens per second and bytes as well, dense beside pruned; without --lang and --data only these.",
        rich_help_panel=OUTPUT,
    ),
]
SemiStructured = Annotated[
    bool,
    typer.Option(
        "--semi-structured",
        help="Measure as --speed does, and each model with 2:4 linears once more, with these as torch's semi-structured "
        "tensors. Needs CUDA with compute capability 8.0 or later; elsewhere a note says so.",
        rich_help_panel=OUTPUT,
    ),
]


@dataclass(frozen=True)
class Lineup:
    """What is to be evaluated: the dense model, pruned ones with what each was made from, and masks."""

    dense: ModelChoice
    named: bool  # whether the dense model was named, and is to become the workspace's
    chains: list[list[Artifact]]  # a pruned model, the one that it was made from where that was pruned too, and so on
    masks: list[Artifact]


def evaluate(
    session: Session, model: list[str], revision: str | None, mask: list[str], lang: list[str], data: list[str],
    corpus: str | None, *, tasks: str | None, seqlen: int | None, max_windows: int | None, load_bits: int | None,
    speed: bool, semi_structured: bool, name: str | None, force: bool,
) -> None:  # fmt: skip
    """Run stage 5: the dense model first, then the pruned ones; with `speed` or `tasks`, and without a text, only these."""
    speed = speed or semi_structured
    from langprune_cli.stages.evaluate.evaluate import evaluate as run  # noqa: PLC0415
    from langprune_cli.stages.evaluate.evaluate import read_result  # noqa: PLC0415
    from langprune_cli.stages.evaluate.ruined import ruined_notes  # noqa: PLC0415

    if speed and session.workspace.planned is not None:
        named = "--semi-structured" if semi_structured else "--speed"
        raise UsageError(f"{named} measures, and --dry-run runs nothing: leave out one of them")
    bits = _bits(session, load_bits, beside="--tasks" if tasks else "--speed" if speed else None)
    lineup = _lineup(session, model, revision, mask)
    of_tasks = _task_names(tasks, lineup)
    no_text = not lang and not data and not corpus and (speed or bool(of_tasks))
    specs = [] if no_text else session.resolve(lang, data, corpus, lineup.dense, evaluation=True)
    dense = session.open(lineup.dense, remember=lineup.named)
    models = [dense, *(session.open(type(lineup.dense)(str(chain[0].folder))) for chain in lineup.chains)]
    speeds = measured_speeds(session, models, semi_structured=semi_structured) if speed else []
    if no_text and not of_tasks:
        session.workspace.run_starts()
        show_speeds(speeds, json=session.json)
        return
    outcome = run(
        session.workspace, _subjects(models, lineup.masks, bits), specs, session.reporter, tasks=of_tasks, seqlen=seqlen,
        max_windows=max_windows, name=name, force=force,
    )  # fmt: skip
    if session.workspace.planned is not None:
        session.show([outcome])
        return
    session.workspace.run_starts()
    result = read_result(outcome.artifact)
    manifests = [[each.manifest for each in chain] for chain in lineup.chains]
    sizes = size_rows(
        result["rows"], {opened.label: chain for opened, chain in zip(models[1:], manifests, strict=True)}
    )
    made = {opened.label: chain[0] for opened, chain in zip(models[1:], manifests, strict=True)}
    for note in ruined_notes(result["rows"], made | {each.name: each.manifest for each in lineup.masks}):
        session.reporter.note(note)
    if session.json:
        more = ({"sizes": sizes} if manifests else {}) | ({"speed": speeds} if speed else {})
        print_json({"schema": 1, **document(outcome), **result, **more})
        return
    if result["rows"]:
        print_evaluation(result["rows"], result["compare"])
    print_sizes(sizes)
    if of_tasks:
        print_tasks(result["tasks"])
    if speed:
        show_speeds(speeds, json=False)
    print_outcomes([outcome])


def _lineup(session: Session, model: list[str], revision: str | None, mask: list[str]) -> Lineup:
    """Find what was named, else the newest model or mask.

    Raises UsageError where several models are named of which more than one is no pruned model of the workspace, or
    pruned ones of different models.
    """
    from langprune_cli.stages.export.lineage import check_own_base, lineage  # noqa: PLC0415
    from langprune_cli.streaming.opened import model_artifact  # noqa: PLC0415

    masks = [session.workspace.find("masks", each) for each in mask]
    found = {each: model_artifact(session.workspace, each) for each in dict.fromkeys(model)}
    pruned = [each for each in found.values() if each]
    others = [each for each, artifact in found.items() if not artifact]
    if len(others) > 1:
        raise UsageError(
            f"--model {others[0]} and --model {others[1]}: only one of several may be other than a pruned model of the "
            f"workspace, the one that these are compared with"
        )
    if not model and not masks:
        newest = session.workspace.newest("models", "masks")
        if newest:
            kind = newest.manifest.kind.removesuffix("s")
            session.reporter.note(f"Using {kind} {newest.name}.")
            (pruned if kind == "model" else masks).append(newest)
    chains = [lineage(session.workspace, each) for each in pruned]
    bases = {chain[-1].manifest.inputs["model"]: chain[0].name for chain in chains}
    if len(bases) > 1 and not others:
        first, second = list(bases.values())[:2]
        raise UsageError(f"{first} and {second} were made from different models: evaluate them one by one")
    if chains and not others:
        check_own_base(session.workspace, chains[0])
    made_from = chains[0][-1] if chains else masks[0] if masks else None
    dense = session.choose(others[0] if others else None, revision, made_from)
    return Lineup(dense, bool(others), chains, masks)


def _subjects(models: list[OpenedModel], masks: list[Artifact], bits: int | None) -> list[Subject]:
    """Return the models, then the masks, each with the model that it is of."""
    from langprune_cli.stages.evaluate.subjects import Subject  # noqa: PLC0415

    subjects = [Subject(opened, bits=bits) for opened in models]
    for each in masks:  # a mask may be of the model that was named, or of one that was pruned from it
        fits = [opened for opened in models if opened.digest == each.manifest.inputs["model"]]
        subjects.append(Subject(fits[0] if fits else models[0], each, bits))
    return subjects


def _bits(session: Session, bits: int | None, *, beside: str | None) -> int | None:
    """Return the bits of --load-bits; raises UsageError for what it does not go with, LangpruneError without a quantizer."""
    if bits is None:
        return None
    if bits not in (4, 8):
        raise UsageError(f"--load-bits {bits} is none of those that bitsandbytes quantizes to: give 4 or 8")
    if beside:
        raise UsageError(
            f"--load-bits quantizes for perplexity, and {beside} runs models as they are: leave out one of them"
        )
    from langprune_cli.stages.evaluate.quantized import check_quantizer  # noqa: PLC0415

    check_quantizer(session.compute.torch_device())
    return bits


def _task_names(tasks: str | None, lineup: Lineup) -> list[str]:
    """Return the tasks of --tasks a,b; raises UsageError for tasks unknown, LangpruneError without a harness, and for masks."""
    if tasks is None:
        return []
    names = [each for each in (part.strip() for part in tasks.split(",")) if each]
    if not names:
        raise UsageError("--tasks names no task: give names of lm-evaluation-harness, with commas between")
    if lineup.masks:
        mask = lineup.masks[0].name
        raise LangpruneError(
            f"--tasks runs models as they lie on disk, and mask {mask} is applied on the fly: run langprune apply --mask "
            f"{mask}, then eval --model with what it made"
        )
    from langprune_cli.stages.evaluate.tasks import check_tasks  # noqa: PLC0415

    check_tasks(names)
    return names
