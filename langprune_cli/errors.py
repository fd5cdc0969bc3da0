"""Exceptions for the user to read: one sentence on what is wrong, and what to do."""

import difflib
import json
import re
from collections.abc import Iterable

# Characters that a terminal obeys or that change how text looks: control characters, ends of lines and paragraphs, changes of
# direction; also halves of surrogate pairs (bytes of a file name that are not UTF-8), which cannot be printed.
_NOT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class LangpruneError(Exception):
    """A problem with the user's files, values or machine; the message says what is wrong and what to do.

    The command line prints only the message and ends with `exit_code`; --debug adds the traceback.
    """

    exit_code = 1


class UsageError(LangpruneError):
    """Options that do not exist or do not go together."""

    exit_code = 2


class UnsolvableError(LangpruneError):
    """A linear's statistics or weights that a solver cannot use; the caller adds the linear's name."""


def near_matches(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message with the known names, those nearest to `word` first.

    `near_matches("wonda", ["wanda", "ria"])` is "did you mean wanda? Known: ria, wanda".
    """
    names = sorted(known)
    if not names:
        return "there are none"
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    listing = f"Known: {', '.join(names)}"
    return f"did you mean {' or '.join(close)}? {listing}" if close else listing


def first_line(error: BaseException, most: int = 200) -> str:
    """Return the first line of an exception's message, at most `most` characters; its type's name if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def printable(text: str) -> str:
    r"""Return `text` on one line without terminal commands, as names come from other people's files.

    `printable("a\x1b[2J")` shows the escape character as the four characters `\x1b`.
    """
    return _NOT_SHOWN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def printable_json(document: str) -> str:
    """Return a JSON document with the characters that `printable` replaces in JSON's own escapes: the values are the same."""
    return _NOT_SHOWN.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", document)


def error_document(sentence: str, exit_code: int) -> str:
    """Return the document of a failed command under --json: {"schema": 1, "error": sentence, "exit_code": ...}."""
    return printable_json(json.dumps({"schema": 1, "error": sentence, "exit_code": exit_code}, ensure_ascii=False))
