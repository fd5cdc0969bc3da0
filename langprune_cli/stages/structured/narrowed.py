"""Narrows an opened model to fewer units or blocks, if transformers can open the result."""

import json
from collections.abc import Mapping, Sequence

from langprune_cli.errors import LangpruneError
from langprune_cli.models.families import Axis, Kind
from langprune_cli.models.model_files import CONFIG
from langprune_cli.models.narrowing import Narrowing, blocks_prefix
from langprune_cli.streaming.opened import OpenedModel


def narrowing_of(
    model: OpenedModel, axes: Sequence[Axis], kept: Mapping[Kind, int], blocks: Sequence[int] | None = None
) -> Narrowing:
    """Return the narrowing of a model to `kept` units of these axes in each block, and to these blocks (None: all).

    Raises LangpruneError for an unsupported checkpoint, and if transformers could not open the result.
    """
    config, every = model.streamed.config, tuple(range(len(model.streamed.blocks)))
    text = config.get_text_config()
    if len(every) != text.num_hidden_layers:  # longcat_flash counts two layers a block
        raise LangpruneError(
            f"config.json of a {text.model_type} counts {text.num_hidden_layers} layers and the model has {len(every)} blocks, "
            "so that it cannot describe a smaller one: use an unstructured or N:M pattern"
        )
    prefix = "" if blocks is None else blocks_prefix(model.streamed.tensor_paths(0), 0)
    narrowing = Narrowing(tuple(axes), dict(kept), every if blocks is None else tuple(blocks), prefix)
    narrowing.config(json.loads((model.location.folder / CONFIG).read_bytes()), config)
    return narrowing
