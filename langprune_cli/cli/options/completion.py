"""What the shell offers for the values of options; answered from names of folders and files, so that it takes no time."""

import os
from collections.abc import Callable
from pathlib import Path

import typer

from langprune_cli.structured_patterns.pattern import structured_patterns

Completion = Callable[[str], list[str]]


def names_of(
    *kinds: str, also: tuple[str, ...] = (), with_kind: bool = False
) -> Callable[[typer.Context, str], list[str]]:
    """Return a completion with the names of artifacts of these kinds; `also` are other words, with_kind: as kind/name."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        own = next(each for each in context.command.params if each.name == "workspace")
        given = context.params.get("workspace") or os.environ.get("LANGPRUNE_WORKSPACE") or own.default
        found = [
            f"{kind}/{path.parent.name}" if with_kind else path.parent.name
            for kind in kinds
            for path in sorted(Path(str(given)).expanduser().glob(f"{kind}/[!.]*/manifest.json"))
        ]
        return [name for name in (*found, *also) if name.startswith(incomplete)]

    return complete


def listed(words: list[str]) -> str:
    """Return words as a help text has them: a, b or c."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def one_of(words: list[str]) -> Completion:
    """Return a completion with these words."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


patterns = one_of(["unstructured", "2:4", "4:8", "N:8", *structured_patterns()])


def languages(incomplete: str) -> list[str]:
    """Return tags of languages that begin so; where none does, names in English or in the language itself, of one word."""
    from langprune_cli.text.languages import language_name, own_name  # noqa: PLC0415 - takes longer than --help may
    from langprune_cli.text.presets import LISTED  # noqa: PLC0415 - as above

    begun = incomplete.casefold()
    tags = sorted(tag for tag in LISTED if tag.casefold().startswith(begun))
    if not begun:
        return tags
    names = {name for tag in LISTED for name in (language_name(tag), own_name(tag))}
    # As far as it was typed the word stays: shells drop what does not begin with it.
    found = sorted(name for name in names if name.casefold().startswith(begun) and not name.count(" "))
    return [*tags, *(incomplete + name[len(incomplete) :] for name in found)]
