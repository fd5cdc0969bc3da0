"""Markdown in which names are shown as they are, whatever they hold: links, HTML, bars, line ends."""

import re

from langprune_cli.stages.export.markup import Markup, clean

_MEANS = re.compile(r"([\\`*_\[\]<>|#&~$@])")  # what Markdown (GitHub's) may take for more than itself
_ADDRESS = re.compile(r":(?=//)|(?<=\bwww)\.", re.IGNORECASE)  # of these GitHub's makes links
_STARTS = re.compile(r"^(\d*)([-+.)])(?=\s|$)")  # what begins a list at the start of a line


def plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line, at its start as well."""
    return _STARTS.sub(r"\1\\\2", _inside(text))


def _inside(text: str) -> str:
    """Return text that is shown as it is within a line; what is Markdown already stays so."""
    if isinstance(text, Markup):
        return text
    return _ADDRESS.sub(r"\\\g<0>", _MEANS.sub(r"\\\1", clean(text)))


def code(text: str) -> Markup:
    """Return text as code, on one line, for a cell of a table: there a bar is escaped in code too."""
    inside = clean(text).replace("|", r"\|")
    fence = "`" * (longest_run(inside) + 1)
    space = " " if "`" in inside else ""
    return Markup(f"{fence}{space}{inside}{space}{fence}")


def longest_run(text: str) -> int:
    """Return how many backticks stand side by side in a text, at most."""
    return max(map(len, re.findall(r"`+", text)), default=0)


def row(*cells: str) -> str:
    """Return a row of a table; its cells are shown as they are."""
    return f"| {' | '.join(map(_inside, cells))} |"
