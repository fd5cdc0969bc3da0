"""Blockwise tuning: trains each pruned block to reproduce the output of the dense model's block.

AMD Quark's recovery step. The dense hidden states walk through the dense model and the others through the tuned blocks, with
one block of each in memory at a time, so each block also learns to correct the remaining errors of earlier blocks.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

from langprune_cli.errors import LangpruneError
from langprune_cli.records import About, Inputs, Params
from langprune_cli.stages.apply.apply import check_target
from langprune_cli.stages.recover.block_tuning import TuneSettings
from langprune_cli.stages.recover.tuning_run import Tuning
from langprune_cli.stages.statistics.parts import text_about, text_identity
from langprune_cli.store.artifact import PROVENANCE, Artifact, ArtifactWriter, Recipe
from langprune_cli.store.building import Destination, Outcome, Reporter, run_stage
from langprune_cli.store.manifest import MANIFEST
from langprune_cli.store.target import TARGET, Target
from langprune_cli.store.workspace import Workspace
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.types import Windows


@dataclass(frozen=True)
class Pair:
    """A pruned model and the dense one to imitate."""

    dense: OpenedModel
    pruned: OpenedModel  # of the same family and hidden size; sparse, narrower, or with fewer blocks
    blocks: Sequence[int] | None = (
        None  # the dense model's number of each pruned block, ascending; None: from the pruned
    )
    # model's record


def tune(
    workspace: Workspace,
    pair: Pair,
    windows: Windows,
    settings: TuneSettings,
    reporter: Reporter,
    *,
    to: Target = TARGET,
) -> Outcome:
    """Write the pruned model with each block's weights trained on `windows` to reproduce the dense hidden states.

    Weights and biases of the blocks' linears are trained, and zero weights stay zero; norms, embeddings and head keep their
    bytes. A
    block's targets are the dense hidden states just before the next kept block, or at the end, so it also takes over the work
    of the removed blocks after it.
    Raises LangpruneError for models that do not belong together, fewer than 2 windows, and hidden states that are not finite.
    """
    dense, pruned = pair.dense, pair.pruned
    for model in (pruned, dense):
        check_target(workspace, model, to)
    stayed = _stayed(dense, pruned, pair.blocks)
    if windows.count < 2:
        raise LangpruneError(
            f"{windows.spec.source} gave {windows.count} window, and tuning needs one to train on and one to hold out: give at "
            "least 2 (--nsamples)"
        )
    for model in (dense, pruned):
        model.check_windows(windows)
    recipe = tune_recipe(dense, pruned, windows, settings, stayed)

    def make(writer: ArtifactWriter) -> Artifact:
        return Tuning(writer, dense, pruned, windows, settings, stayed, reporter).run()

    return run_stage(recipe, Destination.of(workspace, f"{pruned.label}-tuned", to), make)


class Before(TypedDict, total=False):
    """The fields read from the tuned model's manifest."""

    tool: str
    inputs: Inputs
    params: Params
    about: About


def tune_recipe(
    dense: OpenedModel, pruned: OpenedModel, windows: Windows, settings: TuneSettings, blocks: Sequence[int]
) -> Recipe:
    """Return the recipe of a tuned model: the pruned one's, with the tuning added.

    As for any pruned model, the input `model` is the dense model, and `mask` the key of its mask, empty if unknown.
    """
    before = record_of(pruned.location.folder)
    inputs: Inputs = before.get("inputs", {})
    params: Params = before.get("params", {})
    about: About = before.get("about", {})
    how = {key: value for key, value in asdict(settings).items() if key != "max_shard_bytes"}
    update = params.get("update", "none")
    return Recipe(
        "models",
        inputs={
            "model": dense.digest,
            "pruned": pruned.digest,
            "mask": inputs.get("mask", ""),
            "text": text_identity(windows),
        },
        params={
            **asdict(settings),
            "blocks": list(blocks),
            "dtype": str(pruned.streamed.dtype).removeprefix("torch."),
            "update": "tune" if update == "none" else f"{update}, tune",
        },
        about={
            "mask": {"name": pruned.label},
            **about,
            "model": dense.about,
            "tuned": {"model": pruned.about, **how, "text": {**text_identity(windows), **text_about(windows)}},
        },
        environment=pruned.environment(),
    )


def record_of(folder: Path) -> Before:
    """Return the manifest of a pruned model, as written or exported; {} if `folder` holds a model from elsewhere."""
    for name in (MANIFEST, PROVENANCE):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            record: Before = json.loads((folder / name).read_bytes())
            if record["tool"].startswith("langprune") and {"inputs", "params", "about"} <= record.keys():
                return record
    return {}


def _stayed(dense: OpenedModel, pruned: OpenedModel, blocks: Sequence[int] | None) -> tuple[int, ...]:
    """Return the dense model's number of each pruned block; raises LangpruneError for models that do not belong together."""
    ours, theirs = (model.streamed.config.get_text_config() for model in (pruned, dense))
    for what in ("model_type", "hidden_size"):
        if getattr(ours, what) != getattr(theirs, what):
            raise LangpruneError(
                f"{pruned.label} was not pruned from {dense.label}: its {what} is {getattr(ours, what)} and not "
                f"{getattr(theirs, what)}; name the model that it was made from"
            )
    count, of = (len(model.streamed.blocks) for model in (pruned, dense))
    stayed = tuple(range(of)) if blocks is None else tuple(blocks)
    if len(stayed) != count or sorted({*stayed} & {*range(of)}) != list(stayed):
        raise LangpruneError(
            f"{pruned.label} has {count} blocks, but its record keeps {len(stayed)} of the {of} blocks of {dense.label}: name "
            "the model that it was made from"
        )
    return stayed
