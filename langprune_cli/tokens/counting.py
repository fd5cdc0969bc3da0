"""Count how often each token occurs in a text, to tell tokens that a language needs from those it never uses.

Documents are tokenised without special tokens. They are streamed: memory holds a few megabytes of text at any corpus size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from langprune_cli.tokens.encoding import encode_bare
from langprune_cli.tokens.token_bytes import decoded_bytes
from langprune_cli.tokens.tokenizer import Tokenizer

_PIECE = 2**18  # characters tokenised as one text: keeps all cores busy, and memory small
_BATCH_BYTES = 2 * 2**20  # text tokenised in one call
_PART_BYTES = 16 * 2**20  # text of the first parts: a few seconds of work
_PART_SHARE = 8  # a part is at least this fraction of all text before it, so large texts have few parts


@dataclass(frozen=True)
class TokenCounts:
    """How often each token occurs in a text, and how large the text is; all are sums, so they add."""

    counts: Tensor  # int64 [v]
    tokens: int  # sum of `counts`
    bytes: int  # UTF-8 bytes of the text
    documents: int

    @classmethod
    def zeros(cls, size: int) -> "TokenCounts":
        """Return empty counts for a vocabulary of `size`."""
        return cls(torch.zeros(size, dtype=torch.int64), 0, 0, 0)

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        """Return the counts of both texts; ids beyond a smaller vocabulary count 0 there."""
        counts = torch.zeros(max(len(self.counts), len(other.counts)), dtype=torch.int64)
        for each in (self, other):
            counts[: len(each.counts)] += each.counts
        return TokenCounts(
            counts, self.tokens + other.tokens, self.bytes + other.bytes, self.documents + other.documents
        )


@dataclass(frozen=True)
class Batch:
    """Text for one tokenizer call. Batches and parts depend on the text alone."""

    part: int  # counted from 0
    texts: list[str]  # documents, and pieces of long ones
    sizes: list[int]  # UTF-8 bytes of each
    first: list[bool]  # whether it begins a document


def batches(documents: Iterator[str]) -> Iterator[Batch]:
    """Group documents into batches, and batches into parts, which are counted and saved as one.

    A document of more than 2^18 characters is cut after a line, or before a blank if a line is longer than that; tokens next
    to a cut may differ from those of the whole document.
    """
    part = size = in_part = before = 0
    batch = Batch(part, [], [], [])
    for document in documents:
        for number, piece in enumerate(_pieces(document)):
            batch.texts.append(piece)
            batch.sizes.append(len(piece.encode()))
            batch.first.append(number == 0)
            size += batch.sizes[-1]
            if size >= _BATCH_BYTES:
                yield batch
                size, in_part = 0, in_part + size
                if in_part >= max(_PART_BYTES, before // _PART_SHARE):
                    part, in_part, before = part + 1, 0, before + in_part
                batch = Batch(part, [], [], [])
    if batch.texts:
        yield batch


def count_batch(
    tokenizer: Tokenizer,
    batch: Batch,
    size: int,  # v
    most: int,  # at least 1
) -> TokenCounts:
    """Count the tokens of a batch, up to the text that reaches `most` tokens."""
    ids = encode_bare(tokenizer, batch.texts)
    lengths = np.cumsum([len(each) for each in ids])
    texts = min(int(np.searchsorted(lengths, most)) + 1, len(ids))
    tokens = int(lengths[texts - 1])
    counts = _bincount(np.fromiter(chain.from_iterable(ids[:texts]), np.int64, tokens), size)
    return TokenCounts(counts, tokens, sum(batch.sizes[:texts]), sum(batch.first[:texts]))


def count_windows(
    tokenizer: Tokenizer,
    ids: Tensor,  # int32 [n, t], below `size`
    size: int,  # v
    most: int,  # at least 1
) -> TokenCounts:
    """Count the tokens of windows, up to the one that reaches `most`; the number of documents is unknown."""
    counted = ids[: -(-most // ids.shape[1])]
    counts = _bincount(counted.flatten().numpy(), size)
    return TokenCounts(counts, counted.numel(), decoded_bytes(tokenizer, counted), 0)


def _pieces(document: str) -> Iterator[str]:
    start = 0
    while len(document) - start > _PIECE:
        end = start + _PIECE
        cut = max(document.rfind("\n", start, end) + 1 or document.rfind(" ", start + 1, end), 0) or end
        yield document[start:cut]
        start = cut
    yield document[start:]


def _bincount(ids: NDArray[np.integer], size: int) -> Tensor:
    return torch.from_numpy(np.bincount(ids, minlength=size))
