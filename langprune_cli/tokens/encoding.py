"""The tokenizer interface, and batched encoding with the tokenizer's defaults."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from langprune_cli.tokens import pieces
from langprune_cli.tokens.pieces import encode_long, says_places
from langprune_cli.tokens.tokenizer import Tokenizer

_BATCH_BYTES = 2 * 2**20  # text tokenised in one call: a fast tokenizer needs about 125 bytes of memory for each
_BATCH_DOCUMENTS = 256


def encode(tokenizer: Tokenizer, text: str) -> Tensor:  # int32 [t]
    """Return the token ids of one text, special tokens as the tokenizer's defaults have them."""
    (ids,) = encode_batch(tokenizer, [text])
    return torch.tensor(ids, dtype=torch.int32)


def encode_batch(tokenizer: Tokenizer, texts: list[str]) -> list[Sequence[int]]:
    """Return the token ids of each text in one call; long texts are encoded in pieces with the same result.

    Raises LangpruneError for a long text that cannot be cut.
    """
    long = [says_places(tokenizer) and len(text) > pieces.PIECE for text in texts]
    short = [text for text, apart in zip(texts, long, strict=True) if not apart]
    ids = iter(_ids(tokenizer, short) if short else [])
    return [encode_long(tokenizer, text) if apart else next(ids) for text, apart in zip(texts, long, strict=True)]


def encode_bare(tokenizer: Tokenizer, texts: list[str]) -> list[Sequence[int]]:
    """Return the token ids of each text in one call, without special tokens.

    Calls a fast tokenizer's own library, which takes two thirds of the time: it makes no offsets and attention masks.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _ids(tokenizer, texts, add_special_tokens=False)
    backend.no_truncation()  # as tokenizer.json may have them; `transformers` sets both anew in every call
    backend.no_padding()
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def batches(sizes: Iterator[tuple[int, bytes]], first: int) -> Iterator[list[tuple[int, bytes]]]:
    """Group ranked documents into batches of limited size; the first has `first` documents, later ones more.

    The first batch is the least that the caller may need.
    """
    batch: list[tuple[int, bytes]] = []
    size, most = 0, min(max(first, 1), _BATCH_DOCUMENTS)
    for ranked in sizes:
        batch.append(ranked)
        size += len(ranked[1])
        if size >= _BATCH_BYTES or len(batch) >= most:
            yield batch
            batch, size, most = [], 0, _BATCH_DOCUMENTS
    if batch:
        yield batch


def _ids(tokenizer: Tokenizer, texts: list[str], **options: object) -> list[Sequence[int]]:
    # verbose=False: a text longer than the context is meant here, and no reason for the library's warning.
    found = tokenizer(texts, verbose=False, return_attention_mask=False, return_token_type_ids=False, **options)
    return cast("list[Sequence[int]]", found["input_ids"])
