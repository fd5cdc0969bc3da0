"""Scores of one block's linears, from its weights and statistics: the cell that `score` and `mask` share."""

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.methods.method import Method, SiteStats
from langprune_cli.models.streamed import Linear
from langprune_cli.stages.moments import linear_stats
from langprune_cli.stages.opened import OpenedModel, check_same_model
from langprune_cli.stages.parts import block_part
from langprune_cli.store.artifact import Artifact


def needed_stats(method: Method, stats: Artifact | None, model: OpenedModel) -> Artifact | None:
    """Return the statistics that `method` needs, None where it needs none.

    Raises UsageError when they are missing, LangpruneError when they were made from another model.
    """
    if method.needs == "nothing":
        return None
    if stats is None:
        raise UsageError(
            f"--method {method.name} needs statistics: run langprune calibrate first, or name some with --stats"
        )
    check_same_model(stats, model)
    return stats


def calibration_text(stats: Artifact | None) -> dict[str, object] | None:
    """Return what is known of the text behind statistics, for artifacts made from them to carry along."""
    return {**stats.manifest.inputs["text"], **stats.manifest.about["text"]} if stats else None


def prunable(model: OpenedModel, index: int, exclude: str | None) -> list[Linear]:
    """Return a block's linears whose checkpoint names the pattern `exclude` does not match anywhere.

    Raises UsageError for a pattern that is no regular expression.
    """
    try:
        pattern = re.compile(exclude) if exclude else None
    except re.error as error:
        raise UsageError(f"--exclude {exclude!r} is not a regular expression ({error})") from error
    return [linear for linear in model.streamed.linears(index) if not (pattern and pattern.search(linear.name))]


def read_weights(model: OpenedModel, linears: list[Linear]) -> Iterator[tuple[Linear, Tensor]]:
    """Yield each linear with its weight [o, i] as the checkpoint has it; raises LangpruneError where it is not finite."""
    for linear in linears:
        weight = model.streamed.checkpoint.read([linear.name])[linear.name].to(model.streamed.device)
        if not torch.isfinite(weight).all():
            raise LangpruneError(
                f"{model.location.folder}: {linear.name} holds values that are not finite: get the checkpoint again"
            )
        yield linear, weight.t() if linear.transposed else weight


def block_scores(
    model: OpenedModel, index: int, method: Method, stats: Artifact | None, exclude: str | None = None
) -> Iterator[tuple[Linear, Tensor]]:
    """Yield each prunable linear of block `index` with its score, float32 [o, i].

    Raises LangpruneError for a linear that the statistics do not cover.
    """
    by_linear: dict[str, SiteStats] = {}
    if stats:
        tensors, record = stats.tensors_and_record(block_part(index))
        by_linear = linear_stats(tensors, record["sites"], stats.manifest.inputs["text"]["windows"])
    for linear, weight in read_weights(model, prunable(model, index, exclude)):
        if stats and linear.name not in by_linear:
            raise LangpruneError(
                f"{stats.folder} has no statistics of {linear.name}, which no token reached: leave it out with --exclude"
            )
        found = by_linear.get(linear.name)
        yield linear, method.score(weight, found.to(weight.device) if found else None)
