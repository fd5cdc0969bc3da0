"""What langprune uses of a tokenizer of transformers, which type checkers do not follow."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """A tokenizer; fast ones use all cores for a batch."""

    def __call__(self, text: str | list[str], **options: object) -> Mapping[str, object]:
        """Return `input_ids`, with the special tokens that are added by default, and what the options ask for."""

    def __len__(self) -> int:
        """Return the size of the vocabulary, added tokens included."""

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token."""

    def decode(self, token_ids: int | Sequence[int], **options: object) -> str:
        """Return the text of a list of ids."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: object) -> str:
        """Return a conversation as the chat template writes it; raises what the template raises."""
