"""KV heads with their query heads: the same number of groups leaves every block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langprune_cli.models.families import KV_GROUPS, Axis, axes_of
from langprune_cli.structured_patterns.pattern import of_units

if TYPE_CHECKING:  # the command line reads this file
    from langprune_cli.models.protocols import Configuration


def axes(config: Configuration) -> tuple[Axis, ...]:
    """Return where a model of this configuration has KV groups; raises LangpruneError for a family that cannot have fewer."""
    return axes_of(config, (KV_GROUPS,))


PATTERN = of_units("kv-groups", 1, axes)
