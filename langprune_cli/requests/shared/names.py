"""Names of plug-ins, from their files alone, so that unknown names are refused before importing torch."""

import langprune_cli.allocations
import langprune_cli.depth_methods
import langprune_cli.expert_methods
import langprune_cli.hidden_methods
import langprune_cli.methods
import langprune_cli.refinements
import langprune_cli.unit_methods
import langprune_cli.updates
from langprune_cli.errors import LangpruneError, near_matches
from langprune_cli.registry import names_in
from langprune_cli.structured_patterns.pattern import structured_patterns

WEIGHT_METHODS = names_in(langprune_cli.methods)
UNIT_METHODS = names_in(langprune_cli.unit_methods)
DEPTH_METHODS = names_in(langprune_cli.depth_methods)
EXPERT_METHODS = names_in(langprune_cli.expert_methods)
HIDDEN_METHODS = names_in(langprune_cli.hidden_methods)
SHARED = [name for name, each in structured_patterns().items() if each.share]  # patterns that take a share
UNSHARED = [name for name, each in structured_patterns().items() if not each.share]
_OF_PATTERNS = [each.method for each in structured_patterns().values() if each.method]
_OF_WHOLE = [*DEPTH_METHODS, *EXPERT_METHODS, *HIDDEN_METHODS]
METHODS = list(dict.fromkeys([*WEIGHT_METHODS, *UNIT_METHODS, *_OF_WHOLE, *_OF_PATTERNS]))
UPDATES = names_in(langprune_cli.updates)
REFINEMENTS = names_in(langprune_cli.refinements)
ALLOCATIONS = names_in(langprune_cli.allocations)


def check_name(option: str, value: str | None, names: list[str]) -> None:
    """Raise LangpruneError for an unknown name, with the nearest known ones."""
    if value is not None and value not in names:
        raise LangpruneError(f"{option} {value!r} is unknown: {near_matches(value, names)}")
