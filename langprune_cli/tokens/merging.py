"""Byte-pair merging of a token's own string: the smaller tokens that it is made of.

Byte-pair encoding merges the pair of neighbours with the lowest rank, the leftmost of equals, until no pair
is left that has a rank (Sennrich et al. 2016, arXiv 1508.07909; `tokenizers`, models/bpe/word.rs).
"""

import heapq
from collections.abc import Mapping
from itertools import pairwise

Ranks = Mapping[tuple[str, str], int]  # pair of neighbours -> when it is merged: the lowest goes first


def merge_path(token: str, ranks: Ranks) -> set[str] | None:
    """Return every symbol between a token's characters and the token, both included; None if merging never gives the token.

    Where the encoding of a text holds the token, no merge crossed the borders of its span, and the merges
    within were chosen among the span's own pairs, which are the same as here: so they are those of this path.

    A heap of pairs keeps this at n log n for a token of n characters: some are lines of 100 spaces or more.
    """
    symbols = list(token)
    end = len(symbols)
    left, right = list(range(-1, end - 1)), list(range(1, end + 1))  # neighbours of the symbol that begins here
    waiting = [(ranks[pair], i, pair) for i, pair in enumerate(pairwise(token)) if pair in ranks]
    heapq.heapify(waiting)
    path = set(symbols)
    while waiting:
        _, i, (a, b) = heapq.heappop(waiting)
        j = right[i]
        if symbols[i] != a or j == end or symbols[j] != b:
            continue  # one of the two became part of another symbol meanwhile
        merged = a + b
        path.add(merged)
        symbols[i], symbols[j] = merged, ""
        h, k = left[i], right[j]
        right[i] = k
        if h >= 0 and (pair := (symbols[h], merged)) in ranks:
            heapq.heappush(waiting, (ranks[pair], h, pair))
        if k < end:
            left[k] = i
            if (pair := (merged, symbols[k])) in ranks:
                heapq.heappush(waiting, (ranks[pair], i, pair))
    return path if end and right[0] == end else None
