"""Finds one-file plug-ins in a folder: each module has one record (a method, an update, ...)."""

import importlib
import pkgutil
from functools import cache
from types import ModuleType
from typing import Protocol, TypeVar

from langprune_cli.errors import LangpruneError, near_matches


class Named(Protocol):
    """A record with a name."""

    @property
    def name(self) -> str:
        """Return the name that users type."""


R = TypeVar("R", bound=Named)


@cache
def _held(package: ModuleType) -> list[object]:
    """Return everything that the modules of `package` have a name for."""
    modules = [
        importlib.import_module(f"{package.__name__}.{each.name}") for each in pkgutil.iter_modules(package.__path__)
    ]
    return [value for module in modules for value in vars(module).values()]


def records(package: ModuleType, kind: type[R]) -> dict[str, R]:
    """Return every record of type `kind` in the modules of `package`, by name."""
    found = {each.name: each for each in _held(package) if isinstance(each, kind)}
    return dict(sorted(found.items()))


def names_in(package: ModuleType) -> list[str]:
    """Return the names of all records of `package` from its file names, without importing them.

    A file has its record's name, with _ for -. The file that defines the record's type has the singular of the package's
    last word.
    """
    kind = package.__name__.rpartition(".")[2].removesuffix("s").rpartition("_")[2]
    return [each.name.replace("_", "-") for each in pkgutil.iter_modules(package.__path__) if each.name != kind]


def record(package: ModuleType, kind: type[R], option: str, name: str) -> R:
    """Return the record called `name`; raises LangpruneError with the nearest names if there is none."""
    return _named(records(package, kind), name, f"{option} {name!r} is unknown")


def method_of(package: ModuleType, kind: type[R], pattern: str, name: str) -> R:
    """Return a pattern's method called `name`; raises LangpruneError with the nearest names if it has none."""
    return _named(records(package, kind), name, f"--pattern {pattern} has no method {name!r}")


def _named(known: dict[str, R], name: str, problem: str) -> R:
    if name not in known:
        raise LangpruneError(f"{problem}: {near_matches(name, known)}")
    return known[name]
