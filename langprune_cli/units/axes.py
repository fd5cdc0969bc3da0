"""Finds the channels and KV groups of any model: in the table of families, or by trying and measuring.

The command line reads this file with the patterns, so that torch is imported inside of functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langprune_cli.models.families import KV_GROUPS, Axis, axes_of, channel_kinds, in_table

if TYPE_CHECKING:  # see above
    from langprune_cli.models.protocols import Configuration


def channel_axes(config: Configuration) -> tuple[Axis, ...]:
    """Return where a model of this configuration has channels; raises LangpruneError where none can leave."""
    if in_table(config):
        return axes_of(config, channel_kinds(config))
    from langprune_cli.units.found import found_channels  # noqa: PLC0415

    return found_channels(config)


def group_axes(config: Configuration) -> tuple[Axis, ...]:
    """Return where a model of this configuration has KV groups; raises LangpruneError where none can leave."""
    if in_table(config):
        return axes_of(config, (KV_GROUPS,))
    from langprune_cli.units.found import found_groups  # noqa: PLC0415

    return found_groups(config)
