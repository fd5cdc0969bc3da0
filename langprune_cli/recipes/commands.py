"""The commands that a recipe may have, and the keys of each: the options of its request, with their types."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

from langprune_cli.requests import (
    apply,
    calibrate,
    combine,
    compare,
    evaluate,
    export,
    mask,
    plan,
    prune,
    recover,
    report,
    score,
)
from langprune_cli.requests.shared.options import Request
from langprune_cli.requests.shared.values import option_name

Type = Literal["flag", "whole number", "number", "text", "texts", "pair"]

# Fields that no stage has a key for: where it runs, who is told, and whether anything is done are asked of the whole recipe.
_OF_ALL = {"workspace", "reporter", "given", "team", "dry_run"}


@dataclass(frozen=True)
class Key:
    """One option of a command, as a recipe has it."""

    name: str  # as the command line spells it, without dashes in front
    field: str  # of the request
    type: Type
    needed: bool
    default: object


@dataclass(frozen=True)
class Command:
    """One command: what it is asked, and what does it."""

    name: str
    request: type[Request]
    run: Callable[..., object]

    def ask(self, **values: object) -> Request:
        """Return the request that these values make, by its fields."""
        ask: Callable[..., Request] = self.request
        return ask(**values)

    @cached_property
    def keys(self) -> dict[str, Key]:
        """The command's options by their names."""
        return _keys_of(self.request)


def _keys_of(ask: type[Request]) -> dict[str, Key]:
    hints: dict[str, object] = get_type_hints(ask)
    found = {}
    for each in fields(ask):
        if each.name not in _OF_ALL:
            name = option_name(each.name).removeprefix("--")
            needed = each.default is MISSING
            found[name] = Key(name, each.name, _type(hints[each.name]), needed, None if needed else each.default)
    return found


def _type(hint: object) -> Type:
    """Return what a field takes; `None` besides means that it may be left out."""
    options = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
    plain: Mapping[object, Type] = {bool: "flag", int: "whole number", float: "number"}
    for each in options:
        if each in plain:
            return plain[each]
        if get_origin(each) is tuple:
            return "pair"
    return "texts" if any(get_origin(each) is Sequence for each in options) else "text"


def explained(ask: type[Request]) -> tuple[str, dict[str, str]]:
    """Return what a request's docstring says: of all of it, and of its fields."""
    first, _, rest = (inspect.getdoc(ask) or "").partition("\n\n")
    said: dict[str, str] = {}
    for line in rest.splitlines():
        names, colon, text = line.partition(": ")
        said |= dict.fromkeys(names.split(", "), text) if colon else {}
    return " ".join(first.split()), said


COMMANDS: dict[str, Command] = {
    each.name: each
    for each in (
        Command("calibrate", calibrate.CalibrateRequest, calibrate.calibrate),
        Command("score", score.ScoreRequest, score.score),
        Command("mask", mask.MaskRequest, mask.mask),
        Command("apply", apply.ApplyRequest, apply.apply),
        Command("prune", prune.PruneRequest, prune.prune),
        Command("recover", recover.RecoverRequest, recover.recover),
        Command("eval", evaluate.EvaluateRequest, evaluate.evaluate),
        Command("combine", combine.CombineRequest, combine.combine),
        Command("compare", compare.CompareRequest, compare.compare),
        Command("report", report.ReportRequest, report.report),
        Command("export", export.ExportRequest, export.export),
        Command("plan", plan.PlanRequest, plan.plan),
    )
}
