"""Narrows an opened model to fewer units or blocks, if transformers can open the result."""

import json
from collections.abc import Mapping, Sequence

from langprune_cli.errors import LangpruneError
from langprune_cli.models.families import Axis, Kind
from langprune_cli.models.model_files import CONFIG
from langprune_cli.models.narrowing import Narrowing, blocks_prefix, opened_as
from langprune_cli.models.skeleton import build_skeleton, parameter_shapes
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
    smaller = narrowing.config(json.loads((model.location.folder / CONFIG).read_bytes()), config)
    if axes and text is not config:  # `check_without` compares the shapes of a model with fewer blocks
        _check_outside(model, smaller)
    return narrowing


def _check_outside(model: OpenedModel, smaller: dict[str, object]) -> None:
    """Raise LangpruneError if a number of the text tower also sizes what lies outside of it, as in idefics2's connector."""
    dense = model.streamed
    narrow = build_skeleton(
        opened_as(dense.config, smaller),
        dense.dtype,
        trust_remote_code=model.compute.trust_remote_code,
        names=dense.checkpoint.entries,
    )
    before, after = (parameter_shapes(each)[-1] for each in (dense.model, narrow))
    name = next((name for name in after if name in before and after[name] != before[name]), None)
    if name:
        raise LangpruneError(
            f"config.json of this {dense.config.model_type} cannot state it: {name}, outside of the text model, would become "
            f"{list(after[name])} as well: use another pattern"
        )
