"""Translates a request's options for choosing single weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langprune_cli.errors import UsageError
from langprune_cli.requests.shared.choice import GROUPS, TIES
from langprune_cli.requests.shared.values import one_or_none

if TYPE_CHECKING:  # torch takes seconds to import, and wrong requests are refused before that
    from langprune_cli.methods.method import Method
    from langprune_cli.requests.shared.choice import ChoiceOptions
    from langprune_cli.requests.shared.run import Run
    from langprune_cli.stages.solving.choosing import MaskSettings
    from langprune_cli.stages.statistics.sites import Solving


def settings_of(request: ChoiceOptions, pattern: str) -> MaskSettings:
    """Return the settings of choosing weights; raises UsageError and LangpruneError for invalid values."""
    from langprune_cli.numerics.patterns import parse_pattern  # noqa: PLC0415
    from langprune_cli.refinements.refinement import get_refinement  # noqa: PLC0415
    from langprune_cli.stages.solving.choosing import MaskSettings  # noqa: PLC0415

    return MaskSettings(
        parse_pattern(pattern, request.sparsity),
        one_or_none("--group", request.group, GROUPS),
        one_or_none("--ties", request.ties, TIES),
        request.exclude,
        request.allocation,
        get_refinement(request.refine) if request.refine else None,
        solving_of(request.damping, request.min_expert_tokens),
    )


def method_of(name: str, settings: MaskSettings, *, variant: bool) -> Method:
    """Return the method; --variant is for Wanda and unstructured pruning only."""
    from langprune_cli.methods.method import get_method  # noqa: PLC0415

    if variant and (name not in {"wanda", "wanda-variant"} or settings.pattern.m):
        raise UsageError("--variant goes with --method wanda and --pattern unstructured only: leave it out")
    return get_method("wanda-variant" if variant else name)


def note_cost(run: Run, method: str, settings: MaskSettings) -> None:
    """Note the usual cost of 2:4 by Wanda."""
    from langprune_cli.stages.evaluate.ruined import WANDA_2_4  # noqa: PLC0415

    if method == "wanda" and settings.pattern.keep_of == (2, 4):
        run.reporter.note(WANDA_2_4)


def solving_of(damping: float | None, min_expert_tokens: int | None) -> Solving:
    """Return the settings of solvers; None stands for their defaults."""
    from langprune_cli.stages.statistics.sites import Solving  # noqa: PLC0415

    return Solving(
        Solving.damping if damping is None else damping,
        Solving.min_expert_tokens if min_expert_tokens is None else min_expert_tokens,
    )
