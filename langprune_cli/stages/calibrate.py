"""Stage 1, `calibrate`: run windows of text through the dense model and keep the sums that scores are made of."""

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial

from safetensors import SafetensorError

from langprune_cli.models.streamed import Block
from langprune_cli.stages.moments import MomentCollector
from langprune_cli.stages.opened import OpenedModel
from langprune_cli.stages.parts import WINDOWS_PART, block_part, text_identity
from langprune_cli.stages.run import Destination, Outcome, Reporter, run_stage
from langprune_cli.store.artifact import Artifact, ArtifactWriter, Recipe
from langprune_cli.store.files import need_space, new_file
from langprune_cli.store.workspace import Workspace
from langprune_cli.text.windows import calibration_windows, is_given
from langprune_cli.types import TextSpec, Windows
from langprune_cli.walk import HiddenStates, walk

# Hidden states are written when at least this much work would be lost without them.
_SAVE_AFTER_SECONDS = 120.0


@dataclass(frozen=True)
class CalibrationSettings:
    """What text to draw."""

    nsamples: int = 128
    seqlen: int | None = None  # None: 2048, or the model's context where that is shorter
    seed: int = 0
    sampling: str = "document"


def calibrate(
    workspace: Workspace,
    model: OpenedModel,
    specs: Iterable[TextSpec],
    settings: CalibrationSettings,
    reporter: Reporter,
    *,
    name: str | None = None,
    force: bool = False,
    save_after_seconds: float = _SAVE_AFTER_SECONDS,
) -> list[Outcome]:
    """Make one stats artifact for each text: column sums of squares and sums at every input site, in float64.

    Raises LangpruneError for text that cannot be read or is too little, and for activations that are not finite.
    """
    texts = _draw(model, list(specs), settings, reporter)
    outcomes = []
    for windows in texts:
        make = partial(_collect, model=model, windows=windows, reporter=reporter, save_after_seconds=save_after_seconds)
        to = Destination(workspace, windows.spec.name, name, force=force)
        outcomes.append(run_stage(stats_recipe(model, windows), to, make))
    return outcomes


def _draw(
    model: OpenedModel, specs: list[TextSpec], settings: CalibrationSettings, reporter: Reporter
) -> list[Windows]:
    """Return the windows of all texts, before any is run: a mistake in the last one is not to cost the work on the first."""
    drawn = [spec for spec in specs if not is_given(spec.source)]
    seqlen = model.seqlen(settings.seqlen, reporter) if drawn else 0
    texts = []
    for spec in specs:
        windows = calibration_windows(
            spec,
            model.tokenizer if spec in drawn else None,
            nsamples=settings.nsamples,
            seqlen=seqlen,
            seed=settings.seed,
            sampling=settings.sampling,
            vocab_size=model.streamed.config.get_text_config().vocab_size,
        )
        model.check_windows(windows)
        for note in windows.notes:
            reporter.note(note)
        texts.append(windows)
    return texts


def stats_recipe(model: OpenedModel, windows: Windows) -> Recipe:
    """Return the recipe of dense column norms of these windows."""
    spec = windows.spec
    return Recipe(
        "stats",
        inputs={"model": model.digest, "text": text_identity(windows)},
        params={
            "collect": ["norms"],
            "propagation": "dense",
            "dtype": str(model.streamed.dtype).removeprefix("torch."),
        },
        about={
            "model": model.about,
            "text": {
                "source": spec.source,
                "sampling": windows.sampling,
                "seed": windows.seed,
                "documents": windows.documents,
            },
            "blocks": len(model.streamed.blocks),
        },
        environment=model.environment(),
    )


def _collect(
    writer: ArtifactWriter, model: OpenedModel, windows: Windows, reporter: Reporter, save_after_seconds: float
) -> Artifact:
    blocks = len(model.streamed.blocks)
    done = next((i for i in range(blocks) if not writer.has(block_part(i))), blocks)
    need_space(writer.folder, windows.ids.numel() * 4 + (blocks - done) * 10_000)
    if not writer.has(WINDOWS_PART):
        writer.write_tensors(WINDOWS_PART, {"windows": windows.ids})
    if done == blocks:
        return writer.finish()
    states = HiddenStates(model.streamed, windows.ids, model.compute.batch_tokens)
    first = 0
    if writer.scratch.exists():
        with suppress(SafetensorError, KeyError, RuntimeError):  # damaged: the blocks before are run again
            first = states.restore(writer.scratch) + 1
        if first > done:  # a part that was finished then is damaged now
            states, first = HiddenStates(model.streamed, windows.ids, model.compute.batch_tokens), 0
    if done:
        reporter.note(f"Going on with {writer.folder.name}: {done} of {blocks} blocks are on disk.")
    collector = MomentCollector()

    def observe(block: Block) -> AbstractContextManager[object]:
        return collector.watch(block) if block.index >= done else nullcontext()

    reporter.begin(f"calibrate {writer.folder.name}", blocks, windows.ids.numel() * (blocks - first))
    saved = time.monotonic()
    for block in walk(states, first=first, observe=observe, tick=reporter.tick):
        if block.index >= done:
            tensors, sites = collector.tensors(block)
            writer.write_tensors(block_part(block.index), tensors, {"sites": sites})
        if time.monotonic() - saved > save_after_seconds and block.index + 1 < blocks:
            with new_file(writer.scratch) as temporary:
                states.save(temporary, block.index)
            saved = time.monotonic()
    reporter.end()
    return writer.finish()
