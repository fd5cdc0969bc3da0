"""Removes the rows of pruned tokens from every tensor with one row per token."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from langprune_cli.errors import LangpruneError
from langprune_cli.models.protocols import Configuration
from langprune_cli.models.streamed import StreamedModel
from langprune_cli.models.tensor_entry import TensorEntry


@dataclass(frozen=True)
class VocabularyRows:
    """The kept rows of every tensor with one row per token."""

    model: StreamedModel
    stay: Sequence[int]  # ascending

    @property
    def rows(self) -> int:
        """Return the number of rows before pruning."""
        size: int = self.model.config.get_text_config().vocab_size
        return size

    @cached_property
    def names(self) -> frozenset[str]:
        """Return the checkpoint tensors with one row per token: embeddings, and a head with its bias.

        Raises LangpruneError if another tensor has one row per token, or a configuration numbers the parts of images as tokens.
        """
        if getattr(self.model.config, "vocabulary_map", None):  # chameleon, emu3
            raise LangpruneError(
                f"{self.model.folder / 'config.json'} has a vocabulary_map, by which parts of images are tokens: the vocabulary "
                "of this family cannot be trimmed"
            )
        head = self.model.model.get_output_embeddings()
        ours = [self.model.model.get_input_embeddings(), head]
        # A head's bias may belong to the module around it (reformer).
        around = [each for each in self.model.model.modules() if any(child is head for child in each.children())]
        # Embeddings beside the main one may have another size: gemma3n's vocab_size_per_layer_input.
        text = vars(self.model.config.get_text_config())
        sizes = [(size,) for key, size in text.items() if key.startswith("vocab_size")]
        found = set()
        for name, owners in self.model.outside_owners().items():
            rows = self.model.checkpoint.entries[name].shape[:1]
            holders = ours if len(self.model.checkpoint.entries[name].shape) > 1 else [*ours, *around]
            if rows == (self.rows,) and any(owner is each for owner in owners for each in holders):
                found.add(name)
            elif rows in sizes and any(isinstance(owner, nn.Embedding) for owner in owners):
                raise LangpruneError(
                    f"{self.model.folder} holds {name} with one row per token, beside embeddings and head: the vocabulary of "
                    "this family cannot be trimmed"
                )
        self._check_blocks()
        if not found:
            raise LangpruneError(f"{self.model.folder} has no embedding of {self.rows} rows: get the checkpoint again")
        main = next(name for name, owners in self.model.outside_owners().items() if ours[0] in owners)
        if main not in found:
            count = self.model.checkpoint.entries[main].shape[0]
            raise LangpruneError(
                f"{self.model.folder} has embeddings of {count} rows for a vocabulary of {self.rows}: the others are no tokens, "
                "so that the vocabulary of this family cannot be trimmed"
            )
        return frozenset(found)

    def _check_blocks(self) -> None:
        """Raise LangpruneError if blocks have numbers by token, as those of each token's experts (deepseek_v4)."""
        for index, block in enumerate(self.model.blocks):
            buffers = dict(block.named_buffers())
            for path, name in self.model.buffer_paths(index).items():
                if buffers[path].shape[:1] == (self.rows,) and not buffers[path].is_floating_point():
                    raise LangpruneError(
                        f"{self.model.folder} holds {name}, which numbers experts by token: the vocabulary of this family cannot "
                        "be trimmed"
                    )

    def entry(self, name: str, entry: TensorEntry) -> TensorEntry:
        """Return a tensor's entry with its new shape and size."""
        if name not in self.names:
            return entry
        return replace(entry, shape=(len(self.stay), *entry.shape[1:]), size=entry.size // self.rows * len(self.stay))

    def tensor(self, name: str, tensor: Tensor) -> Tensor:
        """Return the kept rows of a tensor."""
        return tensor.index_select(0, torch.tensor(self.stay)) if name in self.names else tensor

    def config(self, raw: dict[str, object]) -> dict[str, object]:
        """Return the smaller model's config.json, with the token ids still unchanged."""
        return with_vocab_size(raw, self.model.config, len(self.stay))


def with_default_ids(raw: dict[str, object], config: Configuration, stay: Container[int]) -> dict[str, object]:
    """Return a config.json that states its class's default token ids, and none for pruned tokens.

    Defaults come from the family's first model (phi3 pads with 32000); left out, they would name wrong or missing tokens.
    """
    text = config.get_text_config()
    own = raw if text is config else cast("Mapping[str, object]", raw.get(_text_key(config)) or {})
    added = {
        key: value if value in stay else None
        for key, value in _default_ids(text, own).items()
        if text is config or key not in raw
    }
    if text is config:
        return raw | added
    outer = {key: value for key, value in _default_ids(config, raw).items() if value in stay}
    return raw | outer | {_text_key(config): {**own, **added}}


def image_ids(raw: Mapping[str, object], config: Configuration) -> set[int]:
    """Return the ids of tokens for images and the like that a class names and its config.json, raw, leaves out."""
    return set() if config.get_text_config() is config else set(_default_ids(config, raw).values())


def _default_ids(config: Configuration, stated: Mapping[str, object]) -> dict[str, int]:
    """Return the token ids of an opened configuration that its part of config.json does not state."""
    spelled = {config.attribute_map.get(key, key) for key in stated}
    return {
        key: value
        for key, value in vars(config).items()
        if key.endswith(("_token_id", "_token_index")) and isinstance(value, int) and key not in spelled
    }


def _text_key(config: Configuration) -> str:
    text = config.get_text_config()
    key: str = next(key for key, value in vars(config).items() if value is text)
    return key


def with_vocab_size(raw: dict[str, object], config: Configuration, size: int) -> dict[str, object]:
    """Return a config.json for another number of tokens. raw: the present one, as in the file; config: the same, opened."""
    text = config.get_text_config()
    of_decoder = [key for key in ("decoder_vocab_size",) if vars(text).get(key) == text.vocab_size]  # marian
    sizes = dict.fromkeys(["vocab_size", *of_decoder], size)
    if text is config:
        return raw | sizes
    key = _text_key(config)
    inner = cast("Mapping[str, object]", raw.get(key) or {})
    outer = {"vocab_size": size} if "vocab_size" in raw else {}
    return raw | outer | {key: {**inner, **sizes}}
