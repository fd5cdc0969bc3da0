"""What langprune uses of transformers' classes, which type checkers do not follow: configurations and models."""

from collections.abc import Callable
from typing import Protocol, Self

from torch import nn


class Configuration(Protocol):
    """A model's configuration, or the part of it that describes its text model."""

    model_type: str
    name_or_path: str
    attribute_map: dict[str, str]  # the usual name of a setting -> the family's own
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    attention_layers: list[str]  # of gpt_neo
    _attn_implementation: str | None
    _experts_implementation: str | None

    def get_text_config(self) -> "Configuration":
        """Return the part that describes the text model: itself where there is no other part."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, object]) -> Self:
        """Return what a config.json says, opened."""

    def _decode_special_floats(self, values: dict[str, object]) -> dict[str, object]: ...


class CausalModel(nn.Module):
    """A causal language model of transformers. No object is of this class: it says what those of transformers' have."""

    config: Configuration
    base_model_prefix: str
    get_input_embeddings: Callable[[], nn.Module]
    get_output_embeddings: Callable[[], nn.Module | None]
