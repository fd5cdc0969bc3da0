"""What a mask of whole blocks holds, and what it cuts from a model."""

import json

from langprune_cli.stages.structured.cut import Masks, readable
from langprune_cli.stages.structured.narrowed import narrowing_of
from langprune_cli.stages.structured.narrowing_cut import NarrowingCut
from langprune_cli.store.artifact import Artifact
from langprune_cli.streaming.opened import OpenedModel

BLOCKS_PART = "blocks.json"  # which blocks stay, and by what figures


def blocks_that_stayed(masks: Artifact) -> tuple[int, ...] | None:
    """Return the blocks that a mask of whole blocks keeps, None for another mask."""
    if BLOCKS_PART not in masks.manifest.parts:
        return None
    return tuple(json.loads(masks.read(BLOCKS_PART))["stay"])


def block_cut(model: OpenedModel, masks: Masks) -> NarrowingCut:
    """Return what a mask of whole blocks cuts; raises LangpruneError for a model that cannot be cut so."""
    return NarrowingCut(model, narrowing_of(model, (), {}, blocks_that_stayed(readable(masks))), masks)
