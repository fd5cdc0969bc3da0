"""A model's own code, run on values that its configuration gave it: what it raises becomes one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from langprune_cli.errors import LangpruneError


@contextmanager
def own_code(folder: Path, kind: str) -> Iterator[None]:
    """Turn whatever the code of the model class `kind` raises into a LangpruneError that names its config.json.

    Memory that runs out is no fault of the configuration, and passes through.
    """
    try:
        yield
    except (LangpruneError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "allocate memory" in str(error):  # torch on a CPU raises a RuntimeError
            raise
        raise LangpruneError(
            f"{kind} cannot compute what {folder / 'config.json'} describes ({first_line(error)}): check the values of its "
            "config.json, or get the model again"
        ) from error


def first_line(error: BaseException) -> str:
    """Return what an exception says, on one line of at most 200 characters; its name where it says nothing."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:200].rstrip(".: ")
    return said or type(error).__name__
