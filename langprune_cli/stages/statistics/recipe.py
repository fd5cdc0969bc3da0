"""What identifies statistics of windows: their recipe, whose key is known before any window is run."""

from collections.abc import Mapping
from dataclasses import replace

from langprune_cli.defaults import Propagation
from langprune_cli.numerics.site import Statistics
from langprune_cli.stages.statistics.parts import text_about, text_identity
from langprune_cli.store.artifact import WEIGHTS, Recipe
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.types import Windows


def stats_identity(
    model: OpenedModel,
    windows: Windows,
    collect: Statistics,
    propagation: Propagation = "dense",
    pruned_with: Mapping[str, object] | None = None,
) -> Recipe:
    """Return what makes the key of statistics of these windows: of the dense model, or of one that is pruned block by block.

    pruned_with: the settings of that pruning, on which the inputs of every block but the first depend.
    """
    return Recipe(
        "stats",
        inputs={"model": model.digest, "text": text_identity(windows)},
        params={
            "collect": ["norms"] if collect == "norms" else ["norms", collect],
            "propagation": propagation,
            "dtype": str(model.streamed.dtype).removeprefix("torch."),
            **({"pruned_with": pruned_with} if pruned_with else {}),
            **({"experts": "all"} if model.compute.all_experts else {}),
        },
    )


def stats_recipe(
    model: OpenedModel,
    windows: Windows,
    collect: Statistics,
    propagation: Propagation = "dense",
    pruned_with: Mapping[str, object] | None = None,
) -> Recipe:
    """Return the recipe of the same statistics with what their manifest tells people; every byte of the weights is hashed."""
    return described(stats_identity(model, windows, collect, propagation, pruned_with), model, windows)


def described(identity: Recipe, model: OpenedModel, windows: Windows) -> Recipe:
    """Return a recipe with what the manifest tells people of a model that ran windows; every byte of the weights is hashed."""
    return replace(
        identity,
        about={
            "model": model.about,
            WEIGHTS: model.streamed.checkpoint.weights_sha256,
            "text": text_about(windows),
            "blocks": len(model.streamed.blocks),
        },
        environment=model.environment(),
    )
