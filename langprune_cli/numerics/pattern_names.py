"""The spelling of patterns; without torch, so that the command line can refuse unknown ones at once."""

import re

import langprune_cli.structured_patterns
from langprune_cli.errors import UsageError
from langprune_cli.registry import names_in

_OF_WEIGHTS = re.compile(r"unstructured|N:\d{1,4}|\d{1,4}:\d{1,4}")


def structured_names() -> list[str]:
    """Return the names of structured patterns, by their files alone."""
    return sorted(names_in(langprune_cli.structured_patterns))


def is_structured(pattern: str) -> bool:
    """Return whether a pattern, as it was asked for or as a manifest spells it, is one of parts that leave whole."""
    return pattern.partition(":")[0].partition("+")[0] in structured_names()


def check_spelling(text: str) -> None:
    """Raise UsageError for a spelling that is no pattern; values may still be refused later."""
    if not _OF_WEIGHTS.fullmatch(text) and text.partition(":")[0] not in structured_names():
        raise unknown(text)


def unknown(text: str) -> UsageError:
    """Return the error about an unknown pattern, with the known ones."""
    return UsageError(
        f"--pattern {text!r} is unknown: give unstructured, N:M such as 2:4 or 4:8, N:8 for an N of each block's own, or "
        f"{', '.join(structured_names())}"
    )
