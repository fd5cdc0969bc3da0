"""Looks at held-out windows while a model is trained: what a recovered model keeps of them in `recovery.json`."""

import json
from collections.abc import Sequence
from math import isfinite
from typing import TypedDict

from langprune_cli.errors import LangpruneError
from langprune_cli.store.artifact import Artifact
from langprune_cli.tokens.json_values import Json, items, members, real, whole

RECOVERY_PART = "recovery.json"
_LOOKS = 16  # how often held-out windows are looked at, or a little more


class Look(TypedDict):
    """What a look at the held-out windows found."""

    tokens: int  # trained on so far
    loss: float | None  # nats per token on these tokens since the look before
    held_out: float  # nats per token on held-out windows


def look_every(steps: int) -> int:
    """Return after how many steps held-out windows are looked at; they also are before the first and after the last."""
    return max(1, steps // _LOOKS)


def kept_look(looks: Sequence[Look]) -> int:
    """Return the number of the look whose weights are kept: the first with the least loss on held-out windows."""
    return min(range(len(looks)), key=lambda number: looks[number]["held_out"])


def said(look: Look, tokens: int) -> str:
    """Return the sentence on a look of a training on `tokens` tokens."""
    read = "" if look["loss"] is None else f"loss {look['loss']:.4f}, "
    return f"After {look['tokens']:,} of {tokens:,} tokens: {read}{look['held_out']:.4f} on held-out windows."


def is_finite(look: Look) -> bool:
    """Return whether the losses of a look are finite."""
    return all(isfinite(each) for each in (look["held_out"], look["loss"] or 0.0))


def read_looks(artifact: Artifact) -> list[Look]:
    """Return the looks of a recovered model, one or more; raises LangpruneError if they are missing or damaged."""
    data = artifact.read(RECOVERY_PART)
    try:
        looks = [_look(members(each)) for each in items(members(json.loads(data))["looks"])]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        looks = []
    if not looks:
        raise LangpruneError(
            f"{artifact.folder / RECOVERY_PART} holds no looks at held-out windows: make the model again"
        )
    return looks


def _look(record: dict[str, Json]) -> Look:
    loss = record["loss"]
    return {
        "tokens": whole(record["tokens"]),
        "loss": None if loss is None else _number(loss),
        "held_out": _number(record["held_out"]),
    }


def _number(value: Json) -> float:
    number = float(real(value))
    if not isfinite(number):
        raise ValueError("not finite")
    return number
