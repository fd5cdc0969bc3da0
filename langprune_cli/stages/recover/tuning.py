"""Blockwise tuning: train what pruning left of each block until it puts out what the dense model's block does.

AMD Quark's recovery step. The dense hidden states walk through the dense model, and those of the tuned model through the
tuned blocks, one block of each in memory at a time: a block learns to make up for what the blocks before it still lose.
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
    """A pruned model, and the dense one that it is to imitate."""

    dense: OpenedModel
    pruned: OpenedModel  # of its family and hidden size; sparse, narrower, or with fewer blocks
    blocks: Sequence[int] | None = None  # the dense model's number of each pruned block, ascending; None: its own


def tune(
    workspace: Workspace,
    pair: Pair,
    windows: Windows,
    settings: TuneSettings,
    reporter: Reporter,
    *,
    to: Target = TARGET,
) -> Outcome:
    """Write the pruned model with the weights of each block trained on `windows` to give the dense one's hidden states.

    Weights and biases of its blocks' linears are trained, and what is zero in a weight stays zero; norms, embeddings and head
    stay as they are, byte by byte. A block learns to put out what the dense model has just before the next block that stayed,
    or at the end: it takes on the work of the removed blocks that followed it.
    Raises LangpruneError for models that do not go together, less than 2 windows, and hidden states that are not finite.
    """
    dense, pruned = pair.dense, pair.pruned
    for model in (pruned, dense):
        check_target(workspace, model, to)
    stayed = _stayed(dense, pruned, pair.blocks)
    if windows.count < 2:
        raise LangpruneError(
            f"{windows.spec.source} gave {windows.count} window, and tuning trains on some and holds others out: give at "
            "least 2 (--nsamples)"
        )
    for model in (dense, pruned):
        model.check_windows(windows)
    recipe = tune_recipe(dense, pruned, windows, settings, stayed)

    def make(writer: ArtifactWriter) -> Artifact:
        return Tuning(writer, dense, pruned, windows, settings, stayed, reporter).run()

    return run_stage(recipe, Destination.of(workspace, f"{pruned.label}-tuned", to), make)


class Before(TypedDict, total=False):
    """What is read of the manifest of the model that is tuned."""

    tool: str
    inputs: Inputs
    params: Params
    about: About


def tune_recipe(
    dense: OpenedModel, pruned: OpenedModel, windows: Windows, settings: TuneSettings, blocks: Sequence[int]
) -> Recipe:
    """Return the recipe of a tuned model: that of the pruned one, with what was added.

    As in any pruned model's, `model` among its inputs is the dense one, which it is compared with, and `mask` the key of its
    mask, empty where it has none that is known.
    """
    before = _record(pruned.location.folder)
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


def _record(folder: Path) -> Before:
    """Return the manifest of a pruned model, as written or exported; {} where `folder` holds a model from elsewhere."""
    for name in (MANIFEST, PROVENANCE):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            record: Before = json.loads((folder / name).read_bytes())
            if record["tool"].startswith("langprune") and {"inputs", "params", "about"} <= record.keys():
                return record
    return {}


def _stayed(dense: OpenedModel, pruned: OpenedModel, blocks: Sequence[int] | None) -> tuple[int, ...]:
    """Return the dense model's number of each pruned block; raises LangpruneError for models that do not go together."""
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
            f"{pruned.label} has {count} blocks and {dense.label} {of}, of which {len(stayed)} are said to have stayed: name "
            "the model that it was made from"
        )
    return stayed
