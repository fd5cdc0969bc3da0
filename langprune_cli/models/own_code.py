"""A model's own code, run on values that its configuration gave it: what it raises becomes one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from langprune_cli.errors import LangpruneError, first_line


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
