"""JSON as types: what a file may hold, and functions that take a value for what it should be.

Each raises TypeError for a value of another type; whoever reads a file turns that into a sentence that names it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
JsonObject = dict[str, Json]


def members(value: Json) -> JsonObject:
    """Return an object."""
    if not isinstance(value, dict):
        raise TypeError("not a JSON object")
    return value


def items(value: Json) -> list[Json]:
    """Return an array."""
    if not isinstance(value, list):
        raise TypeError("not a JSON array")
    return value


def text(value: Json) -> str:
    """Return a string."""
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def whole(value: object) -> int:
    """Return a whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("not a whole number")
    return value


def real(value: Json) -> float:
    """Return a number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError("not a number")
    return value


@dataclass(frozen=True)
class IdPlace:
    """A token id where a JSON value names it."""

    id: int
    replace: Callable[[int], None]  # puts another id in its place

    @classmethod
    def in_object(cls, holder: JsonObject | dict[str, object], key: str) -> "IdPlace":
        """Return the place of the id that is a member of an object."""
        return cls(whole(holder[key]), partial(holder.__setitem__, key))

    @classmethod
    def in_array(cls, holder: list[Json], index: int) -> "IdPlace":
        """Return the place of the id that is an item of an array."""
        return cls(whole(holder[index]), partial(holder.__setitem__, index))
