"""Exceptions that a user is meant to read: one sentence, then what to do about it."""

import difflib
import json
import re
from collections.abc import Iterable

# What a terminal takes for a command, or shows as something else: control characters, ends of lines and paragraphs,
# changes of direction; and halves of surrogate pairs (bytes of a file name that are not UTF-8), which cannot be printed.
_NOT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class LangpruneError(Exception):
    """Something about the user's files, values or machine is wrong, and the message says what and what to do.

    The command line prints the message alone and ends with `exit_code`; no traceback is shown without --debug.
    """

    exit_code = 1


class UsageError(LangpruneError):
    """The command was given options that do not exist or do not go together."""

    exit_code = 2


class UnsolvableError(LangpruneError):
    """What a linear reads, or its weights, cannot be computed with; who knows the linear says which one it is."""


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


def first_line(error: BaseException, most: int = 200) -> str:
    """Return the first line of what an exception says, at most so many characters of it; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def printable(text: str) -> str:
    r"""Return `text` on one line that does nothing to a terminal: names come from other people's files.

    `printable("a\x1b[2J")` shows the escape character as the four characters `\x1b`.
    """
    return _NOT_SHOWN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def printable_json(document: str) -> str:
    """Return a JSON document, indented or not, with what `printable` spells out spelled as JSON spells it: the same values."""
    return _NOT_SHOWN.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", document)


def error_document(sentence: str, exit_code: int) -> str:
    """Return what a command that fails under --json prints on stdout: {"schema": 1, "error": sentence, "exit_code": ...}."""
    return printable_json(json.dumps({"schema": 1, "error": sentence, "exit_code": exit_code}, ensure_ascii=False))
