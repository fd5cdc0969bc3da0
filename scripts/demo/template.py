# ruff: noqa: INP001 - a folder of scripts: `python scripts/demo/train.py` puts it on the path
"""A small template language that both grammars share.

A template is text with three kinds of holes. `[a|b|c]` is a choice of one alternative, `<name>` is a choice among the
templates of the rule `name`, and `{...}` is left to the language: it names an entity of the document and the form
that the sentence needs (a case, a pronoun, a tense). Choices nest; alternatives that come first are likelier, since
words in real text are far from equally frequent.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TypeVar

T = TypeVar("T")
# A kind of document: its first paragraph, the rules of those between with at most so many sentences, and its last.
Kind = tuple[str, list[tuple[str, int]], str]
HOLE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Choice:
    """One `[a|b|c]`: the parsed alternatives."""

    options: tuple["Tree", ...]


@dataclass(frozen=True)
class Rule:
    """One `<name>`: a template of the rule of that name."""

    name: str


Tree = tuple[str | Choice | Rule, ...]


@cache
def falling_weights(n: int) -> tuple[float, ...]:
    """Cumulated weights of n alternatives, falling slowly with their rank."""
    return tuple(accumulate(1 / (rank + 2) ** 0.4 for rank in range(n)))


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of the options, the first ones likelier."""
    return rng.choices(options, cum_weights=falling_weights(len(options)))[0]


@cache
def parse(text: str) -> Tree:
    """Return the tree of a template."""
    tree, end = _parse_until(text, 0, "")
    if end != len(text):
        raise ValueError(f"unbalanced ']' or '|' at {end} in {text!r}")
    return tree


def _parse_until(text: str, at: int, stops: str) -> tuple[Tree, int]:
    nodes: list[str | Choice | Rule] = []
    plain = ""
    while at < len(text) and text[at] not in stops:
        if text[at] == "[":
            options = []
            while text[at] != "]":
                option, at = _parse_until(text, at + 1, "|]")
                options.append(option)
            nodes += [plain, Choice(tuple(options))]
            plain = ""
        elif text[at] == "<":
            close = text.index(">", at)
            nodes += [plain, Rule(text[at + 1 : close])]
            plain, at = "", close
        else:
            plain += text[at]
        at += 1
    return (*nodes, plain), at


def expand(tree: Tree, rules: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """Make every choice of a template; the `{...}` holes stay."""
    parts = []
    for node in tree:
        if isinstance(node, Choice):
            parts.append(expand(pick(rng, node.options), rules, rng))
        elif isinstance(node, Rule):
            parts.append(expand(parse(pick(rng, rules[node.name])), rules, rng))
        else:
            parts.append(node)
    return "".join(parts)


def render(text: str, rules: Mapping[str, Sequence[str]], rng: random.Random, fill: Callable[[str], str]) -> str:
    """Make the choices of a template, then fill its holes from left to right."""
    return HOLE.sub(lambda hole: fill(hole[1]), expand(parse(text), rules, rng))


def compose(
    kind: Kind, rules: Mapping[str, Sequence[str]], rng: random.Random, fill: Callable[[str], str], least: int
) -> str:
    """Return a document of a kind: a title, then paragraphs until it has `least` characters or somewhat more.

    A rule's templates are used up before one comes again, so that a document does not say the same thing twice.
    """
    first, middle, last = kind
    unused: dict[str, list[str]] = {}

    def sentence(rule: str) -> str:
        if not unused.get(rule):
            unused[rule] = rng.sample(rules[rule], len(rules[rule]))
        return render(unused[rule].pop(), rules, rng, fill)

    paragraphs = [render("<title>", rules, rng, fill), render(first, rules, rng, fill)]
    goal = least + rng.randrange(600)
    while sum(map(len, paragraphs)) < goal:
        for rule, most in middle:
            paragraphs.append(" ".join(sentence(rule) for _ in range(rng.randint(max(1, most - 1), most))))
            if sum(map(len, paragraphs)) >= goal:
                break
    return "\n".join([*paragraphs, render(last, rules, rng, fill)])


def capitalise(text: str) -> str:
    """Put a capital at the beginning of every sentence and line, but not in `? — she asked`."""
    return re.sub(
        r"((?:^|\n)[“«—\- ]*|[.…]\s+[“«— ]*|[!?]\s+[“«]*)(\w)", lambda found: found[1] + found[2].upper(), text
    )
