"""The JSON schema of recipes, made from the requests' fields and docstrings: what editors complete and check them by."""

from langprune_cli import defaults
from langprune_cli.recipes.commands import COMMANDS, Command, Key, explained
from langprune_cli.recipes.reading import NO_DEFAULTS
from langprune_cli.requests import calibrate, combine, compare, export, report
from langprune_cli.requests.shared import choice, names, options

Schema = dict[str, object]

# The values that fields know, and of numbers the least; by command and field where commands differ. A test asks the requests.
WORDS: dict[str, tuple[str, ...]] = {
    "dtype": options.DTYPES,
    "sampling": defaults.SAMPLINGS,
    "train": defaults.TRAINS,
    "log_to": defaults.TRACKERS,
    "collect": calibrate.COLLECTS,
    "rounding": choice.ROUNDINGS,
    "group": choice.GROUPS,
    "ties": choice.TIES,
    "method": tuple(names.METHODS),
    "update": tuple(names.UPDATES),
    "refine": tuple(names.REFINEMENTS),
    "allocation": tuple(names.ALLOCATIONS),
    "propagation": defaults.PROPAGATIONS,
    "per": combine.PER,
    "combine.kind": combine.COMBINED,
    "compare.kind": compare.COMPARED,
    "file_format": export.FORMATS,
    "form": report.FORMATS,
}
LEAST: dict[str, int] = {
    "nsamples": 1, "seqlen": 2, "batch_tokens": 1, "max_tokens": 1, "max_windows": 1, "round_to": 1, "min_expert_tokens": 1,
    "epochs": 1,
}  # fmt: skip
BITS = (4, 8)  # of load_bits

_TEXT: Schema = {"type": ["string", "number"]}  # a name may look like a number
_TEXTS: Schema = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
_TYPES: dict[str, Schema] = {
    "flag": {"type": "boolean"},
    "number": {"type": "number"},
    "texts": _TEXTS,
    "text": _TEXT,
}


def schema() -> Schema:
    """Return the schema, draft 7, which yaml-language-server reads."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "langprune recipe",
        "description": "A list of stages with their options: langprune run FILE runs them.",
        "type": "object",
        "additionalProperties": False,
        "required": ["stages"],
        "properties": {
            "workspace": _TEXT
            | {"description": "The folder that holds all artifacts; --workspace is taken in place of it."},
            "model": _TEXT | {"description": "The model of stages calibrate, prune and plan that name none."},
            "revision": _TEXT | {"description": "Branch, tag or commit of a hub model."},
            "defaults": {
                "description": "Options of all stages that take them and do not say otherwise.",
                "type": "object",
                "additionalProperties": False,
                "properties": _defaults(),
            },
            "stages": {"type": "array", "minItems": 1, "items": {"anyOf": [_names(), *map(_stage, COMMANDS.values())]}},
        },
    }


def _names() -> Schema:
    """Return what a stage without options may be."""
    return {"enum": [name for name, each in COMMANDS.items() if not any(key.needed for key in each.keys.values())]}


def _stage(command: Command) -> Schema:
    says, of_fields = explained(command.request)
    needed = [key.name for key in command.keys.values() if key.needed]
    options = {
        "type": "object" if needed else ["object", "null"],
        "description": says,
        "additionalProperties": False,
        "properties": {
            name: _value(command.name, key) | {"description": of_fields[key.field]}
            for name, key in command.keys.items()
        },
    } | ({"required": needed} if needed else {})
    return {
        "type": "object",
        "description": says,
        "additionalProperties": False,
        "required": [command.name],
        "properties": {command.name: options},
    }


def _value(command: str, key: Key) -> Schema:
    """Return what a key takes, and what it is where it is left out."""
    words = WORDS.get(f"{command}.{key.field}", WORDS.get(key.field))
    found: Schema
    if words:
        found = {"enum": list(words)}
    elif key.field == "load_bits":
        found = {"enum": list(BITS)}
    elif key.type == "whole number":
        found = {"type": "integer"} | ({"minimum": LEAST[key.field]} if key.field in LEAST else {})
    elif key.type == "pair":
        found = {"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2}
    else:
        found = _TYPES[key.type]
    default = {} if key.default in {None, ()} else {"default": key.default}
    return found | default


def _defaults() -> Schema:
    """Return the options that may be given once for all stages."""
    found: Schema = {}
    for command in COMMANDS.values():
        _, of_fields = explained(command.request)
        for name, key in command.keys.items():
            if name not in NO_DEFAULTS and name not in found:
                takes = {part: each for part, each in _value(command.name, key).items() if part != "default"}
                found[name] = takes | {"description": of_fields[key.field]}
    return found
