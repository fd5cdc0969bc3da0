"""Reads and checks values of options without torch: sizes, shards, numbers and words."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from langprune_cli import defaults
from langprune_cli.errors import UsageError, near_matches

DEFAULT_WORKSPACE = Path("langprune-workspace")
MASK_FILES = ".safetensors"  # the suffix of an exported mask file, in place of a name
WORKSPACE_VARIABLE = "LANGPRUNE_WORKSPACE"

# One value, or several of an option that may be repeated.
Names = str | Sequence[str]
Paths = str | Path | Sequence[str | Path]

_COUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]+)?)([kKmMbB]?)")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
Word = TypeVar("Word", bound=str)


def several(value: Paths) -> list[str]:
    """Return the values of an option that may be repeated; a string or a path is one value."""
    return [str(value)] if isinstance(value, str | Path) else [str(each) for each in value]


def folder(path: str | Path | None) -> Path | None:
    """Return a given path, with `~` expanded."""
    return None if path is None else Path(path).expanduser()


def workspace_folder(path: str | Path | None) -> Path:
    """Return the folder of the workspace: the given one, else $LANGPRUNE_WORKSPACE, else `./langprune-workspace`."""
    return Path(path or os.environ.get(WORKSPACE_VARIABLE) or DEFAULT_WORKSPACE).expanduser()


def size_in_bytes(option: str, text: str) -> int:
    """Read a size such as 500MB (powers of ten, as transformers counts); raises UsageError for anything else."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    number, unit = text[:-2], text[-2:].upper()
    try:
        size = int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size < 1:
        raise UsageError(f"{option} {text!r} is not a size: write it as 500MB or 2GB")
    return size


def token_count(option: str, text: str) -> int:
    """Read a number of tokens such as 300k or 2M; raises UsageError for anything else."""
    found = _COUNT.fullmatch(text)
    count = int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    if count < 1:
        raise UsageError(f"{option} {text!r} is no number of tokens: write it as 300k or 2M")
    return count


def training_tokens(option: str, text: str, step: int | None = None) -> int:
    """Read a number of tokens to train on; raises UsageError for fewer than a step of the optimizer has as well."""
    count, step = token_count(option, text), step or defaults.STEP_TOKENS[0]
    if count < step:
        raise UsageError(f"{option} {text} is less than one step of {step} tokens: raise it")
    return count


def shard_of(text: str | None) -> tuple[int, int] | None:
    """Read `i/n`; raises UsageError for anything else."""
    if text is None:
        return None
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"--shard must be i/n, such as 1/4, and not {text!r}: give 1/4 to 4/4 for four parts")
    return int(part), int(parts)


def one_of(option: str, value: str, known: tuple[Word, ...]) -> Word:
    """Return the value of an option as one of those known; raises UsageError if it is unknown."""
    for each in known:
        if each == value:
            return each
    raise UsageError(f"{option} {value!r} is unknown: {near_matches(value, known)}")


def one_or_none(option: str, value: str | None, known: tuple[Word, ...]) -> Word | None:
    """Do the same for an optional option."""
    return None if value is None else one_of(option, value, known)


def at_least(option: str, value: int | None, least: int) -> None:
    """Raise UsageError for a number below `least`."""
    if value is not None and value < least:
        raise UsageError(f"{option} {value} is too small: give {least} or more")


# Fields whose options have other names: those of Python, or of two things at once.
_SPELLED = {"rounding": "round", "evaluation": "eval", "form": "format", "file_format": "format"}


def option_name(field: str) -> str:
    """Return how the command line spells a field of a request: `max_tokens` is --max-tokens."""
    return f"--{_SPELLED.get(field, field).replace('_', '-')}"
