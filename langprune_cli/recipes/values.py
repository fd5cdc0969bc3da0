"""Values of a recipe's keys, made of what is written by the types of the request's fields."""

import math
import re
from collections.abc import Callable, Mapping

from langprune_cli.recipes.commands import Key, Type
from langprune_cli.recipes.nodes import Items, Node, Text, WrongError

_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_ONE_WORD = "write it as one word, such as uk:96 without a space"


def value_of(key: Key, node: Node) -> object:
    """Return the value of a key as its request takes it; raises WrongError, which names the key, for what is none."""
    if isinstance(node, Text):
        if node.left_out:
            raise WrongError(node.line, f"{key.name} has no value: give one, or leave the key out")
        return _OF_TEXT[key.type](key, node)
    if not isinstance(node, Items) or key.type not in {"texts", "pair"}:
        wanted = "a text or a list of texts" if key.type == "texts" else f"a {key.type}"
        raise WrongError(node.line, f"{key.name} is {node.what}, and {wanted} is wanted: {_ONE_WORD}")
    for each in node.items:
        if not isinstance(each, Text) or each.left_out:
            raise WrongError(each.line, f"{key.name} lists {each.what} that is no text: {_ONE_WORD}")
    texts = tuple(each.text for each in node.items if isinstance(each, Text))
    if not texts or (key.type == "pair" and len(texts) != 2):
        wanted = "two values" if key.type == "pair" else "a value"
        raise WrongError(node.line, f"{key.name} lists {len(texts)} values: give {wanted}")
    return texts


def _wrong(key: Key, node: Text, wanted: str) -> WrongError:
    return WrongError(node.line, f"{key.name} {node.text!r} is not {wanted}")


def _flag(key: Key, node: Text) -> bool:
    if node.text.lower() not in _FLAGS:
        raise _wrong(key, node, "true or false: give one of them")
    return _FLAGS[node.text.lower()]


def _whole_number(key: Key, node: Text) -> int:
    if not re.fullmatch(r"[-+]?[0-9]{1,18}", node.text):
        raise _wrong(key, node, "a whole number: give one such as 128")
    return int(node.text)


def _number(key: Key, node: Text) -> float:
    try:
        number = float(node.text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or not node.text.isascii() or "_" in node.text:
        raise _wrong(key, node, "a number: give one such as 0.5")
    return number


def _text(_key: Key, node: Text) -> str:
    return node.text


def _one_text(_key: Key, node: Text) -> tuple[str, ...]:
    return (node.text,)


def _pair(key: Key, node: Text) -> tuple[str, str]:
    raise _wrong(key, node, "a list of two: write [A, B]")


_OF_TEXT: Mapping[Type, Callable[[Key, Text], object]] = {
    "flag": _flag,
    "whole number": _whole_number,
    "number": _number,
    "text": _text,
    "texts": _one_text,
    "pair": _pair,
}
