"""Prune large language models for the languages their users care about.

Every command is also a function here, with the same name and options (docs/api.md). They load from `langprune_cli.api` on first
use, and torch when the first one runs, so importing this package costs nothing.
"""

from typing import TYPE_CHECKING

from langprune_cli.version import __version__

if TYPE_CHECKING:
    from langprune_cli.api import (
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
        run_recipe,
        score,
    )

__all__ = [
    "__version__",
    "apply",
    "calibrate",
    "combine",
    "compare",
    "evaluate",
    "export",
    "mask",
    "plan",
    "prune",
    "recover",
    "report",
    "run_recipe",
    "score",
]


def __getattr__(name: str) -> object:
    """Return a function of the API."""
    if name in __all__:
        from langprune_cli import api  # noqa: PLC0415 - see above

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names of this package."""
    return __all__
