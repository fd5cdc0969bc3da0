"""KV groups, a KV head with its query heads: every block loses the same number."""

from __future__ import annotations

from langprune_cli.structured_patterns.pattern import of_units
from langprune_cli.units.axes import group_axes

PATTERN = of_units("kv-groups", 1, group_axes)
