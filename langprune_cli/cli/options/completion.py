"""Shell completion for values of options, from names of folders and files, so that it is fast."""

import os
from collections.abc import Callable
from pathlib import Path

import typer

from langprune_cli.structured_patterns.pattern import structured_patterns

Completion = Callable[[str], list[str]]


def names_of(
    *kinds: str, also: tuple[str, ...] = (), with_kind: bool = False
) -> Callable[[typer.Context, str], list[str]]:
    """Return a completion with the names of artifacts of these kinds. also: further words; with_kind: as kind/name."""

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
    """Return words for a help text: a, b or c."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def one_of(words: list[str]) -> Completion:
    """Return a completion with these words."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


patterns = one_of(["unstructured", "2:4", "4:8", "N:8", *structured_patterns()])


def languages(incomplete: str) -> list[str]:
    """Return tags of languages with this beginning, else one-word names in English or in the language itself."""
    from langprune_cli.text.languages import language_name, own_name  # noqa: PLC0415 - too slow for --help
    from langprune_cli.text.presets import LISTED  # noqa: PLC0415 - as above

    begun = incomplete.casefold()
    tags = sorted(tag for tag in LISTED if tag.casefold().startswith(begun))
    if not begun:
        return tags
    names = {name for tag in LISTED for name in (language_name(tag), own_name(tag))}
    # The typed part stays: shells drop completions that do not begin with it.
    found = sorted(name for name in names if name.casefold().startswith(begun) and not name.count(" "))
    return [*tags, *(incomplete + name[len(incomplete) :] for name in found)]
