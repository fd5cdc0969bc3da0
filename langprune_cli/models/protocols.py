"""Types for transformers' configurations and models: the attributes that langprune uses."""

from collections.abc import Callable
from typing import Protocol, Self

import torch
from torch import nn


class Configuration(Protocol):
    """A model's configuration, or its part for the text model."""

    model_type: str
    name_or_path: str
    attribute_map: dict[str, str]  # the usual name of a setting -> the family's own
    architectures: list[str] | None  # the name of the model's class
    tie_word_embeddings: bool
    dtype: torch.dtype | str | None
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    attention_layers: list[str]  # of gpt_neo
    _attn_implementation: str | None
    _experts_implementation: str | None

    def get_text_config(self) -> "Configuration":
        """Return the part for the text model, itself if there is no such part."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, object]) -> Self:
        """Open the values of a config.json."""

    def to_dict(self) -> dict[str, object]:
        """Return every value, as config.json would have it."""

    def to_json_string(self) -> str:
        """Return what config.json would have: every value but the class's own."""

    def _decode_special_floats(self, values: dict[str, object]) -> dict[str, object]: ...


# Of decoders whose configuration is an encoder's as well: num_hidden_layers is the encoder's number (bart, whisper). xlstm
# builds by num_blocks.
_OWN_COUNTS = ("decoder_layers", "num_decoder_layers", "num_blocks")


def block_key(text: Configuration) -> str:
    """Return the key by which a configuration of a text model counts its blocks."""
    values = vars(text)
    computed = isinstance(getattr(type(text), "num_hidden_layers", None), property)
    keys = (*_OWN_COUNTS, *(["num_layers"] if computed else []))  # longcat_flash computes two layers for each block
    return next((key for key in keys if isinstance(values.get(key), int)), "num_hidden_layers")


def block_count(text: Configuration) -> int:
    """Return how many blocks a configuration of a text model counts; raises AttributeError if it does not (blt)."""
    count: int = getattr(text, block_key(text))
    return count


class CausalModel(nn.Module):
    """A causal language model of transformers. For type checks only: no object is of this class."""

    config: Configuration
    base_model_prefix: str
    get_decoder: Callable[[], nn.Module]
    get_input_embeddings: Callable[[], nn.Module]
    get_output_embeddings: Callable[[], nn.Module | None]
