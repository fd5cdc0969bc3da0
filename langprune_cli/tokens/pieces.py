"""Encode a long text in pieces with the tokens of the whole: a tokenizer needs a hundred bytes of memory per byte of text.

Each piece begins inside the one before it, at one of its tokens. Where both have the same tokens at the same places, the text
is cut: tokens before the cut come from the one, those behind it from the other. Words are told apart by what stands next to
a place, and in byte-pair encoding a sequence of tokens is that of its text if each two neighbours are that of theirs: every
two neighbours here come from one of the pieces.
"""

from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from langprune_cli.errors import LangpruneError
from langprune_cli.tokens.tokenizer import Tokenizer

PIECE = 2**20  # characters encoded at once; shorter texts are encoded whole
_MOST = 16  # pieces joined if two agree nowhere: 2 GB of memory
_OVERLAP = 2**13  # characters at a piece's end that the next one has as well
_ALIKE = 8  # tokens on each side of a cut that both pieces have

_Array = NDArray[np.int64]


class _Piece(NamedTuple):
    """The tokens of a part of a text."""

    ids: _Array  # int64 [t]
    rows: _Array  # int64 [t', 4]: of those that stand for text: first character, the one behind the last, id, number in `ids`


def says_places(tokenizer: object) -> bool:
    """Return whether a tokenizer gives token offsets; for others a text is encoded whole."""
    return getattr(tokenizer, "backend_tokenizer", None) is not None


def encode_long(tokenizer: Tokenizer, text: str) -> "array[int]":
    """Return the token ids of a text as one tokenizer call would, with special tokens.

    Raises LangpruneError if two pieces agree nowhere in millions of characters.
    """
    ids: array[int] = array("i")
    start, size, skip = (
        0,
        PIECE,
        0,
    )  # where the present piece begins, its characters, and its tokens before the last cut
    piece = _encoded(tokenizer, text, 0, size)
    while start + size < len(text):
        at = int(np.searchsorted(piece.rows[:, 0], start + size - _OVERLAP * (size // PIECE)))
        begin = int(piece.rows[at, 0]) if at < len(piece.rows) else start
        following = _encoded(tokenizer, text, begin, begin + PIECE)
        cut = _cut(piece.rows[at:], following.rows)
        if cut is not None and begin > start:
            ids.extend(piece.ids[skip : cut[0]].tolist())
            start, size, skip, piece = begin, PIECE, cut[1], following
            continue
        if size >= _MOST * PIECE:
            raise LangpruneError(
                f"{size:,} characters of a document, from character {start:,} on, have no place to cut them, and are too many "
                "to be encoded at once: split the document, or leave it out"
            )
        size *= 2
        piece = _encoded(tokenizer, text, start, start + size)
    ids.extend(piece.ids[skip:].tolist())
    return ids


def _encoded(tokenizer: Tokenizer, text: str, start: int, end: int) -> _Piece:
    found = tokenizer(
        text[start:end], verbose=False, return_attention_mask=False, return_token_type_ids=False,
        return_offsets_mapping=True, return_special_tokens_mask=True,
    )  # fmt: skip
    ids = np.array(found["input_ids"], dtype=np.int64)
    places = np.array(found["offset_mapping"], dtype=np.int64).reshape(-1, 2) + start
    rows = np.column_stack([places, ids, np.arange(len(ids))])
    return _Piece(ids, rows[np.array(found["special_tokens_mask"]) == 0])


def _cut(left: _Array, right: _Array) -> tuple[int, int] | None:
    """Return the number of the token after the cut in each of two overlapping pieces, given rows from the second's start on.

    The cut is the place nearest to the middle with equal tokens on both sides; None if there is none.
    """
    middle = len(left) // 2
    for i in sorted(range(_ALIKE, len(left) - _ALIKE + 1), key=lambda i: abs(i - middle)):
        if i == len(left) or left[i, 0] < left[i - 1, 1]:  # within a character
            continue
        j = int(np.searchsorted(right[:, 0], left[i, 0]))
        near = left[i - _ALIKE : i + _ALIKE, :3], right[max(j - _ALIKE, 0) : j + _ALIKE, :3]
        if np.array_equal(*near):
            return int(left[i, 3]), int(right[j, 3])
    return None
