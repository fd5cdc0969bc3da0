"""Channels of feed-forward layers: the same number leaves every block, or every expert of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langprune_cli.models.families import Axis, axes_of, channel_kinds
from langprune_cli.structured_patterns.pattern import of_units

if TYPE_CHECKING:  # the command line reads this file
    from langprune_cli.models.protocols import Configuration


def axes(config: Configuration) -> tuple[Axis, ...]:
    """Return where a model of this configuration has channels; raises LangpruneError for a family that is not known."""
    return axes_of(config, channel_kinds(config))


PATTERN = of_units("channels", 0, axes, rounds=True)
