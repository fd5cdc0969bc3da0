"""A recipe read: each stage becomes the request that its command makes, checked before any of them runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from langprune_cli.errors import LangpruneError, UsageError, near_matches
from langprune_cli.recipes.commands import COMMANDS, Command
from langprune_cli.recipes.nodes import Items, Node, Pairs, Text, WrongError, of_values, read_file
from langprune_cli.recipes.values import value_of
from langprune_cli.requests.shared.options import Request, with_given

TOP = ("workspace", "model", "revision", "defaults", "stages")
# Commands that begin with a model: those that the recipe's own is for.
STARTING = ("calibrate", "prune", "plan")
# What is said of one artifact, or at the top: no default for several stages.
NO_DEFAULTS = ("name", "names", "kind", "out", "format", "model", "revision")

Values = dict[str, object]  # of a request, by its fields


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe: a request, and where it stands."""

    number: int  # from 1
    command: Command
    request: Request
    line: int | None
    lines: dict[str, int | None]  # of the fields that stand in it

    def wrong(self, says: str, field: str = "") -> WrongError:
        """Return the error about this stage, or one of its fields."""
        return WrongError(self.lines.get(field, self.line), f"stage {self.number} ({self.command.name}): {says}")


@dataclass(frozen=True)
class StageList:
    """All stages of a recipe, in order."""

    label: str  # what errors call the recipe
    workspace: str | Path | None
    stages: tuple[Stage, ...]

    def located(self, error: WrongError) -> UsageError:
        """Return an error with the place that it is about in front."""
        return UsageError(f"{self.label if error.line is None else f'{self.label}, line {error.line}'}: {error}")

    def failed(self, stage: Stage, error: LangpruneError) -> LangpruneError:
        """Return what ended a stage, with the place of the stage in front."""
        located = self.located(stage.wrong(str(error)))
        return located if isinstance(error, UsageError) else LangpruneError(str(located))


def read(source: str | Path | Mapping[str, object], workspace: str | Path | None = None) -> StageList:
    """Read a recipe from a file, or from values such as a file has. workspace: in place of the recipe's own.

    Raises UsageError for a value, a key or a command that is wrong, and LangpruneError for a file that cannot be read.
    """
    label = "recipe" if isinstance(source, Mapping) else str(source)
    try:
        node = of_values(source) if isinstance(source, Mapping) else read_file(Path(source).expanduser())
        return _stage_list(label, node, workspace)
    except WrongError as error:
        raise StageList(label, None, ()).located(error) from error


def _stage_list(label: str, node: Node, workspace: str | Path | None) -> StageList:
    if not isinstance(node, Pairs):
        raise WrongError(
            node.line, f"a recipe is a mapping with `stages:`, and this is {node.what}: begin with `stages:`"
        )
    for name in node.pairs:
        if name not in TOP:
            raise WrongError(node.lines[name], f"the key {name!r} is unknown: {near_matches(name, TOP)}")
    stages = node.pairs.get("stages")
    if not isinstance(stages, Items) or not stages.items:
        raise WrongError(
            stages.line if stages else node.line, "a recipe needs `stages:`, a list of commands with their options"
        )
    own = {name: _top(name, node) for name in ("workspace", "model", "revision") if name in node.pairs}
    if "revision" in own and "model" not in own:
        raise WrongError(node.lines["revision"], "revision goes with model: give it too, or leave revision out")
    named = [_command(number, each) for number, each in enumerate(stages.items, start=1)]
    defaults = _defaults(node, [command for command, _, _ in named])
    model: Values = {name: own[name] for name in own if name != "workspace"}
    found = [
        _stage(number, *each, _before(each[0], each[1], defaults, model)) for number, each in enumerate(named, start=1)
    ]
    if model and not any(each.command.name in STARTING and "model" not in each.lines for each in found):
        where = ", ".join(STARTING)
        raise WrongError(
            node.lines["model"], f"model is for {where} without one of their own, and there are none: leave it out"
        )
    return StageList(label, own.get("workspace") if workspace is None else workspace, tuple(found))


def _top(name: str, node: Pairs) -> str:
    value = node.pairs[name]
    if not isinstance(value, Text) or value.left_out:
        raise WrongError(node.lines[name], f"{name} needs a value: give one, or leave the key out")
    return value.text


def _command(number: int, node: Node) -> tuple[Command, Pairs, int | None]:
    """Return the command of a stage, its options, and its line."""
    if isinstance(node, Text):
        name, options, line = node.text, None, node.line
    elif isinstance(node, Pairs) and len(node.pairs) == 1:
        ((name, options),) = node.pairs.items()
        line = node.lines[name]
    elif isinstance(node, Pairs) and node.pairs:
        first = next(iter(node.pairs))
        others = [each for each in node.pairs if each != first]
        raise WrongError(
            node.lines[others[0]],
            f"stage {number}: a stage is one command, and this has {first} and {others[0]}: indent the options of {first} deeper",
        )
    else:
        raise WrongError(
            node.line, f"stage {number}: a stage is a command with its options, and this is {node.what}: name one"
        )
    if name not in COMMANDS:
        raise WrongError(line, f"stage {number}: {name!r} is no command of a recipe: {near_matches(name, COMMANDS)}")
    if options is None or (isinstance(options, Text) and options.left_out):
        options = Pairs(line, {}, {})
    if not isinstance(options, Pairs):
        raise WrongError(
            options.line,
            f"stage {number} ({name}): the options are {options.what}: write one a line, such as `name: value`",
        )
    return COMMANDS[name], options, line


def _defaults(node: Pairs, commands: Iterable[Command]) -> Pairs:
    """Return the options that stages take which do not say otherwise."""
    found = node.pairs.get("defaults", Pairs(None, {}, {}))
    if not isinstance(found, Pairs):
        raise WrongError(found.line, f"defaults are options, one a line, and this is {found.what}: write `name: value`")
    taken = {name for each in commands for name in each.keys} - set(NO_DEFAULTS)
    for name in found.pairs:
        if name in NO_DEFAULTS:
            raise WrongError(
                found.lines[name], f"{name} is no default for several stages: give it to each stage, or at the top"
            )
        if name not in taken:
            raise WrongError(found.lines[name], f"no stage takes the default {name!r}: {near_matches(name, taken)}")
    return found


def _before(command: Command, own: Pairs, defaults: Pairs, model: Values) -> tuple[Pairs, Values]:
    """Return what a stage takes of the defaults, and of the recipe's model."""
    names = [each for each in defaults.pairs if each in command.keys and each not in own.pairs]
    used = Pairs(None, {each: defaults.pairs[each] for each in names}, {each: defaults.lines[each] for each in names})
    return used, model if command.name in STARTING and "model" not in own.pairs else {}


def _stage(number: int, command: Command, own: Pairs, line: int | None, before: tuple[Pairs, Values]) -> Stage:
    """Return a stage with its request."""
    defaults, model = before
    stage = Stage(number, command, Request(), line, {})
    for name in own.pairs:
        if name not in command.keys:
            near = near_matches(name, command.keys)
            raise WrongError(own.lines[name], f"stage {number} ({command.name}): the key {name!r} is unknown: {near}")
    for key in command.keys.values():
        if key.needed and key.name not in own.pairs:
            raise stage.wrong(f"{key.name} is missing: give it")
    both = defaults.pairs | own.pairs
    lines = {command.keys[name].field: at for name, at in (defaults.lines | own.lines).items()}
    stage = replace(stage, lines=lines)
    values: Values = dict(model)
    for name, node in both.items():
        key = command.keys[name]
        try:
            values[key.field] = value_of(key, node)
        except WrongError as error:
            inside = replace(stage, lines={key.field: error.line or lines[key.field]})
            raise inside.wrong(str(error), key.field) from error
    given = [command.keys[name].field for name in own.pairs]
    try:
        request = with_given(command.ask(**values), given)
    except LangpruneError as error:
        raise _refused(stage, values, given, str(error)) from error
    return replace(stage, request=request)


def _refused(stage: Stage, values: Values, given: list[str], says: str) -> WrongError:
    """Return the error about values that a request refuses, at the line of the key that it is about."""
    spelled = {f"--{each.name}": each for each in stage.command.keys.values()} | {
        each.name.upper(): each for each in stage.command.keys.values() if each.needed
    }
    pattern = r"(?<![\w-])(" + "|".join(sorted(map(re.escape, spelled), key=len, reverse=True)) + r")(?![\w-])"
    named = [each for found in re.findall(pattern, says) if (each := spelled[found].field) in stage.lines]
    guilty = list(_guilty(stage, values, given))
    field = next(iter([*(each for each in guilty if each in named), *named, *guilty]), "")
    sentence = re.sub(pattern, lambda found: spelled[found[0]].name, says)
    return stage.wrong(sentence, field)


def _guilty(stage: Stage, values: Values, given: list[str]) -> Iterator[str]:
    """Yield the fields without one of which a request would not be refused."""
    for field in values:
        rest = {name: value for name, value in values.items() if name != field}
        try:
            with_given(stage.command.ask(**rest), [each for each in given if each != field])
        except (LangpruneError, TypeError):  # TypeError: it is needed
            continue
        yield field
