"""Stage 1, `calibrate`: run windows of text through the dense model and store the sums for scores."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypedDict

from langprune_cli.defaults import NSAMPLES
from langprune_cli.errors import LangpruneError
from langprune_cli.models.streamed import Block
from langprune_cli.numerics.site import Needs, Statistics
from langprune_cli.stages.statistics.collecting import StatsCollector
from langprune_cli.stages.statistics.experts import finish_stats
from langprune_cli.stages.statistics.parts import WINDOWS_PART, block_part
from langprune_cli.stages.statistics.recipe import stats_recipe
from langprune_cli.stages.statistics.routing import ROUTING, RoutingCollector, routing_tensors
from langprune_cli.store.artifact import Artifact, ArtifactWriter
from langprune_cli.store.building import Destination, Outcome, Reporter, run_stage
from langprune_cli.store.files import need_space
from langprune_cli.store.target import TARGET, Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.streaming.resuming import SavedStates
from langprune_cli.streaming.walk import tick_of_all, walk
from langprune_cli.text.budgets import mixed
from langprune_cli.text.sampling import TooFewDocumentsError
from langprune_cli.text.window_cache import kept_windows
from langprune_cli.text.windows import calibration_windows, fingerprint, is_given
from langprune_cli.types import TextSpec, Windows


@dataclass(frozen=True)
class CalibrationSettings:
    """The text to draw."""

    nsamples: int = NSAMPLES
    seqlen: int | None = None  # None: 2048, or the model's context if that is shorter
    seed: int = 0
    sampling: str | None = None  # None: "document" if the text has enough long documents, else "concat"
    collect: Statistics = "norms"
    shard: tuple[int, int] | None = None  # the i-th of n parts of the windows, counted from 1


def calibrate(
    workspace: Workspace,
    model: OpenedModel,
    specs: Iterable[TextSpec],
    settings: CalibrationSettings,
    reporter: Reporter,
    *,
    to: Target = TARGET,
) -> list[Outcome]:
    """Make one stats artifact for each text: sums of squares and sums in float64, and with `hessian` of x xᵀ in float32.

    Raises LangpruneError for text that cannot be read or is too little, and for activations that are not finite.
    """
    if model.compute.team.leads:  # the others get the recipe from it
        model.streamed.checkpoint.begin_hashes(on_record=False)
    texts = draw(model, list(specs), settings, reporter)
    if settings.shard:
        texts = [_shard(windows, *settings.shard) for windows in texts]
    return [
        calibrate_on(
            workspace,
            model,
            windows,
            settings.collect,
            reporter,
            to=replace(to, name=name_among(to.name, windows.spec, len(texts))),
        )
        for windows in texts
    ]


def calibrate_on(
    workspace: Workspace,
    model: OpenedModel,
    windows: Windows,
    collect: Statistics,
    reporter: Reporter,
    *,
    to: Target = TARGET,
) -> Outcome:
    """Make the stats artifact of windows that have been drawn; see `calibrate`."""
    make = partial(_collect, model=model, windows=windows, hessian=collect == "hessian", reporter=reporter)
    place = Destination.of(workspace, stats_name(windows.spec, collect), to)

    def size() -> int:
        blocks = range(len(model.streamed.blocks))
        return windows.ids.numel() * 4 + stats_bytes(model, blocks, hessian=collect == "hessian")

    recipe = model.compute.team.first(lambda: stats_recipe(model, windows, collect))
    return run_stage(recipe, place, make, size, model.compute.team)


def _shard(windows: Windows, part: int, parts: int) -> Windows:
    """Return every `parts`-th window from the `part`-th on, for processes that run independently.

    The parts' statistics add up to those of all windows (`combine stats`). Raises LangpruneError if a part would be empty.
    """
    if windows.count < parts:
        raise LangpruneError(f"{windows.count} windows cannot be split into {parts} shards: ask for fewer")
    ids = windows.ids[part - 1 :: parts]
    name = f"{windows.spec.name}-{part}-of-{parts}"
    return replace(
        windows,
        ids=ids,
        fingerprint=fingerprint(ids),
        spec=replace(windows.spec, name=name),
        shard=(part, parts, windows.count),
    )


def collect_for(needs: Needs) -> Statistics:
    """Return what to collect for these needs, at least norms."""
    return "hessian" if needs == "hessian" else "norms"


def name_among(name: str | None, spec: TextSpec, texts: int) -> str | None:
    """Return the artifact's name for one of several texts when the user gave one name for all: NAME-uk."""
    return name if name is None or texts == 1 else f"{name}-{spec.name}"


def stats_name(spec: TextSpec, collect: Statistics | Literal["tokens"]) -> str:
    """Return the default name of statistics."""
    return spec.name if collect == "norms" else f"{spec.name}-{collect}"


class _Settled(TypedDict):
    """The settings of drawing windows, besides the text and the tokenizer."""

    nsamples: int
    seqlen: int
    seed: int
    sampling: str
    vocab_size: int


def draw(model: OpenedModel, specs: list[TextSpec], settings: CalibrationSettings, reporter: Reporter) -> list[Windows]:
    """Return the windows of all texts, before any runs: a mistake in the last text must not cost the work on the first.

    Of several processes the first draws them, so texts are tokenized once, and other machines do not need them.
    """
    return model.compute.team.first(lambda: _drawn(model, specs, settings, reporter))


def _drawn(
    model: OpenedModel, specs: list[TextSpec], settings: CalibrationSettings, reporter: Reporter
) -> list[Windows]:
    drawn = [each for spec in specs for each in spec.singles if not is_given(each.source)]
    seqlen = model.seqlen(settings.seqlen, reporter) if drawn else 0
    vocab_size = model.streamed.config.get_text_config().vocab_size

    def draw_one(spec: TextSpec, nsamples: int) -> Windows:
        if settings.sampling is not None:
            return draw_by(settings.sampling, spec, nsamples)
        try:
            return draw_by("document", spec, nsamples)
        except TooFewDocumentsError as error:
            reporter.note(
                f"{spec.source} has {error.documents} document{'s' * (error.documents != 1)}, {error.found} of them longer than "
                f"{seqlen} tokens: too few for {nsamples} windows, so all documents are joined (--sampling concat)."
            )
            return draw_by("concat", spec, nsamples)

    def draw_by(sampling: str, spec: TextSpec, nsamples: int) -> Windows:
        settled = _Settled(
            nsamples=nsamples, seqlen=seqlen, seed=settings.seed, sampling=sampling, vocab_size=vocab_size
        )
        tokenizer = model.tokenizer if spec in drawn else None
        return kept_windows(
            spec,
            {"for": "calibration", "tokenizer": model.vocabulary, **settled},
            partial(calibration_windows, spec, tokenizer, **settled),
            reporter,
        )

    texts = []
    for spec in specs:
        parts = [draw_one(budget.spec, budget.windows) for budget in spec.parts]
        windows = mixed(spec, parts) if parts else draw_one(spec, settings.nsamples)
        model.check_windows(windows)
        for note in windows.notes:
            reporter.note(note)
        texts.append(windows)
    return texts


def _collect(
    writer: ArtifactWriter,
    *,
    model: OpenedModel,
    windows: Windows,
    hessian: bool,
    reporter: Reporter,
) -> Artifact:
    blocks, team = len(model.streamed.blocks), model.compute.team
    done = next((i for i in range(blocks) if not writer.has(block_part(i))), blocks)
    needed = windows.ids.numel() * 4 + stats_bytes(model, range(done, blocks), hessian=hessian)
    team.first(lambda: need_space(writer.folder, needed))
    if not writer.has(WINDOWS_PART):
        writer.write_tensors(WINDOWS_PART, {"windows": windows.ids})
    if done == blocks:
        return team.first(lambda: finish_stats(writer, model, reporter))
    saved = SavedStates(writer, model, windows)
    (states,), first = saved.start(done)
    if done:
        reporter.note(f"Resuming {writer.folder.name}: {done} of {blocks} blocks are on disk.")
    collector, routing = StatsCollector(hessian=hessian, team=team), RoutingCollector(team)

    def observe(block: Block) -> AbstractContextManager[object] | None:
        if block.index < done:
            return None
        stack = ExitStack()
        stack.enter_context(collector.watch(block, inputs_only=block.index + 1 == blocks))
        stack.enter_context(routing.watch(block))
        return stack

    reporter.begin(f"calibrate {writer.folder.name}", blocks, windows.ids.numel() * (blocks - first))
    tick = tick_of_all(team, reporter.tick)
    for block in walk(states, first=first, observe=observe, tick=tick, last_output=False):
        if block.index >= done:
            tensors, sites = collector.tensors(block)
            tensors |= routing_tensors(routing.of(block.index))
            writer.write_tensors(block_part(block.index), tensors, {"sites": sites}, single=ROUTING)
        saved.keep([states], block.index)
    reporter.end()
    return team.first(lambda: finish_stats(writer, model, reporter))


def stats_bytes(model: OpenedModel, blocks: Iterable[int], *, hessian: bool) -> int:
    """Return a lower bound on the bytes of some blocks' statistics: it is not yet known which linears share a site."""
    found = 0
    for index in blocks:
        sites = {(linear.expert, model.streamed.shape(linear)[1]) for linear in model.streamed.linears(index)}
        found += sum(16 * width + (2 * width * (width + 1) if hessian else 0) for _, width in sites)
    return found
