"""The part and the cut of a mask of whole blocks."""

import json

from langprune_cli.stages.structured.cut import Masks, readable
from langprune_cli.stages.structured.narrowed import narrowing_of
from langprune_cli.stages.structured.narrowing_cut import NarrowingCut
from langprune_cli.store.artifact import Artifact
from langprune_cli.streaming.opened import OpenedModel

BLOCKS_PART = "blocks.json"  # which blocks stay, and the figures behind the choice


def blocks_that_stayed(masks: Artifact) -> tuple[int, ...] | None:
    """Return the blocks that a mask of blocks keeps, None for other masks."""
    if BLOCKS_PART not in masks.manifest.parts:
        return None
    return tuple(json.loads(masks.read(BLOCKS_PART))["stay"])


def block_cut(model: OpenedModel, masks: Masks) -> NarrowingCut:
    """Return the cut of a mask of blocks; raises LangpruneError for an unsupported model."""
    return NarrowingCut(model, narrowing_of(model, (), {}, blocks_that_stayed(readable(masks))), masks)
