"""Channels of feed-forward layers: every block, or every expert, loses the same number."""

from __future__ import annotations

from langprune_cli.structured_patterns.pattern import of_units
from langprune_cli.units.axes import channel_axes

PATTERN = of_units("channels", 0, channel_axes, rounds=True)
