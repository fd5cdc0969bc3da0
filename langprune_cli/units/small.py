"""Makes a small model of the same kind as a large one: few blocks and tokens, every width divided by one number.

Heads, experts and switches stay as they are, so that its code takes the same ways.
"""

import copy
import json
import re
from collections.abc import Sequence
from typing import cast

import torch
from transformers import AutoModelForCausalLM

from langprune_cli.errors import LangpruneError
from langprune_cli.layouts.conversions import converts_as
from langprune_cli.models.narrowing import Narrowing, opened_as
from langprune_cli.models.protocols import CausalModel, Configuration, block_count
from langprune_cli.models.skeleton import build_skeleton, find_blocks, parameter_shapes
from langprune_cli.models.vocabulary_rows import with_vocab_size
from langprune_cli.tokens.choice import ids_in, replace_ids

_TOKENS = 64
_FEW = 4  # blocks, of which all are taken
_LEAST_HEAD = 8  # entries of a head that are left
# Numbers that are no widths: how many there are of something, what tokens are called, and where something begins.
_COUNTS = re.compile(
    r"^(num|n|max|first|top)_(?!embd|inner)|heads?$|experts?|layers?|token|vocab|position|window|chunk|top_?k|period|offset|step"
    r"|interval|seq|length|groups?$|kernel|conv|expand|version|_tp$|ratio|factor|index|multiple"
)  # fmt: skip


class Known:
    """A configuration that is equal to another one of the same values."""

    def __init__(self, config: Configuration) -> None:
        text = config.get_text_config()
        alone = type(text) in AutoModelForCausalLM._model_mapping  # noqa: SLF001 - no public list
        self.config = text if alone and converts_as(text.model_type, config.model_type) else config
        self._key = json.dumps([type(config).__name__, config.to_dict()], sort_keys=True, default=str)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Known) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)


def build(config: Configuration, dtype: torch.dtype = torch.bfloat16, *, experts_apart: bool = True) -> CausalModel:
    """Return the modules of a configuration without weights; raises LangpruneError where there are none."""
    config = copy.deepcopy(config)
    config._attn_implementation = config._experts_implementation = "eager"  # noqa: SLF001 - transformers has no other name for it
    return build_skeleton(config, dtype, experts_apart=experts_apart)


def few_blocks(config: Configuration) -> Configuration:
    """Return the configuration of a model with one block of each kind that this one has: all where that cannot be said.

    Two blocks are of one kind where their parameters have the same shapes and the configuration calls them the same.
    Raises LangpruneError for a configuration of which there is no model.
    """
    whole = parameter_shapes(build_skeleton(config, torch.bfloat16, experts_apart=False))[:-1]
    text, count = config.get_text_config(), len(whole)
    lists = [value for value in vars(text).values() if isinstance(value, (list, tuple)) and len(value) == count]
    kinds = [(shapes, [value[index] for value in lists]) for index, shapes in enumerate(whole)]
    first = tuple(index for index, kind in enumerate(kinds) if kinds.index(kind) == index)
    if count <= _FEW or getattr(text, "num_kv_shared_layers", None):  # gemma3n: later blocks use keys of earlier ones
        return config
    stay = first if len(first) > 1 else (0, 1)
    try:
        raw = Narrowing((), {}, stay, "").config(config.to_dict(), config)
        fewer = opened_as(config, raw)
        left = parameter_shapes(build_skeleton(fewer, torch.bfloat16, experts_apart=False))[:-1]
    except LangpruneError:
        return config
    return fewer if left == [whole[index] for index in stay] else config


def narrow_widths(config: Configuration) -> Configuration:
    """Return the configuration with few tokens and narrow heads; itself where no narrower model can be built."""
    text = config.get_text_config()
    heads = vars(text).get("num_attention_heads")  # gemma4 refuses to be asked for what its blocks may state otherwise
    width = vars(text).get("head_dim") or (text.hidden_size // heads if isinstance(heads, int) else 0)
    by = 1
    while isinstance(width, int) and width % (2 * by) == 0 and width // (2 * by) >= _LEAST_HEAD:
        by *= 2
    while by >= 1:
        try:
            smaller = _divided(config, by)
            model = build(smaller)
        except (LangpruneError, ValueError, TypeError, KeyError, AttributeError):
            by //= 2
            continue
        if len(find_blocks(model)[1]) == block_count(text) and _same_paths(config, model):
            return smaller
        by //= 2
    return config


def _same_paths(config: Configuration, model: CausalModel) -> bool:
    return [each.keys() for each in parameter_shapes(build(config))] == [
        each.keys() for each in parameter_shapes(model)
    ]


def _divided(config: Configuration, by: int) -> Configuration:
    plain = json.loads(json.dumps(config.to_dict(), default=str))  # as a file has it: keys are strings
    raw = with_vocab_size(plain, config, min(_TOKENS, config.get_text_config().vocab_size))
    for key in [key for key in raw if key.startswith("vocab_size_")]:
        raw[key] = raw["vocab_size"]
    replace_ids(raw, dict.fromkeys(ids_in(raw), 0))
    text = config.get_text_config()
    part = raw
    if text is not config:
        part = cast("dict[str, object]", raw[next(key for key, value in vars(config).items() if value is text)])
    for key, value in part.items():
        part[key] = _narrower(key, value, by)
    return opened_as(config, raw)


def _narrower(key: str, value: object, by: int) -> object:
    if _COUNTS.search(key):
        return value
    if type(value) is int:
        return value // by if value % by == 0 else value
    if isinstance(value, list) and value and all(type(each) is int and each % by == 0 for each in value):
        return [each // by for each in cast("Sequence[int]", value)]
    if isinstance(value, dict):  # rope_parameters: a factor for each pair of a head's entries
        return {
            name: each[: len(each) // by] if isinstance(each, list) and name.endswith("_factor") else each
            for name, each in value.items()
        }
    return value
