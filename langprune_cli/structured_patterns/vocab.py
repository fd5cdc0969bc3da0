"""Tokens that a text does not use: their rows leave embeddings and head, and they leave the tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langprune_cli.structured_patterns.pattern import Counted, StructuredPattern

if TYPE_CHECKING:  # the command line reads this file
    from langprune_cli.records import Params
    from langprune_cli.stages.structured.choosing import Choosing
    from langprune_cli.stages.structured.cut import Cut, Masks
    from langprune_cli.stages.structured.removals import Removal, Rounding
    from langprune_cli.stages.structured.sketch import Sketch
    from langprune_cli.store.artifact import Artifact
    from langprune_cli.streaming.opened import OpenedModel
    from langprune_cli.structured_patterns.pattern import Show


def plan(sketch: Sketch, removal: Removal, _rounding: Rounding) -> Sketch:
    """Return the sketch with the target's number of tokens."""
    from langprune_cli.stages.structured.sketch import without_tokens  # noqa: PLC0415

    return without_tokens(sketch, removal)


def choosing(model: OpenedModel, counts: Artifact, removal: Removal, show: Show) -> Choosing:
    """Return the choice of tokens."""
    from langprune_cli.stages.structured.vocabulary_choosing import choosing_tokens  # noqa: PLC0415

    return choosing_tokens(model, counts, removal, show)


def cut(model: OpenedModel, masks: Masks) -> Cut:
    """Return the cut of a mask of tokens."""
    from langprune_cli.stages.structured.vocabulary_cut import vocabulary_cut  # noqa: PLC0415

    return vocabulary_cut(model, masks)


def words(params: Params) -> list[str]:
    """Return --no-keep-chat for a mask that does not keep the tokens of chats."""
    return [] if "keep_chat" in params else ["--no-keep-chat"]


PATTERN = StructuredPattern(
    "vocab",
    "tokens",
    5,
    Counted(cut, choosing),
    plan,
    share=False,
    touches_blocks=False,
    trims_tokenizer=True,
    unchanged="Removed tokens lost their rows of embeddings and head, and the others have new ids; all else is unchanged.",
    advice=lambda _update: ["a higher --coverage, and text of every language to keep"],
    words=words,
)
