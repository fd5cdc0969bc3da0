"""Turns the errors of a model's own code, run with its configuration's values, into one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from langprune_cli.errors import LangpruneError, first_line


@contextmanager
def own_code(folder: Path, kind: str) -> Iterator[None]:
    """Turn any error of the model class `kind` into a LangpruneError that names its config.json.

    Out-of-memory errors pass through: they are not the configuration's fault.
    """
    try:
        yield
    except (LangpruneError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "allocate memory" in str(error):  # torch on a CPU raises a RuntimeError
            raise
        raise LangpruneError(
            f"{kind} cannot run block by block with the values of {folder / 'config.json'} ({first_line(error)}): if "
            "transformers runs it, this family is not supported; else get the model again"
        ) from error
