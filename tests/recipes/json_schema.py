"""The part of JSON schema, draft 7, that the schema of recipes uses, and YAML 1.2 as editors read it."""

import re
from typing import Any

import yaml

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
_SAID = {"$schema", "title", "description", "default"}  # which check nothing


def complaints(value: Any, schema: dict[str, Any], at: str = "recipe") -> list[str]:
    """Return what is wrong with a value; raises KeyError for a keyword that is not known here."""
    found = []
    for word, wanted in schema.items():
        if word not in _SAID:
            found += _CHECKS[word](value, wanted, schema, at)
    return found


def _type(value: Any, wanted: Any, _schema: Any, at: str) -> list[str]:
    kinds = [wanted] if isinstance(wanted, str) else wanted
    is_flag = isinstance(value, bool)
    fits = any(isinstance(value, _TYPES[each]) and is_flag == (each == "boolean") for each in kinds)
    return [] if fits else [f"{at} is no {wanted}"]


def _enum(value: Any, wanted: Any, _schema: Any, at: str) -> list[str]:
    return [] if value in wanted else [f"{at} is none of {wanted}"]


def _minimum(value: Any, wanted: Any, _schema: Any, at: str) -> list[str]:
    return [f"{at} is below {wanted}"] if isinstance(value, (int, float)) and value < wanted else []


def _properties(value: Any, wanted: Any, _schema: Any, at: str) -> list[str]:
    known = value.keys() & wanted.keys() if isinstance(value, dict) else ()
    return [each for name in known for each in complaints(value[name], wanted[name], f"{at}.{name}")]


def _no_others(value: Any, wanted: Any, schema: Any, at: str) -> list[str]:
    assert wanted is False
    others = value.keys() - schema["properties"].keys() if isinstance(value, dict) else ()
    return [f"{at} has {each}" for each in others]


def _required(value: Any, wanted: Any, _schema: Any, at: str) -> list[str]:
    return [f"{at} lacks {each}" for each in wanted if isinstance(value, dict) and each not in value]


def _items(value: Any, wanted: Any, _schema: Any, at: str) -> list[str]:
    items = enumerate(value) if isinstance(value, list) else ()
    return [each for place, item in items for each in complaints(item, wanted, f"{at}[{place}]")]


def _min_items(value: Any, wanted: Any, _schema: Any, at: str) -> list[str]:
    return [f"{at} is too short"] if isinstance(value, list) and len(value) < wanted else []


def _max_items(value: Any, wanted: Any, _schema: Any, at: str) -> list[str]:
    return [f"{at} is too long"] if isinstance(value, list) and len(value) > wanted else []


def _any_of(value: Any, wanted: Any, _schema: Any, at: str) -> list[str]:
    return [] if any(not complaints(value, each, at) for each in wanted) else [f"{at} fits nothing"]


_CHECKS = {
    "type": _type,
    "enum": _enum,
    "minimum": _minimum,
    "properties": _properties,
    "additionalProperties": _no_others,
    "required": _required,
    "items": _items,
    "minItems": _min_items,
    "maxItems": _max_items,
    "anyOf": _any_of,
}


class _Core(yaml.SafeLoader):
    """Reads scalars by the core schema of YAML 1.2: 2:4 and no are text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's


_Core.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(null|Null|NULL|~|)$"), ["n", "N", "~", ""])
_Core.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^([Tt]rue|[Ff]alse|TRUE|FALSE)$"), list("tTfF"))
_Core.add_implicit_resolver("tag:yaml.org,2002:int", re.compile("^[-+]?[0-9]+$"), list("-+0123456789"))
_Core.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def load_core(text: str) -> Any:
    """Return what a text of YAML 1.2 holds."""
    return yaml.load(text, Loader=_Core)  # noqa: S506 - a safe one, above
