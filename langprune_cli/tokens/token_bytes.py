"""How many bytes of text a token stands for, to turn a loss in nats into bits per UTF-8 byte.

Bits per byte divides the summed loss of the predicted tokens by the bytes of text that these tokens stand
for. A table of bytes per token makes both sums additive over windows and exact, where decoding windows would
not be: a window may begin or end within a character.
"""

import json
import re
from typing import Protocol

import torch
from torch import Tensor

from langprune_cli.tokens.json_values import Json, JsonObject, items, members, text, whole
from langprune_cli.tokens.tokenizer import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class _Backend(Protocol):
    """A tokenizer of the tokenizers library, which has no types."""

    def to_str(self) -> str:
        """Return its tokenizer.json."""

    def get_vocab(self, *, with_added_tokens: bool) -> dict[str, int]:
        """Return the id of each token."""


def token_byte_lengths(tokenizer: Tokenizer) -> Tensor | None:  # int32 [vocabulary]
    """Return the UTF-8 bytes of text that each token id stands for, or None if the tokens do not tell.

    Known are byte-level BPE (GPT-2, Llama 3, Qwen: each character of a token's string is one byte, by the
    table of GPT-2's `bytes_to_unicode`) and the kinds that write a space as "▁" (Llama 2, Gemma, T5: the
    string is the text, and "<0xNN>" is one byte where the tokenizer falls back to bytes). Special tokens
    stand for no text: 0 bytes.

    The bytes of a text's tokens sum to the text's own, as the tokenizer normalises it, and to one more where
    it puts a space before the first word. A character that a vocabulary without bytes does not know counts
    nothing.
    """
    backend = _backend(tokenizer)
    if backend is None:
        return None
    described = _described(backend)
    decoders = steps(described.get("decoder"))
    kinds = {decoder["type"] for decoder in decoders}
    vocabulary = backend.get_vocab(with_added_tokens=True)
    added = {whole(token["id"]): token for token in added_tokens(described)}
    lengths = torch.zeros(max([len(tokenizer) - 1, *vocabulary.values(), *added]) + 1, dtype=torch.int32)

    if "ByteLevel" in kinds:
        alphabet = byte_characters()
        sizes = {i: len(s) if alphabet.issuperset(s) else len(s.encode()) for s, i in vocabulary.items()}
        sizes |= {i: len(text(token["content"]).encode()) for i, token in added.items()}  # matched in the text itself
    elif space := space_mark(decoders):
        falls_back = "ByteFallback" in kinds
        sizes = {
            i: 1 if falls_back and _BYTE_TOKEN.fullmatch(s) else len(s.replace(space, " ").encode())
            for s, i in vocabulary.items()
        }
    else:
        return None
    sizes |= {i: 0 for i, token in added.items() if token["special"]}
    lengths[torch.tensor(list(sizes), dtype=torch.int64)] = torch.tensor(list(sizes.values()), dtype=torch.int32)
    return lengths


def decoded_bytes(tokenizer: Tokenizer, ids: Tensor) -> int:  # ids: integers [t] or [n, t]
    """Return the UTF-8 bytes of the decoded windows, special tokens left out.

    The way for tokenizers of unknown kind. It is not additive: a character split between two windows counts
    as a replacement character (3 bytes) in both.
    """
    windows = ids.reshape(-1, ids.shape[-1]).tolist()
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return sum(len(tokenizer.decode(window, **options).encode()) for window in windows)


def predicted_bytes(tokenizer: Tokenizer, ids: Tensor) -> int:  # ids: integers [n, t]
    """Return the bytes of text of the predicted tokens: all but the first of each window.

    This is what the nats summed over n x (t-1) predictions are divided by for bits per byte.
    """
    lengths = token_byte_lengths(tokenizer)
    if lengths is None:
        # Decoded together with the token before, so that the space between the two words is counted.
        return decoded_bytes(tokenizer, ids) - decoded_bytes(tokenizer, ids[:, :1])
    predicted = ids[:, 1:].to(torch.int64)
    inside = predicted < len(lengths)  # a model may have more ids than the tokenizer: padding, which is no text
    return int(lengths[predicted[inside]].sum(dtype=torch.int64))


def description(tokenizer: Tokenizer) -> JsonObject | None:
    """Return the `tokenizer.json` of an opened tokenizer, None if it has none."""
    backend = _backend(tokenizer)
    return None if backend is None else _described(backend)


def _backend(tokenizer: Tokenizer) -> _Backend | None:
    return getattr(tokenizer, "backend_tokenizer", None)


def _described(backend: _Backend) -> JsonObject:
    described: JsonObject = json.loads(backend.to_str())
    return described


def added_tokens(described: JsonObject) -> list[JsonObject]:
    """Return the added tokens of a `tokenizer.json`, of which there may be none."""
    return [members(token) for token in items(described.get("added_tokens") or [])]


def steps(part: Json) -> list[JsonObject]:
    """Return the steps of a part of `tokenizer.json` (the decoder, ...), nested sequences laid flat.

    A sequence holds its steps under a name of its own in each part: "decoders", "processors", ...
    """
    if part is None:
        return []
    step = members(part)
    if step["type"] == "Sequence":
        inner = next(value for value in step.values() if isinstance(value, list))
        return [each for one in inner for each in steps(one)]
    return [step]


def space_mark(decoders: list[JsonObject]) -> str | None:
    """Return the string that stands for a space in tokens, None if no decoder replaces one by a space."""
    for step in decoders:
        if step["type"] == "Metaspace":
            return str(step["replacement"])
        if step["type"] == "Replace" and step["content"] == " " and "String" in (pattern := members(step["pattern"])):
            return str(pattern["String"])
    return None


def byte_characters() -> frozenset[str]:
    """Return the 256 characters that stand for bytes in GPT-2's vocabulary (encoder.py, `bytes_to_unicode`).

    Printable bytes are themselves; the others are the characters from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return frozenset(map(chr, [*printable, *range(0x100, 0x100 + 256 - len(printable))]))
