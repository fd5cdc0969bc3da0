"""Markdown in which names are shown as they are, even where they hold links, HTML, bars or line ends."""

import json
import re
from collections.abc import Sequence

from markupsafe import Markup

from langprune_cli.templates.markup import clean, indented

_MEANS = re.compile(r"([\\`*_\[\]<>|#&~$@])")  # characters that Markdown (GitHub's) may give a meaning
_ADDRESS = re.compile(r":(?=//)|(?<=\bwww)\.", re.IGNORECASE)  # GitHub makes links of these
_STARTS = re.compile(r"^(\d*)([-+.)])(?=\s|$)")  # begins a list at the start of a line


def inside(text: object) -> Markup:
    """Return text that is shown as it is within a line; Markup stays as it is."""
    if isinstance(text, Markup):
        return text
    return _ready(_ADDRESS.sub(r"\\\g<0>", _MEANS.sub(r"\\\1", clean(str(text)))))


def plain(text: str) -> Markup:
    """Return text that Markdown shows as it is, on one line, also at the start of that line."""
    return _ready(_STARTS.sub(r"\1\\\2", inside(text)))


def code(text: str) -> Markup:
    """Return text as code, on one line, for a cell of a table: a bar is escaped there even in code."""
    shown = clean(text).replace("|", r"\|")
    fence = "`" * (_longest_run(shown) + 1)
    space = " " if "`" in shown else ""
    return _ready(f"{fence}{space}{shown}{space}{fence}")


def fenced(lines: Sequence[str], language: str = "sh") -> Markup:
    """Return lines of shell, or of another language, as a fenced block, whose fence is longer than any run of backticks in it."""
    shown = [indented(each) for each in lines]
    fence = "`" * max(3, 1 + max(map(_longest_run, shown), default=0))
    return _ready("\n".join([f"{fence}{language}", *shown, fence]))


def row(cells: Sequence[str]) -> Markup:
    """Return a row of a table; its cells are shown as they are."""
    return _ready(f"| {' | '.join(map(inside, cells))} |")


def quoted(text: str) -> Markup:
    """Return a YAML scalar, for a card's front matter, that every reader takes for a string: a bare `no` is false to some."""
    return _ready(json.dumps(clean(text), ensure_ascii=False))  # JSON allows control characters that YAML forbids


def _longest_run(text: str) -> int:
    """Return the length of the longest run of backticks in a text."""
    return max(map(len, re.findall(r"`+", text)), default=0)


def _ready(text: str) -> Markup:
    """Return Markdown as Markup: templates escape everything else."""
    return Markup(text)  # noqa: S704 - escaped above, for Markdown
