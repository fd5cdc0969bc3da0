"""Draw calibration windows from documents; the draw depends on the seed and the documents alone.

Every document has a rank, sha256(seed, text), and documents are used by rank: a random order that is the same on
every machine, independent of files and reading order. Documents with equal text have equal ranks and count once.
"""

import hashlib
import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from langprune_cli.errors import LangpruneError
from langprune_cli.tokens.encoding import batches, encode, encode_batch
from langprune_cli.tokens.tokenizer import Tokenizer

JOIN = "\n\n"  # between documents, as in the published evaluation of WikiText-2 and UberText
_HELD_BYTES = 128 * 2**20  # text held in memory at once; more documents than that are read in several passes
_DOCUMENT_OVERHEAD = 200  # bytes that Python needs for a document beside its text
_CONCAT_BYTES_PER_TOKEN = 32  # text joined for each token asked for: about 8 times what the windows will hold
_CONCAT_BYTES_NEEDED = 8  # enough for windows without overlap in any script
_CONCAT_BYTES_LEAST, _CONCAT_BYTES_USUAL = 2**20, 16 * 2**20  # one text of 16 MiB takes 2 GB to tokenise


class TooFewDocumentsError(LangpruneError):
    """A text has too few documents longer than a window: `found` of `documents`."""

    def __init__(self, message: str, documents: int, found: int) -> None:
        super().__init__(message)
        self.documents, self.found = documents, found


@dataclass
class RankedDocuments:
    """The distinct documents of a text, iterated by rank as (rank, UTF-8 text) in bounded memory.

    Each pass over the text holds the lowest-ranked documents above those of the pass before, as many as fit
    into `held_bytes`. Usually the first pass has all that is asked for.
    """

    read: Callable[[], Iterator[str]]  # opens the text anew
    seed: int
    held_bytes: int = _HELD_BYTES
    documents: int = field(default=0, init=False)  # documents read in a whole pass, identical ones counted each
    size: int = field(default=0, init=False)  # their UTF-8 bytes

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield the documents by rank; reads the whole text before the first."""
        above, more = -1, True
        while more:
            held, more = self.lowest(above)
            for ranked in held:
                yield ranked
                above = ranked[0]

    def lowest(self, above: int = -1) -> tuple[list[tuple[int, bytes]], bool]:
        """Return the lowest-ranked documents with ranks over `above`, sorted, and whether there are more."""
        held: dict[int, bytes] = {}
        worst_first: list[int] = []  # negated ranks: heapq keeps the smallest on top
        ceiling: int | None = None  # ranks from here on were dropped: what is held has no gaps
        size = count = read = 0
        prefix = hashlib.sha256(f"langprune document {self.seed}\0".encode())
        for count, text in enumerate(self.read(), start=1):  # noqa: B007  (the last count is what is wanted)
            raw = text.encode()
            read += len(raw)
            digest = prefix.copy()
            digest.update(raw)
            rank = int.from_bytes(digest.digest(), "big")
            if rank <= above or rank in held or (ceiling is not None and rank >= ceiling):
                continue
            held[rank] = raw
            heapq.heappush(worst_first, -rank)
            size += len(raw) + _DOCUMENT_OVERHEAD
            while size > self.held_bytes and len(held) > 1:
                ceiling = -heapq.heappop(worst_first)
                size -= len(held.pop(ceiling)) + _DOCUMENT_OVERHEAD
        self.documents, self.size = count, read
        return sorted(held.items()), ceiling is not None


def document_windows(ranked: RankedDocuments, tokenizer: Tokenizer, nsamples: int, seqlen: int) -> Tensor:
    """Draw one window of each of the first `nsamples` documents of more than `seqlen` tokens: int32 [n, t].

    This is the sampling of the published Wanda and SparseGPT code on C4 (`get_c4` in lib/data.py), save that
    no document is used twice. The offset is rank mod (legal offsets): uniform to within 2^-200, and a
    property of the document alone. Raises TooFewDocumentsError with the numbers if there are too few such
    documents.
    """
    windows: list[Tensor] = []
    distinct = longest = 0
    for batch in batches(iter(ranked), first=nsamples):
        for (rank, _), ids in zip(batch, encode_batch(tokenizer, [raw.decode() for _, raw in batch]), strict=True):
            distinct += 1
            longest = max(longest, len(ids))
            if len(ids) > seqlen:
                start = rank % (len(ids) - seqlen + 1)
                windows.append(torch.tensor(ids[start : start + seqlen], dtype=torch.int32))
                if len(windows) == nsamples:
                    return torch.stack(windows)
    why = _too_few(len(windows), distinct, ranked.documents, longest, nsamples, seqlen)
    raise TooFewDocumentsError(why, ranked.documents, len(windows))


def concat_windows(
    ranked: RankedDocuments, tokenizer: Tokenizer, nsamples: int, seqlen: int
) -> tuple[Tensor, list[str]]:
    """Draw windows anywhere in the documents joined by blank lines: int32 [n, t], and notes for the user.

    This is the sampling of the published code on WikiText-2 (`get_wikitext2` in lib/data.py), save that
    documents are joined by rank, and that a large text is cut to what the windows need several times over.
    Windows may overlap; a note says so where they must. Raises LangpruneError with the numbers if the text is
    not longer than one window.
    """
    wanted = nsamples * seqlen
    most = max(_CONCAT_BYTES_USUAL, _CONCAT_BYTES_NEEDED * wanted)
    budget = min(max(_CONCAT_BYTES_PER_TOKEN * wanted, _CONCAT_BYTES_LEAST), most)
    parts: list[str] = []
    used, cut = 0, False
    for rank, raw in ranked:
        if used >= budget:
            cut = True
            break
        part = _excerpt(raw, budget - used, rank)
        cut = len(part) < len(raw)
        parts.append(part.decode())
        used += len(part) + len(JOIN)
    ids = encode(tokenizer, JOIN.join(parts))
    tokens = len(ids)
    if tokens <= seqlen:
        raise LangpruneError(
            f"the whole text has {tokens} tokens in {ranked.documents} documents, and a window of {seqlen} "
            f"needs more: give more text, or a --seqlen below {tokens}"
        )
    draw = random.Random(ranked.seed)
    starts = [draw.randrange(tokens - seqlen + 1) for _ in range(nsamples)]
    notes = []
    if cut:
        notes.append(f"windows are drawn from {tokens} tokens ({used / 2**20:.1f} MiB), a random part of the text")
    if tokens < wanted:
        notes.append(f"the text has {tokens} tokens for {nsamples} windows of {seqlen} ({wanted}): windows overlap")
    return torch.stack([ids[start : start + seqlen] for start in starts]), notes


def _excerpt(raw: bytes, most: int, rank: int) -> bytes:
    """Return at most `most` bytes of a document, in whole characters, from an offset given by its rank."""
    if len(raw) <= most:
        return raw
    start = rank % (len(raw) - most + 1)
    return raw[start : start + most].decode(errors="ignore").encode()


def _too_few(found: int, distinct: int, documents: int, longest: int, nsamples: int, seqlen: int) -> str:
    same = f" ({distinct} of them distinct)" if distinct < documents else ""
    remedies = ["--sampling concat joins documents"]
    if found:
        remedies.append(f"--nsamples {found} takes what there is")
    elif longest > 2:
        remedies.append(f"--seqlen {longest - 1} suits the longest one")
    return (
        f"{nsamples} windows need as many documents of more than {seqlen} tokens, and of {documents} "
        f"documents{same} {found} are longer than that (the longest has {longest} tokens): "
        f"{', '.join(remedies)}, or give more text or a smaller --seqlen"
    )
