"""Exceptions that a user is meant to read: one sentence, then what to do about it."""

import difflib
from collections.abc import Iterable


class LangpruneError(Exception):
    """Something about the user's files, values or machine is wrong, and the message says what and what to do.

    The command line prints the message alone and ends with `exit_code`; no traceback is shown without --debug.
    """

    exit_code = 1


class UsageError(LangpruneError):
    """The command was given options that do not exist or do not go together."""

    exit_code = 2


def near_matches(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message that names what is known, the nearest spellings of `word` first.

    `near_matches("wonda", ["wanda", "ria"])` is "did you mean wanda? Known: ria, wanda".
    """
    names = sorted(known)
    if not names:
        return "there are none"
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    listing = f"Known: {', '.join(names)}"
    return f"did you mean {' or '.join(close)}? {listing}" if close else listing
