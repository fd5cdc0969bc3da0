"""The text that a model is trained on: windows of one text, or of several by shares, and those that are held out."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from langprune_cli.stages.recover.block_tuning import held_out
from langprune_cli.store.building import Reporter
from langprune_cli.streaming.opened import OpenedModel
from langprune_cli.text.budgets import mixed, mixture
from langprune_cli.text.window_cache import kept_windows
from langprune_cli.text.windows import is_given, training_windows
from langprune_cli.types import TextSpec, Windows

_HELD_OUT, _MOST_HELD_OUT = 16, 64  # one window of so many is held out, and no more than that


def training_text(
    model: OpenedModel,
    specs: Sequence[TextSpec],
    shares: Sequence[int],  # of each text; none: equal ones
    reporter: Reporter,
    *,
    tokens: int,  # to train on
    seqlen: int,
    seed: int,
) -> Windows:
    """Return the windows to train on, as many as hold `tokens` tokens; fewer if a text has less than its share.

    Each text then has its share all the same. Raises LangpruneError for text that cannot be read, or is too short.
    """
    shares = shares or [1] * len(specs)
    length = min(seqlen, model.streamed.context or seqlen)
    drawn = [
        _drawn(model, spec, -(-tokens * share // sum(shares)), length, seed, reporter)
        for spec, share in zip(specs, shares, strict=True)
    ]
    for windows in drawn:
        model.check_windows(windows)
        for note in windows.notes:
            reporter.note(note)
    if len(drawn) == 1:
        return drawn[0]
    # The text that has least of its share says how much of the others is read.
    units = [share // math.gcd(*shares) for share in shares]
    turns = min(windows.count // unit for windows, unit in zip(drawn, units, strict=True))
    counts = [turns * unit or min(windows.count, unit) for windows, unit in zip(drawn, units, strict=True)]
    return mixed(mixture(specs, counts), drawn)


def _drawn(model: OpenedModel, spec: TextSpec, tokens: int, seqlen: int, seed: int, reporter: Reporter) -> Windows:
    vocab_size = model.streamed.config.get_text_config().vocab_size
    tokenizer = None if is_given(spec.source) else model.tokenizer
    return kept_windows(
        spec,
        {"for": "training", "tokenizer": model.vocabulary, "tokens": tokens, "seqlen": seqlen, "seed": seed,
         "vocab_size": vocab_size},
        partial(training_windows, spec, tokenizer, tokens=tokens, seqlen=seqlen, seed=seed, vocab_size=vocab_size),
        reporter,
    )  # fmt: skip


def held_out_places(count: int) -> Tensor:  # bool [n]
    """Return which of the windows of a text to hold out: never more than half, so that some are left to train on."""
    return held_out(count, _HELD_OUT, min(_MOST_HELD_OUT, count // 2))


def held_out_windows(windows: Windows) -> Tensor:  # bool [n]
    """Return which windows to hold out, of each text its share."""
    return torch.cat([held_out_places(part.count) for part in windows.parts or (windows,)])
