"""YAML read as it is written: texts, lists and mappings with their lines. No text becomes a number here: 2:4 stays 2:4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from langprune_cli.errors import LangpruneError, UsageError
from langprune_cli.store.files import disk_errors
from langprune_cli.store.plain import plain_file

if TYPE_CHECKING:  # PyYAML is imported when a recipe is read
    from collections.abc import Iterator

    from yaml.events import Event

MOST_BYTES = 256_000
_DEEPEST = 8  # mappings and lists in one another; recipes have five
_NOTHING = {"", "~", "null", "Null", "NULL"}


class WrongError(UsageError):
    """Something in a recipe is wrong; `line` says where, None where the recipe is no file."""

    def __init__(self, line: int | None, says: str) -> None:
        super().__init__(says)
        self.line = line


@dataclass(frozen=True)
class Text:
    """A value as it is written, without its quotes."""

    line: int | None
    text: str
    left_out: bool = False  # nothing is written there, or null

    what = "a value"


@dataclass(frozen=True)
class Items:
    """A list."""

    line: int | None
    items: tuple[Node, ...]

    what = "a list"


@dataclass(frozen=True)
class Pairs:
    """A mapping; `lines` are those of its keys."""

    line: int | None
    pairs: dict[str, Node]
    lines: dict[str, int | None]

    what = "a mapping"


Node = Text | Items | Pairs


def read_file(path: Path) -> Node:
    """Read a YAML file.

    Raises LangpruneError for what is no plain file and for a file larger than any recipe, and WrongError for what is no YAML, and
    for what no recipe needs: aliases, tags, keys given twice, several documents, and deep nests.
    """
    with disk_errors(path, reading=True):
        if not plain_file(path).exists():
            raise LangpruneError(f"there is no recipe {path}: name a YAML file")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise LangpruneError(
            f"{path} is larger than {MOST_BYTES // 1000} kB, and a recipe is a few lines: name another file"
        )
    try:
        return read_text(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise WrongError(line, "this is no UTF-8 text: save the file as UTF-8") from error


def read_text(text: str) -> Node:
    """Read YAML, as `read_file` does."""
    import yaml  # noqa: PLC0415 - --help needs none
    from yaml.reader import ReaderError  # noqa: PLC0415 - as above

    try:
        return _document(yaml.parse(text, Loader=yaml.SafeLoader))
    except ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise WrongError(line, f"the character {error.character:#x} may not stand in YAML: remove it") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        tab = "\\t" in (error.problem or "")
        says = (
            "there is a tab: indent with spaces"
            if tab
            else f"this is no YAML ({error.problem or error.context}): correct it"
        )
        raise WrongError(mark.line + 1 if mark else None, says) from error


def of_values(value: object) -> Node:
    """Return values of Python as they would be written in YAML."""
    if value is None:
        return Text(None, "", left_out=True)
    if isinstance(value, Mapping):
        pairs = {str(key): of_values(each) for key, each in value.items()}
        return Pairs(None, pairs, dict.fromkeys(pairs))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return Items(None, tuple(of_values(each) for each in value))
    return Text(None, str(value))


def _document(events: Iterator[Event]) -> Node:
    import yaml  # noqa: PLC0415 - as above

    found: Node | None = None
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            if found:
                raise WrongError(event.start_mark.line + 1, "a second document begins: a recipe is one")
            found = _node(next(events), events, 0)
    if found is None:
        raise WrongError(1, "the file is empty: list stages under `stages:`")
    return found


def _node(event: Event, events: Iterator[Event], depth: int) -> Node:
    import yaml  # noqa: PLC0415 - as above

    line = event.start_mark.line + 1
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise WrongError(line, "anchors and aliases are not read: write the value out, or once under `defaults:`")
    if getattr(event, "tag", None):
        raise WrongError(line, f"the tag {getattr(event, 'tag', '')} is not read: write the value without it")
    if isinstance(event, yaml.ScalarEvent):
        return Text(line, event.value, left_out=event.style is None and event.value in _NOTHING)
    if depth == _DEEPEST:
        raise WrongError(
            line, "lists and mappings lie too deep in one another: a recipe is a list of stages with their options"
        )
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(each := next(events), yaml.SequenceEndEvent):
            items.append(_node(each, events, depth + 1))
        return Items(line, tuple(items))
    pairs: dict[str, Node] = {}
    lines: dict[str, int | None] = {}
    while not isinstance(each := next(events), yaml.MappingEndEvent):
        key = _node(each, events, depth + 1)
        if not isinstance(key, Text):
            raise WrongError(key.line, f"a key is {key.what}: write a name")
        if key.text in pairs:
            raise WrongError(key.line, f"{key.text} is given twice, first in line {lines[key.text]}: leave one out")
        pairs[key.text], lines[key.text] = _node(next(events), events, depth + 1), key.line
    return Pairs(line, pairs, lines)
