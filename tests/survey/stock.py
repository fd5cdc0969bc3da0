"""Stock transformers in a process of its own, which cannot import langprune: what it makes of folders."""

import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.reference.identity import output_is_input
from tests.survey.kinds import Kind, logits_of, opened

_GENERATED = 4


@dataclass(frozen=True)
class Measured:
    """What a model makes of windows of text."""

    logits: Tensor  # [n, t, vocabulary]
    nats: float  # mean loss of a predicted token
    generated: object  # how many tokens it writes after a prompt, or why it writes none
    problems: dict[str, object]  # parameters that the folder lacks, or has too many of


@dataclass(frozen=True)
class Request:
    """A folder to open and run."""

    kind: Kind
    folder: Path
    windows: Tensor
    blocks: str = ""  # the list of the model's blocks
    idle: tuple[int, ...] = ()  # those that hand on what they are given


def measure(asked: Request) -> Measured:
    """Return what a model makes of windows."""
    model, problems = opened(asked.kind, asked.folder)
    for index in asked.idle:
        blocks: Any = model.get_submodule(asked.blocks)
        blocks[index].register_forward_hook(output_is_input, with_kwargs=True)
    logits = logits_of(model, asked.windows)
    rows = logits[:, :-1].double().log_softmax(-1)
    nats = -rows.gather(-1, asked.windows[:, 1:, None]).mean()
    generated = None if asked.idle else _generated(model, asked.windows[:1, :5])
    return Measured(logits, float(nats), generated, problems)


def _generated(model: Any, prompt: Tensor) -> object:
    limits = {"max_new_tokens": _GENERATED, "min_new_tokens": _GENERATED}
    try:
        return model.generate(prompt, do_sample=False, **limits).shape[1] - prompt.shape[1]
    except Exception as error:  # noqa: BLE001 - whatever a model's own code raises
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def serve(connection: Connection) -> None:
    """Answer requests until None comes, or the other end is gone."""
    loaded = [name for name in sys.modules if name.split(".")[0] == "langprune_cli"]
    if loaded:
        raise RuntimeError(f"this process has {loaded}")
    sys.modules["langprune_cli"] = None  # type: ignore[assignment] # what makes `import` fail
    while (asked := connection.recv()) is not None:
        try:
            connection.send(measure(asked))
        except Exception as error:  # noqa: BLE001 - as above
            connection.send(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
