"""The spelling of patterns; without torch, so that the command line can refuse unknown ones at once."""

import re

from langprune_cli.errors import UsageError

_SPELLING = re.compile(r"unstructured|vocab|N:\d{1,4}|\d{1,4}:\d{1,4}|(channels|kv-groups|blocks)(:.*)?", re.DOTALL)


def check_spelling(text: str) -> None:
    """Raise UsageError for a spelling that is no pattern; values may still be refused later."""
    if not _SPELLING.fullmatch(text):
        raise unknown(text)


def unknown(text: str) -> UsageError:
    """Return the error about an unknown pattern, with the known ones."""
    return UsageError(
        f"--pattern {text!r} is unknown: give unstructured, N:M such as 2:4 or 4:8, N:8 for an N of each block's own, or "
        "channels, kv-groups, blocks, vocab"
    )
